"""The scenario (see ../scenario.md) with two Python clients that share no code."""
import os
import sys
import time

BOOTSTRAP = os.environ["BOOTSTRAP"]
FLAVOUR, HALF = sys.argv[1:3]
TOPIC = f"{os.environ['TOPIC']}-{FLAVOUR}"
GROUP = f"{os.environ['GROUP']}-{FLAVOUR}"
PATIENCE = 60


class Confluent:
    """confluent-kafka: librdkafka."""

    def create(self):
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
        for future in admin.create_topics([NewTopic(TOPIC, 3, 1)]).values():
            future.result(PATIENCE)

    def produce(self, numbers):
        from confluent_kafka import Producer

        failures = []
        producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "compression.type": "lz4"})
        for n in numbers:
            producer.produce(TOPIC, f"v{n}", f"k{n}", on_delivery=lambda e, _: e and failures.append(e))
        assert producer.flush(PATIENCE) == 0 and not failures, failures

    def read(self, group, count):
        from confluent_kafka import Consumer

        consumer = Consumer({
            "bootstrap.servers": BOOTSTRAP, "group.id": group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        })
        consumer.subscribe([TOPIC])
        records, deadline = [], time.monotonic() + PATIENCE
        while len(records) < count:
            assert time.monotonic() < deadline, f"only {len(records)} of {count} records"
            message = consumer.poll(1.0)
            if message is None:
                continue
            assert message.error() is None, message.error()
            records.append((message.partition(), message.offset(), message.key().decode(), message.value().decode()))
        self.commit(consumer, records)
        consumer.close()
        return records

    def commit(self, consumer, records):
        from confluent_kafka import TopicPartition

        ends = {}
        for partition, offset, _, _ in records:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        for done in consumer.commit(
            offsets=[TopicPartition(TOPIC, p, o) for p, o in ends.items()], asynchronous=False
        ):
            assert done.error is None, done.error


class Pure:
    """kafka-python."""

    def create(self):
        from kafka.admin import KafkaAdminClient, NewTopic

        admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
        admin.create_topics([NewTopic(TOPIC, 3, 1)])
        admin.close()

    def produce(self, numbers):
        from kafka import KafkaProducer

        producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True, acks="all")
        futures = [producer.send(TOPIC, key=f"k{n}".encode(), value=f"v{n}".encode()) for n in numbers]
        for future in futures:
            future.get(PATIENCE)
        producer.close()

    def read(self, group, count):
        from kafka import KafkaConsumer, TopicPartition
        from kafka.structs import OffsetAndMetadata

        consumer = KafkaConsumer(
            TOPIC, bootstrap_servers=BOOTSTRAP, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        )
        records, deadline = [], time.monotonic() + PATIENCE
        while len(records) < count:
            assert time.monotonic() < deadline, f"only {len(records)} of {count} records"
            for batch in consumer.poll(1000, max_records=count - len(records)).values():
                records += [(m.partition, m.offset, m.key.decode(), m.value.decode()) for m in batch]
        ends = {}
        for partition, offset, _, _ in records:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        try:
            offsets = {TopicPartition(TOPIC, p): OffsetAndMetadata(o, "", -1) for p, o in ends.items()}
        except TypeError:
            offsets = {TopicPartition(TOPIC, p): OffsetAndMetadata(o, "") for p, o in ends.items()}
        consumer.commit(offsets)
        consumer.close()
        return records


def check(records, numbers):
    """Exactly these numbers, each once, keys and values together, ascending within each partition."""
    assert sorted(int(k[1:]) for _, _, k, _ in records) == sorted(numbers), "lost or repeated records"
    last = {}
    for partition, offset, key, value in records:
        assert key[1:] == value[1:]
        n = int(key[1:])
        assert last.get(partition, (-1, -1)) < (offset, n), f"out of order: {partition}@{offset} {key}"
        last[partition] = (offset, n)


client = {"confluent": Confluent, "pure": Pure}[FLAVOUR]()
STATE = os.path.join(os.environ["CLIENT_CACHE"], f"{FLAVOUR}-committed")
if HALF == "first":
    client.create()
    client.produce(range(1000))
    with open(STATE, "w") as state:
        state.write("\n".join(k[1:] for _, _, k, _ in client.read(GROUP, 500)))
else:
    committed = {int(n) for n in open(STATE).read().split()}
    assert len(committed) == 500
    client.produce(range(1000, 1200))
    check(client.read(GROUP, 700), [n for n in range(1200) if n not in committed])
    check(client.read(f"{GROUP}-all", 1200), range(1200))

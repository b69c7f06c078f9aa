//! The client side of the tests: librdkafka, unmodified, through the `rdkafka` crate. Owns producing with remembered
//! acknowledgements and reading partitions to their end; never looks into the server.

use super::{deadline, passed};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{DeliveryResult, Headers},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// An acknowledged record: where the server said it is, and what it holds.
pub type Acked = BTreeMap<(i32, i64), String>;

/// Remembers every acknowledgement and every failure.
#[derive(Clone, Default)]
pub struct Ledger {
    pub acked: Arc<Mutex<Acked>>,
    pub failed: Arc<Mutex<Vec<String>>>,
}

impl ClientContext for Ledger {}

impl ProducerContext for Ledger {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        match result {
            // With acks=0 the client reports success without a place: nothing was acknowledged.
            Ok(m) if m.offset() < 0 => {}
            Ok(m) => {
                let value = String::from_utf8_lossy(m.payload().unwrap_or_default()).into_owned();
                let place = (m.partition(), m.offset());
                let before = self.acked.lock().expect("whole").insert(place, value.clone());
                // One offset acknowledged for two records would be a lie of the server.
                assert!(
                    before.as_ref().is_none_or(|b| *b == value),
                    "{place:?} acknowledged for {before:?} and {value}"
                );
            }
            Err((e, _)) => self.failed.lock().expect("whole").push(e.to_string()),
        }
    }
}

pub fn producer(bootstrap: &str, settings: &[(&str, &str)]) -> (BaseProducer<Ledger>, Ledger) {
    let ledger = Ledger::default();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("message.timeout.ms", "60000");
    config.set("reconnect.backoff.ms", "10").set("reconnect.backoff.max.ms", "100").set("retry.backoff.ms", "10");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    (config.create_with_context(ledger.clone()).expect("a producer"), ledger)
}

/// Queues one record; serves delivery reports while the queue is full.
pub fn send(producer: &BaseProducer<Ledger>, topic: &str, partition: Option<i32>, value: &str) {
    let deadline = deadline();
    loop {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic).key(value).payload(value);
        record.partition = partition;
        match producer.send(record) {
            Ok(()) => break,
            Err((e, _)) => assert!(!passed(deadline), "the producer's queue stays full: {e}"),
        }
        producer.poll(Duration::from_millis(5));
    }
    producer.poll(Duration::ZERO);
}

pub fn flush(producer: &BaseProducer<Ledger>) {
    producer.flush(super::PATIENCE).expect("everything is acknowledged or has failed");
}

pub fn consumer(bootstrap: &str, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .set("reconnect.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "100");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().expect("a consumer")
}

/// A record as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: String,
    pub headers: Vec<(String, String)>,
}

/// The next record, if one comes within 100 ms.
pub fn poll(consumer: &BaseConsumer) -> Option<Read> {
    let message = consumer.poll(Duration::from_millis(100))?;
    let m = match message {
        Ok(m) => m,
        Err(e) => {
            eprintln!("consumer: {e}");
            return None;
        }
    };
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let headers =
        m.headers().map(|hs| hs.iter().map(|h| (h.key.to_string(), text(h.value.unwrap_or_default()))).collect());
    Some(Read {
        partition: m.partition(),
        offset: m.offset(),
        key: m.key().map(text),
        value: text(m.payload().unwrap_or_default()),
        headers: headers.unwrap_or_default(),
    })
}

/// Everything a topic's partitions hold from `from` up to their high watermarks, without a group.
pub fn read_all(bootstrap: &str, topic: &str, partitions: i32) -> Vec<Read> {
    let consumer = consumer(bootstrap, "reader", &[]);
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for p in 0..partitions {
        let (low, high) = consumer.fetch_watermarks(topic, p, super::PATIENCE).expect("watermarks");
        left += high - low;
        list.add_partition_offset(topic, p, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&list).expect("assigned");
    let deadline = deadline();
    let mut records = Vec::new();
    while (records.len() as i64) < left {
        assert!(!passed(deadline), "read {} of {left} records of {topic}", records.len());
        records.extend(poll(&consumer));
    }
    records
}

/// Takes `count` records through a subscription.
pub fn take(consumer: &BaseConsumer, count: usize) -> Vec<Read> {
    let deadline = deadline();
    let mut records = Vec::new();
    while records.len() < count {
        assert!(!passed(deadline), "got {} of {count} records", records.len());
        records.extend(poll(consumer));
    }
    records
}

pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", bootstrap).create().expect("an admin client")
}

/// Creates a topic with one copy and fails the test if the server does not.
pub fn create_topic(bootstrap: &str, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in config {
        topic = topic.set(key, value);
    }
    create(bootstrap, topic);
}

/// Creates a topic with this replication factor, the wanted write quorum of its ledgers.
pub fn create_replicated_topic(bootstrap: &str, name: &str, partitions: i32, copies: i32) {
    create(bootstrap, NewTopic::new(name, partitions, TopicReplication::Fixed(copies)));
}

fn create(bootstrap: &str, topic: NewTopic<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let results = runtime.block_on(async { admin(bootstrap).create_topics(&[topic], &AdminOptions::new()).await });
    for result in results.expect("an answer") {
        result.unwrap_or_else(|(name, code)| panic!("{name}: {code}"));
    }
}

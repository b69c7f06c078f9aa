// The scenario (see ../scenario.md) with kafkajs.
import assert from 'node:assert';
import { readFileSync, writeFileSync } from 'node:fs';
import { Kafka, logLevel } from 'kafkajs';

const { BOOTSTRAP, TOPIC: topic, GROUP: group, CLIENT_CACHE } = process.env;
const state = `${CLIENT_CACHE}/committed`;
const kafka = new Kafka({ clientId: 'scenario', brokers: [BOOTSTRAP], logLevel: logLevel.ERROR });
const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);

async function produce(from, to) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const messages = range(from, to).map((n) => ({ key: `k${n}`, value: `v${n}` }));
  await producer.send({ topic, acks: -1, messages });
  await producer.disconnect();
}

// Takes exactly `count` records in the group and commits exactly those.
async function read(groupId, count) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10000 });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  const records = [];
  await new Promise((resolve, reject) => {
    const patience = setTimeout(() => reject(new Error(`only ${records.length} of ${count} records`)), 60000);
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        if (records.length >= count) return;
        records.push({ partition, offset: Number(message.offset), key: `${message.key}`, value: `${message.value}` });
        if (records.length === count) { clearTimeout(patience); resolve(); }
      },
    }).catch(reject);
  });
  const ends = new Map();
  for (const r of records) ends.set(r.partition, Math.max(ends.get(r.partition) ?? 0, r.offset + 1));
  await consumer.commitOffsets([...ends].map(([partition, end]) => ({ topic, partition, offset: `${end}` })));
  await consumer.disconnect();
  return records;
}

function check(records, numbers) {
  assert.deepStrictEqual(records.map((r) => Number(r.key.slice(1))).sort((a, b) => a - b), numbers);
  const last = new Map();
  for (const { partition, offset, key, value } of records) {
    assert.strictEqual(key.slice(1), value.slice(1));
    const n = Number(key.slice(1));
    const before = last.get(partition) ?? { offset: -1, n: -1 };
    assert(before.offset < offset && before.n < n, `out of order in partition ${partition}: ${key}`);
    last.set(partition, { offset, n });
  }
}

if (process.argv[2] === 'first') {
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 3, replicationFactor: 1 }] });
  await admin.disconnect();
  await produce(0, 1000);
  writeFileSync(state, (await read(group, 500)).map((r) => r.key.slice(1)).join('\n'));
} else {
  await produce(1000, 1200);
  const committed = new Set(readFileSync(state, 'utf8').split('\n').map(Number));
  check(await read(group, 700), range(0, 1200).filter((n) => !committed.has(n)));
  check(await read(`${group}-all`, 1200), range(0, 1200));
}
process.exit(0);

//! Load from librdkafka while faults happen, recorded for the checker. Owns producer and reader threads and the history
//! they write; knows nothing of processes. Producers are idempotent with acks=all; readers assign and never seek.

use super::{
    checker::{self, Anomaly, History, Place, Reader, Seen, Value},
    client, now,
};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long the client itself retries before a record fails.
const CLIENT_PATIENCE_MS: &str = "120000";
/// The share of sends that must be acknowledged for a run to count, in percent.
pub const FLOOR: usize = 50;

/// What kind of load.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The topic, made with so many partitions.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// Its replication factor.
    pub copies: i32,
    /// Producers, each a client of its own.
    pub producers: u32,
    /// Records per second and producer.
    pub rate: u32,
    /// Bytes of a value.
    pub size: usize,
}

impl Shape {
    /// A load that two cores bear beside five processes.
    pub fn light(topic: &str) -> Self {
        Self { topic: topic.into(), partitions: 4, copies: 3, producers: 2, rate: 400, size: 600 }
    }
}

/// One delivery: when it was sent, and how long the acknowledgement took.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    sent: Instant,
    took: Duration,
}

#[derive(Default)]
struct Records {
    sent: Mutex<BTreeMap<Value, i32>>,
    acked: Mutex<Vec<(Value, Place)>>,
    acked_somewhere: Mutex<Vec<(Value, i32)>>,
    deliveries: Mutex<Vec<Delivery>>,
    failed: Mutex<Vec<String>>,
    count: AtomicUsize,
    stop: AtomicBool,
    stop_readers: AtomicBool,
}

struct Context(Arc<Records>);

impl ClientContext for Context {
    fn error(&self, _: rdkafka::error::KafkaError, _: &str) {
        // Connections come and go in these tests; what counts is what becomes of the records.
    }

    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<(Value, Instant)>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Self::DeliveryOpaque) {
        let (value, sent) = *sent;
        match result {
            Ok(m) => {
                let delivery = Delivery { sent, took: sent.elapsed() };
                self.0.deliveries.lock().expect("whole").push(delivery);
                // A retry that the server knew as a duplicate has no offset if it no longer knows where the first was.
                if m.offset() >= 0 {
                    self.0.acked.lock().expect("whole").push((value, (m.partition(), m.offset())));
                } else {
                    self.0.acked_somewhere.lock().expect("whole").push((value, m.partition()));
                }
                self.0.count.fetch_add(1, Ordering::Relaxed);
            }
            Err((e, _)) => self.0.failed.lock().expect("whole").push(format!("{value}: {e}")),
        }
    }
}

/// Latencies of a stretch of time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latencies {
    /// Deliveries that were sent in that time.
    pub count: usize,
    /// Half took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// None took longer: the longest stall that a client saw.
    pub max: Duration,
}

/// A running load.
pub struct Load {
    shape: Shape,
    bootstrap: String,
    records: Arc<Records>,
    producers: Vec<JoinHandle<()>>,
    reader: JoinHandle<Reader>,
}

/// What is left when the load has ended.
pub struct Outcome {
    /// All that was sent, told and seen.
    pub history: History,
    /// Records the client gave up on.
    pub failed: Vec<String>,
}

impl Outcome {
    /// Fails the test if Kafka's promises were broken, or if so little was acknowledged that nothing was shown.
    pub fn assert_sound(&self) {
        let anomalies = checker::check(&self.history, FLOOR);
        let first: Vec<&Anomaly> = anomalies.iter().take(20).collect();
        assert!(anomalies.is_empty(), "{} anomalies, the first of them: {first:#?}", anomalies.len());
    }

    /// As before, and no client saw an error.
    pub fn assert_flawless(&self) {
        assert!(self.failed.is_empty(), "{} records failed: {:?}", self.failed.len(), self.failed.first());
        self.assert_sound();
    }
}

impl Load {
    /// Makes the topic, and starts to produce and to read.
    pub fn start(bootstrap: &str, shape: Shape) -> Self {
        client::create_replicated_topic(bootstrap, &shape.topic, shape.partitions, shape.copies);
        let records = Arc::new(Records::default());
        let producers = (0..shape.producers).map(|id| {
            let (producer, records, shape) = (producer(bootstrap, &records), Arc::clone(&records), shape.clone());
            std::thread::spawn(move || produce(&producer, &records, &shape, id))
        });
        let producers = producers.collect();
        let reader = std::thread::spawn({
            let (consumer, records) = (assigned(bootstrap, &shape), Arc::clone(&records));
            move || tail(&consumer, &records)
        });
        Self { shape, bootstrap: bootstrap.into(), records, producers, reader }
    }

    /// Acknowledgements so far.
    pub fn acked(&self) -> usize {
        self.records.count.load(Ordering::Relaxed)
    }

    /// Waits for so many more acknowledgements.
    pub fn wait_more(&self, more: usize) {
        let goal = self.acked() + more;
        super::wait_until("more acknowledgements", || {
            assert!(self.failures().is_empty() || !self.producers.iter().all(JoinHandle::is_finished));
            self.acked() >= goal
        });
    }

    /// Records the client gave up on, so far.
    pub fn failures(&self) -> Vec<String> {
        self.records.failed.lock().expect("whole").clone()
    }

    /// Latencies of what was sent between two moments and has been acknowledged.
    pub fn latencies(&self, from: Instant, to: Instant) -> Latencies {
        let deliveries = self.records.deliveries.lock().expect("whole");
        let mut took: Vec<Duration> =
            deliveries.iter().filter(|d| (from..to).contains(&d.sent)).map(|d| d.took).collect();
        took.sort_unstable();
        let at = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1))).copied();
        Latencies {
            count: took.len(),
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            max: took.last().copied().unwrap_or_default(),
        }
    }

    /// Stops producing, waits for the last acknowledgement, and reads everything twice to the end.
    pub fn finish(self) -> Outcome {
        self.records.stop.store(true, Ordering::Relaxed);
        self.producers.into_iter().for_each(|p| p.join().expect("a producer thread"));
        let finals = ["final a", "final b"].map(|name| {
            let consumer = assigned(&self.bootstrap, &self.shape);
            Reader { name: name.into(), seen: read_to_end(&consumer, &self.shape), is_final: true }
        });
        self.records.stop_readers.store(true, Ordering::Relaxed);
        let mut readers = vec![self.reader.join().expect("the reader thread")];
        readers.extend(finals);
        let acked = std::mem::take(&mut *self.records.acked.lock().expect("whole"));
        let acked_somewhere = std::mem::take(&mut *self.records.acked_somewhere.lock().expect("whole"));
        let sent = std::mem::take(&mut *self.records.sent.lock().expect("whole"));
        let failed = std::mem::take(&mut *self.records.failed.lock().expect("whole"));
        Outcome { history: History { sent, acked, acked_somewhere, readers }, failed }
    }
}

fn producer(bootstrap: &str, records: &Arc<Records>) -> BaseProducer<Context> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("message.timeout.ms", CLIENT_PATIENCE_MS);
    config.set("reconnect.backoff.ms", "10").set("reconnect.backoff.max.ms", "100").set("retry.backoff.ms", "10");
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
    config.create_with_context(Context(Arc::clone(records))).expect("a producer")
}

fn produce(producer: &BaseProducer<Context>, records: &Records, shape: &Shape, id: u32) {
    let pause = Duration::from_secs(1) / shape.rate;
    let mut due = now();
    for number in 0.. {
        if records.stop.load(Ordering::Relaxed) {
            break;
        }
        let (value, partition) = (Value { producer: id, number }, (number % shape.partitions as u64) as i32);
        records.sent.lock().expect("whole").insert(value, partition);
        let payload = value.payload(shape.size);
        let mut opaque = Box::new((value, now()));
        while let Err((_, back)) = producer.send(
            BaseRecord::<'_, str, str, _>::with_opaque_to(&shape.topic, opaque).partition(partition).payload(&payload),
        ) {
            // The queue is full: the outage is long. What is queued is in order, so it waits.
            producer.poll(Duration::from_millis(10));
            opaque = back.delivery_opaque;
        }
        due += pause;
        while now() < due {
            producer.poll(due.saturating_duration_since(now()));
        }
        // After an outage the load goes on at its rate, it does not catch up in a burst.
        due = due.max(now().checked_sub(pause * 20).unwrap_or(due));
    }
    producer.flush(super::PATIENCE * 2).expect("every record is acknowledged or has failed");
}

fn assigned(bootstrap: &str, shape: &Shape) -> BaseConsumer {
    let consumer = client::consumer(bootstrap, "checker", &[("check.crcs", "true"), ("log_level", "0")]);
    let mut list = TopicPartitionList::new();
    for p in 0..shape.partitions {
        list.add_partition_offset(&shape.topic, p, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&list).expect("assigned");
    consumer
}

fn poll(consumer: &BaseConsumer) -> Option<Seen> {
    let message = consumer.poll(Duration::from_millis(50))?.ok()?;
    let text = std::str::from_utf8(message.payload().unwrap_or_default()).unwrap_or_default();
    Some(Seen { place: (message.partition(), message.offset()), value: Value::of(text) })
}

/// Follows the end until told to stop.
fn tail(consumer: &BaseConsumer, records: &Records) -> Reader {
    let mut reader = Reader { name: "tail".into(), ..Reader::default() };
    while !records.stop_readers.load(Ordering::Relaxed) {
        reader.seen.extend(poll(consumer));
    }
    reader
}

/// Reads until every partition's high watermark is reached.
fn read_to_end(consumer: &BaseConsumer, shape: &Shape) -> Vec<Seen> {
    let mut left = 0;
    for p in 0..shape.partitions {
        let (low, high) = watermarks(consumer, &shape.topic, p);
        left += usize::try_from(high - low).expect("in order");
    }
    let mut seen = Vec::with_capacity(left);
    let mut progress = super::deadline();
    while seen.len() < left {
        assert!(!super::passed(progress), "read {} of {left} records of {}", seen.len(), shape.topic);
        if let Some(record) = poll(consumer) {
            seen.push(record);
            progress = super::deadline();
        }
    }
    seen
}

fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> (i64, i64) {
    let mut found = None;
    super::wait_until("watermarks", || {
        found = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).ok();
        found.is_some()
    });
    found.expect("just found")
}

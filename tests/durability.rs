//! What was acknowledged is there: SIGKILL under load, again and again, then every acknowledged record is found exactly
//! where it was acknowledged, once, in order. The clients are unmodified.

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use support::{Server, client, wait_until};

const TOPIC: &str = "durable";
const PARTITIONS: i32 = 4;

/// Produces until told to stop, and remembers what was acknowledged.
fn load(server: &Server, name: &'static str, settings: &'static [(&str, &str)]) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let (producer, ledger) = client::producer(&server.bootstrap(), settings);
    let thread = std::thread::spawn({
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        move || {
            while !stop.load(Ordering::Relaxed) {
                let n = sent.fetch_add(1, Ordering::Relaxed);
                client::send(&producer, TOPIC, Some((n % PARTITIONS as u64) as i32), &format!("{name}-{n:08}"));
                if n % 50 == 0 {
                    // Keeps the load steady instead of filling the client's queue in one burst.
                    rdkafka::producer::Producer::flush(&producer, std::time::Duration::from_millis(2)).ok();
                }
            }
            client::flush(&producer);
        }
    });
    Load { stop, thread, ledger }
}

struct Load {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    ledger: client::Ledger,
}

impl Load {
    fn acked(&self) -> usize {
        self.ledger.acked.lock().expect("whole").len()
    }

    fn finish(self) -> client::Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer thread");
        self.ledger
    }
}

#[test]
fn acknowledged_records_survive_sigkill_under_load() {
    let cycles: usize = std::env::var("MAGNETAR_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut server = Server::start(&["producer.id.expiration.ms=86400000"]);
    client::create_topic(&server.bootstrap(), TOPIC, PARTITIONS, &[]);
    let idempotent = load(&server, "idempotent", &[("enable.idempotence", "true"), ("linger.ms", "1")]);
    let plain = load(&server, "plain", &[("acks", "1"), ("linger.ms", "1"), ("compression.type", "lz4")]);
    for cycle in 0..cycles {
        // Kill only while acknowledgements flow, at another moment of the stream each time.
        let (before, more) = (idempotent.acked() + plain.acked(), 200 + cycle * 37);
        wait_until("acknowledgements between two kills", || idempotent.acked() + plain.acked() > before + more);
        server.kill();
        server.restart();
    }
    let (idempotent, plain) = (idempotent.finish(), plain.finish());
    let failed = idempotent.failed.lock().expect("whole").clone();
    assert!(failed.is_empty(), "an idempotent producer gave up: {failed:?}");

    let found = client::read_all(&server.bootstrap(), TOPIC, PARTITIONS);
    let by_place: BTreeMap<(i32, i64), &str> = found.iter().map(|r| ((r.partition, r.offset), &*r.value)).collect();
    for ledger in [&idempotent, &plain] {
        let acked = ledger.acked.lock().expect("whole");
        assert!(acked.len() > cycles * 100, "only {} acknowledgements: the test shows nothing", acked.len());
        for (place, value) in acked.iter() {
            assert_eq!(by_place.get(place), Some(&value.as_str()), "acknowledged at {place:?}");
        }
    }
    check_idempotent_stream(&found);
}

/// An idempotent producer's records: each once, in the order they were sent, in every partition.
fn check_idempotent_stream(found: &[client::Read]) {
    let mut seen = HashSet::new();
    let mut last: BTreeMap<i32, (i64, &str)> = BTreeMap::new();
    for record in found.iter().filter(|r| r.value.starts_with("idempotent")) {
        assert!(seen.insert(&record.value), "{} is stored twice", record.value);
        if let Some((offset, value)) = last.insert(record.partition, (record.offset, &record.value)) {
            assert!(offset < record.offset && value < record.value.as_str(), "{value} before {}", record.value);
        }
    }
}

#[test]
fn offsets_go_on_after_a_clean_restart() {
    let mut server = Server::start(&[]);
    client::create_topic(&server.bootstrap(), TOPIC, 1, &[]);
    for round in 0..3 {
        let (producer, ledger) = client::producer(&server.bootstrap(), &[("enable.idempotence", "true")]);
        (0..100).for_each(|n| client::send(&producer, TOPIC, Some(0), &format!("{round}-{n}")));
        client::flush(&producer);
        let offsets: Vec<i64> = ledger.acked.lock().expect("whole").keys().map(|k| k.1).collect();
        assert_eq!(offsets, (round * 100..(round + 1) * 100).collect::<Vec<_>>());
        assert!(server.terminate(), "a clean stop exits with 0");
        server.restart();
    }
    let values: Vec<String> = client::read_all(&server.bootstrap(), TOPIC, 1).into_iter().map(|r| r.value).collect();
    let sent: Vec<String> = (0..3).flat_map(|r| (0..100).map(move |n| format!("{r}-{n}"))).collect();
    assert_eq!(values, sent);
}

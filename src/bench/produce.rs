//! `magnetar bench produce`: open loop at a rate, or as fast as possible, or with few records in flight. Owns the
//! producing threads; latency counts from the time a record was due, so that a stall is seen by all it delays.

use super::{
    figures::{self, Tally, quantile_micros},
    pace::Schedule,
    probe::{self, Disk, per_second},
};
use crate::{
    cli::{
        client::{Connection, admin_options, explain, explain_code},
        table,
    },
    config::amount,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use protocol::runtime::{Clock, SystemClock};
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Message},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

/// Records between two looks at what was acknowledged.
const POLL_EVERY: u64 = 64;
/// How long to wait for an acknowledgement before looking again. The client's poll lasts as long as it is told to, even
/// when the acknowledgement is there, so this is idle time between two records.
const GLANCE: Duration = Duration::from_micros(50);
/// How often the progress line is written.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// `bench produce`
#[derive(Debug, Clone, Args)]
pub struct BenchProduce {
    /// The topic; created if it does not exist
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Partitions of the topic if it is created
    #[arg(long, default_value_t = 16)]
    pub partitions: i32,
    /// Bytes of a record's value
    #[arg(long, default_value = "1KiB", value_parser = amount::size)]
    pub record_size: u64,
    /// Clients, each with a thread and a connection of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub producers: u32,
    /// Records per second in all; as fast as possible if not given
    #[arg(long)]
    pub rate: Option<f64>,
    /// The most records of a producer that wait for their acknowledgement
    #[arg(long)]
    pub in_flight: Option<u64>,
    /// When a record counts as sent: 0, 1 or all
    #[arg(long, default_value = "all")]
    pub acks: String,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none")]
    pub compression: String,
    /// How long to produce
    #[arg(long, default_value = "10s", value_parser = amount::duration)]
    pub duration: Duration,
    /// How many records to produce in all, if that comes first
    #[arg(long)]
    pub records: Option<u64>,
    /// Where the bare disk is measured, before and after; the folder of temporary files if not given
    #[arg(long, value_name = "DIR")]
    pub probe_dir: Option<PathBuf>,
    /// Do not measure the bare disk
    #[arg(long)]
    pub no_probe: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The server to measure.
    #[command(flatten)]
    pub connection: Connection,
}

/// Counts what the client library reports; one per producer, so nothing is contended.
struct Counter {
    clock: SystemClock,
    acknowledged: Arc<AtomicU64>,
    ended: AtomicU64,
    outcome: Mutex<(Tally, Histogram<u64>, Option<KafkaError>)>,
}

impl ClientContext for Counter {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Counter {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, due: usize) {
        let now = now(&self.clock);
        let mut outcome = self.outcome.lock();
        match result {
            Ok(record) => {
                outcome.0.records += 1;
                outcome.0.bytes += record.payload().map_or(0, <[u8]>::len) as u64;
                outcome.1.saturating_record(now.saturating_sub(due as u64).max(1));
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                outcome.0.failed += 1;
                outcome.2 = Some(error.clone());
            }
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

fn now(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_micros()).unwrap_or(u64::MAX)
}

/// What a run measured.
struct Outcome {
    tally: Tally,
    latency: Histogram<u64>,
    took: Duration,
    problem: Option<KafkaError>,
}

impl BenchProduce {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.rate.is_some_and(|r| !r.is_finite() || r <= 0.0) {
            bail!("--rate must be above 0");
        }
        let settings = self.settings()?;
        self.ensure_topic()?;
        let clock = SystemClock::default();
        let probe_dir = self.probe_dir.clone().unwrap_or_else(std::env::temp_dir);
        let probe = || if self.no_probe { Ok(None) } else { probe::disk(&probe_dir, &clock).map(Some) };
        let before = probe()?;
        let outcome = self.measure(&settings, clock)?;
        let after = probe()?;
        let disk = before.zip(after).map(|(a, b)| a.mean(b));
        self.report(&outcome, disk, &probe_dir);
        match outcome.problem {
            Some(problem) => Err(anyhow!(
                "{} were not acknowledged: {}",
                table::count(outcome.tally.failed, "record"),
                explain(&problem)
            )),
            None => Ok(()),
        }
    }

    fn settings(&self) -> anyhow::Result<ClientConfig> {
        let mut settings = self.connection.settings()?;
        let linger = if self.in_flight.is_some_and(|n| n <= 4) { "0" } else { "5" };
        for (name, value) in [
            ("acks", self.acks.as_str()),
            ("compression.type", self.compression.as_str()),
            ("linger.ms", linger),
            ("queue.buffering.max.messages", "50000"),
            ("message.timeout.ms", "60000"),
        ] {
            if settings.get(name).is_none() {
                settings.set(name, value);
            }
        }
        Ok(settings)
    }

    fn ensure_topic(&self) -> anyhow::Result<()> {
        let topic = [NewTopic::new(&self.topic, self.partitions, TopicReplication::Fixed(-1))];
        let admin = self.connection.admin()?;
        let results = futures::executor::block_on(admin.create_topics(&topic, &admin_options()));
        match results.map_err(|e| explain(&e))?.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
            Some(Err((name, code))) => bail!("{name}: {}", explain_code(code)),
        }
    }

    /// Runs all producers, and shows how it goes.
    fn measure(&self, settings: &ClientConfig, clock: SystemClock) -> anyhow::Result<Outcome> {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (done, ended) = mpsc::channel::<()>();
        let start = clock.monotonic();
        let mut threads = Vec::new();
        for at in 0..self.producers {
            let counter = Counter {
                clock,
                acknowledged: Arc::clone(&acknowledged),
                ended: AtomicU64::new(0),
                outcome: Mutex::new((Tally::default(), Histogram::new_with_bounds(1, 600_000_000, 3)?, None)),
            };
            let producer = settings.create_with_context(counter).map_err(|e| explain(&e))?;
            let (share, done) = (self.share(at), done.clone());
            let produce = move || {
                let result = share.produce(&producer, clock);
                drop(done);
                result.map(|()| producer)
            };
            threads.push(std::thread::Builder::new().name(format!("producer-{at}")).spawn(produce)?);
        }
        drop(done);
        let bar = figures::progress();
        while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(SHOW_EVERY) {
            let (sum, took) = (acknowledged.load(Ordering::Relaxed), clock.monotonic().saturating_sub(start));
            let rate = per_second(sum, took);
            #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
            let bytes = rate * self.record_size as f64;
            bar.set_message(format!("{}   {}", figures::records_per_second(rate), figures::rate(bytes)));
        }
        let took = clock.monotonic().saturating_sub(start);
        bar.finish_and_clear();
        let mut all = Outcome {
            tally: Tally::default(),
            latency: Histogram::new_with_bounds(1, 600_000_000, 3)?,
            took,
            problem: None,
        };
        for thread in threads {
            let producer: BaseProducer<Counter> = thread.join().map_err(|_| anyhow!("a producer panicked"))??;
            let outcome = producer.context().outcome.lock();
            all.tally.records += outcome.0.records;
            all.tally.bytes += outcome.0.bytes;
            all.tally.failed += outcome.0.failed;
            all.latency.add(&outcome.1)?;
            all.problem = all.problem.or_else(|| outcome.2.clone());
        }
        Ok(all)
    }

    /// What the producer of this number has to do.
    fn share(&self, at: u32) -> Share {
        let producers = u64::from(self.producers);
        let extra = |records: u64| u64::from(u64::from(at) < records % producers);
        Share {
            topic: self.topic.clone(),
            record_size: usize::try_from(self.record_size).unwrap_or(usize::MAX).min(64 << 20),
            rate: self.rate.map(|r| r / f64::from(self.producers)),
            in_flight: self.in_flight.unwrap_or(u64::MAX).max(1),
            duration: self.duration,
            records: self.records.map_or(u64::MAX, |n| n / producers + extra(n)),
        }
    }

    fn report(&self, outcome: &Outcome, disk: Option<Disk>, dir: &std::path::Path) {
        let (tally, latency) = (&outcome.tally, &outcome.latency);
        let bytes_per_second = per_second(tally.bytes, outcome.took);
        let p50 = quantile_micros(latency, 0.5);
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let ratios = disk.map(|d| (bytes_per_second / d.bytes_per_second, p50 as f64 / d.small_p50.max(1) as f64));
        if self.json {
            let figures = serde_json::json!({
                "records": tally.records, "bytes": tally.bytes, "failed": tally.failed,
                "seconds": outcome.took.as_secs_f64(), "bytes_per_second": bytes_per_second,
                "p50_us": p50, "p99_us": quantile_micros(latency, 0.99), "p999_us": quantile_micros(latency, 0.999),
                "disk_bytes_per_second": disk.map(|d| d.bytes_per_second),
                "disk_p50_us": disk.map(|d| d.small_p50),
                "rate_ratio": ratios.map(|r| r.0), "p50_ratio": ratios.map(|r| r.1),
            });
            println!("{figures}");
            return;
        }
        println!(
            "produced  {}, {} in {:.1} s   ({}: records of {} bytes, {}, {}, acks={})",
            table::count(tally.records, "record"),
            table::bytes(tally.bytes),
            outcome.took.as_secs_f64(),
            self.topic,
            self.record_size,
            table::count(u64::try_from(self.partitions).unwrap_or(0), "partition"),
            table::count(self.producers.into(), "producer"),
            self.acks,
        );
        let records = figures::records_per_second(per_second(tally.records, outcome.took));
        println!("rate      {records}   {}", figures::rate(bytes_per_second));
        let from = match (self.rate, self.in_flight) {
            (None, None) => "with the time in the client's queue, which is always full in such a run",
            _ => "from the time a record was due",
        };
        println!("latency   {}   ({from})", figures::quantiles(latency));
        if let (Some(disk), Some((rate, median))) = (disk, ratios) {
            println!(
                "disk      {} in synced appends of 1 MiB   p50 {} of a synced append of 4 KiB   ({}, before and after)",
                figures::rate(disk.bytes_per_second),
                figures::micros(disk.small_p50),
                dir.display(),
            );
            match (self.rate, self.in_flight) {
                (_, Some(1)) => println!("ratio     {median:.1} times the disk's p50"),
                (None, _) => println!("ratio     {rate:.2} of the disk's rate"),
                (Some(_), _) => {}
            }
        }
    }
}

/// The work of one producer.
struct Share {
    topic: String,
    record_size: usize,
    rate: Option<f64>,
    in_flight: u64,
    duration: Duration,
    records: u64,
}

impl Share {
    fn produce(&self, producer: &BaseProducer<Counter>, clock: SystemClock) -> anyhow::Result<()> {
        let counter = producer.context();
        // Random bytes, so that neither a codec nor a disk can make them smaller than they are.
        let mut values = vec![0; self.record_size + 4096];
        rand::fill(&mut values[..]);
        let start = now(&clock);
        let schedule = Schedule::new(start, self.rate);
        let end = start.saturating_add(u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX));
        let mut sent = 0;
        while sent < self.records {
            let at = now(&clock);
            let due = schedule.due(sent, at);
            if due.max(at) >= end {
                break;
            }
            if due > at {
                producer.poll(Duration::from_micros(due - at));
                continue;
            }
            if sent - counter.ended.load(Ordering::Relaxed) >= self.in_flight {
                producer.poll(GLANCE);
                continue;
            }
            let from = usize::try_from(sent % 4096).unwrap_or(0);
            self.send(producer, &values[from..from + self.record_size], due)?;
            sent += 1;
            if sent % POLL_EVERY == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(120)).map_err(|e| explain(&e)).context("waiting for the last records")
    }

    fn send(&self, producer: &BaseProducer<Counter>, value: &[u8], due: u64) -> anyhow::Result<()> {
        let due = usize::try_from(due).unwrap_or(usize::MAX);
        let mut record = BaseRecord::<(), [u8], usize>::with_opaque_to(&self.topic, due).payload(value);
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(10));
                    record = back;
                }
                Err((e, _)) => return Err(explain(&e)),
            }
        }
    }
}

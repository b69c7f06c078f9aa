//! `magnetar produce`: sends the lines of standard input. Owns reading lines and counting what was acknowledged; the
//! client library owns batching and retries.

use super::{
    client::{Connection, admin_options, clock, explain, explain_code, name_and_value},
    table,
};
use anyhow::{Context, bail};
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::runtime::Clock;
use rdkafka::{
    ClientContext,
    admin::{NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use std::{
    io::{BufRead, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Records between two looks at what was acknowledged.
const POLL_EVERY: u64 = 256;

/// Sends the lines of standard input to a topic.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  echo hello | magnetar produce demo\n  seq 1 100000 | magnetar produce numbers --partitions 8\n  echo user7:signed-in | magnetar produce events -k : -H source=web"
)]
pub struct Produce {
    /// The topic
    pub topic: String,
    /// What stands between key and value in a line; without it a line is a value
    #[arg(short = 'k', long, value_name = "SEPARATOR")]
    pub key_separator: Option<String>,
    /// A header for every record; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    /// The partition; by key, else evenly, if not given
    #[arg(short, long)]
    pub partition: Option<i32>,
    /// Create the topic with this many partitions if it does not exist
    #[arg(long)]
    pub partitions: Option<i32>,
    /// How batches are compressed
    #[arg(short = 'z', long, default_value = "none", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    pub compression: String,
    /// When a record counts as sent
    #[arg(long, default_value = "all", value_parser = ["0", "1", "all"])]
    pub acks: String,
    /// The server to send to.
    #[command(flatten)]
    pub connection: Connection,
}

/// What became of the records; shared with the client library's callback.
#[derive(Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    bytes: AtomicU64,
    failed: parking_lot::Mutex<Option<(u64, KafkaError)>>,
    latency: parking_lot::Mutex<Option<Histogram<u64>>>,
}

/// Receives what the client library reports.
struct Observer {
    deliveries: Arc<Deliveries>,
    clock: Arc<dyn Clock>,
}

impl ClientContext for Observer {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Observer {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: usize) {
        match result {
            Ok(record) => {
                self.deliveries.acknowledged.fetch_add(1, Ordering::Relaxed);
                let size = record.payload_len() + record.key_len();
                self.deliveries.bytes.fetch_add(size as u64, Ordering::Relaxed);
                let now = micros(&*self.clock);
                if let Some(histogram) = &mut *self.deliveries.latency.lock() {
                    histogram.saturating_record(now.saturating_sub(sent as u64).max(1));
                }
            }
            Err((error, _)) => {
                let mut failed = self.deliveries.failed.lock();
                let count = failed.as_ref().map_or(0, |(n, _)| *n);
                *failed = Some((count + 1, error.clone()));
            }
        }
    }
}

fn micros(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_micros()).unwrap_or(u64::MAX)
}

impl Produce {
    /// Does what was asked.
    ///
    /// # Errors
    /// A record was not acknowledged, in words.
    pub fn run(self) -> anyhow::Result<()> {
        let headers = self.headers.iter().map(|h| name_and_value(h)).collect::<Result<Vec<_>, _>>()?;
        let mut settings = self.connection.settings()?;
        for (name, value) in [("compression.type", &self.compression), ("acks", &self.acks)] {
            settings.set(name, value.as_str());
        }
        self.ensure_topic()?;
        let deliveries = Arc::new(Deliveries::default());
        *deliveries.latency.lock() = Some(Histogram::new_with_bounds(1, 600_000_000, 3).context("histogram bounds")?);
        let clock: Arc<dyn Clock> = Arc::new(clock());
        let context = Observer { deliveries: Arc::clone(&deliveries), clock: Arc::clone(&clock) };
        let producer: BaseProducer<Observer> = settings.create_with_context(context).map_err(|e| explain(&e))?;
        if std::io::stdin().is_terminal() {
            eprintln!("every line becomes a record of {}; end with Ctrl-D", self.topic);
        }
        let start = clock.monotonic();
        let progress = progress();
        let mut sent = 0;
        for line in std::io::stdin().lock().split(b'\n') {
            let line = line.context("cannot read standard input")?;
            self.send(&producer, &line, &headers, micros(&*clock))?;
            sent += 1;
            if sent % POLL_EVERY == 0 {
                producer.poll(Duration::ZERO);
                progress.set_position(deliveries.acknowledged.load(Ordering::Relaxed));
            }
        }
        producer.flush(Duration::from_secs(300)).map_err(|e| explain(&e))?;
        progress.finish_and_clear();
        self.report(&deliveries, clock.monotonic().saturating_sub(start))
    }

    fn send(
        &self,
        producer: &BaseProducer<Observer>,
        line: &[u8],
        headers: &[(&str, &str)],
        now: u64,
    ) -> anyhow::Result<()> {
        let (key, value) = match &self.key_separator {
            Some(separator) => split(line, separator.as_bytes()),
            None => (None, line),
        };
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, now as usize).payload(value);
        record.key = key;
        record.partition = self.partition;
        if !headers.is_empty() {
            let add = |all: OwnedHeaders, (key, value): &(&str, &str)| all.insert(Header { key, value: Some(*value) });
            record.headers = Some(headers.iter().fold(OwnedHeaders::new(), add));
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(100));
                    record = back;
                }
                Err((e, _)) => return Err(explain(&e)),
            }
        }
    }

    /// Creates the topic if the number of its partitions was given and it does not exist.
    fn ensure_topic(&self) -> anyhow::Result<()> {
        let Some(partitions) = self.partitions else { return Ok(()) };
        let topic = [NewTopic::new(&self.topic, partitions, TopicReplication::Fixed(-1))];
        let admin = self.connection.admin()?;
        let results = futures::executor::block_on(admin.create_topics(&topic, &admin_options()));
        for result in results.map_err(|e| explain(&e))? {
            match result {
                Ok(name) => eprintln!("created topic {name} with {partitions} partitions"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => bail!("{name}: {}", explain_code(code)),
            }
        }
        Ok(())
    }

    fn report(&self, deliveries: &Deliveries, took: Duration) -> anyhow::Result<()> {
        let acknowledged = deliveries.acknowledged.load(Ordering::Relaxed);
        let bytes = deliveries.bytes.load(Ordering::Relaxed);
        let p99 = deliveries.latency.lock().as_ref().map_or(0, |h| h.value_at_quantile(0.99));
        eprintln!(
            "{} to {}, {} in {:.1} s, p99 ack {:.1} ms",
            table::count(acknowledged, "record"),
            self.topic,
            table::bytes(bytes),
            took.as_secs_f64(),
            Duration::from_micros(p99).as_secs_f64() * 1000.0,
        );
        if let Some((count, error)) = deliveries.failed.lock().take() {
            bail!("not acknowledged: {}: {}", table::count(count, "record"), explain(&error));
        }
        Ok(())
    }
}

fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{human_pos} records  {per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// Key and value of a line; a line without the separator has no key.
fn split<'a>(line: &'a [u8], separator: &[u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    let at = (!separator.is_empty()).then(|| line.windows(separator.len()).position(|w| w == separator)).flatten();
    at.map_or((None, line), |at| (Some(&line[..at]), &line[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_splits_at_the_first_separator() {
        assert_eq!(split(b"k:v:w", b":"), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split(b"k => v", b" => "), (Some(&b"k"[..]), &b"v"[..]));
        assert_eq!(split(b":v", b":"), (Some(&b""[..]), &b"v"[..]));
        assert_eq!(split(b"plain", b":"), (None, &b"plain"[..]));
        assert_eq!(split(b"plain", b""), (None, &b"plain"[..]));
    }
}

//! `magnetar bench consume`: reads a topic from its beginning as fast as possible. Owns the consuming threads, each with
//! partitions of its own; nothing is committed.

use super::{
    fetcher::Fetcher,
    figures::{self, Tally},
    probe::{self, per_second},
};
use crate::{
    cli::{
        client::{Connection, PATIENCE, Quiet, explain, explain_code},
        table,
    },
    config::amount,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use protocol::runtime::{Clock, SystemClock};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

/// How often the progress line is written.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// How long a consumer waits for a record before it gives up.
const SILENCE: Duration = Duration::from_secs(20);

/// `bench consume`
#[derive(Debug, Clone, Args)]
pub struct BenchConsume {
    /// The topic
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Clients, each with a thread and a connection of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub consumers: u32,
    /// How often everything is read
    #[arg(long, default_value_t = 1)]
    pub passes: u32,
    /// End after this many records of a consumer
    #[arg(long)]
    pub records: Option<u64>,
    /// End after this time
    #[arg(long, default_value = "60s", value_parser = amount::duration)]
    pub duration: Duration,
    /// Fetch record batches without a client library, to measure the server rather than the client
    #[arg(long)]
    pub bare: bool,
    /// Do not measure the bare network
    #[arg(long)]
    pub no_probe: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The server to measure.
    #[command(flatten)]
    pub connection: Connection,
}

impl BenchConsume {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let clock = SystemClock::default();
        let probe = || if self.no_probe { Ok(None) } else { probe::loopback(clock).map(Some) };
        let settings = self.settings()?;
        let partitions = self.partitions()?;
        let before = probe()?;
        let (tally, took) = self.measure(&settings, &partitions, clock)?;
        let network = before.zip(probe()?).map(|(a, b)| f64::midpoint(a, b));
        if tally.records == 0 {
            bail!("{} is empty; fill it with: magnetar bench produce --topic {}", self.topic, self.topic);
        }
        self.report(&tally, took, network);
        Ok(())
    }

    fn settings(&self) -> anyhow::Result<ClientConfig> {
        let mut settings = self.connection.settings()?;
        for (name, value) in [
            ("group.id", "magnetar-bench"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("allow.auto.create.topics", "false"),
            ("fetch.message.max.bytes", "4194304"),
            ("queued.min.messages", "1000000"),
            ("fetch.wait.max.ms", "100"),
        ] {
            if settings.get(name).is_none() {
                settings.set(name, value);
            }
        }
        Ok(settings)
    }

    fn partitions(&self) -> anyhow::Result<Vec<i32>> {
        let observer = self.connection.observer()?;
        let metadata = observer.fetch_metadata(Some(&self.topic), PATIENCE).map_err(|e| explain(&e))?;
        let topic = metadata.topics().first().context("the server did not answer for this topic")?;
        if let Some(problem) = topic.error() {
            bail!("{}: {}", self.topic, explain_code(problem.into()));
        }
        Ok(topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
    }

    /// Runs all consumers, and shows how it goes. Time counts from the first record on, so that connecting does not.
    fn measure(&self, settings: &ClientConfig, all: &[i32], clock: SystemClock) -> anyhow::Result<(Tally, Duration)> {
        let counted = Arc::new(AtomicU64::new(0));
        let (done, ended) = mpsc::channel::<()>();
        let mut threads = Vec::new();
        for at in 0..self.consumers.min(u32::try_from(all.len()).unwrap_or(u32::MAX)) {
            let mine = all.iter().skip(at as usize).step_by(self.consumers as usize).copied().collect();
            let share = Share { args: self.clone(), partitions: mine, counted: Arc::clone(&counted), clock };
            let consumer = settings.create_with_context(Quiet).map_err(|e| explain(&e))?;
            let done = done.clone();
            let consume = move || {
                let result = if share.args.bare { share.fetch() } else { share.consume(&consumer) };
                drop(done);
                result
            };
            threads.push(std::thread::Builder::new().name(format!("consumer-{at}")).spawn(consume)?);
        }
        drop(done);
        let bar = figures::progress();
        let start = clock.monotonic();
        while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(SHOW_EVERY) {
            let rate = per_second(counted.load(Ordering::Relaxed), clock.monotonic().saturating_sub(start));
            bar.set_message(figures::rate(rate));
        }
        bar.finish_and_clear();
        let (mut tally, mut first, mut last) = (Tally::default(), Duration::MAX, Duration::ZERO);
        for thread in threads {
            let part = thread.join().map_err(|_| anyhow!("a consumer panicked"))??;
            tally.records += part.0.records;
            tally.bytes += part.0.bytes;
            if let Some((begin, end)) = part.1 {
                first = first.min(begin);
                last = last.max(end);
            }
        }
        Ok((tally, last.saturating_sub(first)))
    }

    fn report(&self, tally: &Tally, took: Duration, network: Option<f64>) {
        let bytes_per_second = per_second(tally.bytes, took);
        let ratio = network.map(|n| bytes_per_second / n);
        if self.json {
            let figures = serde_json::json!({
                "records": tally.records, "bytes": tally.bytes, "seconds": took.as_secs_f64(),
                "bytes_per_second": bytes_per_second, "loopback_bytes_per_second": network, "rate_ratio": ratio,
            });
            println!("{figures}");
            return;
        }
        println!(
            "consumed  {}, {} in {:.1} s   ({}, {}, {})",
            table::count(tally.records, "record"),
            table::bytes(tally.bytes),
            took.as_secs_f64(),
            self.topic,
            table::count(self.consumers.into(), if self.bare { "bare consumer" } else { "consumer" }),
            table::count(self.passes.into(), "pass").replace("passs", "passes"),
        );
        let records = figures::records_per_second(per_second(tally.records, took));
        println!("rate      {records}   {}", figures::rate(bytes_per_second));
        if let (Some(network), Some(ratio)) = (network, ratio) {
            println!("network   {} of a bare copy over loopback TCP   (before and after)", figures::rate(network));
            println!("ratio     {ratio:.2} of the bare copy");
        }
    }
}

/// The work of one consumer.
struct Share {
    args: BenchConsume,
    partitions: Vec<i32>,
    counted: Arc<AtomicU64>,
    clock: SystemClock,
}

/// What was read, and when the first and the last record came.
type Read = (Tally, Option<(Duration, Duration)>);

impl Share {
    /// Reads everything as often as asked, by batch headers alone.
    fn fetch(&self) -> anyhow::Result<Read> {
        let address = self.args.connection.bootstrap.split(',').next().unwrap_or_default().trim();
        let mut fetcher = Fetcher::connect(address, &self.args.topic, &self.partitions)?;
        let mut read: Read = (Tally::default(), None);
        let end = self.clock.monotonic() + self.args.duration;
        for _ in 0..self.args.passes {
            fetcher.rewind();
            loop {
                let begin = self.clock.monotonic();
                let got = fetcher.fetch()?;
                let now = self.clock.monotonic();
                if got.records == 0 || now > end {
                    break;
                }
                read.0.records += got.records;
                read.0.bytes += got.bytes;
                self.counted.fetch_add(got.bytes, Ordering::Relaxed);
                read.1.get_or_insert((begin, now)).1 = now;
            }
        }
        Ok(read)
    }

    fn consume(&self, consumer: &BaseConsumer<Quiet>) -> anyhow::Result<Read> {
        let mut read: Read = (Tally::default(), None);
        let end = self.clock.monotonic() + self.args.duration;
        for _ in 0..self.args.passes {
            let mut list = TopicPartitionList::new();
            for partition in &self.partitions {
                list.add_partition_offset(&self.args.topic, *partition, Offset::Beginning).map_err(|e| explain(&e))?;
            }
            consumer.assign(&list).map_err(|e| explain(&e))?;
            if !self.pass(consumer, end, &mut read)? {
                break;
            }
        }
        Ok(read)
    }

    /// Reads everything once; `false` if the run ends before that.
    fn pass(&self, consumer: &BaseConsumer<Quiet>, end: Duration, read: &mut Read) -> anyhow::Result<bool> {
        let mut open = self.partitions.clone();
        while !open.is_empty() {
            match consumer.poll(SILENCE) {
                Some(Ok(record)) => {
                    let size = (record.payload_len() + record.key_len()) as u64;
                    read.0.records += 1;
                    read.0.bytes += size;
                    if read.0.records % 256 == 1 {
                        self.counted.fetch_add(256 * size, Ordering::Relaxed);
                        let now = self.clock.monotonic();
                        read.1.get_or_insert((now, now)).1 = now;
                        if now > end {
                            return Ok(false);
                        }
                    }
                    if self.args.records.is_some_and(|limit| read.0.records >= limit) {
                        return Ok(false);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.retain(|p| *p != partition);
                    let now = self.clock.monotonic();
                    if let Some(times) = &mut read.1 {
                        times.1 = now;
                    }
                }
                Some(Err(e)) => return Err(explain(&e)),
                None => bail!("no record came for {} s", SILENCE.as_secs()),
            }
        }
        Ok(true)
    }
}

//! `magnetar consume`: prints records, alone or as a member of a group. Owns where reading starts and ends and how
//! records are printed; the client library owns fetching and the group protocol.

use super::{
    client::{Connection, PATIENCE, Quiet, explain, explain_code, on_interrupt},
    format::{self, Format},
    table,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    io::{self, BufWriter, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long one look for a record takes at most.
const POLL: Duration = Duration::from_millis(100);

/// Prints the records of a topic.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar consume demo --from-beginning\n  magnetar consume demo --group billing -n 3 -f '%p:%o %k %v\\n'\n  magnetar consume demo --offset -10 --json\n  magnetar consume demo --partition 0 --offset @1700000000000"
)]
pub struct Consume {
    /// The topic
    pub topic: String,
    /// Read as a member of this group, and commit what was read
    #[arg(short, long)]
    pub group: Option<String>,
    /// Start with the first record (in a group: if nothing is committed yet)
    #[arg(long, conflicts_with = "offset")]
    pub from_beginning: bool,
    /// End after this many records
    #[arg(short = 'n', long = "max-records", value_name = "COUNT")]
    pub count: Option<u64>,
    /// Where to start: beginning, end, an offset, -N (N before the end), or @MILLIS (a time)
    #[arg(short, long, conflicts_with = "group", allow_hyphen_values = true)]
    pub offset: Option<String>,
    /// Only this partition
    #[arg(short, long, conflicts_with = "group")]
    pub partition: Option<i32>,
    /// End when everything that is there was read
    #[arg(short, long)]
    pub exit: bool,
    /// How a record is printed
    #[arg(short, long, help = format!("How a record is printed: {}", format::GRAMMAR))]
    pub format: Option<String>,
    /// Print keys, with a tabulator behind them
    #[arg(short, long, conflicts_with = "format")]
    pub keys: bool,
    /// Print headers, with a tabulator behind them
    #[arg(short = 'H', long, conflicts_with = "format")]
    pub headers: bool,
    /// Print records as lines of JSON
    #[arg(long, conflicts_with_all = ["format", "keys", "headers"])]
    pub json: bool,
    /// The server to read from.
    #[command(flatten)]
    pub connection: Connection,
}

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    At(Offset),
    Time(i64),
}

impl ConsumerContext for Quiet {}

/// A consumer that says nothing by itself.
type Reader = BaseConsumer<Quiet>;

impl Consume {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<()> {
        let printer = self.printer()?;
        let start = self.start()?;
        let reader: Reader = self.settings()?.create_with_context(Quiet).map_err(|e| explain(&e))?;
        let mut open = self.begin(&reader, start)?;
        if io::stderr().is_terminal() && self.group.is_none() && start == Start::At(Offset::End) {
            eprintln!("waiting for new records; --from-beginning shows those that are there, Ctrl-C ends");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        on_interrupt(move || asked.store(true, Ordering::Relaxed))?;
        let mut out = BufWriter::new(io::stdout().lock());
        let mut printed = 0;
        while !stop.load(Ordering::Relaxed) && self.count.is_none_or(|limit| printed < limit) {
            let waiting = if out.buffer().is_empty() { POLL } else { Duration::ZERO };
            match reader.poll(waiting) {
                Some(Ok(record)) => {
                    if printer.print(&record, &mut out).is_err() {
                        break;
                    }
                    printed += 1;
                    reader.store_offset_from_message(&record).map_err(|e| explain(&e))?;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.retain(|p| *p != partition);
                    if self.exit && open.is_empty() {
                        break;
                    }
                }
                Some(Err(e)) if is_passing(&e) => {}
                Some(Err(e)) => return Err(explain(&e)),
                None if out.flush().is_err() => break,
                None => {}
            }
        }
        let _ = out.flush();
        self.finish(&reader);
        if io::stderr().is_terminal() {
            eprintln!("{}", table::count(printed, "record"));
        }
        Ok(())
    }

    /// Says where a group goes on, so that the next member does not print again what was printed.
    fn finish(&self, reader: &Reader) {
        if self.group.is_some() {
            let nothing_new = Some(RDKafkaErrorCode::NoOffset);
            if let Err(e) = reader.commit_consumer_state(rdkafka::consumer::CommitMode::Sync)
                && e.rdkafka_error_code() != nothing_new
            {
                eprintln!("the offsets of the group were not committed: {}", explain(&e));
            }
        }
        reader.unsubscribe();
    }

    fn settings(&self) -> anyhow::Result<ClientConfig> {
        let mut settings = self.connection.settings()?;
        let reset = if self.from_beginning { "earliest" } else { "latest" };
        for (name, value) in [
            ("group.id", self.group.as_deref().unwrap_or("magnetar-consume")),
            ("enable.auto.offset.store", "false"),
            ("enable.auto.commit", if self.group.is_some() { "true" } else { "false" }),
            ("auto.offset.reset", reset),
            ("enable.partition.eof", "true"),
            ("allow.auto.create.topics", "false"),
        ] {
            if settings.get(name).is_none() {
                settings.set(name, value);
            }
        }
        Ok(settings)
    }

    fn start(&self) -> anyhow::Result<Start> {
        match self.offset.as_deref() {
            None if self.from_beginning => Ok(Start::At(Offset::Beginning)),
            None => Ok(Start::At(Offset::End)),
            Some(text) => parse_start(text),
        }
    }

    /// Begins to read; returns the partitions that are read, or those there are if a group decides.
    fn begin(&self, reader: &Reader, start: Start) -> anyhow::Result<Vec<i32>> {
        let metadata = reader.fetch_metadata(Some(&self.topic), PATIENCE).map_err(|e| explain(&e))?;
        let topic = metadata.topics().first().context("the server did not answer for this topic")?;
        if let Some(problem) = topic.error() {
            bail!("{}: {}", self.topic, explain_code(problem.into()));
        }
        let all: Vec<i32> = topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
        if self.group.is_some() {
            reader.subscribe(&[&self.topic]).map_err(|e| explain(&e))?;
            return Ok(all);
        }
        let wanted = match self.partition {
            None => all,
            Some(one) if all.contains(&one) => vec![one],
            Some(one) => bail!("{} has no partition {one}; it has {}", self.topic, all.len()),
        };
        let mut list = TopicPartitionList::new();
        for partition in &wanted {
            let offset = match start {
                Start::At(offset) => offset,
                Start::Time(millis) => Offset::Offset(millis),
            };
            list.add_partition_offset(&self.topic, *partition, offset).map_err(|e| explain(&e))?;
        }
        if matches!(start, Start::Time(_)) {
            list = reader.offsets_for_times(list, PATIENCE).map_err(|e| explain(&e))?;
        }
        reader.assign(&list).map_err(|e| explain(&e))?;
        Ok(wanted)
    }

    fn printer(&self) -> anyhow::Result<Printer> {
        if self.json {
            return Ok(Printer::Json);
        }
        let format = match &self.format {
            Some(format) => format.clone(),
            None => format!("{}{}%v\\n", if self.headers { "%h\\t" } else { "" }, if self.keys { "%k\\t" } else { "" }),
        };
        Ok(Printer::Format(Format::parse(&format).map_err(|e| anyhow!(e))?))
    }
}

/// How records are printed.
enum Printer {
    Json,
    Format(Format),
}

impl Printer {
    fn print(&self, record: &impl rdkafka::Message, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Json => format::json(record, out),
            Self::Format(format) => format.write(record, out),
        }
    }
}

fn parse_start(text: &str) -> anyhow::Result<Start> {
    let wrong = || anyhow!("\"{text}\" is not a place to start; write beginning, end, an offset, -N or @MILLIS");
    match text {
        "beginning" | "start" | "earliest" => return Ok(Start::At(Offset::Beginning)),
        "end" | "latest" => return Ok(Start::At(Offset::End)),
        _ => {}
    }
    if let Some(millis) = text.strip_prefix('@') {
        return millis.parse().map(Start::Time).map_err(|_| wrong());
    }
    let number: i64 = text.parse().map_err(|_| wrong())?;
    Ok(Start::At(if number < 0 { Offset::OffsetTail(-number) } else { Offset::Offset(number) }))
}

/// Whether an error passes by itself: the client library reconnects and retries.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_starts_at_offsets_ends_and_times() {
        let start = |text: &str| parse_start(text).expect("legal");
        assert_eq!(start("beginning"), Start::At(Offset::Beginning));
        assert_eq!(start("end"), Start::At(Offset::End));
        assert_eq!(start("42"), Start::At(Offset::Offset(42)));
        assert_eq!(start("-10"), Start::At(Offset::OffsetTail(10)));
        assert_eq!(start("@1700000000000"), Start::Time(1_700_000_000_000));
        for wrong in ["soon", "@yesterday", "1.5", ""] {
            assert!(parse_start(wrong).is_err(), "{wrong}");
        }
    }
}

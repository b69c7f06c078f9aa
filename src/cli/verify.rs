//! `magnetar verify`: reads everything of a topic from every copy, and says what is missing or damaged where. Owns the
//! walk over partitions, ledgers and copies and its report; the comparison of one entry is in [`super::audit`].

use super::{
    audit::Expected,
    cluster_client::{ClusterAddress, ClusterClient},
    inventory::{self, Owned},
    replica, table,
};
use clap::Args;
use futures::future::join_all;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::{
    id::{EntryId, Offset},
    ledger::metadata::BookieMember,
    service::bookie::BookieError,
};
use serde_json::json;
use std::{collections::BTreeMap, ops::RangeInclusive, process::ExitCode};

/// Faults of one kind on one bookie that are shown one by one.
const SHOWN: usize = 20;

/// `verify`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar verify orders\n  magnetar verify orders --json | jq .lost\n\nExit status: 0 if every copy of every entry is there and whole; 1 if copies are missing or damaged but every record can\nbe read; 2 if a record can be read from no copy."
)]
pub struct Verify {
    /// The topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// Only this partition
    #[arg(short, long)]
    pub partition: Option<u32>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// A fault of one copy.
struct Found {
    place: String,
    ledger: u64,
    bookie: u32,
    entries: RangeInclusive<u64>,
    fault: String,
}

/// What was read and found.
#[derive(Default)]
struct Report {
    ledgers: u64,
    entries: u64,
    records: u64,
    copies: u64,
    bytes: u64,
    /// Faults of single copies.
    faults: Vec<Found>,
    /// Entries that no copy serves, and faults of the log itself.
    lost: Vec<Found>,
}

impl Verify {
    /// Does what was asked.
    ///
    /// # Errors
    /// The cluster cannot be asked.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.connection.clone().with(async |client| self.verify(client).await)
    }

    async fn verify(&self, client: &ClusterClient) -> anyhow::Result<ExitCode> {
        let mut ledgers = inventory::ledgers_of(client, &self.topic).await?;
        ledgers.retain(|l| self.partition.is_none_or(|p| l.partition.index == p));
        let bar = ProgressBar::new(ledgers.iter().filter_map(Owned::bytes).sum::<u64>().max(1));
        bar.set_style(style());
        let mut report = Report::default();
        let mut partition = None;
        let mut next: Option<Offset> = None;
        for ledger in &ledgers {
            if partition.replace(ledger.partition) != Some(ledger.partition) {
                next = None;
            }
            bar.set_message(format!("{}/{} ledger {}", ledger.topic, ledger.partition.index, ledger.ledger.id));
            next = Walk { client, ledger, report: &mut report, bar: &bar }.run(next).await;
        }
        bar.finish_and_clear();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report.json(&self.topic))?);
        } else {
            report.print(&self.topic);
        }
        Ok(report.status())
    }
}

/// The walk through one ledger.
struct Walk<'a> {
    client: &'a ClusterClient,
    ledger: &'a Owned,
    report: &'a mut Report,
    bar: &'a ProgressBar,
}

impl Walk<'_> {
    /// Reads every fragment from every member; answers the offset after the ledger's last record.
    async fn run(mut self, next: Option<Offset>) -> Option<Offset> {
        self.report.ledgers += 1;
        let mut expected = Expected::new(next.unwrap_or(self.ledger.base_offset));
        if next.is_some_and(|next| next != self.ledger.base_offset) {
            let fault =
                format!("begins at offset {}, the ledger before ends at {}", self.ledger.base_offset, expected.next());
            self.lose(0..=0, fault);
            expected = Expected::new(self.ledger.base_offset);
        }
        let end = match self.ledger.bytes() {
            Some(_) => self.ledger.last_entry(),
            None => self.confirmed().await,
        };
        for extent in self.ledger.extents() {
            let Some(end) = end else { break };
            let entries = EntryId(*extent.entries.start())..=EntryId((*extent.entries.end()).min(end.0));
            if !entries.is_empty() {
                self.fragment(&extent.ensemble, entries, &mut expected).await;
            }
        }
        if let Some(end) = self.ledger.end_offset
            && end != expected.next()
        {
            self.lose(0..=0, format!("ends at offset {}, metadata says {end}", expected.next()));
        }
        Some(expected.next())
    }

    /// The last entry that any bookie knows to be confirmed, of a ledger that is being written.
    async fn confirmed(&self) -> Option<EntryId> {
        let ensemble = &self.ledger.ledger.last_fragment()?.ensemble;
        let asked = ensemble.iter().map(|member| replica::confirmed(self.client, *member, self.ledger));
        join_all(asked).await.into_iter().flatten().max()
    }

    /// Reads one fragment from all its members at once, piece by piece, so that memory holds one piece of each.
    async fn fragment(&mut self, ensemble: &[BookieMember], entries: RangeInclusive<EntryId>, expected: &mut Expected) {
        let mut next = entries.start().0;
        while next <= entries.end().0 {
            let wanted = EntryId(next)..=*entries.end();
            let reads = ensemble.iter().map(|m| replica::read(self.client, *m, self.ledger, wanted.clone()));
            let answers = join_all(reads).await;
            let shortest = answers.iter().flatten().map(Vec::len).min().unwrap_or(0).max(1);
            for at in 0..shortest {
                let copies = ensemble.iter().zip(&answers).map(|(m, a)| (*m, a.as_ref().map(|run| run.get(at))));
                self.entry(EntryId(next + at as u64), copies, expected);
            }
            next += shortest as u64;
        }
    }

    fn entry<'e>(
        &mut self,
        entry: EntryId,
        copies: impl Iterator<
            Item = (BookieMember, Result<Option<&'e protocol::ledger::entry::SealedEntry>, &'e BookieError>),
        >,
        expected: &mut Expected,
    ) {
        self.report.entries += 1;
        let (mut first, mut served) = (None, 0);
        for (member, copy) in copies {
            match copy {
                Ok(Some(sealed)) => {
                    served += 1;
                    self.report.copies += 1;
                    self.report.bytes += sealed.bytes().len() as u64;
                    self.bar.inc(if first.is_none() { sealed.payload().len() as u64 } else { 0 });
                    match first {
                        None => first = Some(sealed.clone()),
                        Some(ref same) if same.payload() == sealed.payload() => {}
                        Some(_) => {
                            self.fault(member, entry, "differs from another copy, though its checksum is right".into())
                        }
                    }
                }
                Ok(None) => {}
                Err(problem) => self.fault(member, entry, words(problem)),
            }
        }
        match first {
            Some(sealed) => match expected.take(&sealed) {
                Ok(records) => self.report.records += records,
                Err(fault) => self.lose(entry.0..=entry.0, fault.to_string()),
            },
            None if served == 0 => self.lose(entry.0..=entry.0, "no copy can be read".into()),
            None => {}
        }
    }

    fn fault(&mut self, member: BookieMember, entry: EntryId, fault: String) {
        let found = self.found(member.id.0, entry.0..=entry.0, fault);
        push(&mut self.report.faults, found);
    }

    fn lose(&mut self, entries: RangeInclusive<u64>, fault: String) {
        let found = self.found(0, entries, fault);
        push(&mut self.report.lost, found);
    }

    fn found(&self, bookie: u32, entries: RangeInclusive<u64>, fault: String) -> Found {
        let place = format!("{}/{}", self.ledger.topic, self.ledger.partition.index);
        Found { place, ledger: self.ledger.ledger.id.0, bookie, entries, fault }
    }
}

/// Adds a fault; the next entry of the same fault makes the run before longer.
fn push(faults: &mut Vec<Found>, found: Found) {
    if let Some(last) = faults.iter_mut().rev().take(8).find(|l| {
        l.ledger == found.ledger
            && l.bookie == found.bookie
            && l.fault == found.fault
            && l.entries.end() + 1 == *found.entries.start()
    }) {
        last.entries = *last.entries.start()..=*found.entries.end();
    } else {
        faults.push(found);
    }
}

fn words(problem: &BookieError) -> String {
    match problem {
        BookieError::NoSuchEntry(..) | BookieError::NoSuchLedger(_) => "missing".into(),
        BookieError::WrongMember { actual, .. } => format!("lost: its bookie has begun a new life ({actual})"),
        other => other.to_string(),
    }
}

impl Report {
    fn status(&self) -> ExitCode {
        match (self.lost.is_empty(), self.faults.is_empty()) {
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::from(1),
            (false, _) => ExitCode::from(2),
        }
    }

    fn print(&self, topic: &str) {
        println!(
            "{topic}: {} in {} of {}, {} copies, {} read",
            table::count(self.records, "record"),
            table::number(self.entries) + if self.entries == 1 { " entry" } else { " entries" },
            table::count(self.ledgers, "ledger"),
            table::number(self.copies),
            table::bytes(self.bytes)
        );
        for (title, found) in [("cannot be read", &self.lost), ("copies at fault", &self.faults)] {
            if found.is_empty() {
                continue;
            }
            println!("\n{title}:");
            let rows = found.iter().take(SHOWN).map(|f| {
                let bookie = if f.bookie == 0 { "-".into() } else { f.bookie.to_string() };
                vec![
                    f.place.clone(),
                    f.ledger.to_string(),
                    replica::ranges(std::slice::from_ref(&f.entries)),
                    bookie,
                    f.fault.clone(),
                ]
            });
            table::print(&["PARTITION", "LEDGER", "ENTRIES", "BOOKIE", "WHAT"], &["LEDGER", "BOOKIE"], rows);
            if found.len() > SHOWN {
                println!("and {} more; --json shows all", found.len() - SHOWN);
            }
        }
        println!();
        match (self.lost.is_empty(), self.faults.is_empty()) {
            (true, true) => println!("every copy of every entry is there and whole, in order and without a gap"),
            (true, false) => {
                println!("every record can be read; the copies named above are missing or damaged:");
                println!("repair makes them again while there are bookies for them (magnetar bookie list)");
            }
            (false, _) => {
                println!("records named above can be read from no copy: bring back the bookies that hold them")
            }
        }
    }

    fn json(&self, topic: &str) -> serde_json::Value {
        let list = |found: &[Found]| {
            let one = |f: &Found| json!({"partition": f.place, "ledger": f.ledger, "bookie": f.bookie, "entries": [f.entries.start(), f.entries.end()], "what": f.fault});
            found.iter().map(one).collect::<Vec<_>>()
        };
        let per_bookie: BTreeMap<u32, usize> = self.faults.iter().fold(BTreeMap::new(), |mut map, f| {
            *map.entry(f.bookie).or_default() += 1;
            map
        });
        json!({
            "topic": topic, "ledgers": self.ledgers, "entries": self.entries, "records": self.records,
            "copies": self.copies, "bytes": self.bytes, "lost": list(&self.lost), "faults": list(&self.faults),
            "faults_per_bookie": per_bookie,
        })
    }
}

fn style() -> ProgressStyle {
    let template =
        "{bar:30} {percent}%  {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {msg}  ETA {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

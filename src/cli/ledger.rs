//! `magnetar ledger`: lists, describes and reads ledgers, and has a partition's unclosed one recovered. Owns the words
//! and tables; recovery is done by the partition's owner, because nobody else may recover a head.

use super::{
    cluster_client::{ClusterAddress, ClusterClient},
    inventory::{self, Owned},
    loss::Loss,
    replica::{self, Replica},
    table,
};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use protocol::{
    cluster::ClusterSnapshot,
    id::{BookieId, EntryId, LeaderEpoch, LedgerId},
    ledger::{
        entry::{EntryHeader, EntryKind},
        metadata::{BookieMember, LedgerState},
    },
    model::{Owner, encode, key},
    service::metadata::{Condition, Operation, Outcome, Transaction},
};
use serde_json::json;
use std::{ops::RangeInclusive, process::ExitCode, time::Duration};

/// How often a recovery is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often what is lost is looked at, if it changes in that moment.
const ATTEMPTS: u32 = 20;
/// How long a recovery is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Entries shown if none are named.
const SHOWN: u64 = 20;

/// Looks into ledgers.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// List ledgers: whose they are, where they stand, how many copies live
    List(List),
    /// Show a ledger, and ask each of its bookies what it really holds
    Describe(Describe),
    /// Print entries of a ledger
    Read(Read),
    /// Have the unclosed ledger of a partition recovered and closed
    Recover(Recover),
}

/// `ledger list`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar ledger list\n  magnetar ledger list --topic orders\n  magnetar ledger list --bookie 3 --short        those on bookie 3 that lack copies"
)]
pub struct List {
    /// Only ledgers of this topic
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// Only ledgers that name this bookie
    #[arg(long, value_name = "ID")]
    pub bookie: Option<u32>,
    /// Only ledgers with fewer copies on live bookies than they want
    #[arg(long)]
    pub short: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `ledger describe`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  magnetar ledger describe 17")]
pub struct Describe {
    /// The ledger's number
    #[arg(value_name = "ID")]
    pub id: u64,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `ledger read`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar ledger read 17                       the first 20 entries\n  magnetar ledger read 17 --entries 100-120 --from 2"
)]
pub struct Read {
    /// The ledger's number
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Which entries, as FIRST-LAST or one number
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    pub entries: Option<RangeInclusive<u64>>,
    /// Only from this bookie; else from the first that has them
    #[arg(long, value_name = "BOOKIE")]
    pub from: Option<u32>,
    /// As JSON, one line per entry
    #[arg(long)]
    pub json: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `ledger recover`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar ledger recover 17\n\nThe partition gets a new epoch, so that its writer stops for good; then its owner finds out where the ledger ends,\nmakes every acknowledged entry safe and closes it. Clients notice nothing but a short pause.\n\nThat cannot succeed if so many of its bookies are gone for good that nobody can tell where it ends:\n  magnetar ledger recover 17 --accept-loss     says what is left and what is lost, asks, and gives up what is lost"
)]
pub struct Recover {
    /// The ledger's number
    #[arg(value_name = "ID")]
    pub id: u64,
    /// Give up what stood only on bookies that are gone for good; shows it first, and asks
    #[arg(long)]
    pub accept_loss: bool,
    /// Do not ask
    #[arg(long, requires = "accept_loss")]
    pub yes: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

impl LedgerCommand {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(args) => args.connection.clone().with(async |client| args.show(client).await)?,
            Self::Describe(args) => args.connection.clone().with(async |client| args.show(client).await)?,
            Self::Read(args) => args.connection.clone().with(async |client| args.show(client).await)?,
            Self::Recover(args) => args.connection.clone().with(async |client| args.recover(client).await)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

const fn state(ledger: &Owned) -> &'static str {
    match ledger.ledger.state {
        LedgerState::Open => "open",
        LedgerState::InRecovery => "in recovery",
        LedgerState::Closed { .. } => "closed",
    }
}

fn copies(ledger: &Owned, snapshot: &ClusterSnapshot) -> String {
    format!("{} of {}", ledger.live_copies(snapshot), ledger.wanted_copies())
}

/// Members with the life of their disk where that is not the present one.
fn members(ensemble: &[BookieMember], snapshot: &ClusterSnapshot) -> String {
    let shown = ensemble.iter().map(|m| match snapshot.bookies.get(&m.id) {
        Some(live) if live.member == *m => m.id.to_string(),
        Some(_) => format!("{} (lost)", m.id),
        None => format!("{} (down)", m.id),
    });
    shown.collect::<Vec<_>>().join(" ")
}

impl List {
    async fn show(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let mut ledgers = match &self.topic {
            Some(topic) => inventory::ledgers_of(client, topic).await?,
            None => inventory::ledgers(client).await?,
        };
        let snapshot = client.view.snapshot();
        if let Some(id) = self.bookie {
            ledgers.retain(|l| l.is_on(BookieId(id)));
        }
        if self.short {
            ledgers.retain(|l| l.live_copies(&snapshot) < l.wanted_copies());
        }
        if self.json {
            let rows: Vec<_> = ledgers.iter().map(|l| as_json(l, &snapshot)).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else if ledgers.is_empty() {
            println!(
                "no ledgers{}",
                if self.short { " lack copies" } else { "; a topic gets its first one when it is written to" }
            );
        } else {
            let heads = ["LEDGER", "TOPIC", "PARTITION", "STATE", "OFFSETS", "ENTRIES", "BYTES", "COPIES", "BOOKIES"];
            let right = ["LEDGER", "PARTITION", "ENTRIES", "BYTES"];
            table::print(&heads, &right, ledgers.iter().map(|l| row(l, &snapshot)));
        }
        Ok(())
    }
}

fn row(ledger: &Owned, snapshot: &ClusterSnapshot) -> Vec<String> {
    let offsets = match ledger.end_offset {
        Some(end) if end == ledger.base_offset => format!("none at {end}"),
        Some(end) => format!("{}-{}", ledger.base_offset, end.0 - 1),
        None => format!("{}-", ledger.base_offset),
    };
    let entries = match (ledger.bytes(), ledger.last_entry()) {
        (Some(_), Some(last)) => table::number(last.0 + 1),
        (Some(_), None) => "0".into(),
        (None, _) => "-".into(),
    };
    let ensemble = ledger.ledger.last_fragment().map(|f| members(&f.ensemble, snapshot)).unwrap_or_default();
    vec![
        ledger.ledger.id.to_string(),
        ledger.topic.clone(),
        ledger.partition.index.to_string(),
        state(ledger).into(),
        offsets,
        entries,
        ledger.bytes().map_or_else(|| "-".into(), table::bytes),
        copies(ledger, snapshot),
        ensemble,
    ]
}

fn as_json(ledger: &Owned, snapshot: &ClusterSnapshot) -> serde_json::Value {
    let member = |m: &BookieMember| json!({"bookie": m.id.0, "incarnation": m.incarnation.0});
    let fragments: Vec<_> = ledger
        .ledger
        .fragments
        .iter()
        .map(|f| json!({"first_entry": f.first_entry.0, "bookies": f.ensemble.iter().map(member).collect::<Vec<_>>()}))
        .collect();
    json!({
        "ledger": ledger.ledger.id.0, "topic": ledger.topic, "partition": ledger.partition.index,
        "state": state(ledger), "epoch": ledger.epoch.0, "base_offset": ledger.base_offset.0,
        "end_offset": ledger.end_offset.map(|o| o.0), "last_entry": ledger.last_entry().map(|e| e.0),
        "bytes": ledger.bytes(), "write_quorum": ledger.ledger.quorum.write(), "ack_quorum": ledger.ledger.quorum.ack(),
        "wanted_copies": ledger.wanted_copies(), "live_copies": ledger.live_copies(snapshot), "fragments": fragments,
        "holes": ledger.ledger.holes.iter().map(|h| json!({"bookie": h.member.id.0, "entries": [h.entries.start(), h.entries.end()]})).collect::<Vec<_>>(),
    })
}

impl Describe {
    async fn show(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let ledger = inventory::ledger(client, LedgerId(self.id)).await?;
        let snapshot = client.view.snapshot();
        let replicas = replica::ask_all(client, &ledger).await;
        if self.json {
            let mut shown = as_json(&ledger, &snapshot);
            shown["replicas"] = replicas.iter().map(Replica::json).collect();
            println!("{}", serde_json::to_string_pretty(&shown)?);
            return Ok(());
        }
        let quorum = ledger.ledger.quorum;
        println!(
            "ledger {} of {}/{}, {}, epoch {}",
            ledger.ledger.id,
            ledger.topic,
            ledger.partition.index,
            state(&ledger),
            ledger.epoch
        );
        println!(
            "written to {}, acknowledged by {}; {} copies wanted, {} on live bookies",
            table::count(quorum.write() as u64, "bookie"),
            quorum.ack(),
            ledger.wanted_copies(),
            ledger.live_copies(&snapshot)
        );
        println!();
        let rows =
            ledger.ledger.fragments.iter().map(|f| vec![f.first_entry.to_string(), members(&f.ensemble, &snapshot)]);
        table::print(&["FROM ENTRY", "BOOKIES"], &["FROM ENTRY"], rows);
        for hole in &ledger.ledger.holes {
            println!("bookie {} may lack entries {}-{}", hole.member.id, hole.entries.start(), hole.entries.end());
        }
        println!();
        table::print(&["BOOKIE", "HOLDS ENTRIES", "LACKS"], &["BOOKIE"], replicas.iter().map(Replica::row));
        Ok(())
    }
}

impl Read {
    async fn show(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let ledger = inventory::ledger(client, LedgerId(self.id)).await?;
        let wanted = self.entries.clone().unwrap_or(0..=SHOWN - 1);
        let mut rows = Vec::new();
        let mut next = *wanted.start();
        while next <= *wanted.end() {
            let Some((member, entries)) = self.next(client, &ledger, EntryId(next), &wanted).await? else { break };
            for entry in &entries {
                let payload = entry.payload();
                let header = EntryHeader::decode(&payload).ok();
                if self.json {
                    println!(
                        "{}",
                        entry_json(entry.entry(), member, payload.len(), entry.lac().entry(), header.as_ref())
                    );
                } else {
                    rows.push(entry_row(entry.entry(), member, payload.len(), header.as_ref()));
                }
            }
            next += entries.len() as u64;
        }
        if rows.is_empty() && !self.json {
            println!("no entry from {} on", wanted.start());
        } else if !self.json {
            let heads = ["ENTRY", "BOOKIE", "BYTES", "KIND", "OFFSETS", "RECORDS", "EPOCH"];
            table::print(&heads, &["ENTRY", "BOOKIE", "BYTES", "RECORDS", "EPOCH"], rows);
        }
        Ok(())
    }

    /// The next run of entries, from the bookie that was named, or the first that has them; none after the end.
    async fn next(
        &self,
        client: &ClusterClient,
        ledger: &Owned,
        first: EntryId,
        wanted: &RangeInclusive<u64>,
    ) -> anyhow::Result<Option<(BookieMember, Vec<protocol::ledger::entry::SealedEntry>)>> {
        if ledger.bytes().is_some() && ledger.last_entry().is_none_or(|last| first > last) {
            return Ok(None);
        }
        let ensemble = ledger.ledger.ensemble_of(first);
        let asked: Vec<_> = ensemble.iter().filter(|m| self.from.is_none_or(|id| m.id.0 == id)).collect();
        if asked.is_empty() {
            bail!(
                "entry {first} is on {}, not on bookie {}",
                members(ensemble, &client.view.snapshot()),
                self.from.unwrap_or_default()
            );
        }
        let mut refused = Vec::new();
        for member in asked {
            match replica::read(client, *member, ledger, first..=EntryId(*wanted.end())).await {
                Ok(entries) => return Ok(Some((*member, entries))),
                Err(protocol::service::bookie::BookieError::NoSuchEntry(..)) if ledger.bytes().is_none() => {}
                Err(problem) => refused.push(format!("bookie {}: {problem}", member.id)),
            }
        }
        if refused.is_empty() { Ok(None) } else { bail!("entry {first} cannot be read: {}", refused.join("; ")) }
    }
}

const fn kind(header: Option<&EntryHeader>) -> &'static str {
    match header {
        Some(header) => match header.kind {
            EntryKind::Batches => "records",
            EntryKind::ProducerSnapshot => "producers",
            EntryKind::Index => "index",
        },
        None => "unknown",
    }
}

fn entry_row(entry: EntryId, member: BookieMember, bytes: usize, header: Option<&EntryHeader>) -> Vec<String> {
    let offsets = header.filter(|h| h.record_count > 0);
    vec![
        entry.to_string(),
        member.id.to_string(),
        table::number(bytes as u64),
        kind(header).into(),
        offsets.map_or_else(|| "-".into(), |h| format!("{}-{}", h.base_offset, h.end_offset().0 - 1)),
        header.map_or_else(|| "-".into(), |h| h.record_count.to_string()),
        header.map_or_else(|| "-".into(), |h| h.epoch.to_string()),
    ]
}

fn entry_json(
    entry: EntryId,
    member: BookieMember,
    bytes: usize,
    lac: Option<EntryId>,
    header: Option<&EntryHeader>,
) -> serde_json::Value {
    json!({
        "entry": entry.0, "bookie": member.id.0, "bytes": bytes, "kind": kind(header),
        "last_add_confirmed": lac.map(|e| e.0), "base_offset": header.map(|h| h.base_offset.0),
        "records": header.map(|h| h.record_count), "epoch": header.map(|h| h.epoch.0),
    })
}

impl Recover {
    async fn recover(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let id = LedgerId(self.id);
        let found = inventory::ledger(client, id).await?;
        if found.ledger.is_closed() {
            println!("ledger {id} is closed already; there is nothing to recover");
            return Ok(());
        }
        let place = format!("{}/{}", found.topic, found.partition.index);
        if self.accept_loss {
            let loss = self.give_up(client, id, &place).await?;
            if !loss.leaves_something() {
                return Ok(());
            }
        } else {
            let (owner, epoch) = take_epoch(client, &found, &place).await?;
            println!("{place} has epoch {epoch}; node {} recovers ledger {id}", owner.node);
        }
        let closed = async {
            loop {
                match inventory::ledger(client, id).await {
                    Ok(ledger) if !ledger.ledger.is_closed() => tokio::time::sleep(LOOK).await,
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(PATIENCE, closed).await {
            Ok(Ok(ledger)) => {
                let end = ledger.last_entry().map_or_else(|| "without an entry".into(), |e| format!("at entry {e}"));
                println!("ledger {id} is closed {end}, {}", table::bytes(ledger.bytes().unwrap_or(0)));
                Ok(())
            }
            // An empty ledger is forgotten instead of being closed.
            Ok(Err(_)) => {
                println!("ledger {id} held nothing and is gone");
                Ok(())
            }
            Err(_) => bail!(
                "ledger {id} is still being recovered after {PATIENCE:?}; the log of the node that owns {place} says why\nIf bookies that it stood on are gone for good: magnetar ledger recover {id} --accept-loss shows what that costs, and asks"
            ),
        }
    }

    /// Shows what is lost and gives it up. Who has agreed beforehand is not asked to look again because an owner was at
    /// work in that moment.
    async fn give_up(&self, client: &ClusterClient, id: LedgerId, place: &str) -> anyhow::Result<Loss> {
        let mut attempts = if self.yes { ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let loss = Loss::look(client, &inventory::ledger(client, id).await?).await?;
            println!("{}", loss.words());
            if !self.yes && !is_confirmed(id)? {
                bail!("nothing was given up");
            }
            match loss.accept(client).await {
                Ok(epoch) => {
                    println!("given up; {place} has epoch {epoch}");
                    return Ok(loss);
                }
                Err(problem) if attempts == 0 => return Err(problem),
                Err(problem) => println!("{problem}; looking again"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Gives the partition of a head to its owner once more, at the next epoch: only so may the head be recovered.
async fn take_epoch(client: &ClusterClient, found: &Owned, place: &str) -> anyhow::Result<(Owner, LeaderEpoch)> {
    let id = found.ledger.id;
    let (record, version) = inventory::partition(client, found.partition).await?;
    if record.head.as_ref().is_none_or(|head| head.ledger.id != id) {
        bail!("{place} has moved on from ledger {id}; look again with: magnetar ledger describe {id}");
    }
    let owner = record.owner.with_context(|| format!("{place} has no owner: no broker lives that could recover it"))?;
    let key = key::partition(found.partition);
    let next = record.assigned(Some(owner));
    let epoch = next.epoch;
    let transaction = Transaction {
        conditions: vec![Condition::Version(key.clone(), version)],
        operations: vec![Operation::Put { key, value: encode(&next), session: None }],
        request: None,
    };
    match client.metadata.transact(transaction).await? {
        Outcome::Committed { .. } => Ok((owner, epoch)),
        Outcome::Conflict { .. } => bail!("{place} changed at this moment; try again"),
    }
}

/// Asks whoever typed the command; the end of its input is a no.
fn is_confirmed(id: LedgerId) -> anyhow::Result<bool> {
    eprint!("type the ledger's number to give this up for ever: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read the answer")?;
    Ok(line.trim() == id.to_string())
}

/// `FIRST-LAST`, or one number.
fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number =
        |t: &str| t.trim().parse::<u64>().map_err(|_| format!("\"{text}\" is not FIRST-LAST, for example 0-19"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last { Err(format!("{first} comes after {last}")) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!((range("3-7"), range("5")), (Ok(3..=7), Ok(5..=5)));
        assert!(range("7-3").is_err() && range("a-b").is_err() && range("-1").is_err());
    }
}

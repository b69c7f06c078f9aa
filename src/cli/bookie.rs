//! `magnetar bookie`: runs a bookie, lists and describes those there are, and gives the orders to take one out, replace
//! it or read it again. Owns the words and tables; the orders themselves are in [`super::decommission`] and
//! [`super::scrub`].

use super::{
    cluster_client::{ClusterAddress, ClusterClient},
    decommission::{Decommission, Replace},
    inventory::{self, Owned},
    roles::BookieStart,
    scrub::Scrub,
    table,
};
use anyhow::Context;
use clap::{Args, Subcommand};
use protocol::{
    cluster::ClusterSnapshot,
    id::BookieId,
    ledger::metadata::BookieMember,
    model::{BookieState, RepairClaim, RepairTask, ScrubRecord, decode, key, prefix},
    service::metadata::Consistency,
};
use serde_json::json;
use std::process::ExitCode;

/// Runs and looks after bookies.
#[derive(Debug, Subcommand)]
pub enum BookieCommand {
    /// Run a bookie in this process
    Start(BookieStart),
    /// List bookies: state, disk, what they hold, what is being repaired
    List(List),
    /// Show one bookie: its lives, its ledgers, its latest scrub
    Describe(Describe),
    /// Take a bookie out for good: everything it holds is copied to others first
    Decommission(Decommission),
    /// Give up what a bookie holds, so that an empty one can take its place under the same id
    Replace(Replace),
    /// Have a bookie read and compare everything it holds
    Scrub(Scrub),
}

/// `bookie list`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar bookie list\n  magnetar bookie list --json | jq '.[] | select(.state != \"writable\")'"
)]
pub struct List {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

/// `bookie describe`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  magnetar bookie describe 2")]
pub struct Describe {
    /// The bookie's number
    #[arg(value_name = "ID")]
    pub id: u32,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

impl BookieCommand {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Start(args) => return args.run(),
            Self::List(args) => args.connection.clone().with(async |client| args.show(client).await)?,
            Self::Describe(args) => args.connection.clone().with(async |client| args.show(client).await)?,
            Self::Decommission(args) => return args.run(),
            Self::Replace(args) => return args.run(),
            Self::Scrub(args) => return args.run(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is known of a bookie without asking it.
struct Known {
    member: BookieMember,
    state: &'static str,
    address: String,
    rack: String,
    disk: Option<(u64, u64)>,
    ledgers: usize,
    bytes: u64,
}

/// Every bookie that the cluster has or had, by id.
fn known(snapshot: &ClusterSnapshot, ledgers: &[Owned]) -> Vec<Known> {
    let members = snapshot.cookies.values().map(|c| BookieMember { id: c.bookie, incarnation: c.incarnation });
    members.map(|member| one(snapshot, ledgers, member)).collect()
}

fn one(snapshot: &ClusterSnapshot, ledgers: &[Owned], member: BookieMember) -> Known {
    let record = snapshot.bookies.get(&member.id).filter(|r| r.member == member);
    let leaving = snapshot.decommissions.get(&member.id).is_some_and(|d| d.member == member);
    let state = match record.map(|r| r.state) {
        None if leaving => "leaving, down",
        None => "down",
        Some(_) if leaving => "leaving",
        Some(BookieState::Writable) => "writable",
        Some(BookieState::ReadOnly) => "read-only",
        Some(BookieState::Limbo) => "limbo",
    };
    Known {
        member,
        state,
        address: record.and_then(|r| r.address.clone()).unwrap_or_else(|| "-".into()),
        rack: record.and_then(|r| r.rack.clone()).unwrap_or_else(|| "-".into()),
        disk: record.and_then(|r| r.disk).map(|d| (d.capacity, d.free)),
        ledgers: ledgers.iter().filter(|l| l.names(member)).count(),
        bytes: ledgers.iter().map(|l| l.bytes_on(member)).sum(),
    }
}

impl Known {
    fn row(&self) -> Vec<String> {
        vec![
            self.member.id.to_string(),
            self.state.into(),
            self.address.clone(),
            self.rack.clone(),
            self.disk.map_or_else(
                || "-".into(),
                |(capacity, free)| format!("{} of {}", table::bytes(free), table::bytes(capacity)),
            ),
            table::number(self.ledgers as u64),
            table::bytes(self.bytes),
            self.member.incarnation.to_string(),
        ]
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "bookie": self.member.id.0, "incarnation": self.member.incarnation.0, "state": self.state,
            "address": self.address, "rack": self.rack, "disk_capacity": self.disk.map(|d| d.0),
            "disk_free": self.disk.map(|d| d.1), "ledgers": self.ledgers, "bytes": self.bytes,
        })
    }
}

impl List {
    async fn show(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let ledgers = inventory::ledgers(client).await?;
        let snapshot = client.view.snapshot();
        let bookies = known(&snapshot, &ledgers);
        if self.json {
            let rows: Vec<_> = bookies.iter().map(Known::json).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(());
        }
        if bookies.is_empty() {
            println!("no bookies yet; start one with: magnetar bookie start --id 1");
            return Ok(());
        }
        let heads = ["BOOKIE", "STATE", "ADDRESS", "RACK", "FREE", "LEDGERS", "HOLDS", "INCARNATION"];
        table::print(&heads, &["BOOKIE", "LEDGERS", "HOLDS", "INCARNATION"], bookies.iter().map(Known::row));
        self.repairs(client, &snapshot, &ledgers).await
    }

    /// What is being repaired, in a few lines.
    async fn repairs(
        &self,
        client: &ClusterClient,
        snapshot: &ClusterSnapshot,
        ledgers: &[Owned],
    ) -> anyhow::Result<()> {
        let tasks = inventory::scan(client, prefix::REPAIRS).await?;
        let tasks: Vec<RepairTask> = tasks.iter().map(|i| decode(&i.value)).collect::<Result<_, _>>()?;
        let claims = inventory::scan(client, prefix::REPAIRING).await?;
        let claims: Vec<RepairClaim> = claims.iter().map(|i| decode(&i.value)).collect::<Result<_, _>>()?;
        let short = ledgers.iter().filter(|l| l.live_copies(snapshot) < l.wanted_copies()).count();
        println!();
        if short == 0 && tasks.is_empty() {
            println!("every ledger has its copies");
            return Ok(());
        }
        println!("{} with fewer copies on live bookies than wanted", table::count(short as u64, "ledger"));
        if tasks.is_empty() {
            println!("no repair is due: there is no other bookie to copy to, or the grace period has not passed");
        } else {
            let bytes: u64 = tasks.iter().map(|t| t.bytes).sum();
            println!(
                "{} to repair, about {}; {} at it",
                table::count(tasks.len() as u64, "ledger"),
                table::bytes(bytes),
                table::count(claims.len() as u64, "bookie"),
            );
        }
        for order in snapshot.decommissions.values() {
            let id = order.member.id;
            println!("bookie {id} is being taken out; follow it with: magnetar bookie decommission {id}");
        }
        Ok(())
    }
}

impl Describe {
    async fn show(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let id = BookieId(self.id);
        let ledgers = inventory::ledgers(client).await?;
        let snapshot = client.view.snapshot();
        let now = known(&snapshot, &ledgers).into_iter().find(|k| k.member.id == id);
        let now = now.with_context(|| unknown_bookie(&snapshot, id))?;
        let scrub = client.metadata.get(key::scrub(id), Consistency::Linearizable).await?;
        let scrub: ScrubRecord = scrub.map(|item| decode(&item.value)).transpose()?.unwrap_or_default();
        let past = past_lives(&ledgers, now.member);
        if self.json {
            let mut shown = now.json();
            shown["scrub"] = json!({"finished_at": scrub.finished_at, "entries": scrub.entries,
                "bytes": scrub.bytes, "damaged": scrub.damaged, "healed": scrub.healed});
            shown["past_lives"] = json!(past.iter().map(|(m, n)| (m.incarnation.0, *n)).collect::<Vec<_>>());
            println!("{}", serde_json::to_string_pretty(&shown)?);
            return Ok(());
        }
        let heads = ["BOOKIE", "STATE", "ADDRESS", "RACK", "FREE", "LEDGERS", "HOLDS", "INCARNATION"];
        table::print(&heads, &["BOOKIE", "LEDGERS", "HOLDS", "INCARNATION"], [now.row()]);
        println!();
        for (member, count) in &past {
            let life = member.incarnation;
            println!(
                "life {life}, which is over, still stands in {}: repair copies them",
                table::count(*count, "ledger")
            );
        }
        println!("{}", super::scrub::summary(&scrub));
        let mut held: Vec<&Owned> = ledgers.iter().filter(|l| l.names(now.member)).collect();
        held.sort_by_key(|l| std::cmp::Reverse(l.bytes_on(now.member)));
        if held.is_empty() {
            println!("it holds no ledger");
            return Ok(());
        }
        println!("\nlargest of its ledgers:");
        let rows = held.iter().take(10).map(|l| {
            let copies = format!("{} of {}", l.live_copies(&snapshot), l.wanted_copies());
            let place = format!("{}/{}", l.topic, l.partition.index);
            vec![l.ledger.id.to_string(), place, table::bytes(l.bytes_on(now.member)), copies]
        });
        table::print(&["LEDGER", "PARTITION", "HOLDS", "COPIES"], &["LEDGER", "HOLDS"], rows);
        Ok(())
    }
}

/// Earlier lives of a bookie that ledgers still name, with how many do.
fn past_lives(ledgers: &[Owned], now: BookieMember) -> Vec<(BookieMember, u64)> {
    let mut lives = std::collections::BTreeMap::new();
    for ledger in ledgers {
        let mut named: Vec<BookieMember> = ledger.ledger.fragments.iter().flat_map(|f| f.ensemble.clone()).collect();
        named.sort();
        named.dedup();
        for member in named.into_iter().filter(|m| m.id == now.id && *m != now) {
            *lives.entry(member).or_insert(0) += 1;
        }
    }
    lives.into_iter().collect()
}

/// Says which bookies there are.
pub(super) fn unknown_bookie(snapshot: &ClusterSnapshot, id: BookieId) -> String {
    if snapshot.bookies.contains_key(&id) && !snapshot.cookies.contains_key(&id) {
        return format!("bookie {id} has been taken out; it still runs, but nothing stands on it: switch it off");
    }
    let ids: Vec<String> = snapshot.cookies.keys().map(ToString::to_string).collect();
    if ids.is_empty() {
        return format!("there is no bookie {id}, and no other one");
    }
    format!("there is no bookie {id}; there are: {}", ids.join(", "))
}

//! `magnetar bookie decommission` and `replace`: gives the order, and shows how far the others are with what the bookie
//! holds. Owns the words and the progress; the order is a record that the auditor carries out, so leaving this command
//! stops nothing.

use super::{
    bookie::unknown_bookie,
    cluster_client::{ClusterAddress, ClusterClient},
    inventory::{self, Owned},
    table,
};
use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::{
    id::BookieId,
    ledger::metadata::BookieMember,
    model::{self, BookieState, Cookie, RepairClaim, decode, encode, key, prefix},
    runtime::{Clock, SystemClock},
    service::metadata::{Condition, Consistency, Operation, Outcome, Transaction, Versioned},
};
use std::{process::ExitCode, time::Duration};

/// How often progress is read.
const LOOK: Duration = Duration::from_secs(1);

/// `bookie decommission`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar bookie decommission 3              asks for it, and waits until nothing stands on bookie 3 any more\n  magnetar bookie decommission 3 --no-wait    asks for it only; the same command without --no-wait follows it\n  magnetar bookie decommission 3 --cancel     takes the order back\n\nThe bookie may be running or dead. It takes no new entries from now on; the others copy what it holds."
)]
pub struct Decommission {
    /// What is to be done.
    #[command(flatten)]
    pub order: Order,
}

/// `bookie replace`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  magnetar bookie replace 3\n  magnetar bookie start --id 3 --data-dir /srv/new-disk      before, after or meanwhile: the empty bookie that takes its place\n\nUse it when a machine or a disk is gone for good: repair begins at once, without the grace period. To take a bookie out\nwithout a successor, use: magnetar bookie decommission"
)]
pub struct Replace {
    /// What is to be done.
    #[command(flatten)]
    pub order: Order,
}

/// An order to take out one life of a bookie.
#[derive(Debug, Clone, Args)]
pub struct Order {
    /// The bookie's number
    #[arg(value_name = "ID")]
    pub id: u32,
    /// Return at once instead of showing progress
    #[arg(long)]
    pub no_wait: bool,
    /// Take the order back
    #[arg(long, conflicts_with = "no_wait")]
    pub cancel: bool,
    /// The cluster to ask.
    #[command(flatten)]
    pub connection: ClusterAddress,
}

impl Decommission {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let connection = self.order.connection.clone();
        connection.with(async |client| self.order.carry_out(client, false).await)
    }
}

impl Replace {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let connection = self.order.connection.clone();
        connection.with(async |client| self.order.carry_out(client, true).await)
    }
}

impl Order {
    const fn bookie(&self) -> BookieId {
        BookieId(self.id)
    }

    async fn carry_out(&self, client: &ClusterClient, keeps_id: bool) -> anyhow::Result<ExitCode> {
        if self.cancel {
            self.take_back(client).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let standing = self.standing(client).await?;
        let member = match &standing {
            Some(order) => {
                println!("bookie {} is being taken out already; following it", self.id);
                order.member
            }
            None => self.give(client, keeps_id).await?,
        };
        if self.no_wait {
            println!("ordered; follow it with the same command without --no-wait");
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            done = self.follow(client, member, keeps_id) => done.map(|()| ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => {
                println!("\nit goes on without this command; the same command follows it again, --cancel takes it back");
                Ok(ExitCode::from(130))
            }
        }
    }

    /// The order that stands.
    async fn standing(&self, client: &ClusterClient) -> anyhow::Result<Option<model::Decommission>> {
        let item = client.metadata.get(key::decommission(self.bookie()), Consistency::Linearizable).await?;
        Ok(item.map(|item| decode(&item.value)).transpose()?)
    }

    async fn give(&self, client: &ClusterClient, keeps_id: bool) -> anyhow::Result<BookieMember> {
        let cookie_key = key::cookie(self.bookie());
        let cookie = client.metadata.get(cookie_key.clone(), Consistency::Linearizable).await?;
        let snapshot = client.view.snapshot();
        let Versioned { value, version, .. } = cookie.with_context(|| unknown_bookie(&snapshot, self.bookie()))?;
        let cookie: Cookie = decode(&value)?;
        let member = BookieMember { id: cookie.bookie, incarnation: cookie.incarnation };
        let since = SystemClock::default().wall();
        let order = model::Decommission { member, keeps_id, since, total_bytes: None, obstacle: None };
        let key = key::decommission(self.bookie());
        let transaction = Transaction {
            conditions: vec![Condition::Absent(key.clone()), Condition::Version(cookie_key, version)],
            operations: vec![Operation::Put { key, value: encode(&order), session: None }],
            request: None,
        };
        match client.metadata.transact(transaction).await? {
            Outcome::Committed { .. } => Ok(member),
            Outcome::Conflict { .. } => bail!("bookie {} changed at this moment; try again", self.id),
        }
    }

    async fn take_back(&self, client: &ClusterClient) -> anyhow::Result<()> {
        let key = key::decommission(self.bookie());
        let Some(item) = client.metadata.get(key.clone(), Consistency::Linearizable).await? else {
            bail!("bookie {} is not being taken out", self.id);
        };
        let transaction = Transaction {
            conditions: vec![Condition::Version(key.clone(), item.version)],
            operations: vec![Operation::Delete(key)],
            request: None,
        };
        match client.metadata.transact(transaction).await? {
            Outcome::Committed { .. } => println!("bookie {} stays; what was copied stays copied", self.id),
            Outcome::Conflict { .. } => bail!("the order changed at this moment; look again"),
        }
        Ok(())
    }

    /// Shows what is left on the bookie until the order is gone.
    async fn follow(&self, client: &ClusterClient, member: BookieMember, keeps_id: bool) -> anyhow::Result<()> {
        let clock = SystemClock::default();
        let (begin, first) = (clock.monotonic(), Left::look(client, member).await?);
        self.warn_if_crowded(client, &first);
        let bar = ProgressBar::new(first.bytes.max(1));
        bar.set_style(style());
        let (mut total, mut told) = (first.bytes, None);
        loop {
            let order = self.standing(client).await?;
            let left = Left::look(client, member).await?;
            let Some(order) = order.filter(|o| o.member == member) else {
                bar.finish_and_clear();
                return self.report(client, member, keeps_id, (total, clock.monotonic() - begin)).await;
            };
            if order.obstacle != told {
                bar.println(order.obstacle.as_deref().unwrap_or("it gets on again"));
                told = order.obstacle;
            }
            total = total.max(left.bytes);
            bar.set_length(total.max(1));
            bar.set_position(total.saturating_sub(left.bytes.saturating_sub(left.copied)));
            bar.set_message(left.words());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn report(
        &self,
        client: &ClusterClient,
        member: BookieMember,
        keeps_id: bool,
        (moved, took): (u64, Duration),
    ) -> anyhow::Result<()> {
        let left = Left::look(client, member).await?;
        if left.ledgers + left.heads > 0 {
            bail!("the order was taken back; {} still stand on bookie {}", left.words(), self.id);
        }
        let rate = moved as f64 / took.as_secs_f64().max(0.001);
        println!(
            "bookie {} holds nothing that is needed any more: {} moved in {:.1} s ({}/s)",
            self.id,
            table::bytes(moved),
            took.as_secs_f64(),
            table::bytes(rate as u64)
        );
        if keeps_id {
            println!("start its successor with an empty data directory: magnetar bookie start --id {}", self.id);
        } else {
            println!("it can be switched off, and its data directory deleted");
        }
        Ok(())
    }

    /// Says so at once if there are too few other bookies.
    fn warn_if_crowded(&self, client: &ClusterClient, left: &Left) {
        let snapshot = client.view.snapshot();
        let others = snapshot.bookies.values().filter(|b| {
            b.member.id.0 != self.id
                && b.state == BookieState::Writable
                && !snapshot.decommissions.contains_key(&b.member.id)
        });
        let others = others.count();
        if others < left.copies {
            println!(
                "{} writable {} left, but ledgers on bookie {} want {} copies: it waits until another bookie is added\n  (magnetar bookie start --id N --metadata ...), or take it back with --cancel",
                others,
                if others == 1 { "bookie is" } else { "bookies are" },
                self.id,
                left.copies
            );
        }
    }
}

/// What still stands on a bookie.
#[derive(Debug, Default)]
struct Left {
    ledgers: u64,
    heads: u64,
    /// Payload bytes of closed ledgers.
    bytes: u64,
    /// Of those, what has been copied of ledgers that are not done.
    copied: u64,
    /// The most copies that any of the ledgers wants.
    copies: usize,
}

impl Left {
    async fn look(client: &ClusterClient, member: BookieMember) -> anyhow::Result<Self> {
        let ledgers = inventory::ledgers(client).await?;
        let held: Vec<&Owned> = ledgers.iter().filter(|l| l.names(member)).collect();
        let mut left = Self { copies: held.iter().map(|l| l.wanted_copies()).max().unwrap_or(0), ..Self::default() };
        for ledger in &held {
            left.bytes += ledger.bytes_on(member);
            if ledger.bytes().is_some() { left.ledgers += 1 } else { left.heads += 1 }
        }
        for item in inventory::scan(client, prefix::REPAIRING).await? {
            let is_held = held.iter().any(|l| key::repairing(l.ledger.id) == item.key);
            if is_held {
                left.copied += decode::<RepairClaim>(&item.value)?.copied;
            }
        }
        Ok(left)
    }

    fn words(&self) -> String {
        let heads = if self.heads == 0 { String::new() } else { format!(", {} being written", self.heads) };
        format!("{}{heads}", table::count(self.ledgers, "ledger"))
    }
}

fn style() -> ProgressStyle {
    let template =
        "{bar:30} {percent}%  {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {msg} left  ETA {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

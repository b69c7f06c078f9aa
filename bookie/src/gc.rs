//! Deletion of dead ledgers, on the strength of a positive record alone (rule B9): never because something is missing
//! from a listing.
//!
//! Owns the order: delete durably, then take this bookie out of the record by compare-and-swap, then give space back. A
//! crash in between repeats a step that does nothing the second time.

use futures::{FutureExt, StreamExt};
use protocol::{
    id::{LedgerId, Revision},
    ledger::metadata::BookieMember,
    model::{DeadLedger, KeyKind, decode, encode, key, prefix},
    service::{
        bookie::{BookieService, DeleteLedger},
        metadata::{
            Change, Condition, Consistency, MAX_SCAN, MetadataError, MetadataService, Operation, Outcome, Scan,
            Transaction, Versioned, WatchStream,
        },
    },
};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long metadata or this bookie may take for one step.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Changes of records that are worked off together.
const MAX_TOGETHER: usize = 1000;
/// Compare-and-swaps of one record before it is left for later.
const ATTEMPTS: usize = 10;

/// Gives the space of deleted ledgers back; may take long.
pub(crate) type Reclaim = Arc<dyn Fn(Vec<LedgerId>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Deletes dead ledgers.
pub(crate) struct Collector {
    pub(crate) metadata: Arc<dyn MetadataService>,
    pub(crate) bookie: Arc<dyn BookieService>,
    pub(crate) member: BookieMember,
    pub(crate) reclaim: Reclaim,
}

/// Why a round ended.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("{0}")]
    Bookie(#[from] protocol::service::bookie::BookieError),
    #[error("no answer within {PATIENCE:?}")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("the watch ended")]
    Ended,
}

impl Collector {
    /// Lists, then watches, and begins again after every problem, until stopped.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        loop {
            let problem = tokio::select! {
                problem = self.collect() => problem,
                () = stopping.cancelled() => return,
            };
            if let Err(problem) = problem {
                tracing::warn!(%problem, "deleting dead ledgers stopped; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn collect(&self) -> Result<(), Problem> {
        let (dead, from) = self.list().await?;
        self.bury(dead).await?;
        let mut watch: WatchStream =
            tokio::time::timeout(PATIENCE, self.metadata.watch(prefix::DEAD.into(), from)).await??;
        while let Some(event) = watch.next().await {
            let mut changes = event?.changes;
            // Ledgers that die together are given back together: one merge of the store instead of many.
            while changes.len() < MAX_TOGETHER
                && let Some(Some(event)) = watch.next().now_or_never()
            {
                changes.extend(event?.changes);
            }
            let put = changes.into_iter().filter_map(|change| match change {
                Change::Put(item) => Some(item),
                Change::Deleted(_) => None,
            });
            self.bury(put.collect()).await?;
        }
        Err(Problem::Ended)
    }

    /// Every dead ledger, and the revision to watch from.
    async fn list(&self) -> Result<(Vec<Versioned>, Revision), Problem> {
        let (mut dead, mut after, mut from) = (Vec::new(), None, None);
        loop {
            let scan =
                Scan { prefix: prefix::DEAD.into(), after, limit: MAX_SCAN, consistency: Consistency::Linearizable };
            let page = tokio::time::timeout(PATIENCE, self.metadata.scan(scan)).await??;
            // Later pages are newer; watching from the first repeats some events and misses none.
            let from = *from.get_or_insert(page.revision);
            after = page.items.last().map(|item| item.key.clone());
            dead.extend(page.items);
            if !page.more || after.is_none() {
                return Ok((dead, from));
            }
        }
    }

    /// Deletes those of these ledgers that this bookie holds, then gives their space back.
    async fn bury(&self, dead: Vec<Versioned>) -> Result<(), Problem> {
        let mut deleted = Vec::new();
        for item in dead {
            let Some(KeyKind::Dead(ledger)) = KeyKind::parse(&item.key) else { continue };
            match decode::<DeadLedger>(&item.value) {
                Ok(record) if record.ledger == ledger && self.holds(&record) => {
                    let delete = DeleteLedger { member: self.member, ledger };
                    tokio::time::timeout(PATIENCE, self.bookie.delete_ledger(delete)).await??;
                    self.sign_off(item).await?;
                    tracing::info!(%ledger, bookie = %self.member.id, "deleted");
                    deleted.push(ledger);
                }
                Ok(record) if record.ledger == ledger => {}
                Ok(_) => {
                    tracing::error!(%ledger, "a record of a dead ledger stands under another key; nothing is deleted")
                }
                Err(problem) => tracing::error!(%ledger, %problem, "a record of a dead ledger cannot be read"),
            }
        }
        if !deleted.is_empty() {
            (self.reclaim)(deleted).await;
        }
        Ok(())
    }

    fn holds(&self, record: &DeadLedger) -> bool {
        record.held_by.iter().any(|member| self.is_self(*member))
    }

    /// This bookie, in this life or an earlier one: what it held then is gone with its disk.
    fn is_self(&self, member: BookieMember) -> bool {
        member.id == self.member.id && member.incarnation <= self.member.incarnation
    }

    /// Takes this bookie out of the record; the last one takes the record away.
    async fn sign_off(&self, item: Versioned) -> Result<(), Problem> {
        let mut current = Some(item);
        for _ in 0..ATTEMPTS {
            let Some(item) = current else { return Ok(()) };
            let Ok(mut record) = decode::<DeadLedger>(&item.value) else { return Ok(()) };
            if !self.holds(&record) {
                return Ok(());
            }
            record.held_by.retain(|member| !self.is_self(*member));
            let key = key::dead(record.ledger);
            let operation = if record.held_by.is_empty() {
                Operation::Delete(key.clone())
            } else {
                Operation::Put { key: key.clone(), value: encode(&record), session: None }
            };
            let change = Transaction {
                conditions: vec![Condition::Version(key.clone(), item.version)],
                operations: vec![operation],
                request: None,
            };
            match tokio::time::timeout(PATIENCE, self.metadata.transact(change)).await? {
                Ok(Outcome::Committed { .. }) => return Ok(()),
                Ok(Outcome::Conflict { current: now, .. }) => current = now,
                // Whatever came of it, the record as it stands says what is left to do.
                Err(MetadataError::OutcomeUnknown { .. }) => {
                    let get = self.metadata.get(key, Consistency::Linearizable);
                    current = tokio::time::timeout(PATIENCE, get).await??;
                }
                Err(problem) => return Err(problem.into()),
            }
        }
        let reason = "a record of a dead ledger changes too often".into();
        Err(MetadataError::Unavailable { reason }.into())
    }
}

#[cfg(test)]
mod tests;

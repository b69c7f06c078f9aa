//! Deleted topics: turns every ledger of a deleted topic into a dead one, and forgets its partitions.
//!
//! The partition records go first: from then on no owner can add a ledger to the log, because every such change is
//! conditional on the record. Then the pages of closed ledgers, and the key that asks for all this last. A ledger
//! becomes dead in the transaction that takes it out of the log, so a restart at any point goes on where it stopped.

use super::{PAUSE, pause};
use crate::metrics::ControllerMetrics;
use futures::StreamExt;
use protocol::{
    id::Revision,
    ledger::metadata::LedgerMetadata,
    model::{ClosedPage, DeadLedger, ModelError, PartitionRecord, TopicRecord, decode, encode, key, prefix},
    runtime::Clock,
    service::metadata::{
        Change, Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Scan, ScanPage,
        Transaction, Versioned,
    },
    topic::PartitionId,
};
use std::{collections::BTreeSet, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Partitions, or pages, per transaction. A page names up to 500 ledgers.
const PARTITIONS_PER_TRANSACTION: u32 = 200;
const PAGES_PER_TRANSACTION: u32 = 4;

/// Why a topic's ledgers are not given up yet.
#[derive(Debug, thiserror::Error)]
enum DeleteError {
    /// The metadata service failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A record cannot be read; giving up its ledgers would lose them without deleting them.
    #[error("{key}: {problem}")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: ModelError,
    },
}

/// Follows `deleting/` and works off what it finds there.
pub(super) struct Deleter {
    pub metadata: Arc<dyn MetadataService>,
    pub clock: Arc<dyn Clock>,
    pub metrics: ControllerMetrics,
}

impl Deleter {
    pub(super) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let mut wait = PAUSE.0;
        loop {
            let done = tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                done = self.follow() => done,
            };
            if stopping.is_cancelled() {
                return Ok(());
            }
            match done {
                Ok(()) => wait = PAUSE.0,
                Err(problem) => {
                    tracing::warn!(%problem, "deleted topics are not cleaned up for now");
                    if !pause(&mut wait, &stopping).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Works off what there is, then waits for more.
    async fn follow(&self) -> Result<(), DeleteError> {
        let revision = self.work_off().await?;
        let mut watch = self.metadata.watch(prefix::DELETING.into(), revision).await?;
        while let Some(event) = watch.next().await {
            if event?.changes.iter().any(|change| matches!(change, Change::Put(_))) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Deletes every topic that is to be deleted; the revision from which to watch for more.
    async fn work_off(&self) -> Result<Revision, DeleteError> {
        let mut from = None;
        let mut after = None;
        loop {
            let page = self.page(prefix::DELETING.into(), after, 100).await?;
            from.get_or_insert(page.revision);
            for item in &page.items {
                let unreadable = |problem| DeleteError::Record { key: item.key.clone(), problem };
                let deleted = match decode::<TopicRecord>(&item.value).map_err(unreadable) {
                    Ok(topic) => self.delete(&topic, item).await,
                    Err(problem) => Err(problem),
                };
                match deleted {
                    // Left for a version that can read it; the other topics go on.
                    Err(DeleteError::Record { key, problem }) => {
                        tracing::error!(key, %problem, "a topic cannot be deleted because a record cannot be read");
                    }
                    other => other?,
                }
            }
            match page.items.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(from.unwrap_or_default()),
            }
        }
    }

    async fn delete(&self, topic: &TopicRecord, asked: &Versioned) -> Result<(), DeleteError> {
        let partitions = prefix::partitions_of(topic.id);
        self.give_up(&partitions, PARTITIONS_PER_TRANSACTION, |item| {
            let record: PartitionRecord = decode(&item.value)?;
            Ok(record.head.map(|head| head.ledger).into_iter().collect())
        })
        .await?;
        for index in 0..topic.partitions {
            let pages = prefix::closed_of(PartitionId { topic: topic.id, index });
            self.give_up(&pages, PAGES_PER_TRANSACTION, |item| {
                let page: ClosedPage = decode(&item.value)?;
                Ok(page.ledgers.into_iter().map(|closed| closed.ledger).collect())
            })
            .await?;
        }
        let conditions = vec![Condition::Version(asked.key.clone(), asked.version)];
        let operations = vec![Operation::Delete(asked.key.clone())];
        let outcome = self.metadata.transact(Transaction { conditions, operations, request: None }).await?;
        if matches!(outcome, Outcome::Committed { .. }) {
            self.metrics.topics.increment(1);
            tracing::info!(topic = %topic.name, id = %topic.id, "deleted topic is gone from the metadata");
        }
        Ok(())
    }

    /// Deletes every key under `prefix`, a few per transaction, and declares the ledgers dead that `ledgers` finds in
    /// their records.
    async fn give_up(
        &self,
        prefix: &str,
        per_transaction: u32,
        ledgers: impl Fn(&Versioned) -> Result<Vec<LedgerMetadata>, ModelError>,
    ) -> Result<(), DeleteError> {
        loop {
            // Always from the start: what was there is gone, and what changed meanwhile is read again.
            let page = self.page(prefix.into(), None, per_transaction).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            let mut transaction = Transaction::default();
            let since = self.clock.wall();
            for item in &page.items {
                transaction.conditions.push(Condition::Version(item.key.clone(), item.version));
                transaction.operations.push(Operation::Delete(item.key.clone()));
                let found = ledgers(item).map_err(|problem| DeleteError::Record { key: item.key.clone(), problem })?;
                for ledger in found {
                    let dead = DeadLedger { ledger: ledger.id, held_by: holders(&ledger), since };
                    let (key, value) = (key::dead(ledger.id), encode(&dead));
                    transaction.operations.push(Operation::Put { key, value, session: None });
                }
            }
            // After a conflict the loop reads what is there now.
            self.metadata.transact(transaction).await?;
        }
    }

    async fn page(&self, prefix: String, after: Option<String>, limit: u32) -> Result<ScanPage, MetadataError> {
        self.metadata.scan(Scan { prefix, after, limit, consistency: Consistency::Linearizable }).await
    }
}

/// Every bookie that was ever in an ensemble of the ledger.
fn holders(ledger: &LedgerMetadata) -> Vec<protocol::ledger::metadata::BookieMember> {
    let members: BTreeSet<_> = ledger.fragments.iter().flat_map(|f| f.ensemble.iter().copied()).collect();
    members.into_iter().collect()
}

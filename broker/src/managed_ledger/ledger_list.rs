//! The list of ledgers that is a partition's log, as the metadata service holds it, and every change its owner makes.
//!
//! All changes of one partition go through one lock here and end in one transaction each, conditioned on the version of
//! the partition record and on that of every page it rewrites: repair adds members to closed ledgers in these pages, and
//! what it wrote is read again and kept, never overwritten (rule W8). A change that meets another owner or epoch answers
//! [`ListError::Lost`], and nothing is written. Never talks to bookies.

mod state;

pub use state::{Change, ListState, Replacement};

use crate::{
    ledger::{LedgerMetadataStore, ReplaceError},
    metadata_client::MetadataClient,
};
use arc_swap::ArcSwap;
use protocol::{
    id::{LeaderEpoch, LedgerId, NodeId, Offset, Timestamp},
    ledger::metadata::LedgerMetadata,
    model::{ClosedLedger, HeadLedger, ModelError, Owner, PartitionRecord, decode, key, prefix},
    service::{
        Answer,
        metadata::{MetadataError, Outcome},
        reply,
    },
    topic::PartitionId,
};
use state::check_owner;
use std::{collections::BTreeSet, sync::Arc};

/// The most ledgers dropped in one transaction.
const MAX_DROP: usize = 250;
/// How often a change is tried again after someone else's of the same epoch, or a repair's.
const MAX_CONFLICTS: u32 = 32;

/// Why the list could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The partition is another owner's or epoch's now.
    #[error("the partition belongs to {owner:?} at epoch {epoch}")]
    Lost {
        /// The owner now.
        owner: Option<NodeId>,
        /// The epoch now.
        epoch: LeaderEpoch,
    },
    /// The partition was deleted.
    #[error("the partition no longer exists")]
    Gone,
    /// A head would take the place of one that was never closed: a ledger would be lost.
    #[error("ledger {0} is not closed yet")]
    Unclosed(LedgerId),
    /// What is stored cannot be understood.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The metadata service did not do it, or did not say so.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// What readers need of the list, at one moment.
#[derive(Debug, Clone, Default)]
pub struct ListView {
    /// The closed ledgers, in log order.
    pub closed: Vec<Arc<ClosedLedger>>,
    /// The first offset that readers may see.
    pub log_start: Offset,
    /// Where the closed ledgers end.
    pub closed_end: Offset,
}

impl ListView {
    /// The closed ledger that holds `offset`, or the first one after it.
    #[must_use]
    pub fn ledger_at(&self, offset: Offset) -> Option<&Arc<ClosedLedger>> {
        self.closed.get(self.closed.partition_point(|l| l.end_offset <= offset))
    }

    /// A closed ledger by id.
    #[must_use]
    pub fn ledger(&self, id: LedgerId) -> Option<&Arc<ClosedLedger>> {
        self.closed.iter().find(|l| l.ledger.id == id)
    }

    /// Payload bytes of the closed ledgers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|l| l.bytes()).sum()
    }
}

/// The list as it was last read, and whether that still holds.
struct Held {
    list: ListState,
    /// Set while the outcome of a change is unknown: read again before the next one.
    stale: bool,
}

/// The ledgers of one partition, in the hands of one owner at one epoch.
pub struct LedgerList {
    partition: PartitionId,
    owner: Owner,
    epoch: LeaderEpoch,
    metadata: Arc<MetadataClient>,
    state: tokio::sync::Mutex<Held>,
    view: ArcSwap<ListView>,
}

impl LedgerList {
    /// Reads the list; answers `Lost` unless `owner` owns the partition at `epoch`.
    pub(crate) async fn load(
        metadata: Arc<MetadataClient>,
        partition: PartitionId,
        owner: Owner,
        epoch: LeaderEpoch,
    ) -> Result<Self, ListError> {
        let list = read(&metadata, partition).await?;
        list.check_owner(owner, epoch)?;
        let view = ArcSwap::from_pointee(list.view());
        let state = tokio::sync::Mutex::new(Held { list, stale: false });
        Ok(Self { partition, owner, epoch, metadata, state, view })
    }

    /// The list as it was last written.
    #[must_use]
    pub fn view(&self) -> Arc<ListView> {
        self.view.load_full()
    }

    /// Reads the list again and answers it, unless someone else did so after `seen` was read. Repair moves closed ledgers
    /// to other bookies, so a reader whose bookies all fail looks here before it gives up (rule A5).
    pub async fn refresh(&self, seen: &Arc<ListView>) -> Result<Arc<ListView>, ListError> {
        let mut state = self.state.lock().await;
        let current = self.view();
        if Arc::ptr_eq(seen, &current) || state.stale {
            self.read_again(&mut state).await?;
        }
        Ok(self.view())
    }

    async fn read_again(&self, state: &mut Held) -> Result<(), ListError> {
        *state = Held { list: read(&self.metadata, self.partition).await?, stale: false };
        state.list.check_owner(self.owner, self.epoch)?;
        self.view.store(Arc::new(state.list.view()));
        Ok(())
    }

    /// The unclosed ledger, which a new owner recovers and closes before it writes (rule L1).
    pub async fn head(&self) -> Option<HeadLedger> {
        self.state.lock().await.list.head_to_recover().cloned()
    }

    /// Makes `head` the unclosed ledger of a partition that has none.
    pub async fn install_head(&self, head: &HeadLedger) -> Result<(), ListError> {
        self.update(|list| list.install_head(head)).await
    }

    /// Puts the head IN_RECOVERY, so that its writer, if it is still there, cannot change it.
    pub async fn mark_recovering(&self) -> Result<(), ListError> {
        self.update(|list| Ok(list.mark_recovering())).await
    }

    /// Ends the head: it joins the closed ledgers, or is given up if nothing was written to it; `next` takes its place.
    pub async fn close_head(
        &self,
        head: LedgerId,
        closed: Option<&ClosedLedger>,
        next: Option<&HeadLedger>,
        now: Timestamp,
    ) -> Result<(), ListError> {
        self.update(|list| Ok(list.close_head(head, closed, next, now))).await
    }

    /// Moves the log start forward; never back.
    pub async fn move_log_start(&self, to: Offset) -> Result<(), ListError> {
        self.update(|list| Ok(list.move_log_start(to))).await
    }

    /// Gives up the first `count` closed ledgers, and moves the log start behind them.
    pub async fn drop_front(&self, count: usize, now: Timestamp) -> Result<(), ListError> {
        let mut left: Vec<LedgerId> = self.view().closed.iter().take(count).map(|l| l.ledger.id).collect();
        while !left.is_empty() {
            let batch: BTreeSet<LedgerId> = left.drain(..left.len().min(MAX_DROP)).collect();
            self.update(|list| Ok(list.drop_ledgers(&batch, now))).await?;
        }
        Ok(())
    }

    /// Tries a change until it is written, was written before, or can no longer be.
    async fn update(
        &self,
        mut make: impl FnMut(&ListState) -> Result<Option<Change>, ListError> + Send,
    ) -> Result<(), ListError> {
        let mut state = self.state.lock().await;
        for _ in 0..MAX_CONFLICTS {
            if state.stale {
                self.read_again(&mut state).await?;
            }
            let Some(change) = make(&state.list)? else { return Ok(()) };
            let (conditions, operations) = state.list.transaction(&change);
            match self.metadata.transact(conditions, operations).await {
                Ok(Outcome::Committed { revision, .. }) => {
                    state.list.apply(change, revision);
                    self.view.store(Arc::new(state.list.view()));
                    return Ok(());
                }
                Ok(Outcome::Conflict { condition: ListState::RECORD, current }) => {
                    let current = current.ok_or(ListError::Gone)?;
                    check_owner(&decode(&current.value)?, self.owner, self.epoch)?;
                    state.stale = true;
                }
                // A repair has rewritten a page: that alone is not an error (rule W8).
                Ok(Outcome::Conflict { .. }) => state.stale = true,
                Err(problem) => {
                    state.stale = matches!(problem, MetadataError::OutcomeUnknown { .. });
                    return Err(problem.into());
                }
            }
        }
        Err(MetadataError::Unavailable { reason: "the partition record keeps changing".into() }.into())
    }
}

/// The record first: once it shows our epoch, nobody else's page can follow.
async fn read(metadata: &MetadataClient, partition: PartitionId) -> Result<ListState, ListError> {
    let held = metadata.get(&key::partition(partition)).await?.ok_or(ListError::Gone)?;
    let record: PartitionRecord = decode(&held.value)?;
    let pages = match record.first_page < record.end_page {
        true => metadata.scan_all(&prefix::closed_of(partition)).await?,
        false => Vec::new(),
    };
    Ok(ListState::new(partition, &held, &pages)?)
}

/// The head's metadata, for its writer: compare-and-swap inside the partition record.
pub struct HeadStore(pub Arc<LedgerList>);

impl LedgerMetadataStore for HeadStore {
    fn replace(&self, expected: LedgerMetadata, new: LedgerMetadata) -> Answer<(), ReplaceError> {
        let (answering, answer) = reply();
        let list = Arc::clone(&self.0);
        tokio::spawn(async move { answering.send(replace(&list, &expected, &new).await) });
        answer
    }
}

async fn replace(list: &LedgerList, expected: &LedgerMetadata, new: &LedgerMetadata) -> Result<(), ReplaceError> {
    let mut lost = false;
    let changed = list.update(|list| match list.replace_head(expected, new) {
        Replacement::Possible(change) => Ok(Some(*change)),
        Replacement::Done => Ok(None),
        Replacement::Lost => {
            lost = true;
            Ok(None)
        }
    });
    match changed.await {
        Ok(()) if lost => Err(ReplaceError::Lost),
        Ok(()) => Ok(()),
        Err(ListError::Lost { .. } | ListError::Gone) => Err(ReplaceError::Lost),
        Err(ListError::Metadata(MetadataError::OutcomeUnknown { reason })) => {
            Err(ReplaceError::OutcomeUnknown { reason })
        }
        Err(problem) => Err(ReplaceError::Unavailable { reason: problem.to_string() }),
    }
}

#[cfg(test)]
mod tests;

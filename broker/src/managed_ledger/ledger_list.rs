//! The list of ledgers that is a partition's log, as the metadata service holds it, and every change its owner makes.
//!
//! All changes of one partition go through one lock here and end in one transaction each, conditioned on the version of
//! the partition record; so the record's version guards the pages of closed ledgers too. A change that meets another
//! owner or epoch answers [`ListError::Lost`], and nothing is written. Never talks to bookies.

use crate::{
    ledger::{LedgerMetadataStore, ReplaceError},
    metadata_client::MetadataClient,
};
use arc_swap::ArcSwap;
use protocol::{
    id::{LeaderEpoch, LedgerId, NodeId, Offset, Revision, Timestamp},
    ledger::metadata::{BookieMember, LedgerMetadata, LedgerState},
    model::{
        ClosedLedger, ClosedPage, DeadLedger, HeadLedger, KeyKind, ModelError, Owner, PAGE_LEDGERS, PartitionRecord,
        decode, encode, key, prefix,
    },
    service::{
        Answer,
        metadata::{Condition, MetadataError, Operation, Outcome},
        reply,
    },
    topic::PartitionId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The most ledgers dropped in one transaction.
const MAX_DROP: usize = 250;
/// How often a change is tried again after someone else's of the same epoch.
const MAX_CONFLICTS: u32 = 8;

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

    /// Payload bytes of the closed ledgers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|l| l.bytes()).sum()
    }
}

#[derive(Debug)]
struct State {
    record: PartitionRecord,
    version: Revision,
    pages: BTreeMap<u32, Vec<Arc<ClosedLedger>>>,
    /// Set while the outcome of a change is unknown: read again before the next one.
    stale: bool,
}

/// A change: the new record, the pages it touches (`None` deletes one) and the ledgers it gives up.
#[derive(Debug)]
struct Change {
    record: PartitionRecord,
    pages: Vec<(u32, Option<Vec<Arc<ClosedLedger>>>)>,
    dead: Vec<DeadLedger>,
}

impl Change {
    const fn of(record: PartitionRecord) -> Self {
        Self { record, pages: Vec::new(), dead: Vec::new() }
    }
}

/// The ledgers of one partition, in the hands of one owner at one epoch.
pub struct LedgerList {
    partition: PartitionId,
    owner: Owner,
    epoch: LeaderEpoch,
    metadata: Arc<MetadataClient>,
    state: tokio::sync::Mutex<State>,
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
        let state = read(&metadata, partition).await?;
        check_owner(&state.record, owner, epoch)?;
        let view = ArcSwap::from_pointee(state.view());
        Ok(Self { partition, owner, epoch, metadata, state: tokio::sync::Mutex::new(state), view })
    }

    /// The list as it was last written.
    #[must_use]
    pub fn view(&self) -> Arc<ListView> {
        self.view.load_full()
    }

    /// The unclosed ledger.
    pub async fn head(&self) -> Option<HeadLedger> {
        self.state.lock().await.record.head.clone()
    }

    /// Makes `head` the unclosed ledger of a partition that has none.
    pub async fn install_head(&self, head: &HeadLedger) -> Result<(), ListError> {
        self.update(|state| match &state.record.head {
            Some(now) if now.ledger.id == head.ledger.id => Ok(None),
            Some(now) => Err(ListError::Unclosed(now.ledger.id)),
            None => Ok(Some(Change::of(PartitionRecord { head: Some(head.clone()), ..state.record.clone() }))),
        })
        .await
    }

    /// Puts the head IN_RECOVERY, so that its writer, if it is still there, cannot change it.
    pub async fn mark_recovering(&self) -> Result<(), ListError> {
        self.update(|state| {
            let mut record = state.record.clone();
            match &mut record.head {
                Some(head) if head.ledger.state == LedgerState::Open => head.ledger.state = LedgerState::InRecovery,
                _ => return Ok(None),
            }
            Ok(Some(Change::of(record)))
        })
        .await
    }

    /// Ends the head: it joins the closed ledgers, or is given up if nothing was written to it; `next` takes its place.
    pub async fn close_head(
        &self,
        head: LedgerId,
        closed: Option<&ClosedLedger>,
        next: Option<&HeadLedger>,
        now: Timestamp,
    ) -> Result<(), ListError> {
        self.update(|state| {
            let Some(current) = state.record.head.as_ref().filter(|h| h.ledger.id == head) else {
                return Ok(None);
            };
            let mut change = Change::of(PartitionRecord { head: next.cloned(), ..state.record.clone() });
            match closed {
                Some(closed) => {
                    change.record.closed_end = closed.end_offset;
                    state.append_closed(Arc::new(closed.clone()), &mut change);
                }
                None => change.dead.push(dead(&current.ledger, now)),
            }
            Ok(Some(change))
        })
        .await
    }

    /// Moves the log start forward; never back.
    pub async fn move_log_start(&self, to: Offset) -> Result<(), ListError> {
        self.update(|state| {
            let moves = to > state.record.log_start;
            Ok(moves.then(|| Change::of(PartitionRecord { log_start: to, ..state.record.clone() })))
        })
        .await
    }

    /// Gives up the first `count` closed ledgers, and moves the log start behind them.
    pub async fn drop_front(&self, count: usize, now: Timestamp) -> Result<(), ListError> {
        let mut left: Vec<LedgerId> = self.view().closed.iter().take(count).map(|l| l.ledger.id).collect();
        while !left.is_empty() {
            let batch: BTreeSet<LedgerId> = left.drain(..left.len().min(MAX_DROP)).collect();
            self.update(|state| Ok(state.drop_ledgers(&batch, now))).await?;
        }
        Ok(())
    }

    /// Tries a change until it is written, was written before, or can no longer be.
    async fn update(
        &self,
        mut make: impl FnMut(&State) -> Result<Option<Change>, ListError> + Send,
    ) -> Result<(), ListError> {
        let mut state = self.state.lock().await;
        for _ in 0..MAX_CONFLICTS {
            if state.stale {
                *state = read(&self.metadata, self.partition).await?;
                check_owner(&state.record, self.owner, self.epoch)?;
                self.view.store(Arc::new(state.view()));
            }
            let Some(change) = make(&state)? else { return Ok(()) };
            let record_key = key::partition(self.partition);
            let conditions = vec![Condition::Version(record_key.clone(), state.version)];
            match self.metadata.transact(conditions, self.operations(record_key, &change)).await {
                Ok(Outcome::Committed { revision, .. }) => {
                    state.apply(change, revision);
                    self.view.store(Arc::new(state.view()));
                    return Ok(());
                }
                Ok(Outcome::Conflict { current, .. }) => {
                    let current = current.ok_or(ListError::Gone)?;
                    check_owner(&decode(&current.value)?, self.owner, self.epoch)?;
                    state.stale = true;
                }
                Err(problem) => {
                    state.stale = matches!(problem, MetadataError::OutcomeUnknown { .. });
                    return Err(problem.into());
                }
            }
        }
        Err(MetadataError::Unavailable { reason: "the partition record keeps changing".into() }.into())
    }

    fn operations(&self, record_key: String, change: &Change) -> Vec<Operation> {
        let put = |key, value| Operation::Put { key, value, session: None };
        let mut operations = vec![put(record_key, encode(&change.record))];
        for (number, page) in &change.pages {
            let key = key::closed_page(self.partition, *number);
            operations.push(match page {
                Some(ledgers) => {
                    let ledgers = ledgers.iter().map(|l| l.as_ref().clone()).collect();
                    put(key, encode(&ClosedPage { ledgers }))
                }
                None => Operation::Delete(key),
            });
        }
        operations.extend(change.dead.iter().map(|d| put(key::dead(d.ledger), encode(d))));
        operations
    }
}

impl State {
    fn view(&self) -> ListView {
        ListView {
            closed: self.pages.values().flatten().cloned().collect(),
            log_start: self.record.log_start,
            closed_end: self.record.closed_end,
        }
    }

    fn append_closed(&self, ledger: Arc<ClosedLedger>, change: &mut Change) {
        match self.pages.last_key_value().filter(|(_, page)| page.len() < PAGE_LEDGERS) {
            Some((number, page)) => {
                let mut page = page.clone();
                page.push(ledger);
                change.pages.push((*number, Some(page)));
            }
            None => {
                change.pages.push((change.record.end_page, Some(vec![ledger])));
                change.record.end_page += 1;
            }
        }
    }

    fn drop_ledgers(&self, ids: &BTreeSet<LedgerId>, now: Timestamp) -> Option<Change> {
        let mut change = Change::of(self.record.clone());
        for (number, page) in &self.pages {
            let kept: Vec<_> = page.iter().filter(|l| !ids.contains(&l.ledger.id)).cloned().collect();
            if kept.len() == page.len() {
                continue;
            }
            for gone in page.iter().filter(|l| ids.contains(&l.ledger.id)) {
                change.record.log_start = change.record.log_start.max(gone.end_offset);
                change.dead.push(dead(&gone.ledger, now));
            }
            if kept.is_empty() {
                change.record.first_page = number + 1;
            }
            change.pages.push((*number, Some(kept).filter(|k| !k.is_empty())));
        }
        (!change.dead.is_empty()).then_some(change)
    }

    fn apply(&mut self, change: Change, revision: Revision) {
        self.record = change.record;
        self.version = revision;
        for (number, page) in change.pages {
            match page {
                Some(page) => drop(self.pages.insert(number, page)),
                None => drop(self.pages.remove(&number)),
            }
        }
    }
}

/// A ledger that no partition names any more, with everyone who may hold entries of it.
fn dead(ledger: &LedgerMetadata, since: Timestamp) -> DeadLedger {
    let members: BTreeSet<BookieMember> = ledger.fragments.iter().flat_map(|f| f.ensemble.iter().copied()).collect();
    DeadLedger { ledger: ledger.id, held_by: members.into_iter().collect(), since }
}

fn check_owner(record: &PartitionRecord, owner: Owner, epoch: LeaderEpoch) -> Result<(), ListError> {
    if record.owner == Some(owner) && record.epoch == epoch {
        return Ok(());
    }
    Err(ListError::Lost { owner: record.owner.map(|o| o.node), epoch: record.epoch })
}

/// The record first: once it shows our epoch, nobody else's page can follow.
async fn read(metadata: &MetadataClient, partition: PartitionId) -> Result<State, ListError> {
    let held = metadata.get(&key::partition(partition)).await?.ok_or(ListError::Gone)?;
    let record: PartitionRecord = decode(&held.value)?;
    let mut pages = BTreeMap::new();
    if record.first_page < record.end_page {
        for item in metadata.scan_all(&prefix::closed_of(partition)).await? {
            let Some(KeyKind::ClosedPage(_, number)) = KeyKind::parse(&item.key) else { continue };
            let page: ClosedPage = decode(&item.value)?;
            pages.insert(number, page.ledgers.into_iter().map(Arc::new).collect());
        }
    }
    Ok(State { record, version: held.version, pages, stale: false })
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
    let changed = list.update(|state| {
        let mut record = state.record.clone();
        match &mut record.head {
            Some(head) if head.ledger == *new => return Ok(None),
            Some(head) if head.ledger == *expected => head.ledger.clone_from(new),
            _ => {
                lost = true;
                return Ok(None);
            }
        }
        Ok(Some(Change::of(record)))
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

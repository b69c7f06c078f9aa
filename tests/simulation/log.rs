//! What a partition's owner changes in metadata: each change is one transaction, conditioned on the version of the
//! partition record and of the page of closed ledgers it touches. A change that meets another owner or epoch is refused,
//! and one whose outcome is unknown is read again before the next.

use crate::{
    chain::PARTITION,
    metadata,
    world::{Site, World},
};
use protocol::{
    id::{LeaderEpoch, LedgerId, Revision},
    ledger::metadata::{BookieMember, LedgerMetadata, LedgerState},
    model::{ClosedLedger, ClosedPage, DeadLedger, HeadLedger, Owner, PartitionRecord, decode, encode, key},
    service::metadata::{Condition, MetadataError, Operation, Outcome},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    time::Duration,
};

/// How often a change is tried again after someone else's of the same epoch.
const MAX_CONFLICTS: u32 = 8;
/// The one page of closed ledgers of a run.
const PAGE: u32 = 0;

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogError {
    /// The partition has another owner or epoch.
    Lost,
    /// It was not made, or nobody knows.
    Metadata(MetadataError),
}

impl From<MetadataError> for LogError {
    fn from(problem: MetadataError) -> Self {
        Self::Metadata(problem)
    }
}

/// The log as its owner last read or wrote it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) record: PartitionRecord,
    version: Revision,
    pub(crate) closed: Vec<ClosedLedger>,
    page_version: Option<Revision>,
}

/// A change: the record, and the closed ledgers and dead ones if they change.
pub(crate) struct Change {
    record: PartitionRecord,
    closed: Option<Vec<ClosedLedger>>,
    dead: Vec<LedgerMetadata>,
}

impl Change {
    const fn of(record: PartitionRecord) -> Self {
        Self { record, closed: None, dead: Vec::new() }
    }
}

/// The log in the hands of one owner at one epoch.
pub(crate) struct Log {
    owner: Owner,
    pub(crate) epoch: LeaderEpoch,
    state: RefCell<Option<State>>,
    is_busy: Cell<bool>,
}

impl Log {
    pub(crate) fn new(owner: Owner, epoch: LeaderEpoch) -> Self {
        Self { owner, epoch, state: RefCell::default(), is_busy: Cell::default() }
    }

    /// The log as last read or written; none if that is not known.
    pub(crate) fn state(&self) -> Option<State> {
        self.state.borrow().clone()
    }

    /// Reads the log if it is not known.
    pub(crate) async fn load(&self, world: &Rc<World>) -> Result<State, LogError> {
        if let Some(state) = self.state() {
            return Ok(state);
        }
        // The record first: once it shows our epoch, nobody else's page can follow.
        let held = metadata::get(world, key::partition(PARTITION)).await?.ok_or(LogError::Lost)?;
        let record: PartitionRecord = decode(&held.value).expect("a partition record");
        if record.owner != Some(self.owner) || record.epoch != self.epoch {
            return Err(LogError::Lost);
        }
        let page = metadata::get(world, key::closed_page(PARTITION, PAGE)).await?;
        let page_version = page.as_ref().map(|page| page.version);
        let closed = page.map(|page| decode::<ClosedPage>(&page.value).expect("a page").ledgers).unwrap_or_default();
        let state = State { record, version: held.version, closed, page_version };
        *self.state.borrow_mut() = Some(state.clone());
        Ok(state)
    }

    /// Tries a change until it is made, was made before, or can no longer be.
    async fn update(
        &self,
        world: &Rc<World>,
        what: &str,
        make: impl Fn(&State) -> Result<Option<Change>, LogError>,
    ) -> Result<(), LogError> {
        while self.is_busy.get() {
            world.sleep(Duration::from_millis(2)).await;
        }
        self.is_busy.set(true);
        let result = self.update_alone(world, what, make).await;
        self.is_busy.set(false);
        result
    }

    async fn update_alone(
        &self,
        world: &Rc<World>,
        what: &str,
        make: impl Fn(&State) -> Result<Option<Change>, LogError>,
    ) -> Result<(), LogError> {
        for _ in 0..MAX_CONFLICTS {
            let state = self.load(world).await?;
            let Some(change) = make(&state)? else { return Ok(()) };
            let mut conditions = vec![Condition::Version(key::partition(PARTITION), state.version)];
            if change.closed.is_some() {
                let page = key::closed_page(PARTITION, PAGE);
                conditions.push(match state.page_version {
                    Some(version) => Condition::Version(page, version),
                    None => Condition::Absent(page),
                });
            }
            let outcome = metadata::transact(world, conditions, operations(world, &change)).await;
            metadata::told(world, world.here(), what, &outcome);
            match outcome {
                Ok(Outcome::Committed { revision, .. }) => {
                    let page_version = if change.closed.is_some() { Some(revision) } else { state.page_version };
                    let closed = change.closed.unwrap_or(state.closed);
                    *self.state.borrow_mut() =
                        Some(State { record: change.record, version: revision, closed, page_version });
                    return Ok(());
                }
                // Read again, which finds out whether the epoch is still ours.
                Ok(Outcome::Conflict { .. }) => *self.state.borrow_mut() = None,
                Err(problem) => {
                    if matches!(problem, MetadataError::OutcomeUnknown { .. }) {
                        *self.state.borrow_mut() = None;
                    }
                    return Err(problem.into());
                }
            }
        }
        Err(MetadataError::Unavailable { reason: "the record keeps changing".into() }.into())
    }

    /// Puts the head IN_RECOVERY; answers it, if there is one.
    pub(crate) async fn mark_recovering(&self, world: &Rc<World>) -> Result<Option<HeadLedger>, LogError> {
        self.update(world, "in recovery", |state| {
            let mut record = state.record.clone();
            match &mut record.head {
                Some(head) if head.ledger.state == LedgerState::Open => head.ledger.state = LedgerState::InRecovery,
                _ => return Ok(None),
            }
            Ok(Some(Change::of(record)))
        })
        .await?;
        Ok(self.load(world).await?.record.head)
    }

    /// Makes `head` the unclosed ledger of a log that has none.
    pub(crate) async fn install_head(&self, world: &Rc<World>, head: &HeadLedger) -> Result<(), LogError> {
        self.update(world, "new head", |state| match &state.record.head {
            Some(now) if now.ledger.id == head.ledger.id => Ok(None),
            Some(_) => Err(LogError::Metadata(MetadataError::Invalid("the head is not closed".into()))),
            None => Ok(Some(Change::of(PartitionRecord { head: Some(head.clone()), ..state.record.clone() }))),
        })
        .await
    }

    /// Ends the head: it joins the closed ledgers, or is given up if nothing was written to it.
    pub(crate) async fn close_head(
        &self,
        world: &Rc<World>,
        head: LedgerId,
        closed: Option<&ClosedLedger>,
    ) -> Result<(), LogError> {
        self.update(world, "close", |state| {
            let Some(current) = state.record.head.as_ref().filter(|h| h.ledger.id == head) else { return Ok(None) };
            let mut change = Change::of(PartitionRecord { head: None, ..state.record.clone() });
            match closed {
                Some(closed) => {
                    change.record.closed_end = closed.end_offset;
                    change.record.end_page = PAGE + 1;
                    change.closed = Some(state.closed.iter().cloned().chain([closed.clone()]).collect());
                }
                None => change.dead.push(current.ledger.clone()),
            }
            Ok(Some(change))
        })
        .await
    }

    /// Gives up the first `count` closed ledgers.
    pub(crate) async fn drop_front(&self, world: &Rc<World>, count: usize) -> Result<(), LogError> {
        let gone: Vec<LedgerId> = self.load(world).await?.closed.iter().take(count).map(|c| c.ledger.id).collect();
        self.update(world, "trim", |state| {
            let mut change = Change::of(state.record.clone());
            let (dead, kept): (Vec<_>, Vec<_>) =
                state.closed.iter().cloned().partition(|closed| gone.contains(&closed.ledger.id));
            let Some(last) = dead.last() else { return Ok(None) };
            change.record.log_start = change.record.log_start.max(last.end_offset);
            change.dead = dead.into_iter().map(|closed| closed.ledger).collect();
            change.closed = Some(kept);
            Ok(Some(change))
        })
        .await
    }

    /// Replaces the head's metadata for its writer. The answer is false if the ledger was lost to someone else.
    pub(crate) async fn replace(
        &self,
        world: &Rc<World>,
        expected: &LedgerMetadata,
        new: &LedgerMetadata,
    ) -> Result<(), LogError> {
        self.update(world, "ensemble change", |state| {
            let mut record = state.record.clone();
            match &mut record.head {
                Some(head) if head.ledger == *new => return Ok(None),
                Some(head) if head.ledger == *expected => head.ledger.clone_from(new),
                _ => return Err(LogError::Lost),
            }
            Ok(Some(Change::of(record)))
        })
        .await
    }
}

fn operations(world: &World, change: &Change) -> Vec<Operation> {
    let put = |key, value| Operation::Put { key, value, session: None };
    let mut operations = vec![put(key::partition(PARTITION), encode(&change.record))];
    if let Some(ledgers) = &change.closed {
        let page = ClosedPage { ledgers: ledgers.clone() };
        operations.push(put(key::closed_page(PARTITION, PAGE), encode(&page)));
    }
    operations.extend(change.dead.iter().map(|ledger| {
        let members: BTreeSet<BookieMember> =
            ledger.fragments.iter().flat_map(|fragment| fragment.ensemble.iter().copied()).collect();
        let dead = DeadLedger { ledger: ledger.id, held_by: members.into_iter().collect(), since: world.wall() };
        put(key::dead(ledger.id), encode(&dead))
    }));
    operations
}

/// The controller gives the partition to another owner: the next epoch, and the head IN_RECOVERY.
pub(crate) async fn assign(world: &Rc<World>, owner: Option<Owner>) -> Result<(), MetadataError> {
    let Some(held) = metadata::get(world, key::partition(PARTITION)).await? else { return Ok(()) };
    let record = decode::<PartitionRecord>(&held.value).expect("a partition record").assigned(owner);
    let conditions = vec![Condition::Version(held.key.clone(), held.version)];
    let operations = vec![Operation::Put { key: held.key, value: encode(&record), session: None }];
    let outcome = metadata::transact(world, conditions, operations).await;
    metadata::told(world, Site::Metadata, "assign", &outcome);
    outcome.map(drop)
}

//! What a partition's owner changes in metadata, over the simulated network. What may be changed, and on which versions
//! a change stands, is the product's ([`ListState`]); this file carries the transactions out: one at a time, read again
//! after a conflict or an unknown outcome, given up when the partition has another owner or epoch.

use crate::{
    chain::PARTITION,
    metadata,
    world::{Site, World},
};
use broker::managed_ledger::{
    ListError, ListState,
    ledger_list::{Change, Replacement},
};
use protocol::{
    id::{LeaderEpoch, LedgerId},
    ledger::metadata::LedgerMetadata,
    model::{ClosedLedger, HeadLedger, Owner, PartitionRecord, decode, encode, key, prefix},
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

impl From<ListError> for LogError {
    fn from(problem: ListError) -> Self {
        match problem {
            ListError::Lost { .. } | ListError::Gone => Self::Lost,
            ListError::Metadata(problem) => Self::Metadata(problem),
            problem @ (ListError::Unclosed(_) | ListError::Model(_)) => {
                Self::Metadata(MetadataError::Invalid(problem.to_string()))
            }
        }
    }
}

/// The log in the hands of one owner at one epoch.
pub(crate) struct Log {
    owner: Owner,
    pub(crate) epoch: LeaderEpoch,
    /// As last read or written; none if that is not known.
    state: RefCell<Option<ListState>>,
    is_busy: Cell<bool>,
}

impl Log {
    pub(crate) fn new(owner: Owner, epoch: LeaderEpoch) -> Self {
        Self { owner, epoch, state: RefCell::default(), is_busy: Cell::default() }
    }

    /// Reads the log if it is not known.
    pub(crate) async fn load(&self, world: &Rc<World>) -> Result<ListState, LogError> {
        if let Some(state) = self.state.borrow().clone() {
            return Ok(state);
        }
        // The record first: once it shows our epoch, nobody else's page can follow.
        let record = metadata::get(world, key::partition(PARTITION)).await?.ok_or(LogError::Lost)?;
        let pages = metadata::scan(world, prefix::closed_of(PARTITION)).await?;
        let state = ListState::new(PARTITION, &record, &pages).expect("records that can be read");
        let state = state.with_mutants(world.mutants);
        state.check_owner(self.owner, self.epoch)?;
        *self.state.borrow_mut() = Some(state.clone());
        Ok(state)
    }

    /// Tries a change until it is made, was made before, or can no longer be.
    async fn update(
        &self,
        world: &Rc<World>,
        what: &str,
        make: impl Fn(&ListState) -> Result<Option<Change>, LogError>,
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
        make: impl Fn(&ListState) -> Result<Option<Change>, LogError>,
    ) -> Result<(), LogError> {
        for _ in 0..MAX_CONFLICTS {
            let mut state = self.load(world).await?;
            let Some(change) = make(&state)? else { return Ok(()) };
            let (conditions, operations) = state.transaction(&change);
            let outcome = metadata::transact(world, conditions, operations).await;
            metadata::told(world, world.here(), what, &outcome);
            match outcome {
                Ok(Outcome::Committed { revision, .. }) => {
                    state.apply(change, revision);
                    *self.state.borrow_mut() = Some(state);
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

    /// Puts the head IN_RECOVERY; answers it, if there is one to recover.
    pub(crate) async fn mark_recovering(&self, world: &Rc<World>) -> Result<Option<HeadLedger>, LogError> {
        self.update(world, "in recovery", |state| Ok(state.mark_recovering())).await?;
        Ok(self.load(world).await?.head_to_recover().cloned())
    }

    /// Makes `head` the unclosed ledger of a log that has none.
    pub(crate) async fn install_head(&self, world: &Rc<World>, head: &HeadLedger) -> Result<(), LogError> {
        self.update(world, "new head", |state| Ok(state.install_head(head)?)).await
    }

    /// Ends the head: it joins the closed ledgers, or is given up if nothing was written to it.
    pub(crate) async fn close_head(
        &self,
        world: &Rc<World>,
        head: LedgerId,
        closed: Option<&ClosedLedger>,
    ) -> Result<(), LogError> {
        self.update(world, "close", |state| Ok(state.close_head(head, closed, None, world.wall()))).await
    }

    /// Gives up the first `count` closed ledgers.
    pub(crate) async fn drop_front(&self, world: &Rc<World>, count: usize) -> Result<(), LogError> {
        let closed = self.load(world).await?.view().closed;
        let gone: BTreeSet<LedgerId> = closed.iter().take(count).map(|closed| closed.ledger.id).collect();
        self.update(world, "trim", |state| Ok(state.drop_ledgers(&gone, world.wall()))).await
    }

    /// Replaces the head's metadata for its writer.
    pub(crate) async fn replace(
        &self,
        world: &Rc<World>,
        expected: &LedgerMetadata,
        new: &LedgerMetadata,
    ) -> Result<(), LogError> {
        self.update(world, "ensemble change", |state| match state.replace_head(expected, new) {
            Replacement::Possible(change) => Ok(Some(*change)),
            Replacement::Done => Ok(None),
            Replacement::Lost => Err(LogError::Lost),
        })
        .await
    }
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

//! A partition's list of ledgers as it was last read, and the changes its owner may make, as pure values: a state gives a
//! change, the change is one transaction, and its success gives the next state.
//!
//! Owns when a head may be installed, marked, replaced and closed (rules L1, L2, L4, R12, W8, W9), and which versions each
//! change stands on. Never talks to metadata; [`super::LedgerList`] carries the transactions out, and so does the
//! simulator.

use super::{ListError, ListView};
use protocol::{
    id::{LeaderEpoch, LedgerId, Offset, Revision, Timestamp},
    ledger::metadata::{BookieMember, LedgerMetadata, LedgerState},
    model::{
        ClosedLedger, ClosedPage, DeadLedger, HeadLedger, KeyKind, ModelError, Owner, PAGE_LEDGERS, PartitionRecord,
        decode, encode, key,
    },
    mutant::{Mutant, Mutants},
    service::metadata::{Condition, Operation, Versioned},
    topic::PartitionId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A page of closed ledgers as it was last read or written.
#[derive(Debug, Clone)]
struct Page {
    version: Revision,
    ledgers: Vec<Arc<ClosedLedger>>,
}

/// A change: the new record, the pages it touches (`None` deletes one) and the ledgers it gives up.
#[derive(Debug, Clone)]
pub struct Change {
    record: PartitionRecord,
    pages: Vec<(u32, Option<Vec<Arc<ClosedLedger>>>)>,
    dead: Vec<DeadLedger>,
}

impl Change {
    const fn of(record: PartitionRecord) -> Self {
        Self { record, pages: Vec::new(), dead: Vec::new() }
    }
}

/// What the writer's compare-and-swap of its head comes to.
#[derive(Debug, Clone)]
pub enum Replacement {
    /// It stands there already: an earlier attempt got through.
    Done,
    /// It can be made.
    Possible(Box<Change>),
    /// The head is another ledger, or somebody else has changed it: the writer has lost it.
    Lost,
}

/// The list as it was last read.
#[derive(Debug, Clone)]
pub struct ListState {
    partition: PartitionId,
    record: PartitionRecord,
    version: Revision,
    pages: BTreeMap<u32, Page>,
    mutants: Mutants,
}

impl ListState {
    /// The place of the partition record among the conditions of a change.
    pub const RECORD: usize = 0;

    /// The state from the partition record and the pages of its closed ledgers, as they were read (in this order: once
    /// the record shows our epoch, nobody else's page can follow).
    ///
    /// # Errors
    /// [`ModelError`] if one of them cannot be understood.
    pub fn new(partition: PartitionId, record: &Versioned, pages: &[Versioned]) -> Result<Self, ModelError> {
        let mut state = Self {
            partition,
            record: decode(&record.value)?,
            version: record.version,
            pages: BTreeMap::new(),
            mutants: Mutants::NONE,
        };
        for item in pages {
            let Some(KeyKind::ClosedPage(_, number)) = KeyKind::parse(&item.key) else { continue };
            let page: ClosedPage = decode(&item.value)?;
            let ledgers = page.ledgers.into_iter().map(Arc::new).collect();
            state.pages.insert(number, Page { version: item.version, ledgers });
        }
        Ok(state)
    }

    /// The same with bugs put back on purpose; outside of tests there are none.
    #[must_use]
    pub const fn with_mutants(mut self, mutants: Mutants) -> Self {
        self.mutants = mutants;
        self
    }

    /// The partition's record.
    #[must_use]
    pub const fn record(&self) -> &PartitionRecord {
        &self.record
    }

    /// What readers need of it.
    #[must_use]
    pub fn view(&self) -> ListView {
        ListView {
            closed: self.pages.values().flat_map(|page| page.ledgers.iter().cloned()).collect(),
            log_start: self.record.log_start,
            closed_end: self.record.closed_end,
        }
    }

    /// Whether `owner` still owns the partition at `epoch`.
    ///
    /// # Errors
    /// [`ListError::Lost`] if not.
    pub fn check_owner(&self, owner: Owner, epoch: LeaderEpoch) -> Result<(), ListError> {
        check_owner(&self.record, owner, epoch)
    }

    /// The head that a new owner has to recover and close before it writes (rules L1, L2), also if it looks empty.
    #[must_use]
    pub fn head_to_recover(&self) -> Option<&HeadLedger> {
        self.record.head.as_ref().filter(|_| !self.mutants.has(Mutant::LeaveHeadBehind))
    }

    /// Makes `head` the unclosed ledger of a partition that has none; none if it is that already (rule L4).
    ///
    /// # Errors
    /// [`ListError::Unclosed`] if another head would be lost (rule L1).
    pub fn install_head(&self, head: &HeadLedger) -> Result<Option<Change>, ListError> {
        match &self.record.head {
            Some(now) if now.ledger.id == head.ledger.id => Ok(None),
            Some(now) if !self.mutants.has(Mutant::LeaveHeadBehind) => Err(ListError::Unclosed(now.ledger.id)),
            _ => Ok(Some(Change::of(PartitionRecord { head: Some(head.clone()), ..self.record.clone() }))),
        }
    }

    /// Puts the head IN_RECOVERY (rule R1); none if there is nothing to do.
    #[must_use]
    pub fn mark_recovering(&self) -> Option<Change> {
        let mut record = self.record.clone();
        let head = record.head.as_mut().filter(|head| head.ledger.state == LedgerState::Open)?;
        head.ledger.state = LedgerState::InRecovery;
        Some(Change::of(record))
    }

    /// Replaces the head's metadata for its writer (rules W8, W9).
    #[must_use]
    pub fn replace_head(&self, expected: &LedgerMetadata, new: &LedgerMetadata) -> Replacement {
        let mut record = self.record.clone();
        match &mut record.head {
            Some(head) if head.ledger == *new => Replacement::Done,
            Some(head) if head.ledger == *expected => {
                head.ledger.clone_from(new);
                Replacement::Possible(Box::new(Change::of(record)))
            }
            _ => Replacement::Lost,
        }
    }

    /// Ends the head: it joins the closed ledgers, or is given up if nothing was written to it; `next` takes its place.
    /// None if this head has ended before (rules R12, L4).
    #[must_use]
    pub fn close_head(
        &self,
        head: LedgerId,
        closed: Option<&ClosedLedger>,
        next: Option<&HeadLedger>,
        now: Timestamp,
    ) -> Option<Change> {
        let current = self.record.head.as_ref().filter(|h| h.ledger.id == head)?;
        let mut change = Change::of(PartitionRecord { head: next.cloned(), ..self.record.clone() });
        match closed {
            Some(closed) => {
                change.record.closed_end = closed.end_offset;
                self.append_closed(Arc::new(closed.clone()), &mut change);
            }
            None => change.dead.push(dead(&current.ledger, now)),
        }
        Some(change)
    }

    /// Gives up what is gone for good of the head, on an operator's word: `remnant` takes its place, for its owner to
    /// recover, or nothing does. The epoch changes with it, so that nobody who writes or recovers the head as it was can
    /// go on. None if this head has ended before.
    #[must_use]
    pub fn give_up(&self, head: LedgerId, remnant: Option<&LedgerMetadata>, now: Timestamp) -> Option<Change> {
        let current = self.record.head.as_ref().filter(|h| h.ledger.id == head)?;
        let mut change = Change::of(self.record.clone().assigned(self.record.owner));
        match remnant {
            Some(remnant) => {
                change.record.head = Some(HeadLedger { ledger: remnant.clone(), ..current.clone() });
            }
            None => {
                change.record.head = None;
                change.dead.push(dead(&current.ledger, now));
            }
        }
        Some(change)
    }

    /// Moves the log start forward; none if it is there.
    #[must_use]
    pub fn move_log_start(&self, to: Offset) -> Option<Change> {
        let moves = to > self.record.log_start;
        moves.then(|| Change::of(PartitionRecord { log_start: to, ..self.record.clone() }))
    }

    /// Gives these closed ledgers up, and moves the log start behind them; none if they are gone.
    #[must_use]
    pub fn drop_ledgers(&self, ids: &BTreeSet<LedgerId>, now: Timestamp) -> Option<Change> {
        let mut change = Change::of(self.record.clone());
        for (number, page) in &self.pages {
            let kept: Vec<_> = page.ledgers.iter().filter(|l| !ids.contains(&l.ledger.id)).cloned().collect();
            if kept.len() == page.ledgers.len() {
                continue;
            }
            for gone in page.ledgers.iter().filter(|l| ids.contains(&l.ledger.id)) {
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

    /// A change as one transaction: on the record as it was read ([`ListState::RECORD`]), and on the pages it rewrites.
    #[must_use]
    pub fn transaction(&self, change: &Change) -> (Vec<Condition>, Vec<Operation>) {
        (self.conditions(change), self.operations(change))
    }

    /// The state after a change was committed.
    pub fn apply(&mut self, change: Change, revision: Revision) {
        self.record = change.record;
        self.version = revision;
        for (number, page) in change.pages {
            match page {
                Some(ledgers) => drop(self.pages.insert(number, Page { version: revision, ledgers })),
                None => drop(self.pages.remove(&number)),
            }
        }
    }

    fn conditions(&self, change: &Change) -> Vec<Condition> {
        if self.mutants.has(Mutant::SwapUnconditionally) {
            return Vec::new();
        }
        let mut conditions = vec![Condition::Version(key::partition(self.partition), self.version)];
        conditions.extend(change.pages.iter().map(|(number, _)| {
            let key = key::closed_page(self.partition, *number);
            match self.pages.get(number) {
                Some(page) => Condition::Version(key, page.version),
                None => Condition::Absent(key),
            }
        }));
        conditions
    }

    fn operations(&self, change: &Change) -> Vec<Operation> {
        let put = |key, value| Operation::Put { key, value, session: None };
        let mut operations = vec![put(key::partition(self.partition), encode(&change.record))];
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

    fn append_closed(&self, ledger: Arc<ClosedLedger>, change: &mut Change) {
        match self.pages.last_key_value().filter(|(_, page)| page.ledgers.len() < PAGE_LEDGERS) {
            Some((number, page)) => {
                let mut ledgers = page.ledgers.clone();
                ledgers.push(ledger);
                change.pages.push((*number, Some(ledgers)));
            }
            None => {
                change.pages.push((change.record.end_page, Some(vec![ledger])));
                change.record.end_page += 1;
            }
        }
    }
}

/// Whether a record still shows `owner` at `epoch`.
pub(super) fn check_owner(record: &PartitionRecord, owner: Owner, epoch: LeaderEpoch) -> Result<(), ListError> {
    if record.owner == Some(owner) && record.epoch == epoch {
        return Ok(());
    }
    Err(ListError::Lost { owner: record.owner.map(|o| o.node), epoch: record.epoch })
}

/// A ledger that no partition names any more, with everyone who may hold entries of it.
fn dead(ledger: &LedgerMetadata, since: Timestamp) -> DeadLedger {
    let members: BTreeSet<BookieMember> = ledger.fragments.iter().flat_map(|f| f.ensemble.iter().copied()).collect();
    DeadLedger { ledger: ledger.id, held_by: members.into_iter().collect(), since }
}

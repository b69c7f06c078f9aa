//! What everybody was told: clients by writers, callers by bookies. Owns the truth that the invariants are compared with;
//! it sees every answer at the moment it is given, also if it is never delivered.

use crate::{
    invariants,
    network::{Answered, Request, Response},
    world::World,
};
use protocol::{
    id::{EntryId, Lac, LedgerId},
    ledger::{entry::SealedEntry, metadata::BookieMember},
    service::bookie::BookieError,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// What is known of a ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// What its writer sent, dense.
    pub(crate) sent: Vec<SealedEntry>,
    /// What its writer's clients were told.
    pub(crate) acked: Lac,
    /// Set when it has ended: its last entry.
    pub(crate) end: Option<Option<EntryId>>,
    /// No partition names it any more.
    pub(crate) is_dead: bool,
}

/// What everybody was told.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) ledgers: BTreeMap<LedgerId, Truth>,
    /// Entries that bookies said to hold.
    held: BTreeSet<(BookieMember, LedgerId, EntryId)>,
    /// Fences that bookies said to hold, and when they said so first.
    pub(crate) fenced: BTreeMap<(BookieMember, LedgerId), u64>,
    /// Deletions that bookies confirmed, and when.
    pub(crate) deleted: BTreeMap<(BookieMember, LedgerId), u64>,
    /// Deletions that bookies confirmed and whose tombstones injected faults have destroyed.
    pub(crate) forgotten: BTreeSet<(BookieMember, LedgerId)>,
    /// Copies that injected faults have destroyed.
    pub(crate) lost: BTreeSet<(BookieMember, LedgerId, EntryId)>,
    /// Lives of bookies that have ended with their disks.
    pub(crate) gone: BTreeSet<BookieMember>,
    /// Bookies that have lost synced state and are not healed.
    pub(crate) limbo: BTreeSet<BookieMember>,
    /// Ensembles that writers and recoverers may be using although metadata does not name them yet.
    pub(crate) candidates: BTreeMap<LedgerId, Vec<Vec<BookieMember>>>,
    /// What readers were shown.
    pub(crate) shown: BTreeMap<(LedgerId, EntryId), SealedEntry>,
}

impl Oracle {
    /// This life of a bookie is over.
    pub(crate) fn lose_member(&mut self, member: BookieMember) {
        self.gone.insert(member);
        self.limbo.remove(&member);
        self.lost.retain(|(m, ..)| *m != member);
    }

    /// A fault destroys a copy.
    pub(crate) fn lose_copy(&mut self, member: BookieMember, ledger: LedgerId, entry: EntryId) {
        self.lost.insert((member, ledger, entry));
    }

    /// A fault destroys the tombstones of a bookie, all but these.
    pub(crate) fn lose_tombstones(&mut self, member: BookieMember, is_kept: impl Fn(LedgerId) -> bool) {
        let is_lost = |(m, ledger): &&(BookieMember, LedgerId)| *m == member && !is_kept(*ledger);
        let lost: BTreeSet<_> = self.deleted.keys().filter(is_lost).copied().collect();
        self.deleted.retain(|place, _| !lost.contains(place));
        self.forgotten.extend(lost);
    }

    /// A bookie has found again what it lost, and lists these entries; of the rest nobody will ask.
    pub(crate) fn heal(&mut self, member: BookieMember, listed: &BTreeSet<(LedgerId, EntryId)>) {
        self.limbo.remove(&member);
        let is_rest = |(m, l, e): &&(BookieMember, LedgerId, EntryId)| *m == member && !listed.contains(&(*l, *e));
        let rest: Vec<_> = self.lost.iter().filter(is_rest).copied().collect();
        for place in rest {
            self.lost.remove(&place);
            self.held.remove(&place);
        }
    }

    /// Whether this bookie has said to hold this entry.
    pub(crate) fn has_acked(&self, member: BookieMember, ledger: LedgerId, entry: EntryId) -> bool {
        self.held.contains(&(member, ledger, entry))
    }

    /// Whether a copy is missing because of a fault, and not because of a bug.
    pub(crate) fn is_excused(&self, member: BookieMember, ledger: LedgerId, entry: EntryId) -> bool {
        self.has_acked(member, ledger, entry)
            && (self.gone.contains(&member) || self.lost.contains(&(member, ledger, entry)))
    }

    /// Whether a fault has damaged what this bookie holds of a ledger.
    pub(crate) fn is_damaged(&self, member: BookieMember, ledger: LedgerId) -> bool {
        let from = (member, ledger, EntryId(0));
        let to = (member, ledger, EntryId(u64::MAX));
        self.gone.contains(&member) || self.limbo.contains(&member) || self.lost.range(from..=to).next().is_some()
    }

    /// An ensemble that a writer or a recoverer may use from now on; one that comes too late can use nothing any more.
    pub(crate) fn propose(&mut self, ledger: LedgerId, ensemble: &[BookieMember]) {
        let truth = self.truth(ledger);
        if truth.end.is_none() && !truth.is_dead {
            self.propose_copies(ledger, ensemble);
        }
    }

    /// An ensemble that repair may give a closed ledger.
    pub(crate) fn propose_copies(&mut self, ledger: LedgerId, ensemble: &[BookieMember]) {
        let candidates = self.candidates.entry(ledger).or_default();
        if !candidates.iter().any(|known| known == ensemble) {
            candidates.push(ensemble.to_vec());
        }
    }

    pub(crate) fn truth(&mut self, ledger: LedgerId) -> &mut Truth {
        self.ledgers.entry(ledger).or_default()
    }
}

/// A writer has told its clients that everything up to here is durable.
pub(crate) fn confirmed(world: &Rc<World>, ledger: LedgerId, lac: Lac) {
    let before = {
        let mut oracle = world.oracle.borrow_mut();
        let truth = oracle.truth(ledger);
        std::mem::replace(&mut truth.acked, lac)
    };
    world
        .report
        .borrow_mut()
        .counts
        .entry("entries acknowledged")
        .and_modify(|n| *n += lac.count() - before.count())
        .or_insert(lac.count());
    invariants::no_out_of_order_entries(world, ledger, before, lac);
    invariants::no_divergence_between_client_and_metadata(world, ledger);
    invariants::acked_entries_are_readable(world, ledger, before.count()..lac.count());
}

/// A bookie answers. `arrived` is when the request reached it.
pub(crate) fn observe(world: &Rc<World>, by: BookieMember, arrived: u64, request: &Request, answer: &Answered) {
    let (ledger, now) = (request.ledger(), world.engine.steps());
    invariants::no_answer_for_another_life(world, by, request, answer);
    match (request, answer) {
        (Request::Add(add), Ok(_)) => {
            let entry = &add.entry;
            invariants::an_ack_is_durable(world, by, entry);
            if !add.recovery {
                invariants::a_fence_holds(world, by, arrived, request);
                invariants::a_forgotten_ledger_stays_closed(world, by, request);
            }
            invariants::deleted_stays_deleted(world, by, arrived, request);
            let mut oracle = world.oracle.borrow_mut();
            oracle.held.insert((by, ledger, entry.entry()));
            oracle.lost.remove(&(by, ledger, entry.entry()));
        }
        (Request::Read(read), Ok(Response::Run(run))) => {
            invariants::deleted_stays_deleted(world, by, arrived, request);
            invariants::nobody_confirms_more_than_the_writer(world, by, ledger, run.lac);
            run.entries.iter().for_each(|entry| invariants::what_is_served_was_sent(world, by, entry));
            if read.fence.is_some() {
                note_fence(world, by, ledger, now);
            }
        }
        (Request::Fence(_), Ok(Response::Lac(lac))) => {
            invariants::deleted_stays_deleted(world, by, arrived, request);
            invariants::nobody_confirms_more_than_the_writer(world, by, ledger, *lac);
            invariants::limbo_confirms_nothing(world, by, ledger);
            note_fence(world, by, ledger, now);
        }
        (Request::Read(read), Err(BookieError::NoSuchEntry(..) | BookieError::NoSuchLedger(_))) => {
            invariants::no_false_negative(world, by, ledger, read.first);
            if read.fence.is_some() {
                note_fence(world, by, ledger, now);
            }
        }
        (Request::List(list), Ok(Response::List(found))) => invariants::a_list_is_complete(world, by, list, found),
        (Request::Delete(_), Ok(_)) => {
            let mut oracle = world.oracle.borrow_mut();
            oracle.deleted.entry((by, ledger)).or_insert(now);
        }
        _ => {}
    }
}

fn note_fence(world: &Rc<World>, by: BookieMember, ledger: LedgerId, now: u64) {
    invariants::a_fence_is_durable(world, by, ledger);
    world.oracle.borrow_mut().fenced.entry((by, ledger)).or_insert(now);
}

/// When a bookie first said that a fence holds.
pub(crate) fn fenced_at(world: &World, member: BookieMember, ledger: LedgerId) -> Option<u64> {
    world.oracle.borrow().fenced.get(&(member, ledger)).copied()
}

/// When a bookie first said that a ledger is deleted.
pub(crate) fn deleted_at(world: &World, member: BookieMember, ledger: LedgerId) -> Option<u64> {
    world.oracle.borrow().deleted.get(&(member, ledger)).copied()
}

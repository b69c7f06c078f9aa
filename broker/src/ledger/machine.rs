//! The writer of a ledger, as a pure state machine: events in, commands out.
//!
//! Owns when an entry is confirmed, what happens when a bookie fails, and where the ledger ends. It never sees an
//! entry's bytes, a clock or a network; the driver in [`super::writer`] carries its commands out, and
//! [`super::recovery_machine`] uses it to write recovered entries again.
//!
//! Invariants: an entry is confirmed only when Aq members of its current ensemble have synced it and every lower entry
//! is confirmed (W3, W4); nothing is confirmed while an ensemble change is under way (W7); answers of replaced members
//! do not count (W5); a fenced writer stops for ever and changes no ensemble (W10); after [`Command::Fail`] or
//! [`Command::Closed`] there are no more commands.

mod ensemble_change;
mod error;
mod member;

pub use error::{ReplaceError, WriteError};

use member::{Member, MemberSet};
use protocol::{
    id::{EntryId, Lac},
    ledger::{
        metadata::{BookieMember, Hole, LedgerMetadata},
        quorum::Quorum,
    },
    mutant::{Mutant, Mutants},
    service::bookie::BookieError,
};
use std::collections::VecDeque;

/// What happens to a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next entry is to be written. Only while [`LedgerWriter::accepts`] says so.
    Append {
        /// Its sealed size, in bytes.
        size: u32,
        /// The payload bytes of the ledger up to and including it.
        length: u64,
    },
    /// A bookie has synced an entry.
    Acked {
        /// Who.
        member: BookieMember,
        /// What.
        entry: EntryId,
    },
    /// A bookie did not store an entry, or did not say that it did.
    Failed {
        /// Who.
        member: BookieMember,
        /// What.
        entry: EntryId,
        /// Why.
        error: BookieError,
        /// Bookies that could take its place, best first.
        spares: Vec<BookieMember>,
    },
    /// The compare-and-swap asked for by [`Command::ChangeEnsemble`] has its answer.
    EnsembleChanged {
        /// What became of it.
        result: Result<(), ReplaceError>,
        /// Bookies that could take the place of members that failed meanwhile, best first.
        spares: Vec<BookieMember>,
    },
    /// No more appends; end the ledger when all is confirmed.
    Close,
}

/// What a writer wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send an entry to a bookie.
    Send {
        /// To whom.
        member: BookieMember,
        /// What.
        entry: EntryId,
    },
    /// Everything up to here is durable; tell the caller.
    Confirm {
        /// The new last-add-confirmed.
        lac: Lac,
    },
    /// Replace the ledger's metadata, if it is still what [`LedgerWriter::metadata`] says.
    ChangeEnsemble {
        /// The metadata with the new fragment.
        new: LedgerMetadata,
    },
    /// The writer has stopped. The outcome of every unconfirmed entry is unknown.
    Fail(WriteError),
    /// Everything is confirmed and the ledger can be closed here.
    Closed {
        /// The last entry; none if nothing was written.
        last_entry: Option<EntryId>,
        /// Payload bytes up to and including it.
        length: u64,
    },
}

/// How far a writer goes before it gives something up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of confirmed entries that one member may owe an answer for, before it is left behind.
    pub owed_bytes: u64,
    /// Confirmed entries that one unanswered add may hold up, before the member that owes it is left behind.
    pub owed_entries: usize,
    /// Ensemble changes of one ledger (rule W12); after that failed members are left behind.
    pub ensemble_changes: u32,
    /// Bugs put back on purpose; none outside of tests.
    pub mutants: Mutants,
}

impl Default for Limits {
    fn default() -> Self {
        let mutants = Mutants::NONE;
        Self { owed_bytes: 64 * 1024 * 1024, owed_entries: 64 * 1024, ensemble_changes: 16, mutants }
    }
}

/// An entry on its way.
#[derive(Debug, Clone)]
struct Add {
    size: u32,
    length: u64,
    /// Positions that hold it.
    acks: MemberSet,
    /// Positions whose answer is still to come.
    awaited: MemberSet,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open,
    Closing,
    Closed,
    Failed(WriteError),
}

/// The writer of one ledger.
#[derive(Debug, Clone)]
pub struct LedgerWriter {
    /// As last committed.
    metadata: LedgerMetadata,
    limits: Limits,
    /// The current ensemble, by position.
    members: Vec<Member>,
    lac: Lac,
    /// Payload bytes up to the last confirmed entry.
    length: u64,
    /// Entries that are unconfirmed, or still awaited from someone; dense from `first_add`.
    adds: VecDeque<Add>,
    first_add: EntryId,
    /// The metadata whose compare-and-swap is under way.
    change: Option<LedgerMetadata>,
    changes: u32,
    state: State,
}

impl LedgerWriter {
    /// The writer of a ledger that was just created.
    ///
    /// # Panics
    /// If the metadata has no fragment, or an ensemble of more than 64 bookies.
    #[must_use]
    pub fn new(metadata: LedgerMetadata, limits: Limits) -> Self {
        Self::resume(metadata, Lac::NONE, limits)
    }

    /// A writer that goes on after `lac`; only recovery may do that.
    pub(super) fn resume(metadata: LedgerMetadata, lac: Lac, limits: Limits) -> Self {
        let ensemble = &metadata.last_fragment().expect("a ledger has a fragment").ensemble;
        assert!(ensemble.len() <= MemberSet::CAPACITY, "an ensemble has at most {} bookies", MemberSet::CAPACITY);
        Self {
            members: ensemble.iter().map(|m| Member::new(*m)).collect(),
            metadata,
            limits,
            lac,
            length: 0,
            adds: VecDeque::new(),
            first_add: lac.next(),
            change: None,
            changes: 0,
            state: State::Open,
        }
    }

    /// Whether an entry may be appended now; if not, why.
    ///
    /// # Errors
    /// What stopped the writer, or [`WriteError::Closed`].
    pub fn accepts(&self) -> Result<(), WriteError> {
        match &self.state {
            State::Open => Ok(()),
            State::Closing | State::Closed => Err(WriteError::Closed),
            State::Failed(error) => Err(error.clone()),
        }
    }

    /// The id that the next appended entry gets.
    #[must_use]
    pub fn next_entry(&self) -> EntryId {
        EntryId(self.first_add.0 + self.adds.len() as u64)
    }

    /// The highest confirmed entry.
    #[must_use]
    pub const fn lac(&self) -> Lac {
        self.lac
    }

    /// Payload bytes up to the last appended entry.
    #[must_use]
    pub fn appended_length(&self) -> u64 {
        self.adds.back().map_or(self.length, |add| add.length)
    }

    /// Entries that are appended and not confirmed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.adds.len() - self.confirmed_adds()
    }

    /// The metadata as last committed.
    #[must_use]
    pub const fn metadata(&self) -> &LedgerMetadata {
        &self.metadata
    }

    /// Entries that members may lack, as far as known; the answers still awaited count as missing.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        let open = self.members.iter().enumerate().filter_map(|(at, member)| {
            let first = member.missing_from.or_else(|| self.first_awaited(at))?;
            let entries = first.0..=self.lac.entry()?.0;
            (!entries.is_empty()).then_some(Hole { member: member.id, entries })
        });
        self.metadata.holes.iter().cloned().chain(open).collect()
    }

    /// The current ensemble, and of each member whether it is still written: not if it was left behind.
    pub fn members(&self) -> impl Iterator<Item = (BookieMember, bool)> {
        self.members.iter().map(|m| (m.id, m.is_live()))
    }

    /// The members that have answered for every entry so far.
    pub fn up_to_date(&self) -> impl Iterator<Item = BookieMember> {
        let owes = |at| self.adds.iter().any(|add| add.awaited.contains(at));
        self.members.iter().enumerate().filter(move |(at, m)| m.is_live() && !owes(*at)).map(|(_, m)| m.id)
    }

    /// The first entry that a member owes an answer for; none if it owes none, or was left behind.
    #[must_use]
    pub fn first_unanswered(&self, member: BookieMember) -> Option<EntryId> {
        self.position(member).and_then(|at| self.first_awaited(at))
    }

    /// Whether an answer is still to come from a member that was not left behind.
    #[must_use]
    pub fn awaits_copies(&self) -> bool {
        self.adds.iter().any(|add| !add.awaited.is_empty())
    }

    /// Whether the writer would have to stop without this member, with these spares at hand.
    #[must_use]
    pub fn depends_on(&self, member: BookieMember, spares: &[BookieMember]) -> bool {
        let lives = self.position(member).is_some_and(|at| self.members[at].is_live());
        let fresh = spares.iter().filter(|spare| self.members.iter().all(|m| m.id.id != spare.id)).count();
        let allowed = if self.changes < self.limits.ensemble_changes { fresh } else { 0 };
        lives && !self.quorum().is_acked(self.live() - 1 + allowed)
    }

    /// Takes one event; appends what is to be done to `out`.
    pub fn on_event(&mut self, event: Event, out: &mut Vec<Command>) {
        match (&self.state, &event) {
            // Nothing depends on it any more, but there is one hole less.
            (State::Closed, Event::Acked { member, entry }) => return self.note_copy(*member, *entry),
            (State::Closed | State::Failed(_), _) => return,
            _ => {}
        }
        match event {
            Event::Append { size, length } => self.on_append(size, length, out),
            Event::Acked { member, entry } => self.on_acked(member, entry, out),
            Event::Failed { member, entry, error, spares } => self.on_failed((member, entry), &error, &spares, out),
            Event::EnsembleChanged { result, spares } => self.on_ensemble_changed(result, &spares, out),
            Event::Close => {
                self.state = State::Closing;
                self.advance(out);
            }
        }
    }

    fn has(&self, mutant: Mutant) -> bool {
        self.limits.mutants.has(mutant)
    }

    fn quorum(&self) -> Quorum {
        self.metadata.quorum
    }

    fn on_append(&mut self, size: u32, length: u64, out: &mut Vec<Command>) {
        assert!(self.state == State::Open, "a closing writer takes no entries");
        let entry = self.next_entry();
        let mut awaited = MemberSet::default();
        for at in self.quorum().write_set(entry) {
            if self.members[at].is_live() {
                awaited.insert(at);
                out.push(Command::Send { member: self.members[at].id, entry });
            }
        }
        self.adds.push_back(Add { size, length, acks: MemberSet::default(), awaited });
    }

    fn on_acked(&mut self, member: BookieMember, entry: EntryId, out: &mut Vec<Command>) {
        let (strangers_count, unordered) =
            (self.has(Mutant::CountAcksOfStrangers), self.has(Mutant::ConfirmOutOfOrder));
        let (position, quorum) = (self.position(member), self.quorum());
        let confirmed = self.lac.covers(entry);
        let Some(index) = entry.0.checked_sub(self.first_add.0) else { return };
        let Some(add) = usize::try_from(index).ok().and_then(|i| self.adds.get_mut(i)) else { return };
        // W5: whoever is not in the ensemble any more has nothing to say.
        let Some(at) = position.or_else(|| add.awaited.iter().next().filter(|_| strangers_count)) else { return };
        add.acks.insert(at);
        if unordered && !confirmed && quorum.is_acked(add.acks.len()) {
            out.push(Command::Confirm { lac: Lac::at(entry) });
        }
        if add.awaited.remove(at) && confirmed {
            self.members[at].owed -= u64::from(add.size);
        }
        self.advance(out);
    }

    fn note_copy(&mut self, member: BookieMember, entry: EntryId) {
        let index = entry.0.checked_sub(self.first_add.0).and_then(|i| usize::try_from(i).ok());
        if let (Some(at), Some(add)) = (self.position(member), index.and_then(|i| self.adds.get_mut(i))) {
            add.awaited.remove(at);
        }
    }

    fn on_failed(
        &mut self,
        (member, entry): (BookieMember, EntryId),
        error: &BookieError,
        spares: &[BookieMember],
        out: &mut Vec<Command>,
    ) {
        let Some(at) = self.position(member) else { return };
        match error {
            BookieError::Fenced(ledger) => return self.fail(WriteError::Fenced(*ledger), out),
            BookieError::Deleted(ledger) => return self.fail(WriteError::Deleted(*ledger), out),
            BookieError::WrongKey(_) | BookieError::Different(..) | BookieError::BadEntry { .. } => {
                let reason = format!("{member}, entry {entry}: {error}");
                return self.fail(WriteError::Storage { reason }, out);
            }
            _ => {}
        }
        if !self.members[at].is_live() {
            return;
        }
        self.leave_behind(at);
        if self.change.is_none() {
            self.replace_failed(spares, &format!("{member}, entry {entry}: {error}"), out);
        }
    }

    /// Confirms what can be confirmed, in order, and ends the ledger if that was asked for (rules W3, W4, W11).
    fn advance(&mut self, out: &mut Vec<Command>) {
        // W7: metadata must name the ensemble before its acks count.
        if self.change.is_some() && !self.has(Mutant::CountAcksBeforeSwap) {
            return;
        }
        let before = self.lac;
        let (quorum, extra) = (self.quorum(), usize::from(self.has(Mutant::ConfirmBelowAckQuorum)));
        let mut index = self.confirmed_adds();
        while let Some(add) = self.adds.get(index).filter(|add| quorum.is_acked(add.acks.len() + extra)) {
            #[cfg(any(test, feature = "invariants"))]
            self.check(add, EntryId(self.first_add.0 + index as u64));
            for at in add.awaited.iter() {
                self.members[at].owed += u64::from(add.size);
            }
            self.length = add.length;
            self.lac = Lac::at(self.lac.next());
            index += 1;
        }
        if self.lac != before {
            out.push(Command::Confirm { lac: self.lac });
            self.leave_laggards_behind();
        }
        while self.adds.front().is_some_and(|add| add.awaited.is_empty()) && self.lac.covers(self.first_add) {
            self.adds.pop_front();
            self.first_add = self.first_add.next();
        }
        if self.state == State::Closing && self.has(Mutant::CloseOverUnconfirmed) {
            let (last_entry, length) = (Lac::from_count(self.next_entry().0).entry(), self.appended_length());
            self.state = State::Closed;
            return out.push(Command::Closed { last_entry, length });
        }
        if self.state == State::Closing && self.in_flight() == 0 {
            self.state = State::Closed;
            out.push(Command::Closed { last_entry: self.lac.entry(), length: self.length });
        }
    }

    #[cfg(any(test, feature = "invariants"))]
    fn check(&self, add: &Add, entry: EntryId) {
        use super::invariants;
        let checks = invariants::no_out_of_order_entries(self.lac, entry)
            .and(invariants::all_committed_entries_reach_ack_quorum(self.quorum(), entry, add.acks.len()));
        if let Err(violation) = checks {
            panic!("ledger {}: {violation}", self.metadata.id);
        }
    }

    /// Members that owe more than the bound become holes, as long as the ack quorum can do without them.
    fn leave_laggards_behind(&mut self) {
        let held_up = self.confirmed_adds() > self.limits.owed_entries;
        let oldest = self.adds.front().filter(|_| held_up).map(|add| add.awaited).unwrap_or_default();
        for at in 0..self.members.len() {
            let lags = self.members[at].owed > self.limits.owed_bytes || oldest.contains(at);
            if lags && self.quorum().is_acked(self.live() - 1) {
                self.leave_behind(at);
            }
        }
    }

    fn fail(&mut self, error: WriteError, out: &mut Vec<Command>) {
        self.state = State::Failed(error.clone());
        self.adds.clear();
        self.first_add = self.lac.next();
        out.push(Command::Fail(error));
    }

    fn position(&self, member: BookieMember) -> Option<usize> {
        self.members.iter().position(|m| m.id == member)
    }

    fn live(&self) -> usize {
        self.members.iter().filter(|m| m.is_live()).count()
    }

    /// How many of `adds` are confirmed: they wait only for a slow member.
    fn confirmed_adds(&self) -> usize {
        self.adds.len().min(usize::try_from(self.lac.count() - self.first_add.0).unwrap_or(usize::MAX))
    }

    fn first_awaited(&self, at: usize) -> Option<EntryId> {
        let index = self.adds.iter().position(|add| add.awaited.contains(at))?;
        Some(EntryId(self.first_add.0 + index as u64))
    }
}

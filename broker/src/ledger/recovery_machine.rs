//! The recovery of a ledger, as a pure state machine: where did its writer get to, and are all those entries safe?
//!
//! Owns the order of steps after the old writer has lost the ledger in metadata (R1): fence the last fragment, read on
//! from what is known to be confirmed, write what is found again, and report where the ledger ends. It never changes
//! metadata: the caller closes the ledger with [`Command::Done`], which is also the only place where ensembles changed
//! during recovery appear (R11).
//!
//! Invariants: nothing is read before fewer than Aq members are unknown to be fenced (R4); every read fences (R6) and
//! goes to the ensemble as it was when recovery began (R7); an entry counts as absent only when (Wq - Aq) + 1 members
//! say so, and any other refusal leaves it unknown, which ends the recovery without an answer (R8, R9); every entry
//! that is found holds its ack quorum again before the end is reported (R10).

mod answers;
mod error;

pub use error::RecoveryError;

use super::machine::{self, LedgerWriter, Limits, WriteError};
use answers::{Answers, Verdict};
use protocol::{
    id::{EntryId, Lac},
    ledger::metadata::{BookieMember, Fragment, Hole, LedgerMetadata, LedgerState},
    mutant::Mutant,
    service::bookie::BookieError,
};
use std::collections::BTreeMap;

/// Entries that are written again at the same time.
const REWRITE_WINDOW: usize = 64;

/// An entry that a bookie holds, checksum valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its sealed size, in bytes.
    pub size: u32,
    /// The payload bytes of the ledger up to and including it.
    pub length: u64,
}

/// What happens to a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Begin; once, first.
    Start,
    /// The answer to [`Command::Fence`], after retries.
    Fenced {
        /// Who.
        member: BookieMember,
        /// The last-add-confirmed it knows.
        result: Result<Lac, BookieError>,
    },
    /// The answer to [`Command::Read`], after retries.
    Read {
        /// Who.
        member: BookieMember,
        /// What was asked for.
        entry: EntryId,
        /// The entry, or why not.
        result: Result<Found, BookieError>,
    },
    /// The answer to [`Command::Write`].
    Written {
        /// Who.
        member: BookieMember,
        /// What.
        entry: EntryId,
        /// Whether it is synced.
        result: Result<(), BookieError>,
        /// If not: bookies that could take its place, best first.
        spares: Vec<BookieMember>,
    },
}

/// What a recovery wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Fence the ledger on a bookie and ask for its last-add-confirmed.
    Fence {
        /// Whom.
        member: BookieMember,
    },
    /// Read an entry.
    Read {
        /// From whom.
        member: BookieMember,
        /// What.
        entry: EntryId,
        /// Whether the bookie must fence the ledger before it reads (R6); only a closed ledger needs no fence.
        fence: bool,
    },
    /// Write an entry that was found, with the recovery flag.
    Write {
        /// To whom.
        member: BookieMember,
        /// What.
        entry: EntryId,
    },
    /// The ledger ends here; close it so.
    Done(End),
    /// The end cannot be told now. The ledger stays IN_RECOVERY; try again later.
    Fail(RecoveryError),
}

/// Where a ledger ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its last entry; none if no entry was ever confirmed.
    pub last_entry: Option<EntryId>,
    /// Payload bytes up to and including it.
    pub length: u64,
    /// The fragments to close it with.
    pub fragments: Vec<Fragment>,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for fencing coverage.
    Fencing(Answers<Lac>),
    /// Waiting for one entry.
    Reading(EntryId, Answers<Found>),
    /// Too many entries are being written again; the next one is read when there is room.
    Full(EntryId),
    /// The end is found; waiting until everything found is safe.
    Finishing,
    /// Nothing was found above last-add-confirmed; waiting for the last confirmed entry, to learn the length.
    ReadingLast(EntryId, Answers<Found>),
    Ended,
}

/// The recovery of one ledger.
#[derive(Debug)]
pub struct LedgerRecovery {
    /// As it was when recovery began; reads go by this.
    metadata: LedgerMetadata,
    /// Writes found entries again; its metadata collects ensemble changes in memory.
    writer: LedgerWriter,
    limits: Limits,
    /// The first entry that is not known to be confirmed.
    start: EntryId,
    /// Who has answered the fence, with the last-add-confirmed it knew.
    told: BTreeMap<BookieMember, Lac>,
    phase: Phase,
}

impl LedgerRecovery {
    /// The recovery of a ledger whose writer can change no ensemble any more: it is IN_RECOVERY in metadata, or its owner
    /// has changed (R2). For a CLOSED ledger it only reads the last entry.
    ///
    /// # Panics
    /// If the metadata has no fragment.
    #[must_use]
    pub fn new(metadata: LedgerMetadata, limits: Limits) -> Self {
        let last = metadata.last_fragment().expect("a ledger has a fragment");
        let phase = Phase::Fencing(Answers::of(&last.ensemble));
        let writer = LedgerWriter::resume(metadata.clone(), Lac::NONE, limits);
        Self { metadata, writer, limits, start: EntryId(0), told: BTreeMap::new(), phase }
    }

    /// Entries from here on may have to be written again; those below are safe.
    #[must_use]
    pub fn unsafe_from(&self) -> EntryId {
        self.writer.lac().next()
    }

    /// The ensemble that found entries are written to now.
    #[must_use]
    pub fn ensemble(&self) -> Vec<BookieMember> {
        self.writer.metadata().last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default()
    }

    /// The fragments that the ledger will be closed with, as far as they are known now.
    #[must_use]
    pub fn fragments(&self) -> &[Fragment] {
        &self.writer.metadata().fragments
    }

    /// Whether this member has answered the fence.
    #[must_use]
    pub fn has_answered(&self, member: BookieMember) -> bool {
        self.told.contains_key(&member)
    }

    /// Whether copies of entries that were written again are still on their way.
    #[must_use]
    pub fn awaits_copies(&self) -> bool {
        self.writer.awaits_copies()
    }

    /// Copies that may be missing, once the end is known (rule A7). A bookie gets the entries of a fragment in order, so
    /// up to the last-add-confirmed that it knows it has them all; what it has above that, only it can tell.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        if self.metadata.is_closed() {
            return self.metadata.holes.clone();
        }
        let mut holes = self.writer.holes();
        let Some(fragment) = self.metadata.last_fragment() else { return holes };
        for member in &fragment.ensemble {
            let known = self.told.get(member).map_or(EntryId(0), |lac| lac.next());
            let from = known.max(fragment.first_entry);
            if from < self.start {
                holes.push(Hole { member: *member, entries: from.0..=self.start.0 - 1 });
            }
        }
        holes
    }

    /// Takes one event; appends what is to be done to `out`.
    pub fn on_event(&mut self, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Start => self.on_start(out),
            Event::Fenced { member, result } => self.on_fenced(member, result, out),
            Event::Read { member, entry, result } => self.on_read(member, entry, result, out),
            Event::Written { member, entry, result, spares } => {
                let event = match result {
                    Ok(()) => machine::Event::Acked { member, entry },
                    Err(error) => machine::Event::Failed { member, entry, error, spares },
                };
                if matches!(self.phase, Phase::Ended) {
                    // One copy more; the writer is closed and wants nothing done.
                    return self.writer.on_event(event, &mut Vec::new());
                }
                self.drive_writer(event, out);
            }
        }
    }

    fn on_start(&mut self, out: &mut Vec<Command>) {
        if let LedgerState::Closed { last_entry, length } = self.metadata.state {
            return match last_entry {
                Some(entry) => self.read_last(entry, out),
                None => self.done(None, length, out),
            };
        }
        let last = self.metadata.last_fragment().expect("a ledger has a fragment");
        out.extend(last.ensemble.iter().map(|m| Command::Fence { member: *m }));
    }

    fn on_fenced(&mut self, member: BookieMember, result: Result<Lac, BookieError>, out: &mut Vec<Command>) {
        if let Ok(lac) = result {
            self.told.insert(member, lac);
        }
        let Phase::Fencing(answers) = &mut self.phase else { return };
        if let Err(BookieError::Deleted(ledger)) = result {
            return self.fail(RecoveryError::Deleted(ledger), out);
        }
        answers.take(member, result);
        if self.metadata.quorum.is_fenced(answers.found().count()) {
            let answered = answers.found().copied().max().unwrap_or_default();
            self.begin_reading(answered, out);
        } else if answers.are_complete() {
            let error = answers.problem("too few bookies could be fenced");
            self.fail(error, out);
        }
    }

    /// Rule R5: whatever the bookies remember, everything before the last fragment is confirmed, because a fragment
    /// begins right after last-add-confirmed.
    fn begin_reading(&mut self, answered: Lac, out: &mut Vec<Command>) {
        let fragment_start = self.metadata.last_fragment().map_or(EntryId(0), |f| f.first_entry);
        let confirmed = match self.limits.mutants.has(Mutant::RecoverBelowFragment) {
            true => answered,
            // Of a remnant nobody knows any more what is there; it is read from its last fragment on.
            false if self.metadata.is_remnant => Lac::from_count(fragment_start.0),
            false => answered.max(Lac::from_count(fragment_start.0)),
        };
        self.start = confirmed.next();
        self.writer = LedgerWriter::resume(self.metadata.clone(), confirmed, self.limits);
        self.read(self.start, out);
    }

    fn read(&mut self, entry: EntryId, out: &mut Vec<Command>) {
        // R7: a bookie that this recovery has brought in holds nothing old, and would honestly say so.
        let ensemble = match self.limits.mutants.has(Mutant::ReadFromReplacements) {
            true => self.writer.metadata().ensemble_of(entry),
            false => self.metadata.ensemble_of(entry),
        };
        let fence = !self.metadata.is_closed() && !self.limits.mutants.has(Mutant::ReadWithoutFence);
        out.extend(ensemble.iter().map(|m| Command::Read { member: *m, entry, fence }));
        self.phase = Phase::Reading(entry, Answers::of(ensemble));
    }

    fn read_last(&mut self, entry: EntryId, out: &mut Vec<Command>) {
        self.read(entry, out);
        self.phase = Phase::ReadingLast(entry, Answers::of(self.metadata.ensemble_of(entry)));
    }

    fn on_read(
        &mut self,
        member: BookieMember,
        entry: EntryId,
        result: Result<Found, BookieError>,
        out: &mut Vec<Command>,
    ) {
        let (Phase::Reading(wanted, answers) | Phase::ReadingLast(wanted, answers)) = &mut self.phase else { return };
        if *wanted != entry {
            return;
        }
        if let Err(BookieError::Deleted(ledger)) = result {
            return self.fail(RecoveryError::Deleted(ledger), out);
        }
        answers.take(member, result);
        let verdict = answers.verdict(self.metadata.quorum, self.limits.mutants);
        let is_last = matches!(self.phase, Phase::ReadingLast(..));
        match verdict {
            Verdict::Open => {}
            Verdict::Found(found) if is_last => self.done(Some(entry), found.length, out),
            Verdict::Found(found) => {
                self.phase = Phase::Full(entry.next());
                self.drive_writer(machine::Event::Append { size: found.size, length: found.length }, out);
            }
            // A confirmed entry cannot be absent: its bookies have lost it, and the ledger must not be closed below it.
            Verdict::Absent if is_last => {
                let reason = format!("every bookie denies entry {entry}, which was confirmed");
                self.fail(RecoveryError::Unknown { reason }, out);
            }
            Verdict::Absent => {
                self.phase = Phase::Finishing;
                self.drive_writer(machine::Event::Close, out);
            }
            Verdict::Unknown(error) => self.fail(error, out),
        }
    }

    /// Steps the writer and carries its commands out; ensemble changes are granted at once, in memory (R11).
    fn drive_writer(&mut self, event: machine::Event, out: &mut Vec<Command>) {
        if matches!(self.phase, Phase::Ended | Phase::Fencing(_)) {
            return;
        }
        let mut commands = Vec::new();
        self.writer.on_event(event, &mut commands);
        for command in commands {
            match command {
                machine::Command::Send { member, entry } if self.limits.mutants.has(Mutant::SkipRewrite) => {
                    self.drive_writer(machine::Event::Acked { member, entry }, out);
                }
                machine::Command::Send { member, entry } => out.push(Command::Write { member, entry }),
                machine::Command::Confirm { .. } => {}
                machine::Command::ChangeEnsemble { .. } => {
                    let granted = machine::Event::EnsembleChanged { result: Ok(()), spares: Vec::new() };
                    self.drive_writer(granted, out);
                }
                machine::Command::Fail(error) => self.fail(rewrite_failed(error), out),
                machine::Command::Closed { last_entry, length } => self.on_all_safe(last_entry, length, out),
            }
        }
        if let Phase::Full(next) = self.phase
            && self.writer.in_flight() < REWRITE_WINDOW
        {
            self.read(next, out);
        }
    }

    fn on_all_safe(&mut self, last_entry: Option<EntryId>, length: u64, out: &mut Vec<Command>) {
        match last_entry {
            // Nothing was found above it, so nothing has told the length yet.
            Some(entry) if entry < self.start => self.read_last(entry, out),
            _ => self.done(last_entry, length, out),
        }
    }

    fn done(&mut self, last_entry: Option<EntryId>, length: u64, out: &mut Vec<Command>) {
        self.phase = Phase::Ended;
        let fragments = match self.metadata.is_closed() {
            true => self.metadata.fragments.clone(),
            false => self.writer.metadata().fragments.clone(),
        };
        out.push(Command::Done(End { last_entry, length, fragments }));
    }

    fn fail(&mut self, error: RecoveryError, out: &mut Vec<Command>) {
        self.phase = Phase::Ended;
        out.push(Command::Fail(error));
    }
}

fn rewrite_failed(error: WriteError) -> RecoveryError {
    match error {
        WriteError::Deleted(ledger) => RecoveryError::Deleted(ledger),
        WriteError::NotEnoughBookies { .. } | WriteError::OutcomeUnknown { .. } => {
            RecoveryError::Unavailable { reason: format!("found entries could not be written again: {error}") }
        }
        WriteError::Fenced(_) | WriteError::Storage { .. } | WriteError::Closed => {
            RecoveryError::Unknown { reason: format!("found entries could not be written again: {error}") }
        }
    }
}

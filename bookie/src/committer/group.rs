//! One group commit: commands in, one batch, answers out. Owns the order of the two: judged in call order, stored once,
//! answered after that.

use super::{Command, Fenced, Mend, Shared, Then, store};
use crate::{
    ledger::{Add, Ledger, Placement},
    store::{Batch, StoreError, Write},
};
use bytes::Bytes;
use protocol::{
    id::{Lac, LedgerId, LedgerKey},
    ledger::entry::SealedEntry,
    mutant::Mutant,
    service::{
        Reply,
        bookie::{AddEntry, BookieError},
    },
};
use std::time::Duration;

/// An answer that waits for the sync.
enum Pending {
    Add { called: Duration, bytes: usize, reply: Reply<(), BookieError> },
    Fence { fenced: Fenced, then: Then<Fenced> },
    Delete { ledger: LedgerId, then: Then<()> },
    Look { ledger: Ledger, then: Then<Ledger> },
    Mend { then: Then<()> },
}

/// Commands that are stored together.
pub(super) struct Group<'a> {
    shared: &'a Shared,
    batch: Batch,
    pending: Vec<Pending>,
    /// Whether something in it must be durable before it is answered.
    must_sync: bool,
}

impl<'a> Group<'a> {
    pub(super) const fn new(shared: &'a Shared) -> Self {
        let batch = Batch { writes: Vec::new(), bytes: 0 };
        Self { shared, batch, pending: Vec::new(), must_sync: false }
    }

    /// Judges a command. What is refused is answered at once, for nothing of it is stored.
    pub(super) fn take(&mut self, command: Command) {
        if !matches!(command, Command::Look { .. })
            && let Err(problem) = self.shared.health.check_store()
        {
            if matches!(command, Command::Add { .. }) {
                self.shared.metrics.add_failures.increment(1);
            }
            return command.refuse(problem);
        }
        match command {
            Command::Add { add, called, reply } => match self.add(&add) {
                // B1: without the sync an ack is a guess.
                Ok(()) if self.shared.mutants.has(Mutant::AckBeforeSync) => reply.send(Ok(())),
                Ok(()) => self.pending.push(Pending::Add { called, bytes: add.entry.bytes().len(), reply }),
                Err(problem) => {
                    self.shared.metrics.add_failures.increment(1);
                    reply.send(Err(problem));
                }
            },
            Command::Fence { ledger, key, then } => match self.fence(ledger, key) {
                // B3: a fence that a crash can lift was never there.
                Ok(fenced) if self.shared.mutants.has(Mutant::AnswerFenceBeforeSync) => then(Ok(fenced)),
                Ok(fenced) => self.pending.push(Pending::Fence { fenced, then }),
                Err(problem) => then(Err(problem)),
            },
            Command::Confirm { ledger, key, lac, reply } => reply.send(self.confirm(ledger, key, lac)),
            Command::Delete { ledger, then } => match self.delete(ledger) {
                Ok(()) => self.pending.push(Pending::Delete { ledger, then }),
                Err(problem) => then(Err(problem)),
            },
            Command::Look { ledger, then } => match self.with(ledger, |ledger| (ledger.clone(), false)) {
                Ok(ledger) => self.pending.push(Pending::Look { ledger, then }),
                Err(problem) => then(Err(problem)),
            },
            Command::Mend { mend, then } => match self.mend(mend) {
                Ok(()) => self.pending.push(Pending::Mend { then }),
                Err(problem) => then(Err(problem)),
            },
        }
    }

    /// Stores the batch, then answers.
    pub(super) fn commit(mut self) {
        let stored = if self.must_sync {
            self.take_records();
            store(self.shared, &self.batch)
        } else {
            Ok(())
        };
        if stored.is_ok() {
            self.shared.tail.extend(self.batch.entries());
        }
        for pending in std::mem::take(&mut self.pending) {
            self.answer(pending, stored.clone());
        }
        if stored.is_ok() {
            // One rise per entry of a ledger that somebody waits for; the last one is the highest.
            self.batch.entries().for_each(|e| self.shared.confirmations.raise(e.ledger(), e.lac()));
        }
    }

    /// Stores the records that no batch has carried yet; the last act of the committer.
    pub(super) fn commit_rest(mut self) {
        self.take_records();
        if !self.batch.is_empty() && self.shared.health.check_store().is_ok() {
            // Whoever told them was not promised that they are durable.
            drop(store(self.shared, &self.batch));
        }
    }

    fn take_records(&mut self) {
        let records = self.shared.ledgers.lock().take_unsaved();
        records.into_iter().for_each(|(id, record)| self.batch.push(Write::Ledger(id, record)));
    }

    fn answer(&self, pending: Pending, stored: Result<(), BookieError>) {
        let metrics = &self.shared.metrics;
        match pending {
            Pending::Add { called, bytes, reply } => {
                if stored.is_ok() {
                    metrics.adds.increment(1);
                    metrics.written.increment(bytes as u64);
                    metrics.add_latency.record(self.shared.clock.monotonic().saturating_sub(called));
                } else {
                    metrics.add_failures.increment(1);
                }
                reply.send(stored);
            }
            Pending::Fence { fenced, then } => {
                metrics.fences.increment(u64::from(stored.is_ok()));
                then(stored.map(|()| fenced));
            }
            Pending::Delete { ledger, then } => {
                metrics.deletes.increment(u64::from(stored.is_ok()));
                self.shared.tail.forget(ledger);
                self.shared.confirmations.end(ledger);
                then(stored);
            }
            // Nothing was to be stored; whether absence may be claimed is for the asker to judge.
            Pending::Look { ledger, then } => then(Ok(ledger)),
            Pending::Mend { then } => then(stored),
        }
    }

    /// Runs on a ledger, loading it first if needed. `work` says whether its record has changed.
    fn with<T>(&self, id: LedgerId, work: impl FnOnce(&mut Ledger) -> (T, bool)) -> Result<T, BookieError> {
        // This thread alone puts ledgers in and takes them out, so what is absent stays absent while it is loaded.
        let loaded = self.shared.ledgers.lock().get(id).is_some();
        if !loaded {
            let ledger = self.shared.restore(id).map_err(unknown)?;
            self.shared.ledgers.lock().insert(id, ledger);
        }
        let mut ledgers = self.shared.ledgers.lock();
        let ledger = ledgers.get_mut(id).expect("the ledger was loaded above");
        let before = cfg!(any(test, feature = "invariants")).then(|| ledger.clone());
        let (result, changed) = work(ledger);
        assert!(
            before.is_none_or(|before| ledger.goes_only_forward_from(&before)),
            "ledger {id} went back: {ledger:?}"
        );
        if changed {
            ledgers.mark_unsaved(id);
        }
        Ok(result)
    }

    fn add(&mut self, add: &AddEntry) -> Result<(), BookieError> {
        let entry = &add.entry;
        let facts = Add { key: add.key, recovery: add.recovery, entry: entry.entry(), lac: entry.lac() };
        let judged = self.with(entry.ledger(), |ledger| ((ledger.judge(&facts), ledger.record().is_none()), false));
        let (placement, is_new) = judged?;
        let placement = placement?;
        if is_new {
            self.begin(add)?;
        }
        if placement == Placement::Compare && self.is_there(entry)? {
            // It is durable, or becomes so with this batch: either way the answer after the sync is true.
            return self.with(entry.ledger(), |ledger| ((), ledger.accept(&facts)));
        }
        self.with(entry.ledger(), |ledger| ((), ledger.accept(&facts)))?;
        self.batch.push(Write::Entry(entry.clone()));
        self.must_sync = true;
        Ok(())
    }

    /// Judges the first add of a ledger that is unknown here.
    fn begin(&self, add: &AddEntry) -> Result<(), BookieError> {
        let (health, id) = (&self.shared.health, add.entry.ledger());
        if !add.recovery {
            return health.check_new_ledger().and_then(|()| health.check_unknown(id));
        }
        if health.check_unknown(id).is_err() {
            // Its fence may have been forgotten: what recovery makes known must not let the writer in again.
            self.with(id, |ledger| (ledger.fence(add.key), true))??;
        }
        Ok(())
    }

    /// Whether the same entry is stored already or stands in this batch; an error if it is another one.
    fn is_there(&self, entry: &SealedEntry) -> Result<bool, BookieError> {
        let (ledger, id) = (entry.ledger(), entry.entry());
        let there = match self.batch.entry(ledger, id) {
            Some(there) => Some(there.bytes().clone()),
            None => match self.shared.store.get(ledger, id) {
                // The store itself found the damage; there is no more to compare with than in a damaged entry.
                Err(StoreError::Damaged(_)) => Some(Bytes::new()),
                there => there.map_err(unknown)?,
            },
        };
        let Some(there) = there else { return Ok(false) };
        if there == *entry.bytes() {
            return Ok(true);
        }
        if SealedEntry::open(there, ledger, id).is_ok() {
            return Err(BookieError::Different(ledger, id));
        }
        // What is stored is damaged, so it was never served and cannot be: the good copy takes its place.
        self.shared.metrics.corrupt.increment(1);
        tracing::error!(%ledger, entry = %id, "a damaged entry is replaced by a good copy");
        Ok(false)
    }

    fn fence(&mut self, id: LedgerId, key: LedgerKey) -> Result<Fenced, BookieError> {
        let mutants = self.shared.mutants;
        let (changed, fenced) = self.with(id, |ledger| {
            // R3: also a ledger never seen here is fenced, or its delayed first add would be taken.
            if mutants.has(Mutant::IgnoreFenceOfUnknown) && ledger.record().is_none() {
                return (Ok((false, Fenced { lac: Lac::NONE, limbo: false })), false);
            }
            match ledger.fence(key) {
                Ok(changed) => {
                    let unsaved = changed && !mutants.has(Mutant::ForgetFenceAtRestart);
                    (Ok((unsaved, Fenced { lac: ledger.lac(), limbo: ledger.is_limbo() })), unsaved)
                }
                Err(problem) => (Err(problem), false),
            }
        })??;
        self.must_sync |= changed;
        Ok(fenced)
    }

    fn confirm(&self, id: LedgerId, key: LedgerKey, lac: Lac) -> Result<(), BookieError> {
        let health = &self.shared.health;
        self.with(id, |ledger| {
            // It would become known by this, and the next add of the same writer would be taken.
            let begun = if ledger.record().is_none() { health.check_unknown(id) } else { Ok(()) };
            match begun.and_then(|()| ledger.confirm(key, lac)) {
                Ok(changed) => (Ok(()), changed),
                Err(problem) => (Err(problem), false),
            }
        })??;
        self.shared.confirmations.raise(id, lac);
        Ok(())
    }

    fn mend(&mut self, mend: Mend) -> Result<(), BookieError> {
        let changed = match mend {
            // B12: what is lost as a whole is not even known to be missing.
            Mend::Suspect(..) if self.shared.mutants.has(Mutant::ForgetLostLedgers) => false,
            Mend::Suspect(id, key) => self.with(id, |ledger| match ledger.suspect(key) {
                Ok(changed) => (Ok(changed), changed),
                Err(problem) => (Err(problem), false),
            })??,
            Mend::Heal(id) => self.with(id, |ledger| {
                let changed = ledger.heal();
                (changed, changed)
            })?,
            Mend::EndLimbo(floor) => {
                // In memory it holds before limbo ends there, which until then refuses every unknown ledger.
                self.batch.push(Write::Floor(self.shared.health.raise_floor(floor)));
                self.batch.push(Write::Limbo(false));
                true
            }
        };
        self.must_sync |= changed;
        Ok(())
    }

    fn delete(&mut self, id: LedgerId) -> Result<(), BookieError> {
        let changed = self.with(id, |ledger| {
            let changed = ledger.delete();
            // B8: the tombstone outlives every restart.
            (changed, changed && !self.shared.mutants.has(Mutant::ForgetTombstoneAtRestart))
        })?;
        if changed {
            // Entries of this ledger that stand in this batch come before, so they go too.
            self.batch.push(Write::Drop(id));
            self.must_sync = true;
        }
        Ok(())
    }
}

fn unknown(problem: StoreError) -> BookieError {
    BookieError::Unknown { reason: format!("the ledger could not be read: {problem}") }
}

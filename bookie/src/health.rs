//! What the bookie takes at the moment, and why not more. Owns the one answer to "may this be added" and "may absence be
//! claimed". Keeps one invariant: a failed store stays failed until the process is started again (rule B13).

use crate::{ledger::Floor, metrics::Metrics};
use parking_lot::Mutex;
use protocol::{id::LedgerId, model::BookieState, service::bookie::BookieError};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// The most damaged ledgers that are remembered.
const MAX_DAMAGED: usize = 10_000;

/// The state of a bookie. Shared by its threads and tasks.
#[derive(Debug)]
pub(crate) struct Health {
    failed: OnceLock<String>,
    /// Set while acknowledged state is known to be lost and not healed.
    limbo: AtomicBool,
    /// The [`Floor`]; it only rises.
    floor: AtomicU64,
    /// Why it takes no new ledgers, while it is being taken out or was.
    leaving: Mutex<Option<String>>,
    /// Whether `leaving` says something.
    is_leaving: AtomicBool,
    /// Set while the disk is nearly full.
    is_full: AtomicBool,
    full: Mutex<String>,
    state: watch::Sender<BookieState>,
    /// Ledgers of which a stored entry was found damaged, until somebody looks after them.
    damaged: watch::Sender<BTreeSet<LedgerId>>,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(crate) fn new(limbo: bool, floor: Floor, metrics: Arc<Metrics>) -> Self {
        let health = Self {
            failed: OnceLock::new(),
            limbo: AtomicBool::new(limbo),
            floor: AtomicU64::new(floor.0.0),
            leaving: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            full: Mutex::default(),
            state: watch::Sender::new(BookieState::Writable),
            damaged: watch::Sender::default(),
            metrics,
        };
        health.publish();
        health
    }

    /// The store has failed: nothing is acknowledged any more.
    pub(crate) fn fail(&self, reason: String) {
        if self.failed.set(reason).is_ok() {
            self.publish();
        }
    }

    /// Why the store has failed, if it has.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// The disk is nearly full, and what to say about it; or it is not any more.
    pub(crate) fn set_full(&self, reason: Option<String>) {
        let full = reason.is_some();
        if let Some(reason) = reason {
            *self.full.lock() = reason;
        }
        if self.is_full.swap(full, Ordering::AcqRel) != full {
            self.publish();
        }
    }

    /// Everything that was lost is here again: absence counts from now on (rule B12).
    pub(crate) fn leave_limbo(&self) {
        if self.limbo.swap(false, Ordering::AcqRel) {
            self.publish();
        }
    }

    /// No unknown ledger below this one counts as new, nor below an earlier floor. Answers which floor holds now.
    pub(crate) fn raise_floor(&self, floor: Floor) -> Floor {
        let before = self.floor.fetch_max(floor.0.0, Ordering::AcqRel);
        floor.max(Floor(LedgerId(before)))
    }

    /// The bookie is being taken out or was, and what to say about it; or it is not any more.
    pub(crate) fn set_leaving(&self, reason: Option<String>) {
        let leaving = reason.is_some();
        *self.leaving.lock() = reason;
        if self.is_leaving.swap(leaving, Ordering::AcqRel) != leaving {
            self.publish();
        }
    }

    /// Something of this ledger was found damaged. Of very many such ledgers some are left to the next scrub.
    pub(crate) fn note_damage(&self, ledger: LedgerId) {
        self.metrics.corrupt.increment(1);
        self.put_back_damaged(ledger);
    }

    /// This ledger is still damaged.
    pub(crate) fn put_back_damaged(&self, ledger: LedgerId) {
        self.damaged.send_if_modified(|damaged| damaged.len() < MAX_DAMAGED && damaged.insert(ledger));
    }

    /// Follows which ledgers are damaged.
    pub(crate) fn damage(&self) -> watch::Receiver<BTreeSet<LedgerId>> {
        self.damaged.subscribe()
    }

    /// The damaged ledgers, which are looked after now.
    pub(crate) fn take_damaged(&self) -> BTreeSet<LedgerId> {
        self.damaged.send_replace(BTreeSet::new())
    }

    /// What the bookie takes.
    pub(crate) fn state(&self) -> BookieState {
        *self.state.borrow()
    }

    /// Follows what the bookie takes.
    pub(crate) fn changes(&self) -> watch::Receiver<BookieState> {
        self.state.subscribe()
    }

    /// Whether anything may be stored at all.
    pub(crate) fn check_store(&self) -> Result<(), BookieError> {
        match self.failure() {
            Some(reason) => Err(BookieError::Storage { reason: reason.into() }),
            None => Ok(()),
        }
    }

    /// Whether an entry may be added. Recovery may while the disk is full, from the reserve (rule B4).
    pub(crate) fn check_add(&self, recovery: bool) -> Result<(), BookieError> {
        self.check_store()?;
        if recovery {
            return Ok(());
        }
        if self.is_limbo() {
            return Err(BookieError::ReadOnly { reason: "it lost acknowledged state and is in limbo".into() });
        }
        if self.is_full.load(Ordering::Acquire) {
            return Err(BookieError::ReadOnly { reason: self.full.lock().clone() });
        }
        Ok(())
    }

    /// Whether a ledger may begin here. One that is here already goes on while the bookie is being taken out, so that its
    /// writer can end it in its own time.
    pub(crate) fn check_new_ledger(&self) -> Result<(), BookieError> {
        if !self.is_leaving.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = self.leaving.lock().clone().unwrap_or_default();
        Err(BookieError::ReadOnly { reason })
    }

    /// Whether the writer of a ledger that is unknown here may begin it, or whether it may have been forgotten.
    pub(crate) fn check_unknown(&self, ledger: LedgerId) -> Result<(), BookieError> {
        if self.is_limbo() {
            return Err(BookieError::ReadOnly { reason: "it lost acknowledged state and is in limbo".into() });
        }
        Floor(LedgerId(self.floor.load(Ordering::Acquire))).admit(ledger)
    }

    /// Turns a negative answer into "unknown" unless it is known to be true (rules R9, B12, B13).
    pub(crate) fn honest(&self, negative: BookieError) -> BookieError {
        let reason = match (self.failure(), self.is_limbo()) {
            (Some(reason), _) => format!("storage failed: {reason}"),
            (None, true) => "this bookie lost acknowledged state and is in limbo".into(),
            (None, false) => return negative,
        };
        match negative {
            BookieError::NoSuchEntry(..) | BookieError::NoSuchLedger(_) => BookieError::Unknown { reason },
            other => other,
        }
    }

    /// Whether the whole bookie is in limbo.
    pub(crate) fn is_limbo(&self) -> bool {
        self.limbo.load(Ordering::Acquire)
    }

    fn publish(&self) {
        let closed = self.is_full.load(Ordering::Acquire) || self.is_leaving.load(Ordering::Acquire);
        let state = match (self.failure(), self.is_limbo(), closed) {
            (Some(_), _, _) => BookieState::ReadOnly,
            (None, true, _) => BookieState::Limbo,
            (None, false, true) => BookieState::ReadOnly,
            (None, false, false) => BookieState::Writable,
        };
        self.metrics.set_state(state, self.failure().is_some());
        self.state.send_replace(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::EntryId;

    fn health(limbo: bool) -> Health {
        Health::new(limbo, Floor::NONE, Arc::new(Metrics::new()))
    }

    #[test]
    fn the_floor_never_falls_and_limbo_knows_of_nothing_new() {
        let health = health(true);
        assert!(health.check_unknown(LedgerId(u64::MAX)).is_err());
        assert_eq!(health.raise_floor(Floor(LedgerId(5))), Floor(LedgerId(5)));
        assert_eq!(health.raise_floor(Floor(LedgerId(3))), Floor(LedgerId(5)));
        health.leave_limbo();
        assert!(matches!(health.check_unknown(LedgerId(4)), Err(BookieError::ReadOnly { .. })));
        assert_eq!(health.check_unknown(LedgerId(5)), Ok(()));
    }

    #[test]
    fn a_full_disk_still_takes_recovery() {
        let health = health(false);
        assert_eq!(health.check_add(false), Ok(()));
        health.set_full(Some("10 bytes are free".into()));
        assert_eq!(health.state(), BookieState::ReadOnly);
        assert!(matches!(health.check_add(false), Err(BookieError::ReadOnly { .. })));
        assert_eq!(health.check_add(true), Ok(()));
        health.set_full(None);
        assert_eq!((health.state(), health.check_add(false)), (BookieState::Writable, Ok(())));
    }

    #[test]
    fn a_failed_store_takes_nothing_and_denies_nothing() {
        let health = health(false);
        let absent = BookieError::NoSuchEntry(LedgerId(1), EntryId(2));
        assert_eq!(health.honest(absent.clone()), absent);
        health.fail("EIO".into());
        health.fail("later".into());
        assert_eq!(health.failure(), Some("EIO"));
        assert!(matches!(health.check_add(true), Err(BookieError::Storage { .. })));
        assert!(matches!(health.honest(absent), BookieError::Unknown { .. }));
        let fenced = BookieError::Fenced(LedgerId(1));
        assert_eq!(health.honest(fenced.clone()), fenced, "what is known stays known");
        health.set_full(None);
        assert_eq!(health.state(), BookieState::ReadOnly, "space does not heal a failed store");
    }

    #[test]
    fn limbo_takes_recovery_only() {
        let health = health(true);
        assert_eq!(health.state(), BookieState::Limbo);
        assert!(matches!(health.check_add(false), Err(BookieError::ReadOnly { .. })));
        assert_eq!(health.check_add(true), Ok(()));
        let absent = BookieError::NoSuchLedger(LedgerId(1));
        assert!(matches!(health.honest(absent.clone()), BookieError::Unknown { .. }));
        health.leave_limbo();
        assert_eq!((health.state(), health.check_add(false)), (BookieState::Writable, Ok(())));
        assert_eq!(health.honest(absent.clone()), absent);
    }

    #[test]
    fn a_bookie_that_leaves_begins_no_ledger_and_goes_on_with_those_it_has() {
        let health = health(false);
        assert_eq!(health.check_new_ledger(), Ok(()));
        health.set_leaving(Some("it is being taken out".into()));
        assert_eq!((health.state(), health.check_add(false)), (BookieState::ReadOnly, Ok(())));
        assert!(matches!(health.check_new_ledger(), Err(BookieError::ReadOnly { .. })));
        health.set_full(Some("full".into()));
        health.set_leaving(None);
        assert_eq!((health.state(), health.check_new_ledger()), (BookieState::ReadOnly, Ok(())), "still full");
        health.set_full(None);
        assert_eq!(health.state(), BookieState::Writable);
    }
}

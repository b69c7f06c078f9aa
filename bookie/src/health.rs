//! What the bookie takes at the moment, and why not more. Owns the one answer to "may this be added" and "may absence be
//! claimed". Keeps one invariant: a failed store stays failed until the process is started again (rule B13).

use crate::metrics::Metrics;
use parking_lot::Mutex;
use protocol::{model::BookieState, service::bookie::BookieError};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// The state of a bookie. Shared by its threads and tasks.
#[derive(Debug)]
pub(crate) struct Health {
    failed: OnceLock<String>,
    limbo: bool,
    /// Set while the disk is nearly full.
    is_full: AtomicBool,
    full: Mutex<String>,
    state: watch::Sender<BookieState>,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(crate) fn new(limbo: bool, metrics: Arc<Metrics>) -> Self {
        let health = Self {
            failed: OnceLock::new(),
            limbo,
            is_full: AtomicBool::new(false),
            full: Mutex::default(),
            state: watch::Sender::new(BookieState::Writable),
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
        if self.limbo {
            return Err(BookieError::ReadOnly { reason: "it lost acknowledged state and is in limbo".into() });
        }
        if self.is_full.load(Ordering::Acquire) {
            return Err(BookieError::ReadOnly { reason: self.full.lock().clone() });
        }
        Ok(())
    }

    /// Turns a negative answer into "unknown" unless it is known to be true (rules R9, B12, B13).
    pub(crate) fn honest(&self, negative: BookieError) -> BookieError {
        let reason = match (self.failure(), self.limbo) {
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
    pub(crate) const fn is_limbo(&self) -> bool {
        self.limbo
    }

    fn publish(&self) {
        let full = self.is_full.load(Ordering::Acquire);
        let state = match (self.failure(), self.limbo, full) {
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
    use protocol::id::{EntryId, LedgerId};

    fn health(limbo: bool) -> Health {
        Health::new(limbo, Arc::new(Metrics::new()))
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
        assert!(matches!(health.honest(BookieError::NoSuchLedger(LedgerId(1))), BookieError::Unknown { .. }));
    }
}

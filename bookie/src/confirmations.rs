//! Those who wait for last-add-confirmed. Owns one channel per ledger that somebody waits for, and none for the others;
//! never decides what is confirmed.

use parking_lot::Mutex;
use protocol::id::{Lac, LedgerId};
use std::collections::HashMap;
use tokio::sync::watch;

/// The waiters of all ledgers.
#[derive(Debug, Default)]
pub(crate) struct Confirmations(Mutex<HashMap<LedgerId, watch::Sender<Option<Lac>>>>);

impl Confirmations {
    /// Follows a ledger from `current` on; `None` says that the ledger was deleted.
    pub(crate) fn follow(&self, ledger: LedgerId, current: Lac) -> watch::Receiver<Option<Lac>> {
        let mut waited = self.0.lock();
        // Channels that nobody listens to any more go when the next one is opened, so their number is bounded by the
        // most waiters there ever were at a time.
        if !waited.contains_key(&ledger) {
            waited.retain(|_, tx| tx.receiver_count() > 0);
        }
        let tx = waited.entry(ledger).or_insert_with(|| watch::Sender::new(Some(current)));
        raise(tx, current);
        tx.subscribe()
    }

    /// Tells the waiters of a ledger; a lower value than before changes nothing.
    pub(crate) fn raise(&self, ledger: LedgerId, lac: Lac) {
        if let Some(tx) = self.0.lock().get(&ledger) {
            raise(tx, lac);
        }
    }

    /// Tells the waiters of a ledger that it was deleted.
    pub(crate) fn end(&self, ledger: LedgerId) {
        if let Some(tx) = self.0.lock().remove(&ledger) {
            tx.send_replace(None);
        }
    }
}

fn raise(tx: &watch::Sender<Option<Lac>>, lac: Lac) {
    tx.send_if_modified(|now| {
        let higher = now.is_some_and(|now| now < lac);
        if higher {
            *now = Some(lac);
        }
        higher
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_see_rises_only_and_leave_nothing_behind() {
        let all = Confirmations::default();
        let (one, two) = (LedgerId(1), LedgerId(2));
        let mut waiter = all.follow(one, Lac::from_count(3));
        all.raise(one, Lac::from_count(2));
        assert!(!waiter.has_changed().expect("open"));
        all.raise(one, Lac::from_count(4));
        assert_eq!(*waiter.borrow_and_update(), Some(Lac::from_count(4)));
        all.raise(two, Lac::from_count(9));
        drop(waiter);
        let waiter = all.follow(two, Lac::NONE);
        assert_eq!(all.0.lock().len(), 1, "the channel without listeners is gone");
        all.end(two);
        assert_eq!(*waiter.borrow(), None);
        assert!(all.0.lock().is_empty());
    }
}

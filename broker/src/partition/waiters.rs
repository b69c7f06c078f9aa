//! Fetches that wait for a partition. Owns who is woken; a fetch that waits for many partitions registers one signal with
//! all of them, and a fetch that has gone leaves nothing behind that grows.

use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// The signal of one waiting fetch.
pub(crate) type FetchSignal = Arc<Notify>;

/// Lists shorter than this are not searched for signals that are gone.
const SMALL: usize = 16;

/// The fetches that wait for one partition.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    signals: Mutex<Signals>,
}

#[derive(Debug, Default)]
struct Signals {
    waiting: Vec<Weak<Notify>>,
    /// Search for gone signals when the list reaches this length.
    sweep_at: usize,
}

impl Waiters {
    /// Wakes `signal` at the next change, once. The caller looks at the partition again after this.
    pub(crate) fn register(&self, signal: &FetchSignal) {
        let mut signals = self.signals.lock();
        if signals.waiting.len() >= signals.sweep_at.max(SMALL) {
            signals.waiting.retain(|waiting| waiting.strong_count() > 0);
            signals.sweep_at = signals.waiting.len() * 2;
        }
        signals.waiting.push(Arc::downgrade(signal));
    }

    /// Wakes everyone who waits.
    pub(crate) fn wake(&self) {
        let waiting = std::mem::take(&mut self.signals.lock().waiting);
        for signal in waiting.iter().filter_map(Weak::upgrade) {
            signal.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registered_signal_is_woken_once() {
        let waiters = Waiters::default();
        let signal = FetchSignal::default();
        waiters.register(&signal);
        waiters.wake();
        signal.notified().await;
        assert!(waiters.signals.lock().waiting.is_empty());
    }

    #[test]
    fn fetches_that_have_gone_do_not_pile_up() {
        let waiters = Waiters::default();
        let stays = FetchSignal::default();
        waiters.register(&stays);
        for _ in 0..10_000 {
            waiters.register(&FetchSignal::default());
        }
        assert!(waiters.signals.lock().waiting.len() <= 2 * SMALL);
        waiters.wake();
        assert_eq!(Arc::weak_count(&stays), 0);
    }
}

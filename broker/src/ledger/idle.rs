//! Writers that have confirmed something and write no more: their bookies hear of it once (rule P9).
//!
//! Last-add-confirmed travels on the next entry, so while a writer is idle its bookies stand one entry behind, and with
//! them readers in other processes. Owns who waits to be looked at, and the one ticker for all of them. Never on the path
//! of an acknowledgement: a writer is put on the list at most once per tick, and told to speak by the ticker.

use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Notify;

/// Between two looks at the list: a writer speaks after one to two of these without a new entry.
const TICK: Duration = Duration::from_millis(20);

/// A writer that may be idle.
pub(super) trait MayBeIdle: Send + Sync {
    /// Tells its bookies if nothing was appended since the last look; answers whether it wants to be looked at again.
    fn look(&self) -> bool;
}

/// The writers to look at. Clones share the list.
#[derive(Clone, Default)]
pub struct IdleWriters(Arc<Inner>);

#[derive(Default)]
struct Inner {
    writers: Mutex<Vec<Weak<dyn MayBeIdle>>>,
    arrived: Notify,
}

impl IdleWriters {
    pub(super) fn watch(&self, writer: Weak<dyn MayBeIdle>) {
        let mut writers = self.0.writers.lock();
        writers.push(writer);
        if writers.len() == 1 {
            self.0.arrived.notify_one();
        }
    }

    /// Looks after the writers for ever; without it, idle writers stay silent.
    pub async fn run(&self) {
        loop {
            if self.0.writers.lock().is_empty() {
                self.0.arrived.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.look();
        }
    }

    fn look(&self) {
        let writers = std::mem::take(&mut *self.0.writers.lock());
        let again: Vec<_> = writers.into_iter().filter(|w| w.upgrade().is_some_and(|w| w.look())).collect();
        self.0.writers.lock().extend(again);
    }
}

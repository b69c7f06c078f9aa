//! The state as this node has applied it: what reads and watches see.
//!
//! Owns the lock around the state, and what goes along with every change under that lock: who is told
//! (`interest`, `watch`), and the digests that voters compare (`audit`). It never decides what a command means.
//!
//! Locks are taken in one order: the state, then one of the others, and watches are woken after all are given back.

mod audit;
mod interest;
mod watch;

#[cfg(test)]
mod tests;

pub use audit::Divergence;

use crate::state::{Batch, BatchError, Command, Replies, Reply, State};
use audit::Audits;
use interest::{Bells, Interests};
use parking_lot::{Mutex, RwLock};
use protocol::{
    id::Revision,
    service::metadata::{MetadataError, ScanPage, Versioned, WatchStream},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use watch::Watcher;

/// The most bytes of one scan page.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The applied state.
#[derive(Debug)]
pub struct Applied {
    state: RwLock<State>,
    interests: Mutex<Interests>,
    audits: Mutex<Audits>,
    closed: AtomicBool,
    index: AtomicU64,
    snapshots: AtomicU64,
    wakes: AtomicU64,
}

impl Applied {
    /// Starts from a state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self {
            state: RwLock::new(state),
            interests: Mutex::default(),
            audits: Mutex::default(),
            closed: AtomicBool::new(false),
            index: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
        }
    }

    /// Applies the commands of the log entry at `index`, and wakes the watches that they concern.
    ///
    /// # Errors
    /// The commands cannot be read; then nothing has changed.
    pub(crate) fn apply(&self, batch: &Batch, index: u64) -> Result<Replies, BatchError> {
        let commands = batch.decode()?;
        let mut state = self.state.write();
        let before = state.revision();
        state.advance(batch.elapsed_ms);
        let apply = |command| match command {
            Command::Audit { index, digest } => Reply::Audited(self.audits.lock().compare(index, digest)),
            command => state.apply(command),
        };
        let replies = Replies(commands.into_iter().map(apply).collect());
        self.audits.lock().note(index, || state.digest());
        let bells = self.moved(&state, before);
        drop(state);
        self.index.store(index, Ordering::Relaxed);
        self.ring(bells);
        Ok(replies)
    }

    /// Replaces the whole state by a snapshot's. Watches that are not as far as the snapshot end: what happened in
    /// between is not known.
    pub(crate) fn replace(&self, state: State) {
        let mut current = self.state.write();
        let bells = self.interests.lock().replaced(current.revision(), state.revision());
        self.audits.lock().forget();
        let old = std::mem::replace(&mut *current, state);
        drop(current);
        drop(old);
        self.ring(bells);
    }

    /// A copy for a snapshot.
    pub(crate) fn image(&self) -> State {
        self.state.read().image()
    }

    /// Counts a snapshot.
    pub(crate) fn snapshot_written(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        // Before the lock is taken: a watch is either woken, or opened later and sees it when it looks.
        self.closed.store(true, Ordering::Relaxed);
        let bells = self.interests.lock().all();
        self.ring(bells);
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// What a key holds.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Versioned> {
        self.state.read().get(key)
    }

    /// A page of a range. It ends early when it holds more than 4 MiB.
    #[must_use]
    pub fn scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> ScanPage {
        let state = self.state.read();
        let (items, more) = state.scan(prefix, after, limit as usize, PAGE_BYTES);
        ScanPage { items, more, revision: state.revision() }
    }

    /// The index of the last applied log entry of this run.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Snapshots written in this run.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Open watches.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.interests.lock().len()
    }

    /// How often a watch was woken in this run.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// The latest position whose digest was noted, and the digest; what a leader asks the others to compare
    /// ([`Command::Audit`]).
    #[must_use]
    pub fn noted(&self) -> Option<(u64, u64)> {
        self.audits.lock().noted()
    }

    /// The latest position at which this node's digest agreed with the leader's, and the digest; before the first
    /// comparison, the latest that was noted.
    #[must_use]
    pub fn audited(&self) -> Option<(u64, u64)> {
        self.audits.lock().audited()
    }

    /// Where this node's state turned out to differ from the leader's. It must stop then.
    #[must_use]
    pub fn divergence(&self) -> Option<Divergence> {
        self.audits.lock().divergence()
    }

    /// Everything that happens under `prefix` after `after`. If this node is not there yet, the watch waits.
    ///
    /// # Errors
    /// `Compacted` if that past is no longer kept.
    pub fn watch(self: &Arc<Self>, prefix: String, after: Revision) -> Result<WatchStream, MetadataError> {
        Watcher::open(self, prefix, after)
    }

    /// The watches that the transactions after `before` concern.
    fn moved(&self, state: &State, before: Revision) -> Bells {
        let mut interests = self.interests.lock();
        match state.history().after(before) {
            Ok(events) => interests.moved(events, before, state.revision()),
            // One batch was more than the whole history keeps.
            Err(_) => interests.replaced(before, state.revision()),
        }
    }

    fn ring(&self, bells: Bells) {
        self.wakes.fetch_add(bells.ring(), Ordering::Relaxed);
    }
}

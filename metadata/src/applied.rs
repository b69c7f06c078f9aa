//! The state as this node has applied it: what reads and watches see.
//!
//! Owns the lock around the state and the signal that it has moved. A watch is only a position in the history and this
//! signal, so it has no buffer of its own, hands over from past to present without a gap, and ends with `Compacted`
//! when it is so slow that the history has moved past it.

use crate::state::{Batch, BatchError, Replies, Since, State};
use futures::stream;
use parking_lot::RwLock;
use protocol::{
    id::Revision,
    service::metadata::{Change, MetadataError, ScanPage, Versioned, WatchEvent, WatchStream},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The most bytes of one scan page.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Events that a watch takes from the history at once.
const WATCH_BATCH: usize = 256;
/// A watch that saw nothing of its own reports progress after this many foreign transactions, so that it can resume.
const PROGRESS_EVERY: u64 = 1_024;

/// The applied state.
#[derive(Debug)]
pub struct Applied {
    state: RwLock<State>,
    moved: watch::Sender<Revision>,
    closed: CancellationToken,
    index: AtomicU64,
    snapshots: AtomicU64,
    watches: Arc<AtomicUsize>,
}

impl Applied {
    /// Starts from a state.
    #[must_use]
    pub fn new(state: State) -> Self {
        let moved = watch::Sender::new(state.revision());
        Self {
            state: RwLock::new(state),
            moved,
            closed: CancellationToken::new(),
            index: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            watches: Arc::default(),
        }
    }

    /// Applies the commands of the log entry at `index`, and wakes watches.
    ///
    /// # Errors
    /// The commands cannot be read; then nothing has changed.
    pub(crate) fn apply(&self, batch: &Batch, index: u64) -> Result<Replies, BatchError> {
        let commands = batch.decode()?;
        let mut state = self.state.write();
        let replies = Replies(commands.into_iter().map(|command| state.apply(command)).collect());
        let revision = state.revision();
        drop(state);
        self.index.store(index, Ordering::Relaxed);
        self.moved.send_replace(revision);
        Ok(replies)
    }

    /// Replaces the whole state by a snapshot's.
    pub(crate) fn replace(&self, state: State) {
        let revision = state.revision();
        *self.state.write() = state;
        self.moved.send_replace(revision);
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
        self.closed.cancel();
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
        self.watches.load(Ordering::Relaxed)
    }

    /// Everything that happens under `prefix` after `after`.
    ///
    /// # Errors
    /// `Compacted` if that past is no longer kept.
    pub fn watch(self: &Arc<Self>, prefix: String, after: Revision) -> Result<WatchStream, MetadataError> {
        if let Since::Compacted { oldest } = self.state.read().history().since(after, 0) {
            return Err(MetadataError::Compacted { asked: after, oldest });
        }
        let watcher = Watcher {
            applied: Arc::clone(self),
            moved: self.moved.subscribe(),
            prefix,
            seen: after,
            told: after,
            ready: VecDeque::new(),
            ended: false,
            _open: Open::count(&self.watches),
        };
        Ok(Box::pin(stream::unfold(watcher, Watcher::next)))
    }
}

/// Counts a watch as long as it lives.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(watches: &Arc<AtomicUsize>) -> Self {
        watches.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(watches))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One watch: a position in the history.
struct Watcher {
    applied: Arc<Applied>,
    moved: watch::Receiver<Revision>,
    prefix: String,
    /// The last revision that was taken from the history.
    seen: Revision,
    /// The last revision that the watcher was told of.
    told: Revision,
    ready: VecDeque<Arc<WatchEvent>>,
    ended: bool,
    _open: Open,
}

impl Watcher {
    async fn next(mut self) -> Option<(Result<WatchEvent, MetadataError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            while let Some(event) = self.ready.pop_front() {
                self.seen = event.revision;
                if let Some(event) = self.shown(&event) {
                    self.told = event.revision;
                    return Some((Ok(event), self));
                }
            }
            // Marked before reading, so that a change in between wakes the wait below.
            self.moved.mark_unchanged();
            let since = self.applied.state.read().history().since(self.seen, WATCH_BATCH);
            match since {
                Since::Events(events) if !events.is_empty() => self.ready = events.into(),
                Since::Events(_) => {
                    let closed = self.applied.closed.clone();
                    tokio::select! {
                        biased;
                        moved = self.moved.changed() => if moved.is_err() { return Some(self.end(closing())) },
                        () = closed.cancelled() => return Some(self.end(closing())),
                    }
                }
                Since::Compacted { oldest } => {
                    let asked = self.seen;
                    return Some(self.end(MetadataError::Compacted { asked, oldest }));
                }
            }
        }
    }

    fn end(mut self, error: MetadataError) -> (Result<WatchEvent, MetadataError>, Self) {
        self.ended = true;
        (Err(error), self)
    }

    /// What of an event lies under the prefix; `None` if nothing does and there is no need to report progress.
    fn shown(&self, event: &WatchEvent) -> Option<WatchEvent> {
        let key = |change: &Change| match change {
            Change::Put(item) => item.key.starts_with(&self.prefix),
            Change::Deleted(key) => key.starts_with(&self.prefix),
        };
        let changes: Vec<Change> = event.changes.iter().filter(|c| key(c)).cloned().collect();
        let silent = event.revision.0 - self.told.0;
        let tell = !changes.is_empty() || self.prefix.is_empty() || silent >= PROGRESS_EVERY;
        tell.then_some(WatchEvent { revision: event.revision, changes })
    }
}

fn closing() -> MetadataError {
    MetadataError::Unavailable { reason: "the metadata service is shutting down".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};
    use protocol::service::metadata::{Operation, Transaction};
    use std::time::Duration;

    fn put(applied: &Applied, key: &str) {
        let operations = vec![Operation::Put { key: key.into(), value: Bytes::from_static(b"v"), session: None }];
        let command = Command::from(Transaction { operations, ..Transaction::default() });
        applied.apply(&Batch::new(Duration::ZERO, &[command]), 1).expect("decodes");
    }

    fn revision(event: Option<Result<WatchEvent, MetadataError>>) -> u64 {
        event.expect("not ended").expect("no error").revision.0
    }

    #[tokio::test]
    async fn a_watch_goes_from_past_to_present_without_a_gap() {
        let applied = Arc::new(Applied::new(State::default()));
        put(&applied, "a/1");
        put(&applied, "b/1");
        put(&applied, "a/2");
        let mut watch = applied.watch("a/".into(), Revision(0)).expect("kept");
        assert_eq!(revision(watch.next().await), 1);
        put(&applied, "a/3");
        assert_eq!(revision(watch.next().await), 3);
        assert_eq!(revision(watch.next().await), 4);
        assert!(watch.next().now_or_never().is_none());
        put(&applied, "a/4");
        assert_eq!(revision(watch.next().await), 5);
        assert_eq!(applied.watches(), 1);
        drop(watch);
        assert_eq!(applied.watches(), 0);
    }

    #[tokio::test]
    async fn a_silent_watch_reports_progress_and_a_slow_one_is_ended() {
        let applied = Arc::new(Applied::new(State::default()));
        let mut watch = applied.watch("a/".into(), Revision(0)).expect("kept");
        for _ in 0..PROGRESS_EVERY {
            put(&applied, "b");
        }
        let progress = watch.next().await.expect("not ended").expect("no error");
        assert_eq!(progress, WatchEvent { revision: Revision(PROGRESS_EVERY), changes: vec![] });
        for _ in 0..70_000 {
            put(&applied, "b");
        }
        let mut last = watch.next().await;
        while let Some(Ok(_)) = last {
            last = watch.next().await;
        }
        assert!(matches!(last, Some(Err(MetadataError::Compacted { .. }))), "{last:?}");
        assert!(watch.next().await.is_none());
        assert!(matches!(applied.watch(String::new(), Revision(1)), Err(MetadataError::Compacted { .. })));
    }

    #[tokio::test]
    async fn watches_end_at_shutdown() {
        let applied = Arc::new(Applied::new(State::default()));
        let mut watch = applied.watch(String::new(), Revision(0)).expect("kept");
        applied.close();
        assert!(matches!(watch.next().await, Some(Err(MetadataError::Unavailable { .. }))));
    }
}

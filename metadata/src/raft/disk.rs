//! The one writer of the log: appends, votes, truncations and purges happen in the order in which they are handed over, on
//! a thread of their own. Appends that wait together are written together, with one sync.
//!
//! Owns the order, and the answer to "what is durable?". After a failure nothing is written any more: what comes later
//! would follow a gap.

use super::{
    LogId, TypeConfig,
    store::{Store, StoreError, encode},
    thread,
};
use openraft::{Entry, storage::LogFlushed};
use parking_lot::Mutex;
use protocol::runtime::{Clock, SystemClock};
use std::{
    sync::{Arc, Weak, mpsc},
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// A single write, and who waits for it.
type Write = (Box<dyn FnOnce(&Store) -> Result<(), StoreError> + Send>, oneshot::Sender<Result<(), StoreError>>);

enum Job {
    /// Entries, and whom to tell when they are durable: nobody, if raft went on at once.
    Append(Vec<Entry<TypeConfig>>, Option<LogFlushed<TypeConfig>>),
    Other(Write),
}

/// How far the disk is.
#[derive(Debug, Clone)]
struct Progress {
    /// The last durable entry of all that were ever appended. It only grows: a log that was truncated continues in a
    /// later term.
    durable: Option<LogId>,
    /// Why nothing is written any more.
    failure: Option<StoreError>,
}

/// The way to the writer, which ends when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Disk {
    jobs: mpsc::Sender<Job>,
    progress: watch::Receiver<Progress>,
    slip: Arc<Slip>,
}

/// What both sides write on.
#[derive(Default)]
struct Slip {
    /// Real time: a disk knows no other.
    clock: SystemClock,
    /// What is to be noted as committed beside the next entries.
    committed: Mutex<Option<LogId>>,
    /// When the write that is under way began.
    began: Mutex<Option<Duration>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}

impl Disk {
    /// Starts the writer of a database that holds the log up to `last`. It keeps nobody from closing the database. If the
    /// end of the log could not be read, nothing is written.
    pub(super) fn of(store: &Arc<Store>, last: Result<Option<LogId>, StoreError>) -> Self {
        let (jobs, waiting) = mpsc::channel();
        let (durable, failure) = last.map_or_else(|failure| (None, Some(failure)), |last| (last, None));
        let (told, progress) = watch::channel(Progress { durable, failure });
        let slip = Arc::new(Slip::default());
        let writer = Writer { store: Arc::downgrade(store), told, slip: Arc::clone(&slip) };
        let started = std::thread::Builder::new().name("metadata-log".into()).spawn(move || writer.run(&waiting));
        if let Err(problem) = started {
            // The writer is gone with the closure, and every write says so.
            tracing::error!(%problem, "the system gives no thread for the metadata log");
        }
        Self { jobs, progress, slip }
    }

    /// Appends entries; `done` is told when they are durable.
    pub(super) fn append(
        &self,
        entries: Vec<Entry<TypeConfig>>,
        done: Option<LogFlushed<TypeConfig>>,
    ) -> Result<(), StoreError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        self.jobs.send(Job::Append(entries, done)).map_err(|_| gone())
    }

    /// Notes how far the log is committed, beside the next entries that are written: alone it is not worth a write, and
    /// raft's thread would wait for the sync that is under way.
    pub(super) fn note(&self, committed: LogId) {
        *self.slip.committed.lock() = Some(committed);
    }

    /// Does another write, after everything that was handed over before it.
    pub(super) async fn write(
        &self,
        write: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (done, written) = oneshot::channel();
        self.jobs.send(Job::Other((Box::new(write), done))).map_err(|_| gone())?;
        written.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Waits until this entry, and so everything before it, is durable.
    pub(super) async fn durable(&self, entry: LogId) -> Result<(), StoreError> {
        let mut progress = self.progress.clone();
        let reached =
            progress.wait_for(|p| p.durable >= Some(entry) || p.failure.is_some()).await.map_err(|_| gone())?;
        reached.failure.clone().map_or(Ok(()), Err)
    }

    /// Why nothing is written any more, if so.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.progress.borrow().failure.clone()
    }

    /// How long the write that is under way has taken.
    pub(super) fn busy(&self) -> Duration {
        let began = *self.slip.began.lock();
        began.map_or(Duration::ZERO, |began| self.slip.clock.monotonic().saturating_sub(began))
    }
}

fn gone() -> StoreError {
    StoreError::Malformed { what: "a write", reason: "the thread that writes the log has ended".into() }
}

/// What runs on the thread.
struct Writer {
    store: Weak<Store>,
    told: watch::Sender<Progress>,
    slip: Arc<Slip>,
}

impl Writer {
    fn run(self, waiting: &mpsc::Receiver<Job>) {
        thread::go_first();
        let mut next = waiting.recv().ok();
        while let Some(job) = next.take() {
            *self.slip.began.lock() = Some(self.slip.clock.monotonic());
            match job {
                Job::Append(entries, done) => next = self.append((entries, done), waiting),
                Job::Other((write, done)) => {
                    // Whoever handed it over may have given up.
                    let _ = done.send(self.attempt(|store| write(store)));
                }
            }
            *self.slip.began.lock() = None;
            if next.is_none() {
                next = waiting.recv().ok();
            }
        }
    }

    /// Appends the first entries and those that wait directly behind them; the job after these, if one waits already.
    fn append(
        &self,
        (mut entries, done): (Vec<Entry<TypeConfig>>, Option<LogFlushed<TypeConfig>>),
        waiting: &mpsc::Receiver<Job>,
    ) -> Option<Job> {
        let mut waiters = Vec::from_iter(done);
        let mut next = None;
        while let Ok(job) = waiting.try_recv() {
            match job {
                Job::Append(more, done) => {
                    entries.extend(more);
                    waiters.extend(done);
                }
                other => {
                    next = Some(other);
                    break;
                }
            }
        }
        let last = entries.last().map(|entry| entry.log_id);
        let encoded = entries.iter().map(|entry| (entry.log_id.index, encode(entry))).collect();
        let committed = self.slip.committed.lock().take();
        let written = self.attempt(|store| store.append(encoded, committed));
        if written.is_ok() {
            self.told.send_modify(|progress| progress.durable = progress.durable.max(last));
        }
        for waiter in waiters {
            waiter.log_io_completed(written.clone().map_err(std::io::Error::other));
        }
        next
    }

    /// Writes, unless an earlier write has failed.
    fn attempt(&self, write: impl FnOnce(&Store) -> Result<(), StoreError>) -> Result<(), StoreError> {
        if let Some(failure) = self.told.borrow().failure.clone() {
            return Err(failure);
        }
        let written = self.store.upgrade().ok_or_else(gone).and_then(|store| write(&store));
        if let Err(problem) = &written {
            tracing::error!(%problem, "the metadata log cannot be written");
            self.told.send_modify(|progress| progress.failure = Some(problem.clone()));
        }
        written
    }
}

//! Group commit: the one thread that changes anything.
//!
//! It takes whatever was called during the last sync, judges it in call order against the ledgers, puts all of it into
//! one synced write, and then answers. There is no timer: when nothing waits, an add costs one sync. Because the thread
//! is alone, checking a fence and accepting an add is one step, and nothing is answered before it is durable.
//!
//! Invariants: a command is answered only after everything called before it is durable; after a failed write nothing is
//! acknowledged any more (rule B13).

mod group;
mod queue;

use crate::{
    confirmations::Confirmations,
    health::Health,
    holdings,
    ledger::{Floor, Ledger, LedgerMap},
    metrics::Metrics,
    store::{EntryStore, StoreError},
    tail::Tail,
};
use bytes::Bytes;
use group::Group;
use parking_lot::Mutex;
use protocol::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    ledger::entry::SealedEntry,
    mutant::{Mutant, Mutants},
    runtime::Clock,
    service::{
        Reply,
        bookie::{AddEntry, BookieError},
    },
};
use queue::{Queue, Rejected, Taken};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// What happens when a command is done. Called on the committer's thread: it must not block.
pub(crate) type Then<T> = Box<dyn FnOnce(Result<T, BookieError>) + Send>;

/// A fence that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fenced {
    /// The highest last-add-confirmed that is known here.
    pub(crate) lac: Lac,
    /// State of this ledger was lost, so a higher one may have been known once (rule B12).
    pub(crate) limbo: bool,
}

/// A step of a bookie that lost acknowledged state and finds it again (rule B12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mend {
    /// State of this ledger may have been lost.
    Suspect(LedgerId, LedgerKey),
    /// What was lost of this ledger is here again.
    Heal(LedgerId),
    /// No ledger is left that lost anything; below the floor no unknown ledger is taken for a new one.
    EndLimbo(Floor),
}

/// Work for the committer.
pub(crate) enum Command {
    /// Stores an entry whose checksum was verified.
    Add { add: AddEntry, called: Duration, reply: Reply<(), BookieError> },
    /// Fences a ledger.
    Fence { ledger: LedgerId, key: LedgerKey, then: Then<Fenced> },
    /// Takes note of a confirmation.
    Confirm { ledger: LedgerId, key: LedgerKey, lac: Lac, reply: Reply<(), BookieError> },
    /// Deletes a ledger.
    Delete { ledger: LedgerId, then: Then<()> },
    /// Looks at a ledger, after everything called before.
    Look { ledger: LedgerId, then: Then<Ledger> },
    /// Notes what was lost or found again.
    Mend { mend: Mend, then: Then<()> },
}

impl Command {
    /// Whether it may use the queue's reserve.
    const fn is_reserved(&self) -> bool {
        match self {
            Self::Add { add, .. } => add.recovery,
            Self::Fence { .. } | Self::Confirm { .. } | Self::Delete { .. } => true,
            Self::Look { .. } | Self::Mend { .. } => true,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Add { add, .. } => add.entry.bytes().len(),
            Self::Fence { .. } | Self::Confirm { .. } | Self::Delete { .. } => 0,
            Self::Look { .. } | Self::Mend { .. } => 0,
        }
    }

    /// Answers without doing it.
    fn refuse(self, problem: BookieError) {
        match self {
            Self::Add { reply, .. } | Self::Confirm { reply, .. } => reply.send(Err(problem)),
            Self::Fence { then, .. } => then(Err(problem)),
            Self::Delete { then, .. } | Self::Mend { then, .. } => then(Err(problem)),
            Self::Look { then, .. } => then(Err(problem)),
        }
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Add { .. } => "Add",
            Self::Fence { .. } => "Fence",
            Self::Confirm { .. } => "Confirm",
            Self::Delete { .. } => "Delete",
            Self::Look { .. } => "Look",
            Self::Mend { .. } => "Mend",
        })
    }
}

/// What the committer works on, shared with those who read.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn EntryStore>,
    pub(crate) ledgers: Arc<Mutex<LedgerMap>>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) confirmations: Arc<Confirmations>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The number of the last batch that was synced.
    pub(crate) synced: Arc<AtomicU64>,
    /// Bugs put back on purpose; none outside of tests.
    pub(crate) mutants: Mutants,
}

impl Shared {
    /// A ledger as storage has it, for a ledger that is not in memory.
    pub(crate) fn restore(&self, id: LedgerId) -> Result<Ledger, StoreError> {
        let record = self.store.ledger(id)?;
        // Entries never exist without a record: both are written at once.
        let last = if record.is_some() { self.last(id)? } else { None };
        let last = match last {
            // A damaged entry still says that its place is taken; its confirmation is not trusted.
            Some((entry, bytes)) => match SealedEntry::open(bytes, id, entry) {
                Ok(sealed) => Some((entry, sealed.lac())),
                Err(problem) => {
                    self.metrics.corrupt.increment(1);
                    tracing::error!(ledger = %id, %entry, %problem, "a stored entry is damaged");
                    Some((entry, Lac::NONE))
                }
            },
            None => None,
        };
        Ok(Ledger::restore(id, record, last))
    }

    /// The highest entry of a ledger. If the store finds its value damaged, its place is still taken: without that a
    /// ledger with a damaged end could never be healed.
    fn last(&self, id: LedgerId) -> Result<Option<(EntryId, Bytes)>, StoreError> {
        match self.store.last(id) {
            Err(StoreError::Damaged(_)) => {
                let listed = holdings::list(&*self.store, id, EntryId(0), usize::MAX)?;
                Ok(listed.runs.last().map(|run| (EntryId(*run.end()), Bytes::new())))
            }
            last => last,
        }
    }
}

/// The handle of the committer's thread.
#[derive(Debug)]
pub(crate) struct Committer {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread. `queue_bytes` bounds what waits, `batch_bytes` one synced write.
    pub(crate) fn start(shared: Shared, queue_bytes: usize, batch_bytes: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(queue_bytes));
        let metrics = Arc::clone(&shared.metrics);
        let thread = std::thread::Builder::new().name("bookie-commit".into()).spawn({
            let queue = Arc::clone(&queue);
            move || run(&shared, &queue, batch_bytes)
        })?;
        Ok(Self { queue, metrics, thread: Mutex::new(Some(thread)) })
    }

    /// A committer without a thread: a simulator calls [`Committer::step`] when it wants a group commit.
    #[cfg(feature = "testing")]
    pub(crate) fn inline(metrics: Arc<Metrics>, queue_bytes: usize) -> Self {
        Self { queue: Arc::new(Queue::new(queue_bytes)), metrics, thread: Mutex::new(None) }
    }

    /// Carries out what waits as one group commit. For committers without a thread.
    #[cfg(feature = "testing")]
    pub(crate) fn step(&self, shared: &Shared, batch_bytes: usize) {
        if self.is_busy()
            && let Some(taken) = self.queue.take(batch_bytes)
        {
            carry_out(shared, &self.queue, taken);
        }
    }

    /// Gives up what waits, as a process does that dies. For committers without a thread.
    #[cfg(feature = "testing")]
    pub(crate) fn abandon(&self) {
        self.queue.abandon();
    }

    /// Makes a call. It is answered through the command, also when it is not taken.
    pub(crate) fn call(&self, command: Command) {
        let size = command.size();
        if let Err((command, rejected)) = self.queue.push(command, size) {
            if matches!(command, Command::Add { .. }) {
                self.metrics.add_failures.increment(1);
            }
            let reason = match rejected {
                Rejected::Full => "too many bytes are waiting to be written",
                Rejected::Closed => "the bookie is stopping",
            };
            command.refuse(BookieError::Unavailable { reason: reason.into() });
        }
    }

    /// Whether calls were made that are not answered yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.queue.in_flight() > 0
    }

    /// Answers what was called, stores what is left, and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take() {
            // A panic was noted by the guard of the thread.
            drop(thread.join());
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Nobody can call any more: the thread ends when it has answered what was called.
        self.queue.close();
    }
}

/// Notes that the committer is gone, however it went.
struct Gone<'a>(&'a Shared, &'a Queue);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the committer panicked; the bookie acknowledges nothing until it is started again");
            self.0.health.fail("the committer panicked".into());
        }
        self.1.abandon();
    }
}

fn run(shared: &Shared, queue: &Queue, batch_bytes: usize) {
    let gone = Gone(shared, queue);
    while let Some(taken) = queue.take(batch_bytes) {
        carry_out(shared, queue, taken);
    }
    Group::new(shared).commit_rest();
    shared.metrics.queue_bytes.set(0.0);
    drop(gone);
}

/// One group commit.
fn carry_out(shared: &Shared, queue: &Queue, taken: Taken) {
    let mut group = Group::new(shared);
    taken.commands.into_iter().for_each(|command| group.take(command));
    group.commit();
    queue.done(taken.bytes);
    shared.metrics.queue_bytes.set(queue.in_flight() as f64);
    shared.ledgers.lock().trim();
}

/// Stores a batch and notes how long it took, or that the store has failed.
fn store(shared: &Shared, batch: &crate::store::Batch) -> Result<(), BookieError> {
    let from = shared.clock.monotonic();
    match shared.store.commit(batch) {
        Ok(number) => {
            shared.metrics.sync_latency.record(shared.clock.monotonic().saturating_sub(from));
            shared.metrics.batch_bytes.record(batch.bytes as f64);
            shared.synced.store(number, Ordering::Release);
            Ok(())
        }
        Err(problem) => {
            let reason = problem.to_string();
            tracing::error!(%problem, "a write failed; the bookie acknowledges nothing until it is started again");
            // B13: what a failed sync has left behind nobody knows.
            if !shared.mutants.has(Mutant::GoOnAfterFailedSync) {
                shared.health.fail(reason.clone());
            }
            Err(BookieError::Storage { reason })
        }
    }
}

#[cfg(test)]
mod tests;

//! A partition, in the hands of its owner at one epoch.
//!
//! [`log`] is the machine (offsets, producers, answers), [`head`] the ledger being written, [`validate`] the rules for
//! batches, [`producer_state`] those for sequences. This file holds the state and its one lock; [`append`] is the path of
//! a write, [`transition`] creates, rolls and closes heads, [`relocate`] ends them for better bookies, [`open`] takes over and recovers, [`read`] and [`offsets`]
//! serve readers, [`trim`] moves the log start.
//!
//! The lock is short: nothing waits under it, and answers and wake-ups go out after it is released. Entries are handed to
//! the ledger's writer under it; the writer never calls back from inside that, and brings its events one at a time.

mod append;
mod head;
pub mod log;
mod offsets;
mod open;
pub mod producer_state;
mod read;
mod relocate;
mod transition;
mod trim;
pub mod validate;
mod waiters;

pub(crate) use read::{Reading, Want};
pub(crate) use waiters::FetchSignal;

use crate::{
    budget::Permit,
    context::{Context, TopicHandle},
    ledger::LedgerEvent,
    managed_ledger::{LedgerList, ListView, Tail},
};
use head::Head;
use log::{LogAnswer, PartitionLog};
use parking_lot::Mutex;
use producer_state::ProducerTable;
use protocol::{
    id::{LeaderEpoch, LedgerId, NodeId, Offset, Timestamp},
    model::Owner,
    service::{
        Reply,
        broker::{AppendError, Appended, NotServed, PartitionStatus},
    },
    topic::PartitionId,
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use waiters::Waiters;

/// What may be done with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Being taken over: nothing yet.
    Opening,
    /// Everything.
    Serving,
    /// A write failed and the own ledger is being recovered: reads of what was confirmed.
    Recovering,
    /// The broker is stopping: what was accepted is written, reads go on.
    Draining,
    /// Nothing any more.
    Closed(NotServed),
}

/// Whoever waits for an append.
struct Waiter {
    reply: Reply<Appended, AppendError>,
    permit: Permit,
    records: u32,
    since: Duration,
}

/// A change of the head that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    CreateHead,
    Roll,
    Recover,
}

/// What to do once the lock is released.
#[derive(Default)]
struct Outbox {
    answers: Vec<LogAnswer<Waiter>>,
    wake: bool,
    work: Option<Work>,
}

/// The state behind the lock.
struct Core {
    phase: Phase,
    log: PartitionLog<Waiter>,
    head: Option<Head>,
    /// A task is changing the head: nothing is sent meanwhile.
    paused: bool,
    /// A task prepares a roll; the head is still written.
    rolling: bool,
    /// Do not try to roll before this moment.
    roll_after: Duration,
    /// Do not end the head for better bookies before this moment.
    relocate_after: Duration,
    /// The broker is stopping; a recovery leads back to draining, not to serving.
    draining: bool,
    last_append: Option<Timestamp>,
}

/// A partition.
pub(crate) struct Partition {
    id: PartitionId,
    owner: Owner,
    epoch: LeaderEpoch,
    topic: Arc<TopicHandle>,
    context: Arc<Context>,
    list: OnceLock<Arc<LedgerList>>,
    tail: Arc<Tail>,
    core: Mutex<Core>,
    /// The high watermark, for readers that do not take the lock; -1 while nothing may be read.
    readable_to: AtomicI64,
    waiters: Waiters,
    /// Told whenever appends were answered; for draining.
    progress: Notify,
}

impl Partition {
    pub(crate) fn new(
        id: PartitionId,
        owner: Owner,
        epoch: LeaderEpoch,
        topic: Arc<TopicHandle>,
        context: Arc<Context>,
    ) -> Arc<Self> {
        let core = Core {
            phase: Phase::Opening,
            log: PartitionLog::new(Offset(0), ProducerTable::default()),
            head: None,
            paused: false,
            rolling: false,
            roll_after: Duration::ZERO,
            relocate_after: Duration::ZERO,
            draining: false,
            last_append: None,
        };
        Arc::new(Self {
            id,
            owner,
            epoch,
            topic,
            context,
            list: OnceLock::new(),
            tail: Arc::default(),
            core: Mutex::new(core),
            readable_to: AtomicI64::new(-1),
            waiters: Waiters::default(),
            progress: Notify::new(),
        })
    }

    pub(crate) const fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Whether the takeover has ended.
    pub(crate) fn is_open(&self) -> bool {
        self.core.lock().phase != Phase::Opening
    }

    /// Stops serving; everyone who waits hears why.
    pub(crate) fn close(self: &Arc<Self>, why: NotServed) {
        self.with(|core, out| {
            if matches!(core.phase, Phase::Closed(_)) {
                return;
            }
            tracing::info!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %why, "partition closed");
            if core.phase != Phase::Opening {
                self.context.metrics.open_partitions.decrement(1);
            }
            core.phase = Phase::Closed(why);
            core.head = None;
            core.log.fail("the partition moved to another owner", &mut out.answers);
            self.readable_to.store(-1, Ordering::Release);
            out.wake = true;
        });
    }

    /// Closes because the metadata service shows another owner.
    fn lose(self: &Arc<Self>, owner: Option<NodeId>, epoch: LeaderEpoch) {
        self.close(NotServed::NotOwner { owner, epoch });
    }

    /// The list of ledgers; there once the takeover has read it.
    fn list(&self) -> Option<&Arc<LedgerList>> {
        self.list.get()
    }

    fn view(&self) -> Arc<ListView> {
        self.list().map_or_else(Arc::default, |list| list.view())
    }

    /// Why nothing can be read.
    fn not_readable(&self) -> NotServed {
        match &self.core.lock().phase {
            Phase::Closed(why) => why.clone(),
            _ => NotServed::Opening,
        }
    }

    /// The high watermark, or why there is none.
    fn high_watermark(&self) -> Result<Offset, NotServed> {
        match self.readable_to.load(Ordering::Acquire) {
            -1 => Err(self.not_readable()),
            offset => Ok(Offset(offset)),
        }
    }

    /// Compares the epoch a client believes in with ours.
    fn check_epoch(&self, claimed: Option<LeaderEpoch>) -> Result<(), NotServed> {
        let current = self.epoch;
        match claimed {
            Some(claimed) if claimed < current => Err(NotServed::FencedEpoch { current }),
            Some(claimed) if claimed > current => Err(NotServed::UnknownEpoch { current }),
            _ => Ok(()),
        }
    }

    /// State for people; nothing while the takeover goes on.
    pub(crate) fn status(&self) -> Option<PartitionStatus> {
        let high_watermark = self.high_watermark().ok()?;
        let view = self.view();
        let core = self.core.lock();
        let head = core.head.as_ref();
        let copies = head.map_or_else(
            || view.closed.last().map_or(0, |l| l.ledger.quorum.write() as u8),
            |head| head.metadata().quorum.write() as u8,
        );
        Some(PartitionStatus {
            partition: self.id,
            topic: self.topic.name.clone(),
            epoch: self.epoch,
            log_start: view.log_start,
            high_watermark,
            bytes: view.bytes() + head.map_or(0, |h| h.size().bytes),
            ledgers: view.closed.len() as u32 + u32::from(head.is_some()),
            copies,
            last_append: core.last_append,
        })
    }

    /// Runs a change under the lock, sends what can be sent, and then, without the lock, answers and wakes.
    fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut Core, &mut Outbox) -> R) -> R {
        let mut out = Outbox::default();
        let result = {
            let mut core = self.core.lock();
            let result = change(&mut core, &mut out);
            self.pump(&mut core, &mut out);
            result
        };
        self.deliver(out);
        result
    }

    /// Takes an event of the ledger `ledger`.
    fn on_event(self: &Arc<Self>, ledger: LedgerId, event: LedgerEvent) {
        self.with(|core, out| self.take_event(core, ledger, event, out));
    }

    fn deliver(self: &Arc<Self>, out: Outbox) {
        if !out.answers.is_empty() {
            self.answer(out.answers);
        }
        if out.wake {
            self.waiters.wake();
        }
        if let Some(work) = out.work {
            self.progress.notify_waiters();
            self.start(work);
        }
    }
}

/// What tests look at beside the answers.
#[cfg(test)]
impl Partition {
    /// The high watermark, once the partition is open.
    pub(crate) fn high_watermark_for_tests(&self) -> Option<Offset> {
        self.high_watermark().ok()
    }

    /// The settings in force.
    pub(crate) fn settings_for_tests(&self) -> Arc<protocol::settings::TopicSettings> {
        self.topic.settings.load_full()
    }

    /// The members of all closed ledgers, as readers would ask them.
    pub(crate) fn closed_members_for_tests(&self) -> Vec<protocol::ledger::metadata::BookieMember> {
        let view = self.view();
        let fragments = view.closed.iter().flat_map(|l| l.ledger.fragments.iter());
        fragments.flat_map(|f| f.ensemble.iter().copied()).collect()
    }

    /// Whether appends are accepted.
    pub(crate) fn takes_appends_for_tests(&self) -> bool {
        self.core.lock().phase == Phase::Serving
    }
}

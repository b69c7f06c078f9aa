//! Changes of the head: the first ledger, the roll to the next one, the end of the last one.
//!
//! Each ends in one metadata transaction. Before a head is ended, the metadata service has proven that it answers (it
//! issued the next ledger's id): while it is silent, the head simply goes on. Appends queue meanwhile.

use super::{Core, Outbox, Partition, Phase, Work, head::Head};
use crate::{
    ledger::create::NewLedger,
    ledger::{LedgerAppender, LedgerEnd, WriteError, new_ledger},
    managed_ledger::{HeadStore, LedgerList, ListError},
};
use protocol::{
    id::{Lac, LedgerId, LedgerKey, Offset},
    ledger::quorum::Quorum,
    model::{BookieRecord, BookieState, HeadLedger, Sequence},
    runtime::TaskKind,
    service::{broker::AppendError, directory::BookieDirectory, metadata::MetadataError},
};
use std::{sync::Arc, time::Duration};

/// The pause after a roll that could not begin.
const ROLL_PAUSE: Duration = Duration::from_secs(5);
/// The first and the longest pause between attempts to write a closed head down.
const CLOSE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why there is no new head.
#[derive(Debug, thiserror::Error)]
enum HeadError {
    #[error("{available} bookies can be written, {required} are needed")]
    TooFewBookies { available: usize, required: usize },
    #[error(transparent)]
    List(#[from] ListError),
}

impl From<MetadataError> for HeadError {
    fn from(problem: MetadataError) -> Self {
        Self::List(problem.into())
    }
}

impl HeadError {
    fn to_append_error(&self) -> AppendError {
        match *self {
            Self::TooFewBookies { available, required } => AppendError::NotEnoughReplicas { available, required },
            Self::List(ref problem) => {
                AppendError::Unavailable { reason: format!("no ledger could be created: {problem}") }
            }
        }
    }
}

impl Partition {
    /// Starts work that takes time.
    pub(super) fn start(self: &Arc<Self>, work: Work) {
        let partition = Arc::clone(self);
        let stopping = self.context.tasks.stopping();
        let (name, run): (_, futures::future::BoxFuture<'static, ()>) = match work {
            Work::CreateHead => ("create ledger", Box::pin(async move { partition.create_head().await })),
            Work::Roll => ("roll ledger", Box::pin(async move { partition.roll().await })),
            Work::Recover => ("recover ledger", Box::pin(async move { partition.recover_own().await })),
        };
        self.context.tasks.spawn(TaskKind::Background, name, async move {
            tokio::select! {
                () = run => {}
                () = stopping.cancelled() => {}
            }
            Ok(())
        });
    }

    /// The first ledger, or the first one after a recovery.
    async fn create_head(self: &Arc<Self>) {
        let Some(list) = self.list().map(Arc::clone) else { return };
        let base = self.core.lock().log.high_watermark();
        let created = async {
            self.enough_bookies()?;
            let id = LedgerId(self.context.metadata.next_number(Sequence::Ledger).await?);
            let head = self.head_ledger(id, base)?;
            list.install_head(&head).await?;
            Ok(head)
        };
        match created.await {
            Ok(head) => self.with(|core, out| self.begin_head(core, &list, &head, out)),
            Err(HeadError::List(ListError::Unclosed(unheard))) => self.recover_unheard(unheard),
            Err(problem) => self.refuse_queue(&problem),
        }
    }

    /// An earlier attempt to create a head took effect although its answer was lost: it is recovered like any head whose
    /// writer is gone, and whoever waits is told to try again (rule L4).
    fn recover_unheard(self: &Arc<Self>, unheard: LedgerId) {
        tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, ledger = %unheard, "a ledger was created unheard; recovering");
        self.with(|core, out| {
            if core.phase.writes() {
                let reason = format!("ledger {unheard} was created unheard and is being recovered");
                core.log.refuse_queue(&AppendError::Unavailable { reason }, &mut out.answers);
                (core.phase, core.paused, core.rolling) = (Phase::Recovering, true, false);
                out.work = Some(Work::Recover);
            }
        });
    }

    /// The quorum that a new ledger should have; refuses before a ledger id is spent.
    fn enough_bookies(&self) -> Result<Quorum, HeadError> {
        let live = self.context.roster.live();
        let available = live.iter().filter(|b| b.state == BookieState::Writable).count();
        let min_insync = usize::from(self.topic.settings.load().min_insync);
        match self.topic.quorum(&self.context) {
            Ok(quorum) if quorum.is_acked(available) => Ok(quorum),
            Ok(quorum) => Err(HeadError::TooFewBookies { available, required: quorum.ack() }),
            Err(_) => Err(HeadError::TooFewBookies { available, required: min_insync }),
        }
    }

    fn head_ledger(&self, id: LedgerId, base_offset: Offset) -> Result<HeadLedger, HeadError> {
        let wanted = self.enough_bookies()?;
        let bookies = self.trusted_bookies(wanted);
        let new =
            NewLedger { id, key: LedgerKey(rand::random()), wanted, bookies: &bookies, now: self.context.clock.wall() };
        let mut ledger =
            new_ledger(&new).map_err(|e| HeadError::TooFewBookies { available: e.available, required: e.required })?;
        ledger.wanted_write = self.topic.replication_factor.max(1);
        Ok(HeadLedger { ledger, base_offset, epoch: self.epoch })
    }

    /// The live bookies without those that failed a moment ago, if the others are enough for all copies.
    fn trusted_bookies(&self, wanted: Quorum) -> Vec<BookieRecord> {
        let live = self.context.roster.live();
        let now = self.context.clock.monotonic();
        let is_trusted = |b: &&BookieRecord| !self.context.ledgers.suspects.has(b.member, now);
        let trusted: Vec<_> = live.iter().filter(is_trusted).cloned().collect();
        let writable = trusted.iter().filter(|b| b.state == BookieState::Writable).count();
        if writable >= wanted.write() { trusted } else { live }
    }

    /// Opens the writer of an installed head; it begins with a checkpoint, so that no takeover needs older ledgers.
    fn begin_head(self: &Arc<Self>, core: &mut Core, list: &Arc<LedgerList>, head: &HeadLedger, out: &mut Outbox) {
        if !core.phase.writes() {
            return;
        }
        debug_assert_eq!(head.base_offset, core.log.high_watermark(), "a head begins at the high watermark");
        tracing::info!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, ledger = %head.ledger.id, offset = %head.base_offset, "ledger opened");
        self.context.metrics.ledgers_opened.increment(1);
        let (weak, id) = (Arc::downgrade(self), head.ledger.id);
        let events = Arc::new(move |event| {
            if let Some(partition) = weak.upgrade() {
                partition.on_event(id, event);
            }
        });
        let store = Arc::new(HeadStore(Arc::clone(list)));
        let appender = LedgerAppender::open(self.context.ledgers.clone(), head.ledger.clone(), store, events);
        let mut new = Head::new(appender, head);
        let checkpoint = if core.log.producers().is_empty() {
            Ok(())
        } else {
            new.send_checkpoint(&core.log, self.context.clock.wall())
        };
        core.head = Some(new);
        core.paused = false;
        core.rolling = false;
        if let Err(problem) = checkpoint {
            self.fail(core, &problem, out);
        }
    }

    fn refuse_queue(self: &Arc<Self>, problem: &HeadError) {
        if let HeadError::List(ListError::Lost { owner, epoch }) = problem {
            return self.lose(*owner, *epoch);
        }
        tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %problem, "no ledger to write to");
        self.with(|core, out| {
            core.paused = false;
            core.log.refuse_queue(&problem.to_append_error(), &mut out.answers);
        });
    }

    /// Ends a full head, if there are bookies for the next one.
    async fn roll(self: &Arc<Self>) {
        match self.enough_bookies() {
            Ok(_) => self.end_expired().await,
            Err(problem) => self.put_off_roll(&problem),
        }
    }

    /// Ends the head and begins the next one if someone waits to write; `rolling` has been set.
    pub(super) async fn end_expired(self: &Arc<Self>) {
        match self.context.metadata.next_number(Sequence::Ledger).await {
            Ok(next) => self.end_head(Some(LedgerId(next))).await,
            Err(problem) => self.put_off_roll(&problem.into()),
        }
    }

    fn put_off_roll(self: &Arc<Self>, problem: &HeadError) {
        tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %problem, "the ledger should end but cannot yet");
        let after = self.context.clock.monotonic() + ROLL_PAUSE;
        self.with(|core, _| (core.rolling, core.roll_after) = (false, after));
        self.progress.notify_waiters();
    }

    /// Ends the head; `next` is the id of a ledger to go on with if appends are waiting.
    pub(super) async fn end_head(self: &Arc<Self>, next: Option<LedgerId>) {
        let Some(list) = self.list().map(Arc::clone) else { return };
        let Some(head) = self.stop_sending() else { return };
        let (id, appender) = head;
        let end = match appender.finish().await {
            Ok(end) => end,
            Err(problem) => return self.with(|core, out| self.fail_head(core, id, &problem, out)),
        };
        let Some(closed) = self.confirm_rest(id, &end) else { return };
        let wanted = next.filter(|_| self.core.lock().log.has_queue());
        let base = self.core.lock().log.high_watermark();
        let next = wanted.and_then(|next| self.head_ledger(next, base).ok());
        let mut pause = CLOSE_PAUSE.0;
        while let Err(problem) = list.close_head(id, closed.as_ref(), next.as_ref(), self.context.clock.wall()).await {
            match problem {
                ListError::Lost { owner, epoch } => return self.lose(owner, epoch),
                ListError::Gone => return self.lose(None, self.epoch),
                _ => {}
            }
            tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, ledger = %id, %problem, "a ledger that has ended cannot be written down yet");
            let error = AppendError::Unavailable { reason: problem.to_string() };
            self.with(|core, out| core.log.refuse_queue(&error, &mut out.answers));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CLOSE_PAUSE.1);
        }
        self.context.metrics.ledgers_closed.increment(1);
        self.with(|core, out| {
            if core.head.as_ref().is_some_and(|h| h.id() == id) {
                let head = core.head.take();
                if let Some(head) = head.filter(|_| closed.is_some()) {
                    self.context.indexes.insert(id, head.index().clone());
                }
            }
            (core.paused, core.rolling) = (false, false);
            if let Some(next) = &next {
                self.begin_head(core, &list, next, out);
            }
        });
        self.progress.notify_waiters();
    }

    /// Nothing is sent from here on, except the last checkpoint of the head.
    fn stop_sending(self: &Arc<Self>) -> Option<(LedgerId, LedgerAppender)> {
        self.with(|core, out| {
            core.rolling &= core.head.is_some();
            let head = core.head.as_mut().filter(|_| core.phase.writes() && !core.paused)?;
            let (id, appender) = (head.id(), head.appender().clone());
            core.paused = true;
            if head.size().entries > 0
                && let Err(problem) = head.send_checkpoint(&core.log, self.context.clock.wall())
            {
                self.fail(core, &problem, out);
                return None;
            }
            Some((id, appender))
        })
    }

    /// Everything the ledger holds is confirmed, also what was not reported yet. The outer option is empty if the head
    /// is no longer this ledger, the inner one if no record was written to it.
    fn confirm_rest(self: &Arc<Self>, id: LedgerId, end: &LedgerEnd) -> Option<Option<protocol::model::ClosedLedger>> {
        self.with(|core, out| {
            if !core.phase.writes() || core.head.as_ref().is_none_or(|h| h.id() != id) {
                return None;
            }
            self.confirm(core, end.last_entry.map_or(Lac::NONE, Lac::at), out);
            core.head.as_ref().map(|head| head.closed(end, self.context.clock.wall()))
        })
    }

    fn fail_head(&self, core: &mut Core, id: LedgerId, problem: &WriteError, out: &mut Outbox) {
        if core.head.as_ref().is_some_and(|h| h.id() == id) {
            self.fail(core, problem, out);
        }
    }

    /// Writes what was accepted and ends the head; refuses what comes after.
    pub(crate) async fn drain(self: &Arc<Self>) {
        self.with(|core, _| {
            core.draining = true;
            if core.phase == Phase::Serving {
                core.phase = Phase::Draining;
            }
        });
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let core = self.core.lock();
                if !core.phase.writes() || (core.log.is_idle() && !core.paused && !core.rolling) {
                    break;
                }
            }
            progress.await;
        }
        self.end_head(None).await;
    }
}

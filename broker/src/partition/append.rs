//! The path of a write: validate, queue, join into entries, confirm, answer.
//!
//! An append takes effect before the call returns. What queues up while entries are in flight joins one entry; there
//! is no timer. Owns the order: queue, then ledger, then answers.

use super::{Core, Outbox, Partition, Phase, Waiter, Work, head::ENTRY_BYTES, log::LogAnswer, validate::Rules};
use crate::ledger::{LedgerEvent, WriteError};
use protocol::{
    id::{Lac, LedgerId},
    ledger::entry::{HEADER_LEN, MAX_ENTRY, SEAL_LEN},
    service::{
        Answer,
        broker::{Append, AppendError, Appended, NotServed},
        ready, reply,
    },
};
use std::sync::{Arc, atomic::Ordering};

impl Partition {
    /// Appends; the batches stand in the queue, or in the ledger, when this returns.
    pub(crate) fn append(self: &Arc<Self>, append: &Append) -> Answer<Appended, AppendError> {
        if let Err(problem) = self.check_epoch(append.epoch) {
            return ready(Err(problem.into()));
        }
        let now = self.context.clock.wall();
        let settings = self.topic.settings.load();
        let internal = self.topic.name.is_internal();
        let rules = Rules { origin: append.origin, internal, settings: &settings, now };
        let batches = match rules.check(&append.batches) {
            Ok(batches) => batches,
            Err(problem) => return ready(Err(problem)),
        };
        let (size, limit) = (append.batches.len(), MAX_ENTRY - SEAL_LEN - HEADER_LEN);
        if size > limit {
            return ready(Err(AppendError::TooLarge { size: size as u64, limit: limit as u64 }));
        }
        let Some(permit) = self.context.budget.take(size) else {
            return ready(Err(AppendError::Unavailable { reason: "too many bytes wait to be written".into() }));
        };
        let (reply, answer) = reply();
        let waiter = Waiter { reply, permit, records: batches.span, since: self.context.clock.monotonic() };
        self.with(|core, out| match core.phase.refusal() {
            Some(problem) => out.answers.push((waiter, Err(problem))),
            None => {
                core.last_append = Some(now);
                out.answers.extend(core.log.enqueue(batches, waiter, now));
            }
        });
        answer
    }

    /// Sends what can be sent: the pump runs after every change of the state.
    pub(super) fn pump(self: &Arc<Self>, core: &mut Core, out: &mut Outbox) {
        while core.phase.writes() && !core.paused {
            let Some(shape) = core.log.next_entry(ENTRY_BYTES) else { return };
            let now = self.context.clock.wall();
            let Some(head) = &mut core.head else {
                core.paused = true;
                out.work = Some(Work::CreateHead);
                return;
            };
            if !head.has_room() {
                return;
            }
            let size = head.size();
            if !core.rolling && size.is_full(&self.topic.settings.load(), now) && self.may_roll(core.roll_after) {
                core.rolling = true;
                out.work = Some(Work::Roll);
                self.context.metrics.count_roll("full");
            }
            let checkpoint = if size.needs_checkpoint() { head.send_checkpoint(&core.log, now) } else { Ok(()) };
            match checkpoint.and_then(|()| head.send_batches(&mut core.log, &shape, now)) {
                Ok(bytes) => self.context.metrics.entry_bytes.record(bytes as f64),
                Err(problem) => return self.fail(core, &problem, out),
            }
        }
    }

    fn may_roll(&self, after: std::time::Duration) -> bool {
        self.context.clock.monotonic() >= after
    }

    /// Handles what the ledger `ledger` reports; a ledger that is no longer the head is ignored.
    pub(super) fn take_event(
        self: &Arc<Self>,
        core: &mut Core,
        ledger: LedgerId,
        event: LedgerEvent,
        out: &mut Outbox,
    ) {
        if core.head.as_ref().is_none_or(|head| head.id() != ledger) {
            return;
        }
        match event {
            LedgerEvent::Confirmed { lac } => self.confirm(core, lac, out),
            LedgerEvent::Failed(problem) => self.fail(core, &problem, out),
        }
    }

    /// Entries are confirmed: caches them, moves the high watermark, answers.
    pub(super) fn confirm(&self, core: &mut Core, lac: Lac, out: &mut Outbox) {
        let Some(head) = &mut core.head else { return };
        let confirmed = head.confirm(lac, |entry| self.context.tails.push(&self.tail, entry));
        if let Some(end) = confirmed {
            core.log.confirm(end, &mut out.answers);
            self.readable_to.store(core.log.high_watermark().0, Ordering::Release);
            out.wake = true;
        }
    }

    /// The head cannot be written any more: nothing above the confirmed prefix counts, and the ledger is recovered.
    pub(super) fn fail(&self, core: &mut Core, problem: &WriteError, out: &mut Outbox) {
        if !core.phase.writes() {
            return;
        }
        let ledger = core.head.as_ref().map(|h| h.id().0);
        tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, ledger, %problem, "write failed; recovering");
        core.phase = Phase::Recovering;
        core.paused = true;
        core.rolling = false;
        core.log.fail(&problem.to_string(), &mut out.answers);
        out.work = Some(Work::Recover);
    }

    /// Tells everyone who waited.
    pub(super) fn answer(&self, answers: Vec<LogAnswer<Waiter>>) {
        let log_start = self.view().log_start;
        let (now, metrics) = (self.context.clock.monotonic(), &self.context.metrics);
        for (waiter, outcome) in answers {
            match &outcome {
                Ok(_) => {
                    self.topic.metrics.bytes_in.increment(waiter.permit.bytes() as u64);
                    self.topic.metrics.records_in.increment(u64::from(waiter.records));
                    metrics.append_seconds.record(now.saturating_sub(waiter.since).as_secs_f64());
                }
                Err(_) => metrics.append_failures.increment(1),
            }
            let Waiter { reply, permit, .. } = waiter;
            drop(permit);
            reply.send(outcome.map(|placed| Appended {
                base_offset: placed.base_offset,
                log_append_time: placed.append_time,
                log_start,
                epoch: self.epoch,
            }));
        }
        self.progress.notify_waiters();
    }
}

impl Phase {
    /// Whether entries are written.
    pub(super) const fn writes(&self) -> bool {
        matches!(self, Self::Serving | Self::Draining)
    }

    /// Why an append is refused.
    fn refusal(&self) -> Option<AppendError> {
        match self {
            Self::Serving => None,
            Self::Opening | Self::Recovering => Some(NotServed::Opening.into()),
            Self::Draining => Some(AppendError::Unavailable { reason: "the broker is shutting down".into() }),
            Self::Closed(why) => Some(why.clone().into()),
        }
    }
}

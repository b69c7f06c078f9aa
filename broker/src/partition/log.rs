//! The log of a partition as its owner runs it: which offset each batch gets, what is confirmed, and who is answered.
//!
//! Pure: batches and confirmations in, entry shapes and answers out; no I/O, no clock, no ledger. Keeps these
//! invariants:
//! * Offsets are given when a batch is enqueued, in the order of the ledger, and never twice for acknowledged records.
//! * The high watermark is the end of the confirmed prefix and nothing else; `next_offset` never leaves this file.
//! * Two producer tables: *pending* judges new batches (it includes what is in flight), *durable* follows the confirmed
//!   prefix. A failure throws *pending* away.

use super::producer_state::{ProducerBatch, ProducerTable, Verdict};
use bytes::Bytes;
use protocol::{
    id::{Offset, Timestamp},
    service::broker::AppendError,
};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// Batches of one producer that are put off after the log was opened, before a gap counts as one.
const PUT_OFF: u8 = 32;

/// Record batches of one append that passed validation; they stay together.
#[derive(Debug, Clone)]
pub struct ValidBatches {
    /// The batches as they were sent.
    pub bytes: Bytes,
    /// How many batches there are, 1 or more.
    pub batches: u32,
    /// How many offsets they span, 1 or more.
    pub span: u32,
    /// The largest timestamp among them, after stamping.
    pub max_timestamp: Timestamp,
    /// The time to stamp into them (`LogAppendTime`).
    pub append_time: Option<Timestamp>,
    /// The idempotent producer, if there is one; then there is exactly one batch.
    pub producer: Option<ProducerBatch>,
}

/// Where an append landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The time stamped into it.
    pub append_time: Option<Timestamp>,
}

/// A waiter and what it is to be told.
pub type LogAnswer<W> = (W, Result<Placed, AppendError>);

/// The entry that the head of the queue makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryShape {
    /// How many appends it takes from the queue.
    pub appends: usize,
    /// Bytes of record batches.
    pub bytes: usize,
    /// The first offset.
    pub base_offset: Offset,
    /// Offsets spanned.
    pub record_count: u32,
    /// The largest timestamp.
    pub max_timestamp: Timestamp,
}

#[derive(Debug)]
struct Queued<W> {
    batches: ValidBatches,
    base_offset: Offset,
    at: Timestamp,
    waiter: W,
}

#[derive(Debug)]
struct Unconfirmed<W> {
    producer: Option<ProducerBatch>,
    placed: Placed,
    end_offset: Offset,
    at: Timestamp,
    waiter: W,
}

/// A retry that arrived before its original was confirmed.
#[derive(Debug)]
struct Late<W> {
    end_offset: Offset,
    placed: Placed,
    waiter: W,
}

/// The machine. `W` is whoever waits for an append.
#[derive(Debug)]
pub struct PartitionLog<W> {
    next_offset: Offset,
    high_watermark: Offset,
    queue: VecDeque<Queued<W>>,
    unconfirmed: VecDeque<Unconfirmed<W>>,
    late: Vec<Late<W>>,
    pending: ProducerTable,
    durable: ProducerTable,
    /// Producers that have not been heard of since the log was opened, with how many of their batches were put off.
    resuming: HashMap<i64, u8>,
}

impl<W> PartitionLog<W> {
    /// A log whose confirmed prefix ends at `end`, with the producers found in it.
    #[must_use]
    pub fn new(end: Offset, producers: ProducerTable) -> Self {
        Self {
            next_offset: end,
            high_watermark: end,
            queue: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            late: Vec::new(),
            resuming: producers.ids().map(|id| (id, 0)).collect(),
            pending: producers.clone(),
            durable: producers,
        }
    }

    /// The offset after the last confirmed record.
    #[must_use]
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The producers of the confirmed prefix.
    #[must_use]
    pub const fn producers(&self) -> &ProducerTable {
        &self.durable
    }

    /// Whether appends wait for an entry.
    #[must_use]
    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether nothing waits and nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.unconfirmed.is_empty()
    }

    /// Gives the batches their offsets, or says at once what is wrong with them, or that they are a confirmed retry.
    pub fn enqueue(&mut self, batches: ValidBatches, waiter: W, now: Timestamp) -> Option<LogAnswer<W>> {
        if let Some(producer) = &batches.producer {
            let sequence = producer.first_sequence;
            match self.pending.check(producer) {
                Verdict::New => self.hear(producer.producer),
                Verdict::Duplicate(first) => {
                    self.hear(producer.producer);
                    let placed = Placed { base_offset: first.base_offset, append_time: first.append_time };
                    if first.end_offset <= self.high_watermark {
                        return Some((waiter, Ok(placed)));
                    }
                    self.late.push(Late { end_offset: first.end_offset, placed, waiter });
                    return None;
                }
                Verdict::OutOfOrder { expected } => {
                    let producer = producer.producer;
                    if let Some(error) = self.put_off(producer) {
                        return Some((waiter, Err(error)));
                    }
                    return Some((waiter, Err(AppendError::OutOfOrderSequence { producer, sequence, expected })));
                }
                Verdict::Fenced { current } => {
                    let error =
                        AppendError::FencedProducer { producer: producer.producer, epoch: producer.epoch, current };
                    return Some((waiter, Err(error)));
                }
            }
        }
        let base_offset = self.next_offset;
        let end = Offset(base_offset.0 + i64::from(batches.span));
        if let Some(producer) = &batches.producer {
            self.pending.record(producer, (base_offset, end), batches.append_time, now);
        }
        self.next_offset = end;
        self.queue.push_back(Queued { batches, base_offset, at: now, waiter });
        None
    }

    /// The producer has found its place. Where all have, nothing is looked up per batch.
    fn hear(&mut self, producer: i64) {
        if !self.resuming.is_empty() {
            self.resuming.remove(&producer);
        }
    }

    /// While the log was being opened its producers were refused, and what they had sent after that may come before what
    /// they send again: that is no gap of theirs. They are asked to come again, so that they do not take themselves for
    /// broken and begin anew, which would store what is in the log once more. A few times, for a real gap stays one.
    fn put_off(&mut self, producer: i64) -> Option<AppendError> {
        let count = self.resuming.get_mut(&producer).filter(|count| **count < PUT_OFF)?;
        *count += 1;
        Some(AppendError::Unavailable { reason: "an earlier batch of the producer was refused a moment ago".into() })
    }

    /// The entry to write next: as many queued appends as fit into `max_bytes`, at least one.
    #[must_use]
    pub fn next_entry(&self, max_bytes: usize) -> Option<EntryShape> {
        let first = self.queue.front()?;
        let base_offset = first.base_offset;
        let mut shape =
            EntryShape { appends: 0, bytes: 0, base_offset, record_count: 0, max_timestamp: Timestamp::NONE };
        for queued in &self.queue {
            let bytes = shape.bytes + queued.batches.bytes.len();
            let Some(records) = shape.record_count.checked_add(queued.batches.span) else { break };
            if shape.appends > 0 && bytes > max_bytes {
                break;
            }
            shape.appends += 1;
            shape.bytes = bytes;
            shape.record_count = records;
            shape.max_timestamp = shape.max_timestamp.max(queued.batches.max_timestamp);
        }
        Some(shape)
    }

    /// Moves the appends of an entry from the queue into flight; `copy` gets each with its base offset, in order.
    pub fn send(&mut self, shape: &EntryShape, mut copy: impl FnMut(&ValidBatches, Offset)) {
        for queued in self.queue.drain(..shape.appends) {
            copy(&queued.batches, queued.base_offset);
            let Queued { batches, base_offset, at, waiter } = queued;
            self.unconfirmed.push_back(Unconfirmed {
                producer: batches.producer,
                placed: Placed { base_offset, append_time: batches.append_time },
                end_offset: Offset(base_offset.0 + i64::from(batches.span)),
                at,
                waiter,
            });
        }
    }

    /// Everything below `through` is confirmed: moves the high watermark and collects who is answered.
    pub fn confirm(&mut self, through: Offset, answers: &mut Vec<LogAnswer<W>>) {
        debug_assert!(through <= self.next_offset, "nothing is confirmed that was never enqueued");
        while self.unconfirmed.front().is_some_and(|u| u.end_offset <= through) {
            let Some(done) = self.unconfirmed.pop_front() else { break };
            if let Some(producer) = &done.producer {
                let place = (done.placed.base_offset, done.end_offset);
                self.durable.record(producer, place, done.placed.append_time, done.at);
            }
            answers.push((done.waiter, Ok(done.placed)));
        }
        self.high_watermark = self.high_watermark.max(through);
        let confirmed = self.late.extract_if(.., |late| late.end_offset <= through);
        answers.extend(confirmed.map(|late| (late.waiter, Ok(late.placed))));
    }

    /// A write failed: what was sent has an unknown outcome, what was not sent is refused, and nothing of either counts.
    pub fn fail(&mut self, reason: &str, answers: &mut Vec<LogAnswer<W>>) {
        let unknown = || AppendError::OutcomeUnknown { reason: reason.into() };
        answers.extend(self.unconfirmed.drain(..).map(|u| (u.waiter, Err(unknown()))));
        answers.extend(self.late.drain(..).map(|l| (l.waiter, Err(unknown()))));
        let refused = || AppendError::Unavailable { reason: reason.into() };
        answers.extend(self.queue.drain(..).map(|q| (q.waiter, Err(refused()))));
        self.forget_pending();
    }

    /// Refuses what waits in the queue; nothing of it was written. Only while nothing is in flight.
    pub fn refuse_queue(&mut self, error: &AppendError, answers: &mut Vec<LogAnswer<W>>) {
        debug_assert!(self.unconfirmed.is_empty(), "a queue is refused only when nothing is in flight");
        answers.extend(self.queue.drain(..).map(|q| (q.waiter, Err(error.clone()))));
        answers.extend(self.late.drain(..).map(|l| (l.waiter, Err(error.clone()))));
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        self.next_offset = self.high_watermark;
        self.pending.clone_from(&self.durable);
    }

    /// Forgets producers that have been silent for `after`; waits for a moment with nothing in flight.
    pub fn expire_producers(&mut self, now: Timestamp, after: Duration) {
        if self.is_idle() && !self.durable.is_empty() {
            self.durable.expire(now, after);
            self.pending.clone_from(&self.durable);
        }
    }
}

#[cfg(test)]
mod tests;

//! One partition's log in memory: offsets, sequences of idempotent producers, look-ups. Pure; knows no owner.

use crate::{
    id::{LeaderEpoch, Offset, Timestamp},
    record_batch::{BatchError, RecordBatch, for_each_record, set_append_time, set_base_offset, split},
    service::broker::{AppendError, FetchError, ListOffsetsError, ListedOffset, OffsetSpec},
};
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};

/// How many batches of a producer are remembered to recognise a retry (Kafka's number).
const REMEMBERED: usize = 5;

/// What an append must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) epoch: LeaderEpoch,
    pub(super) max_message_bytes: usize,
    pub(super) control: bool,
    pub(super) append_time: Option<Timestamp>,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    /// First sequence, last sequence and base offset of the latest batches.
    batches: VecDeque<(i32, i32, Offset)>,
}

#[derive(Debug, Default)]
pub(super) struct FakeLog {
    pub(super) start: Offset,
    batches: Vec<RecordBatch>,
    producers: HashMap<i64, Producer>,
}

impl FakeLog {
    /// The offset after the last record.
    pub(super) fn end(&self) -> Offset {
        self.batches.last().map_or(self.start, |last| Offset(last.last_offset().0 + 1).max(self.start))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.batches.iter().map(|b| b.bytes().len() as u64).sum()
    }

    pub(super) fn last_append(&self) -> Option<Timestamp> {
        self.batches.last().map(RecordBatch::max_timestamp)
    }

    /// Appends all batches or none; answers the offset of the first record.
    pub(super) fn append(&mut self, bytes: &Bytes, rules: Rules) -> Result<Offset, AppendError> {
        let batches = split(bytes.clone()).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        if batches.is_empty() {
            return Err(AppendError::Corrupt { reason: "no record batch".into() });
        }
        let mut duplicate = None;
        for batch in &batches {
            check(batch, rules)?;
            duplicate = duplicate.or(self.check_producer(batch)?);
        }
        if let Some(base) = duplicate {
            return Ok(base);
        }
        let first = self.end();
        for batch in &batches {
            let base = self.end();
            let mut patched = BytesMut::from(&batch.bytes()[..]);
            set_base_offset(&mut patched, base, rules.epoch);
            if let Some(time) = rules.append_time {
                set_append_time(&mut patched, time);
            }
            self.remember(batch, base);
            self.batches.push(RecordBatch::first(&patched.freeze()).map_err(refused)?);
        }
        Ok(first)
    }

    /// The base offset of the first append if this is a retry.
    fn check_producer(&self, batch: &RecordBatch) -> Result<Option<Offset>, AppendError> {
        let (producer, epoch, sequence) = (batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
        let Some(known) = self.producers.get(&producer) else { return Ok(None) };
        if epoch < known.epoch {
            return Err(AppendError::FencedProducer { producer, epoch, current: known.epoch });
        }
        let last = known.batches.back().map_or(-1, |b| b.1);
        let expected = if epoch > known.epoch || last == i32::MAX { 0 } else { last + 1 };
        if epoch == known.epoch {
            let again = known.batches.iter().find(|b| (b.0, b.1) == (sequence, last_sequence(batch)));
            if let Some(again) = again {
                return Ok(Some(again.2));
            }
        }
        if sequence != expected {
            return Err(AppendError::OutOfOrderSequence { producer, sequence, expected });
        }
        Ok(None)
    }

    fn remember(&mut self, batch: &RecordBatch, base: Offset) {
        if batch.producer_id() < 0 {
            return;
        }
        let epoch = batch.producer_epoch();
        let known =
            self.producers.entry(batch.producer_id()).or_insert_with(|| Producer { epoch, batches: VecDeque::new() });
        if known.epoch != epoch {
            *known = Producer { epoch, batches: VecDeque::new() };
        }
        known.batches.push_back((batch.base_sequence(), last_sequence(batch), base));
        if known.batches.len() > REMEMBERED {
            known.batches.pop_front();
        }
    }

    /// Batches from the one that holds `offset` on; the first comes whatever its size if `at_least_one`.
    pub(super) fn read(&self, offset: Offset, max: usize, at_least_one: bool) -> Result<Vec<Bytes>, FetchError> {
        let (log_start, end) = (self.start, self.end());
        if offset < log_start || offset > end {
            return Err(FetchError::OutOfRange { asked: offset, log_start, end });
        }
        let (mut taken, mut size) = (Vec::new(), 0);
        for batch in self.batches.iter().filter(|b| b.last_offset() >= offset) {
            size += batch.bytes().len();
            if size > max && !(at_least_one && taken.is_empty()) {
                break;
            }
            taken.push(batch.bytes().clone());
        }
        Ok(taken)
    }

    pub(super) fn look_up(&self, spec: OffsetSpec, epoch: LeaderEpoch) -> Result<ListedOffset, ListOffsetsError> {
        let position = |offset| ListedOffset { offset: Some(offset), timestamp: Timestamp::NONE, epoch: Some(epoch) };
        let least = match spec {
            OffsetSpec::Earliest => {
                let first = self.batches.iter().find(|b| b.last_offset() >= self.start);
                return Ok(ListedOffset {
                    epoch: Some(first.map_or(epoch, RecordBatch::leader_epoch)),
                    ..position(self.start)
                });
            }
            OffsetSpec::Latest => return Ok(position(self.end())),
            OffsetSpec::At(time) => time,
            OffsetSpec::MaxTimestamp => match self.batches.iter().map(RecordBatch::max_timestamp).max() {
                Some(largest) => largest,
                None => return Ok(ListedOffset { offset: None, timestamp: Timestamp::NONE, epoch: None }),
            },
        };
        self.first_at(least)
    }

    fn first_at(&self, time: Timestamp) -> Result<ListedOffset, ListOffsetsError> {
        let mut found = ListedOffset { offset: None, timestamp: Timestamp::NONE, epoch: None };
        for batch in self.batches.iter().filter(|b| b.max_timestamp() >= time) {
            let walked = for_each_record(batch, &mut |record| {
                if record.timestamp < time || record.offset < self.start {
                    return true;
                }
                let epoch = Some(batch.leader_epoch());
                found = ListedOffset { offset: Some(record.offset), timestamp: record.timestamp, epoch };
                false
            });
            walked.map_err(|problem| ListOffsetsError::Storage { reason: problem.to_string() })?;
            if found.offset.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// The largest epoch with records that is not above `asked`, and where it ends.
    pub(super) fn epoch_end(&self, asked: LeaderEpoch, current: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        if asked == current {
            return Some((current, self.end()));
        }
        let epoch = self.batches.iter().map(RecordBatch::leader_epoch).filter(|e| *e <= asked).max()?;
        let after = self.batches.iter().find(|b| b.leader_epoch() > epoch);
        (asked < current).then(|| (epoch, after.map_or(self.end(), RecordBatch::base_offset)))
    }

    pub(super) fn trim(&mut self, before: Offset) {
        let end = self.end();
        self.start = self.start.max(before.min(end));
        let start = self.start;
        // The last batch stays: it is what the end is known by.
        while self.batches.len() > 1 && self.batches[0].last_offset() < start {
            self.batches.remove(0);
        }
    }
}

fn last_sequence(batch: &RecordBatch) -> i32 {
    let last = i64::from(batch.base_sequence()) + i64::from(batch.record_count()) - 1;
    // Sequences wrap from the largest number to 0.
    i32::try_from(last).unwrap_or_else(|_| (last - i64::from(i32::MAX) - 1) as i32)
}

fn check(batch: &RecordBatch, rules: Rules) -> Result<(), AppendError> {
    let size = batch.bytes().len();
    if size > rules.max_message_bytes {
        return Err(AppendError::TooLarge { size: size as u64, limit: rules.max_message_bytes as u64 });
    }
    batch.validate().map_err(refused)?;
    if batch.is_control() && !rules.control {
        let reason = "clients cannot write control batches".into();
        return Err(AppendError::InvalidRecord { reason, records: Vec::new() });
    }
    if batch.is_transactional() {
        return Err(AppendError::TransactionsUnsupported);
    }
    Ok(())
}

fn refused(problem: BatchError) -> AppendError {
    match problem {
        BatchError::Magic(magic) => AppendError::UnsupportedFormat { magic },
        BatchError::Short { .. } | BatchError::Length(_) | BatchError::Checksum { .. } => {
            AppendError::Corrupt { reason: problem.to_string() }
        }
        BatchError::Count { .. } | BatchError::Codec(_) => {
            AppendError::InvalidRecord { reason: problem.to_string(), records: Vec::new() }
        }
    }
}

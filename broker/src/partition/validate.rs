//! What a record batch must be before it may enter a log, from its header alone.
//!
//! Owns Kafka's rules (`LogValidator`) and the one case that looks at single records: null keys in compacted topics.
//! Pure; never changes a batch. What passes can be stored byte for byte, with base offset, leader epoch and, if the
//! topic says so, the append time written into its header.

use super::{log::ValidBatches, producer_state::ProducerBatch};
use bytes::Bytes;
use protocol::{
    id::{Offset, Timestamp},
    record_batch::{BATCH_OVERHEAD, BatchError, Codec, RecordBatch, for_each_record, split},
    service::broker::{AppendError, Origin},
    settings::{TimestampType, TopicSettings},
};
use std::time::Duration;

/// The fewest bytes of an uncompressed record: its length, attributes, two deltas, and the lengths of key, value and
/// headers, each one byte or more.
const MIN_RECORD: usize = 7;

/// What the rules depend on beside the bytes.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Who appends.
    pub origin: Origin,
    /// Whether the topic holds state of our own.
    pub internal: bool,
    /// The topic's settings.
    pub settings: &'a TopicSettings,
    /// The time.
    pub now: Timestamp,
}

impl Rules<'_> {
    /// Checks the batches of one append.
    ///
    /// # Errors
    /// The first rule that is broken; nothing was written.
    pub fn check(&self, bytes: &Bytes) -> Result<ValidBatches, AppendError> {
        if self.internal && self.origin == Origin::Client {
            return Err(AppendError::InternalTopic);
        }
        let mut valid: Option<ValidBatches> = None;
        for batch in split(bytes.clone()) {
            let batch = batch.map_err(refuse)?;
            if valid.is_some() && (self.origin == Origin::Client || batch.producer_id() >= 0) {
                return Err(invalid("more than one record batch for a partition"));
            }
            self.check_batch(&batch)?;
            let (span, timestamp) = (batch.span() as u32, self.timestamp_of(&batch));
            let merged = valid.get_or_insert_with(|| ValidBatches {
                bytes: bytes.clone(),
                batches: 0,
                span: 0,
                max_timestamp: Timestamp::NONE,
                append_time: self.append_time(),
                producer: producer_of(&batch),
            });
            merged.batches += 1;
            merged.span = merged.span.checked_add(span).ok_or_else(|| invalid("too many records"))?;
            merged.max_timestamp = merged.max_timestamp.max(timestamp);
        }
        valid.ok_or_else(|| invalid("no record batch"))
    }

    fn check_batch(&self, batch: &RecordBatch) -> Result<(), AppendError> {
        let (size, limit) = (batch.bytes().len() as u64, u64::from(self.settings.max_message_bytes));
        if size > limit {
            return Err(AppendError::TooLarge { size, limit });
        }
        batch.validate().map_err(refuse)?;
        if i64::from(batch.record_count()) != batch.span() {
            let (count, span) = (batch.record_count(), batch.span());
            return Err(refuse(BatchError::Count { count, span }));
        }
        if self.origin == Origin::Client {
            check_client(batch)?;
        }
        if batch.is_transactional() {
            return Err(AppendError::TransactionsUnsupported);
        }
        if batch.producer_id() >= 0 && (batch.producer_epoch() < 0 || batch.base_sequence() < 0) {
            return Err(invalid("an idempotent batch needs a producer epoch and a sequence"));
        }
        self.check_time(batch)?;
        self.check_keys(batch)
    }

    fn append_time(&self) -> Option<Timestamp> {
        (self.settings.timestamps == TimestampType::LogAppendTime).then_some(self.now)
    }

    fn timestamp_of(&self, batch: &RecordBatch) -> Timestamp {
        self.append_time().unwrap_or_else(|| batch.max_timestamp())
    }

    fn check_time(&self, batch: &RecordBatch) -> Result<(), AppendError> {
        if self.settings.timestamps == TimestampType::LogAppendTime || self.origin == Origin::Coordinator {
            return Ok(());
        }
        let wrong = |reason| Err(AppendError::InvalidTimestamp { reason });
        if batch.is_append_time() {
            return wrong("producers must not set the timestamp type LogAppendTime".into());
        }
        let (first, last) = (batch.first_timestamp(), batch.max_timestamp());
        let early = self.settings.timestamp_before_max.map(|max| self.now.0.saturating_sub(millis(max)));
        if let Some(early) = early.filter(|early| first != Timestamp::NONE && first.0 < *early) {
            return wrong(format!("{first} is before {early}, the limit of message.timestamp.before.max.ms"));
        }
        let late = self.settings.timestamp_after_max.map(|max| self.now.0.saturating_add(millis(max)));
        if let Some(late) = late.filter(|late| last.0 > *late) {
            return wrong(format!("{last} is after {late}, the limit of message.timestamp.after.max.ms"));
        }
        Ok(())
    }

    /// Compaction keeps the last record of each key, so every record needs one. Our own coordinators know that.
    fn check_keys(&self, batch: &RecordBatch) -> Result<(), AppendError> {
        if !self.settings.cleanup.compact || self.origin == Origin::Coordinator {
            return Ok(());
        }
        let base = batch.base_offset().0;
        let mut records = Vec::new();
        let decoded = for_each_record(batch, &mut |record| {
            if record.key.is_none() {
                let position = i32::try_from(record.offset.0 - base).unwrap_or(i32::MAX);
                records.push((position, "a compacted topic needs a key".to_owned()));
            }
            true
        });
        decoded.map_err(|problem| AppendError::Corrupt { reason: problem.to_string() })?;
        if records.is_empty() {
            return Ok(());
        }
        Err(AppendError::InvalidRecord { reason: "records of a compacted topic need keys".into(), records })
    }
}

/// What only our own writers may do.
fn check_client(batch: &RecordBatch) -> Result<(), AppendError> {
    if batch.is_control() {
        return Err(invalid("clients cannot write control batches"));
    }
    if batch.base_offset() != Offset(0) {
        return Err(invalid(&format!("a producer's batch has the base offset 0, not {}", batch.base_offset())));
    }
    // Without this a batch of a few bytes could claim, and use up, two thousand million offsets.
    let (count, body) = (batch.record_count(), batch.bytes().len() - BATCH_OVERHEAD);
    let room = i32::try_from(body / MIN_RECORD).unwrap_or(i32::MAX);
    if batch.codec() == Ok(Codec::None) && count > room {
        return Err(invalid(&format!("a batch of {count} records cannot have {body} bytes of records")));
    }
    Ok(())
}

fn producer_of(batch: &RecordBatch) -> Option<ProducerBatch> {
    (batch.producer_id() >= 0).then(|| ProducerBatch {
        producer: batch.producer_id(),
        epoch: batch.producer_epoch(),
        first_sequence: batch.base_sequence(),
        count: batch.span() as u32,
    })
}

/// The producer's part of a batch that is read back from the log.
#[must_use]
pub fn producer_in_log(batch: &RecordBatch) -> Option<ProducerBatch> {
    producer_of(batch).filter(|p| p.epoch >= 0 && p.first_sequence >= 0 && p.count > 0)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn invalid(reason: &str) -> AppendError {
    AppendError::InvalidRecord { reason: reason.into(), records: Vec::new() }
}

fn refuse(problem: BatchError) -> AppendError {
    match problem {
        BatchError::Magic(magic) => AppendError::UnsupportedFormat { magic },
        BatchError::Count { .. } | BatchError::Codec(_) => invalid(&problem.to_string()),
        BatchError::Short { .. } | BatchError::Length(_) | BatchError::Checksum { .. } => {
            AppendError::Corrupt { reason: problem.to_string() }
        }
    }
}

#[cfg(test)]
mod tests;

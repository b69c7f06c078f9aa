//! The head: the one ledger that is being written, with everything its owner knows about it.
//!
//! Builds entries (header, batches copied once with offset, epoch and time written into the copy), remembers what is in
//! flight, and grows the index. Runs under the partition's lock and never waits. Invariant: entries of the head are
//! in offset order, because batches are sent in the order of the queue and nothing else is.

use super::log::{EntryShape, PartitionLog, ValidBatches};
use crate::{
    ledger::{LedgerAppender, LedgerEnd, WriteError},
    managed_ledger::{LedgerIndex, LogEntry, offset_index::Checkpoint, roll::HeadSize},
};
use bytes::{BufMut, BytesMut};
use protocol::{
    id::{EntryId, Lac, LeaderEpoch, LedgerId, Offset, Timestamp},
    ledger::{
        entry::{EntryHeader, EntryKind, HEADER_LEN, SEAL_LEN, SealedEntry},
        metadata::{LedgerMetadata, LedgerState},
    },
    model::{ClosedLedger, HeadLedger},
    record_batch::{set_append_time, set_base_offset, split},
};
use std::collections::VecDeque;

/// Bytes of record batches that are joined in one entry.
pub(crate) const ENTRY_BYTES: usize = 1024 * 1024;
/// Entries of record batches in flight per partition: one is being synced while the next one is on its way.
pub(crate) const MAX_IN_FLIGHT: usize = 2;

/// An entry in flight.
struct Sent {
    entry: EntryId,
    /// The offset after it.
    end_offset: Offset,
    /// Set if it holds record batches.
    batches: Option<LogEntry>,
}

/// The ledger being written.
pub(crate) struct Head {
    appender: LedgerAppender,
    id: LedgerId,
    epoch: LeaderEpoch,
    base_offset: Offset,
    /// The offset after the last entry sent.
    end_offset: Offset,
    index: LedgerIndex,
    last_index: Option<EntryId>,
    sent: VecDeque<Sent>,
    /// How many of `sent` hold record batches.
    in_flight: usize,
    lac: Lac,
    since_checkpoint: u64,
    entries: u64,
    max_timestamp: Timestamp,
    created_at: Timestamp,
}

impl Head {
    pub(crate) fn new(appender: LedgerAppender, head: &HeadLedger) -> Self {
        Self {
            appender,
            id: head.ledger.id,
            epoch: head.epoch,
            base_offset: head.base_offset,
            end_offset: head.base_offset,
            index: LedgerIndex::default(),
            last_index: None,
            sent: VecDeque::new(),
            in_flight: 0,
            lac: Lac::NONE,
            since_checkpoint: 0,
            entries: 0,
            max_timestamp: Timestamp::NONE,
            created_at: head.ledger.created_at,
        }
    }

    pub(crate) const fn id(&self) -> LedgerId {
        self.id
    }
    pub(crate) const fn base_offset(&self) -> Offset {
        self.base_offset
    }
    pub(crate) const fn index(&self) -> &LedgerIndex {
        &self.index
    }
    pub(crate) const fn lac(&self) -> Lac {
        self.lac
    }
    pub(crate) fn metadata(&self) -> LedgerMetadata {
        self.appender.metadata()
    }
    pub(crate) const fn appender(&self) -> &LedgerAppender {
        &self.appender
    }
    /// Whether another entry of record batches may be sent.
    pub(crate) const fn has_room(&self) -> bool {
        self.in_flight < MAX_IN_FLIGHT
    }

    pub(crate) fn size(&self) -> HeadSize {
        HeadSize {
            bytes: self.appender.length(),
            since_checkpoint: self.since_checkpoint,
            entries: self.entries,
            created_at: self.created_at,
            max_timestamp: self.max_timestamp,
        }
    }

    /// Writes the head of the queue as one entry; answers the entry's bytes.
    pub(crate) fn send_batches<W>(
        &mut self,
        log: &mut PartitionLog<W>,
        shape: &EntryShape,
        now: Timestamp,
    ) -> Result<usize, WriteError> {
        let header = EntryHeader {
            kind: EntryKind::Batches,
            record_count: shape.record_count,
            base_offset: shape.base_offset,
            max_timestamp: shape.max_timestamp,
            append_time: now,
            last_index: self.last_index,
            epoch: self.epoch,
        };
        let mut buf = with_header(&header, shape.bytes);
        log.send(shape, |batches, base| copy(&mut buf, batches, base, self.epoch));
        let payload = (buf.len() - SEAL_LEN) as u64;
        let entry = self.appender.append(buf)?;
        let (id, size) = (entry.entry(), entry.bytes().len());
        self.index.add(id, shape.base_offset, shape.max_timestamp, payload);
        self.end_offset = header.end_offset();
        let batches = Some(LogEntry { entry, base_offset: shape.base_offset, end_offset: self.end_offset });
        self.sent.push_back(Sent { entry: id, end_offset: self.end_offset, batches });
        self.in_flight += 1;
        self.entries += 1;
        self.since_checkpoint += payload;
        self.max_timestamp = self.max_timestamp.max(shape.max_timestamp);
        Ok(size)
    }

    /// Writes a checkpoint: the producers of the confirmed prefix if there are any, then the index.
    pub(crate) fn send_checkpoint<W>(&mut self, log: &PartitionLog<W>, now: Timestamp) -> Result<(), WriteError> {
        let covers = self.lac.next();
        let mut snapshot = None;
        if !log.producers().is_empty() {
            let mut buf = with_header(&self.header(EntryKind::ProducerSnapshot, now), 0);
            log.producers().encode(&mut buf);
            snapshot = Some(self.send_own(buf)?.entry());
        }
        let mut buf = with_header(&self.header(EntryKind::Index, now), 0);
        self.index.encode(Checkpoint { snapshot, covers }, &mut buf);
        self.last_index = Some(self.send_own(buf)?.entry());
        self.since_checkpoint = 0;
        Ok(())
    }

    const fn header(&self, kind: EntryKind, now: Timestamp) -> EntryHeader {
        EntryHeader {
            kind,
            record_count: 0,
            base_offset: self.end_offset,
            max_timestamp: Timestamp::NONE,
            append_time: now,
            last_index: self.last_index,
            epoch: self.epoch,
        }
    }

    fn send_own(&mut self, buf: BytesMut) -> Result<SealedEntry, WriteError> {
        let entry = self.appender.append(buf)?;
        self.sent.push_back(Sent { entry: entry.entry(), end_offset: self.end_offset, batches: None });
        Ok(entry)
    }

    /// Takes note of what is confirmed: `cache` gets every newly confirmed entry of batches, the answer is the new end of
    /// the confirmed prefix.
    pub(crate) fn confirm(&mut self, lac: Lac, mut cache: impl FnMut(LogEntry)) -> Option<Offset> {
        self.lac = self.lac.max(lac);
        let mut end = None;
        while self.sent.front().is_some_and(|sent| self.lac.covers(sent.entry)) {
            let Some(sent) = self.sent.pop_front() else { break };
            end = Some(sent.end_offset);
            if let Some(batches) = sent.batches {
                self.in_flight -= 1;
                cache(batches);
            }
        }
        end
    }

    /// The head as a closed ledger, or nothing if no record was ever written to it.
    pub(crate) fn closed(&self, end: &LedgerEnd, closed_at: Timestamp) -> Option<ClosedLedger> {
        if self.entries == 0 {
            return None;
        }
        let mut ledger = self.appender.metadata();
        ledger.state = LedgerState::Closed { last_entry: end.last_entry, length: end.length };
        ledger.fragments.clone_from(&end.fragments);
        ledger.holes.clone_from(&end.holes);
        Some(ClosedLedger {
            ledger,
            epoch: self.epoch,
            base_offset: self.base_offset,
            end_offset: self.end_offset,
            max_timestamp: self.max_timestamp,
            last_index: self.last_index,
            closed_at,
        })
    }
}

/// A buffer with room for the seal, the header written, and room for `body` bytes more.
fn with_header(header: &EntryHeader, body: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(SEAL_LEN + HEADER_LEN + body);
    buf.put_bytes(0, SEAL_LEN + HEADER_LEN);
    header.encode(&mut buf[SEAL_LEN..]);
    buf
}

/// Copies the batches of one append and writes what a broker writes into the copy.
fn copy(buf: &mut BytesMut, batches: &ValidBatches, base: Offset, epoch: LeaderEpoch) {
    let mut at = buf.len();
    buf.extend_from_slice(&batches.bytes);
    let patch = |batch: &mut [u8], base| {
        set_base_offset(batch, base, epoch);
        if let Some(time) = batches.append_time {
            set_append_time(batch, time);
        }
    };
    if batches.batches == 1 {
        return patch(&mut buf[at..], base);
    }
    let mut base = base;
    for batch in split(batches.bytes.clone()).map_while(Result::ok) {
        let end = at + batch.bytes().len();
        patch(&mut buf[at..end], base);
        (at, base) = (end, Offset(base.0 + batch.span()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::validate::Rules;
    use protocol::{
        record_batch::RecordBatch,
        service::broker::Origin,
        settings::{BrokerSettings, TimestampType, TopicSettings},
        testing::batches,
    };

    #[test]
    fn batches_are_stored_as_sent_but_for_offset_epoch_and_time() {
        let sent = batches::plain(&["one", "two"]);
        let settings =
            TopicSettings { timestamps: TimestampType::LogAppendTime, ..BrokerSettings::default().topic_defaults };
        let rules = Rules { origin: Origin::Coordinator, internal: false, settings: &settings, now: Timestamp(77) };
        let twice: bytes::Bytes = [&sent[..], &sent[..]].concat().into();
        let valid = rules.check(&twice).expect("valid");
        let mut buf = BytesMut::new();
        copy(&mut buf, &valid, Offset(40), LeaderEpoch(6));
        let copied: Vec<RecordBatch> = split(buf.freeze()).collect::<Result<_, _>>().expect("whole");
        let bases: Vec<i64> = copied.iter().map(|b| b.base_offset().0).collect();
        assert_eq!(bases, [40, 42]);
        for batch in &copied {
            assert_eq!((batch.leader_epoch(), batch.max_timestamp()), (LeaderEpoch(6), Timestamp(77)));
            assert!(batch.is_append_time() && batch.validate().is_ok());
            assert_eq!(batch.bytes()[61..], sent[61..]);
        }
    }
}

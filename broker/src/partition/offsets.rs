//! Finding offsets: by position, by time and by epoch.
//!
//! By time: the first ledger whose largest timestamp reaches the time, its first run of entries that does, and only
//! there batches and records. Epochs come from the list of ledgers, without reading anything.

use super::{
    Partition,
    read::{Extent, batches_of, storage},
};
use crate::managed_ledger::{LedgerIndex, LogEntry, replay::body};
use protocol::{
    id::{EntryId, LeaderEpoch, Offset, Timestamp},
    record_batch::{RecordBatch, for_each_record, split},
    service::broker::{EpochEnd, EpochEndOffset, FetchError, ListOffset, ListOffsetsError, ListedOffset, OffsetSpec},
};

/// The most bytes of one read while looking for a time.
const READ_BYTES: u32 = 1024 * 1024;

/// A record that was found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    offset: Offset,
    timestamp: Timestamp,
    epoch: LeaderEpoch,
}

impl Partition {
    /// Looks an offset up.
    pub(crate) async fn list_offset(&self, list: &ListOffset) -> Result<ListedOffset, ListOffsetsError> {
        self.check_epoch(list.current_epoch)?;
        let high_watermark = self.high_watermark()?;
        let log_start = self.view().log_start;
        let position = |offset| {
            let epoch = Some(self.epoch_at(offset));
            Ok(ListedOffset { offset: Some(offset), timestamp: Timestamp::NONE, epoch })
        };
        let found = match list.spec {
            OffsetSpec::Earliest => return position(log_start),
            OffsetSpec::Latest => {
                let epoch = Some(self.epoch);
                return Ok(ListedOffset { offset: Some(high_watermark), timestamp: Timestamp::NONE, epoch });
            }
            OffsetSpec::At(time) => self.first_at(time, log_start, high_watermark).await,
            OffsetSpec::MaxTimestamp => match self.largest_timestamp(log_start) {
                Timestamp::NONE => Ok(None),
                newest => self.first_at(newest, log_start, high_watermark).await,
            },
        };
        let found = found.map_err(to_list_error)?;
        Ok(ListedOffset {
            offset: found.map(|f| f.offset),
            timestamp: found.map_or(Timestamp::NONE, |f| f.timestamp),
            epoch: found.map(|f| f.epoch),
        })
    }

    /// Where an epoch ends.
    pub(crate) fn epoch_end(&self, end: &EpochEnd) -> Result<EpochEndOffset, ListOffsetsError> {
        self.check_epoch(end.current_epoch)?;
        let high_watermark = self.high_watermark()?;
        Ok(EpochEndOffset { end: self.epoch_end_at(end.epoch, high_watermark) })
    }

    /// The largest epoch that is not above `epoch`, and where it ends. An epoch older than everything that is left ends
    /// where the log begins; one that is yet to come is not known.
    pub(super) fn epoch_end_at(&self, epoch: LeaderEpoch, end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch > self.epoch {
            return None;
        }
        if epoch == self.epoch {
            return Some((epoch, end));
        }
        let view = self.view();
        let after = view.closed.partition_point(|ledger| ledger.epoch <= epoch);
        let known = after.checked_sub(1).and_then(|last| view.closed.get(last)).map(|ledger| ledger.epoch);
        let ends = view.closed.get(after).map_or(view.closed_end, |next| next.base_offset);
        Some((known.unwrap_or(epoch), ends.max(view.log_start)))
    }

    /// The epoch that wrote, or will write, an offset.
    fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        self.view().ledger_at(offset).map_or(self.epoch, |ledger| ledger.epoch)
    }

    fn largest_timestamp(&self, log_start: Offset) -> Timestamp {
        let view = self.view();
        let closed = view.closed.iter().filter(|l| l.end_offset > log_start).map(|l| l.max_timestamp).max();
        let head = self.core.lock().head.as_ref().map(|head| head.index().max_timestamp());
        closed.max(head).unwrap_or(Timestamp::NONE)
    }

    /// The first record from `from` on, below `end`, whose timestamp is `time` or later.
    async fn first_at(&self, time: Timestamp, from: Offset, end: Offset) -> Result<Option<Found>, FetchError> {
        let view = self.view();
        let candidates = view.closed.iter().filter(|l| l.end_offset > from && l.max_timestamp >= time);
        let runs = |index: &LedgerIndex| index.runs_at_time(from, time);
        for closed in candidates {
            let (mut extent, runs) = self.closed_extent(closed, runs).await?;
            let found = loop {
                match self.first_in(&extent, &runs, time, from).await {
                    Err(problem) => extent.ledger = self.moved(&extent.ledger).await.ok_or(problem)?,
                    found => break found?,
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some((extent, runs)) = self.extent_at(from.max(view.closed_end), runs).await? else { return Ok(None) };
        Ok(self.first_in(&extent, &runs, time, from).await?.filter(|found| found.offset < end))
    }

    async fn first_in(
        &self,
        extent: &Extent,
        runs: &[(EntryId, EntryId)],
        time: Timestamp,
        from: Offset,
    ) -> Result<Option<Found>, FetchError> {
        for &(first, last) in runs {
            let (mut next, through) = (first, last.min(extent.through));
            while next <= through {
                let read = self.context.reader.read(&extent.ledger, next, through, READ_BYTES).await;
                let read = read.map_err(|problem| storage(&problem))?;
                next = EntryId(next.0 + read.len().max(1) as u64);
                for entry in batches_of(read, from)? {
                    if let Some(found) = first_in_entry(&entry, time, from)? {
                        return Ok(Some(found));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn first_in_entry(entry: &LogEntry, time: Timestamp, from: Offset) -> Result<Option<Found>, FetchError> {
    for batch in split(body(&entry.entry)) {
        let batch = batch.map_err(|problem| FetchError::Storage { reason: problem.to_string() })?;
        if batch.max_timestamp() < time || batch.last_offset() < from {
            continue;
        }
        if let Some((offset, timestamp)) = first_in_batch(&batch, time, from)? {
            return Ok(Some(Found { offset, timestamp, epoch: batch.leader_epoch() }));
        }
    }
    Ok(None)
}

fn first_in_batch(
    batch: &RecordBatch,
    time: Timestamp,
    from: Offset,
) -> Result<Option<(Offset, Timestamp)>, FetchError> {
    if batch.is_append_time() {
        return Ok(Some((batch.base_offset().max(from), batch.max_timestamp())));
    }
    let mut found = None;
    let decoded = for_each_record(batch, &mut |record| {
        if record.timestamp >= time && record.offset >= from {
            found = Some((record.offset, record.timestamp));
        }
        found.is_none()
    });
    decoded.map_err(|problem| FetchError::Storage { reason: problem.to_string() })?;
    Ok(found)
}

fn to_list_error(problem: FetchError) -> ListOffsetsError {
    match problem {
        FetchError::NotServed(why) => ListOffsetsError::NotServed(why),
        FetchError::Storage { reason } => ListOffsetsError::Storage { reason },
        FetchError::Unavailable { reason } => ListOffsetsError::Unavailable { reason },
        problem @ FetchError::OutOfRange { .. } => ListOffsetsError::Storage { reason: problem.to_string() },
    }
}

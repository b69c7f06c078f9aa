//! Reading a partition: from offset to whole record batches, first in memory, then from a bookie.
//!
//! Owns the limits of one partition (whole batches only, never above the high watermark, at least one batch if asked
//! for) and the way from an offset to entries: tail cache, read-ahead cache, sparse index, ledger. Bytes are sliced, never
//! copied.

use super::{FetchSignal, Partition};
use crate::{
    ledger::ReadError,
    managed_ledger::{LedgerIndex, LogEntry, replay::{body, replay}},
};
use bytes::Bytes;
use protocol::{
    id::{EntryId, LeaderEpoch, Offset},
    ledger::{
        entry::{EntryHeader, EntryKind, SealedEntry},
        metadata::{LedgerMetadata, LedgerState},
    },
    model::ClosedLedger,
    record_batch::split,
    service::broker::{FetchError, FetchPartition, FetchedPartition},
};

/// What is read from a bookie at least, so that the next fetch finds it in memory.
const READ_AHEAD: u32 = 2 * 1024 * 1024;

/// How much is wanted of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    /// The most bytes.
    pub(crate) max_bytes: usize,
    /// Whether one batch comes whatever its size.
    pub(crate) at_least_one: bool,
}

/// The result of looking at what is in memory.
pub(crate) enum Reading {
    /// Nothing more to find out.
    Done(Result<FetchedPartition, FetchError>),
    /// The data is in a ledger.
    InLedger(FetchedPartition),
}

/// Entries of one ledger that can be read.
pub(super) struct Extent {
    pub(super) ledger: LedgerMetadata,
    /// The last entry that may be read.
    pub(super) through: EntryId,
    /// The offset after the ledger's last readable record.
    pub(super) end_offset: Offset,
}

/// How often a look-up is repeated when the log changes under it.
const LOOKS: u32 = 100;

impl Partition {
    /// Wakes `signal` when the partition changes.
    pub(crate) fn watch(&self, signal: &FetchSignal) {
        self.waiters.register(signal);
    }

    /// Answers from memory if that can be done.
    pub(crate) fn read_cached(&self, fetch: &FetchPartition, want: Want) -> Reading {
        let mut fetched = match self.check_fetch(fetch) {
            Ok(fetched) => fetched,
            Err(problem) => return Reading::Done(Err(problem)),
        };
        let nothing = want.max_bytes == 0 && !want.at_least_one;
        if fetched.diverging.is_some() || fetch.offset == fetched.high_watermark || nothing {
            return Reading::Done(Ok(fetched));
        }
        let mut entries = Vec::new();
        let metrics = self.context.tails.metrics();
        if self.tail.find(fetch.offset, want.max_bytes, &mut entries) {
            metrics.hits.increment(1);
        } else {
            metrics.misses.increment(1);
            if !self.context.read_ahead.find(self.id, fetch.offset, want.max_bytes, &mut entries) {
                return Reading::InLedger(fetched);
            }
        }
        self.cut(&entries, fetch.offset, want, &mut fetched);
        Reading::Done(Ok(fetched))
    }

    /// Answers from a ledger; `fetched` is what [`Partition::read_cached`] gave.
    pub(crate) async fn read_ledger(
        &self,
        offset: Offset,
        want: Want,
        mut fetched: FetchedPartition,
    ) -> Result<FetchedPartition, FetchError> {
        let entries = self.entries_from(offset, want.max_bytes).await?;
        self.context.read_ahead.insert(self.id, &entries);
        self.cut(&entries, offset, want, &mut fetched);
        Ok(fetched)
    }

    fn check_fetch(&self, fetch: &FetchPartition) -> Result<FetchedPartition, FetchError> {
        self.check_epoch(fetch.current_epoch)?;
        let high_watermark = self.high_watermark()?;
        let log_start = self.view().log_start;
        let diverging = fetch.last_fetched_epoch.and_then(|epoch| self.divergence(epoch, fetch.offset, high_watermark));
        if diverging.is_none() && (fetch.offset < log_start || fetch.offset > high_watermark) {
            return Err(FetchError::OutOfRange { asked: fetch.offset, log_start, end: high_watermark });
        }
        Ok(FetchedPartition {
            high_watermark,
            last_stable: high_watermark,
            log_start,
            epoch: self.epoch,
            diverging,
            batches: Vec::new(),
        })
    }

    /// Where the client's log leaves ours, if its last epoch ended before the offset it asks for.
    fn divergence(&self, last: LeaderEpoch, offset: Offset, end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let (epoch, ended) = self.epoch_end_at(last, end)?;
        (epoch < last || ended < offset).then_some((epoch, ended))
    }

    /// Puts whole batches from `offset` on into the answer, within the limits and below the high watermark.
    fn cut(&self, entries: &[LogEntry], offset: Offset, want: Want, fetched: &mut FetchedPartition) {
        let (mut size, mut next) = (0, offset);
        for entry in entries.iter().filter(|e| e.end_offset > offset) {
            if entry.end_offset > fetched.high_watermark {
                break;
            }
            let room = want.max_bytes.saturating_sub(size);
            let (bytes, end, whole) = cut_entry(entry, offset, room, want.at_least_one && size == 0);
            if !bytes.is_empty() {
                size += bytes.len();
                fetched.batches.push(bytes);
                next = end;
            }
            if !whole {
                break;
            }
        }
        self.topic.metrics.bytes_out.increment(size as u64);
        self.topic.metrics.records_out.increment((next.0 - offset.0).max(0) as u64);
    }

    /// Entries of record batches from the one that holds `offset` on: about `max_bytes` of them and what is read ahead.
    async fn entries_from(&self, offset: Offset, max_bytes: usize) -> Result<Vec<LogEntry>, FetchError> {
        let mut at = offset;
        for _ in 0..LOOKS {
            let end = self.high_watermark()?;
            let log_start = self.view().log_start;
            if offset < log_start {
                return Err(FetchError::OutOfRange { asked: offset, log_start, end });
            }
            if at >= end {
                return Ok(Vec::new());
            }
            let Some((extent, first)) = self.extent_at(at, |index| index.floor(at)).await? else {
                tokio::task::yield_now().await;
                continue;
            };
            match self.first_batches(&extent, first, at, max_bytes).await {
                Ok(found) if found.is_empty() => at = extent.end_offset.max(Offset(at.0 + 1)),
                Ok(found) => return Ok(found),
                // Retention may have been faster: then the next look says so.
                Err(_) if self.view().log_start > offset => {}
                Err(problem) => return Err(problem),
            }
        }
        Err(FetchError::Storage { reason: format!("no ledger holds offset {at}") })
    }

    /// Reads forward from entry `first` until there are batches that reach beyond `offset`.
    async fn first_batches(
        &self,
        extent: &Extent,
        first: EntryId,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, FetchError> {
        let wanted = u32::try_from(max_bytes).unwrap_or(u32::MAX).max(READ_AHEAD);
        let mut next = first;
        while next <= extent.through {
            let read = self.context.reader.read(&extent.ledger, next, extent.through, wanted).await;
            let read = read.map_err(|problem| storage(&problem))?;
            next = EntryId(next.0 + read.len().max(1) as u64);
            let found = batches_of(read, offset)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The readable part of the ledger that holds `offset`, and what `look` finds in its index; nothing if the log
    /// changed just now, or holds nothing there.
    pub(super) async fn extent_at<T>(
        &self,
        offset: Offset,
        look: impl FnOnce(&LedgerIndex) -> T + Send,
    ) -> Result<Option<(Extent, T)>, FetchError> {
        let view = self.view();
        if offset < view.closed_end {
            let Some(closed) = view.ledger_at(offset) else { return Ok(None) };
            return self.closed_extent(closed, look).await.map(Some);
        }
        let core = self.core.lock();
        let Some(head) = core.head.as_ref().filter(|h| h.base_offset() <= offset) else { return Ok(None) };
        let Some(through) = head.lac().entry() else { return Ok(None) };
        let extent = Extent { ledger: head.metadata(), through, end_offset: core.log.high_watermark() };
        Ok(Some((extent, look(head.index()))))
    }

    pub(super) async fn closed_extent<T>(
        &self,
        closed: &ClosedLedger,
        look: impl FnOnce(&LedgerIndex) -> T + Send,
    ) -> Result<(Extent, T), FetchError> {
        let LedgerState::Closed { last_entry: Some(through), .. } = closed.ledger.state else {
            let reason = format!("ledger {} is in the list of closed ledgers but not closed", closed.ledger.id);
            return Err(FetchError::Storage { reason });
        };
        let index = match self.context.indexes.get(closed.ledger.id) {
            Some(index) => index,
            None => {
                let contents = replay(&self.context.reader, &closed.ledger, through, None).await;
                let contents = contents.map_err(|problem| FetchError::Storage { reason: problem.to_string() })?;
                self.context.indexes.insert(closed.ledger.id, contents.index)
            }
        };
        let extent = Extent { ledger: closed.ledger.clone(), through, end_offset: closed.end_offset };
        Ok((extent, look(&index)))
    }
}

/// The entries of record batches that reach beyond `offset`; an entry that cannot be understood is an error, never
/// skipped.
pub(super) fn batches_of(entries: Vec<SealedEntry>, offset: Offset) -> Result<Vec<LogEntry>, FetchError> {
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let header = EntryHeader::decode(&entry.payload())
            .map_err(|problem| FetchError::Storage { reason: problem.to_string() })?;
        if header.kind == EntryKind::Batches && header.end_offset() > offset {
            found.push(LogEntry { entry, base_offset: header.base_offset, end_offset: header.end_offset() });
        }
    }
    Ok(found)
}

pub(super) fn storage(problem: &ReadError) -> FetchError {
    FetchError::Storage { reason: problem.to_string() }
}

/// The batches of an entry from the one that holds `offset` on that fit into `room`: their bytes, the offset after
/// them, and whether the entry was taken to its end.
fn cut_entry(entry: &LogEntry, offset: Offset, room: usize, at_least_one: bool) -> (Bytes, Offset, bool) {
    let batches = body(&entry.entry);
    if entry.base_offset >= offset && batches.len() <= room {
        return (batches, entry.end_offset, true);
    }
    let (mut begin, mut end, mut at, mut next) = (None, 0, 0, entry.base_offset);
    for batch in split(batches.clone()).map_while(Result::ok) {
        let (from, to) = (at, at + batch.bytes().len());
        at = to;
        let after = Offset(batch.last_offset().0 + 1);
        if after <= offset {
            continue;
        }
        let first = begin.is_none();
        if to - begin.unwrap_or(from) > room && !(first && at_least_one) {
            return (batches.slice(begin.unwrap_or(from)..end.max(begin.unwrap_or(from))), next, false);
        }
        begin.get_or_insert(from);
        (end, next) = (to, after);
    }
    let begin = begin.unwrap_or(end);
    (batches.slice(begin..end), next, at == batches.len())
}

//! Reading a partition: from offset to whole record batches, first in memory, then from a bookie.
//!
//! Owns the limits of one partition (whole batches only, never above the high watermark, at least one batch if asked
//! for) and the way from an offset to entries: tail cache, read-ahead cache, sparse index, ledger. Bytes are sliced, never
//! copied.

use super::{FetchSignal, Partition};
use crate::{
    ledger::ReadError,
    managed_ledger::{
        LedgerIndex, ListView, LogEntry,
        replay::{body, replay},
    },
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

/// What is read from a bookie if the cache has room for it, so that the next fetch finds it in memory.
const READ_AHEAD: usize = 2 * 1024 * 1024;

/// How much is wanted of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    /// The most bytes.
    pub(crate) max_bytes: usize,
    /// Whether one batch comes whatever its size.
    pub(crate) at_least_one: bool,
}

/// A read of one partition as far as it has come.
pub(crate) struct Progress {
    fetched: FetchedPartition,
    want: Want,
    /// Where it goes on.
    next: Offset,
    bytes: usize,
}

/// The result of looking at what is in memory.
pub(crate) enum Reading {
    /// Nothing more to find out.
    Done(Result<FetchedPartition, FetchError>),
    /// There is room for more, and it is in a ledger.
    InLedger(Progress),
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
        let fetched = match self.check_fetch(fetch) {
            Ok(fetched) => fetched,
            Err(problem) => return Reading::Done(Err(problem)),
        };
        let nothing = want.max_bytes == 0 && !want.at_least_one;
        if fetched.diverging.is_some() || nothing {
            return Reading::Done(Ok(fetched));
        }
        let mut progress = Progress { fetched, want, next: fetch.offset, bytes: 0 };
        if self.advance_in_memory(&mut progress) {
            return Reading::Done(Ok(self.finish(progress, fetch.offset)));
        }
        Reading::InLedger(progress)
    }

    /// Goes on in a ledger, and in memory again, until the limits or the high watermark are reached.
    pub(crate) async fn read_ledger(
        &self,
        offset: Offset,
        mut progress: Progress,
    ) -> Result<FetchedPartition, FetchError> {
        loop {
            let entries = match self.entries_from(progress.next, progress.room()).await {
                Ok(entries) => entries,
                // What was read is good; the next fetch begins at the problem.
                Err(_) if progress.bytes > 0 => break,
                Err(problem) => return Err(problem),
            };
            self.context.read_ahead.insert(self.id, &entries);
            if entries.is_empty() || progress.take(&entries) || self.advance_in_memory(&mut progress) {
                break;
            }
        }
        Ok(self.finish(progress, offset))
    }

    /// Takes what is in memory; `true` if the limits or the high watermark are reached.
    fn advance_in_memory(&self, progress: &mut Progress) -> bool {
        let metrics = self.context.tails.metrics();
        let mut entries = Vec::new();
        while progress.next < progress.fetched.high_watermark {
            entries.clear();
            if self.tail.find(progress.next, progress.room(), &mut entries) {
                metrics.hits.increment(1);
            } else {
                metrics.misses.increment(1);
                if !self.context.read_ahead.find(self.id, progress.next, progress.room(), &mut entries) {
                    return false;
                }
            }
            if progress.take(&entries) {
                return true;
            }
        }
        true
    }

    fn finish(&self, progress: Progress, offset: Offset) -> FetchedPartition {
        if progress.bytes > 0 {
            self.topic.metrics.bytes_out.increment(progress.bytes as u64);
            self.topic.metrics.records_out.increment((progress.next.0 - offset.0).max(0) as u64);
        }
        progress.fetched
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
                // Retention or repair may have been faster: then the next look says so.
                Err(_) if self.view().log_start > offset => {}
                Err(_) if self.has_moved(&extent.ledger).await => {}
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
        let ahead = self.context.read_ahead.share().min(READ_AHEAD);
        let wanted = u32::try_from(max_bytes.max(ahead)).unwrap_or(u32::MAX);
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
        let mut ledger = closed.ledger.clone();
        let index = loop {
            if let Some(index) = self.context.indexes.get(ledger.id) {
                break index;
            }
            match replay(&self.context.reader, &ledger, through, None).await {
                Ok(contents) => break self.context.indexes.insert(ledger.id, contents.index),
                Err(problem) => match self.moved(&ledger).await {
                    Some(now) => ledger = now,
                    None => return Err(FetchError::Storage { reason: problem.to_string() }),
                },
            }
        };
        Ok((Extent { ledger, through, end_offset: closed.end_offset }, look(&index)))
    }

    /// A closed ledger whose bookies all failed, if repair has given it others meanwhile (rule A5).
    pub(super) async fn moved(&self, ledger: &LedgerMetadata) -> Option<LedgerMetadata> {
        let list = self.list().filter(|_| ledger.is_closed())?;
        let now = |view: &ListView| Some(view.ledger(ledger.id)?.ledger.clone()).filter(|now| now != ledger);
        let seen = list.view();
        if let Some(known) = now(&seen) {
            return Some(known);
        }
        let fresh = list.refresh(&seen).await.inspect_err(|problem| {
            tracing::warn!(partition = %self.id, ledger = %ledger.id, %problem, "the list of ledgers cannot be read again");
        });
        now(&*fresh.ok()?)
    }

    /// Whether a ledger is worth another look: repair has given it other bookies, or it is no longer the head.
    async fn has_moved(&self, ledger: &LedgerMetadata) -> bool {
        match ledger.is_closed() {
            true => self.moved(ledger).await.is_some(),
            false => self.view().ledger(ledger.id).is_some(),
        }
    }
}

impl Progress {
    fn room(&self) -> usize {
        self.want.max_bytes.saturating_sub(self.bytes)
    }

    /// Puts whole batches from where it is into the answer, within the limits and below the high watermark; `true` if
    /// that is all.
    fn take(&mut self, entries: &[LogEntry]) -> bool {
        for entry in entries {
            if entry.end_offset <= self.next {
                continue;
            }
            if entry.end_offset > self.fetched.high_watermark {
                return true;
            }
            let at_least_one = self.want.at_least_one && self.bytes == 0;
            let cut = cut_entry(entry, self.next, self.room(), at_least_one);
            if !cut.bytes.is_empty() {
                self.bytes += cut.bytes.len();
                self.next = cut.end;
                self.fetched.batches.push(cut.bytes);
            }
            if !cut.whole {
                return true;
            }
        }
        self.room() == 0
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

/// Whole batches of one entry.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    bytes: Bytes,
    /// The offset after them.
    end: Offset,
    /// Whether the entry was taken to its end.
    whole: bool,
}

/// The batches of an entry from the one that holds `offset` on that fit into `room`.
fn cut_entry(entry: &LogEntry, offset: Offset, room: usize, at_least_one: bool) -> Cut {
    let batches = body(&entry.entry);
    if entry.base_offset >= offset && batches.len() <= room {
        return Cut { bytes: batches, end: entry.end_offset, whole: true };
    }
    let (mut begin, mut end, mut at, mut next) = (None, 0, 0, entry.base_offset);
    for batch in split(batches.clone()).map_while(Result::ok) {
        let (from, to) = (at, at + batch.bytes().len());
        at = to;
        let after = Offset(batch.last_offset().0 + 1);
        if after <= offset {
            next = after;
            continue;
        }
        let first = begin.is_none();
        let start = *begin.get_or_insert(from);
        if to - start > room && !(first && at_least_one) {
            return Cut { bytes: batches.slice(start..end.max(start)), end: next, whole: false };
        }
        (end, next) = (to, after);
    }
    let start = begin.unwrap_or(end);
    Cut { bytes: batches.slice(start..end), end: next, whole: at == batches.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use protocol::{
        id::{Lac, LedgerId, Timestamp},
        ledger::entry::{HEADER_LEN, SEAL_LEN},
        testing::BatchBuilder,
    };

    /// An entry of four batches with two records each, from offset 10 on; and the size of one batch.
    fn entry() -> (LogEntry, usize) {
        let batch = |base| BatchBuilder::new().value("a").value("b").stored_at(Offset(base), LeaderEpoch(0)).build();
        let mut buf = BytesMut::zeroed(SEAL_LEN + HEADER_LEN);
        let header = EntryHeader {
            kind: EntryKind::Batches,
            record_count: 8,
            base_offset: Offset(10),
            max_timestamp: Timestamp::NONE,
            append_time: Timestamp(0),
            last_index: None,
            epoch: LeaderEpoch(0),
        };
        header.encode(&mut buf[SEAL_LEN..]);
        (0..4).for_each(|n| buf.extend_from_slice(&batch(10 + n * 2)));
        let entry = SealedEntry::seal(buf, LedgerId(1), EntryId(0), Lac::NONE, 0);
        (LogEntry { entry, base_offset: Offset(10), end_offset: Offset(18) }, batch(0).len())
    }

    #[test]
    fn only_whole_batches_are_cut() {
        let (entry, size) = entry();
        let cut = |offset, room, at_least_one| {
            let cut = cut_entry(&entry, Offset(offset), room, at_least_one);
            (cut.bytes.len() / size, cut.bytes.len() % size, cut.end.0, cut.whole)
        };
        assert_eq!(cut(10, usize::MAX, false), (4, 0, 18, true));
        assert_eq!(cut(13, usize::MAX, false), (3, 0, 18, true));
        assert_eq!(cut(17, usize::MAX, false), (1, 0, 18, true));
        assert_eq!(cut(10, size * 2 + size - 1, false), (2, 0, 14, false));
        assert_eq!(cut(12, size, false), (1, 0, 14, false));
        assert_eq!(cut(12, 1, true), (1, 0, 14, false));
        assert_eq!(cut(12, 1, false), (0, 0, 12, false));
    }
}

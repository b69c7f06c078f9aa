//! What a ledger holds, found out by reading little of it: its last entry names the latest index entry, that one names
//! the producer snapshot, and only what follows is read forward. Owns the order of these reads; writes nothing.

use super::offset_index::{Checkpoint, IndexError, LedgerIndex};
use crate::{
    ledger::{LedgerReader, ReadError},
    partition::producer_state::{ProducerTable, SnapshotError},
    partition::validate::producer_in_log,
};
use bytes::Bytes;
use protocol::{
    id::{EntryId, Offset},
    ledger::{
        entry::{EntryError, EntryHeader, EntryKind, HEADER_LEN, SealedEntry},
        metadata::LedgerMetadata,
    },
    record_batch::{BatchError, split},
};

/// The most bytes of one read.
const READ_BYTES: u32 = 4 * 1024 * 1024;

/// What a ledger holds.
#[derive(Debug)]
pub struct LedgerContents {
    /// Its index, complete.
    pub index: LedgerIndex,
    /// The producers after its last entry.
    pub producers: ProducerTable,
    /// The offset after its last record.
    pub end_offset: Offset,
    /// The latest index entry in it.
    pub last_index: Option<EntryId>,
}

/// Why the contents could not be found out. Never skipped: a log with a hole is worse than one that waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The entries cannot be read now.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry's header is bad.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A record batch is bad.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A producer snapshot is bad.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An index is bad.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// An index entry leads to an entry of another kind.
    #[error("entry {0} is not what the index says it is")]
    Misled(EntryId),
}

/// The payload of an entry behind its header.
#[must_use]
pub fn body(entry: &SealedEntry) -> Bytes {
    entry.payload().slice(HEADER_LEN..)
}

/// Finds out what a ledger holds up to `last`, its last entry; `last_entry` saves a read if it is at hand.
///
/// # Errors
/// Anything that could not be read or understood.
pub async fn replay(
    reader: &LedgerReader,
    ledger: &LedgerMetadata,
    last: EntryId,
    last_entry: Option<SealedEntry>,
) -> Result<LedgerContents, ReplayError> {
    let ledger = Replay { reader, ledger, last };
    let last_entry = match last_entry {
        Some(entry) => entry,
        None => ledger.entry(last).await?,
    };
    let header = EntryHeader::decode(&last_entry.payload())?;
    let last_index = if header.kind == EntryKind::Index { Some(last) } else { header.last_index };
    let mut contents = LedgerContents {
        index: LedgerIndex::default(),
        producers: ProducerTable::default(),
        end_offset: header.end_offset(),
        last_index,
    };
    let mut next = EntryId(0);
    if let Some(at) = last_index {
        let entry = if at == last { last_entry } else { ledger.entry(at).await? };
        let (index, checkpoint) = ledger.checkpoint(&entry)?;
        contents.index = index;
        if let Some(snapshot) = checkpoint.snapshot {
            contents.producers = ledger.snapshot(snapshot).await?;
        }
        next = checkpoint.covers;
    }
    while next <= last {
        let entries = reader.read(ledger.ledger, next, last, READ_BYTES).await?;
        for entry in &entries {
            contents.take(entry)?;
        }
        next = EntryId(next.0 + entries.len().max(1) as u64);
    }
    Ok(contents)
}

struct Replay<'a> {
    reader: &'a LedgerReader,
    ledger: &'a LedgerMetadata,
    last: EntryId,
}

impl Replay<'_> {
    async fn entry(&self, at: EntryId) -> Result<SealedEntry, ReplayError> {
        let entries = self.reader.read(self.ledger, at, at.min(self.last), 1).await?;
        entries.into_iter().next().ok_or(ReplayError::Misled(at))
    }

    fn checkpoint(&self, entry: &SealedEntry) -> Result<(LedgerIndex, Checkpoint), ReplayError> {
        let kind = EntryHeader::decode(&entry.payload())?.kind;
        let (index, checkpoint) = LedgerIndex::decode(body(entry))?;
        if kind != EntryKind::Index || checkpoint.covers > entry.entry() {
            return Err(ReplayError::Misled(entry.entry()));
        }
        Ok((index, checkpoint))
    }

    async fn snapshot(&self, at: EntryId) -> Result<ProducerTable, ReplayError> {
        let entry = self.entry(at).await?;
        if EntryHeader::decode(&entry.payload())?.kind != EntryKind::ProducerSnapshot {
            return Err(ReplayError::Misled(at));
        }
        Ok(ProducerTable::decode(body(&entry))?)
    }
}

impl LedgerContents {
    /// Takes the next entry; the index knows the entries before the last index entry, the producers those it covers.
    fn take(&mut self, entry: &SealedEntry) -> Result<(), ReplayError> {
        let payload = entry.payload();
        let header = EntryHeader::decode(&payload)?;
        if header.kind != EntryKind::Batches {
            return Ok(());
        }
        if self.last_index.is_none_or(|index| entry.entry() > index) {
            self.index.add(entry.entry(), header.base_offset, header.max_timestamp, payload.len() as u64);
        }
        for batch in split(body(entry)) {
            let batch = batch?;
            let Some(producer) = producer_in_log(&batch) else { continue };
            let place = (batch.base_offset(), Offset(batch.last_offset().0 + 1));
            let stamp = batch.is_append_time().then(|| batch.max_timestamp());
            self.producers.record(&producer, place, stamp, header.append_time);
        }
        Ok(())
    }
}

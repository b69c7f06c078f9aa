//! What the entries of a log must be, one after the other: pure. Owns the order of offsets and the checks of headers and
//! batches; never reads an entry by itself.

use protocol::{
    id::Offset,
    ledger::entry::{EntryError, EntryHeader, EntryKind, HEADER_LEN, SealedEntry},
    record_batch::{BatchError, split},
};

/// What is wrong with an entry that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its header cannot be understood.
    #[error("its header cannot be read: {0}")]
    Header(EntryError),
    /// A batch in it cannot be understood, or its checksum is wrong.
    #[error("a batch in it is damaged: {0}")]
    Batch(BatchError),
    /// It does not go on where the entry before ended.
    #[error("it begins at offset {found}, expected is {expected}")]
    Gap {
        /// Where it begins.
        found: Offset,
        /// Where it should.
        expected: Offset,
    },
    /// Its header promises other offsets than its batches have.
    #[error("its header says {said} offsets, its batches have {found}")]
    Count {
        /// What the header says.
        said: u32,
        /// What the batches have.
        found: i64,
    },
}

/// The offset that comes next.
#[derive(Debug, Clone, Copy)]
pub struct Expected(Offset);

impl Expected {
    /// A log that goes on at `next`.
    #[must_use]
    pub const fn new(next: Offset) -> Self {
        Self(next)
    }

    /// The offset after the last record.
    #[must_use]
    pub const fn next(self) -> Offset {
        self.0
    }

    /// Takes the next entry; answers how many offsets it spans.
    ///
    /// # Errors
    /// What is wrong with it. The log is then expected to go on after it.
    pub fn take(&mut self, entry: &SealedEntry) -> Result<u64, Fault> {
        let payload = entry.payload();
        let header = EntryHeader::decode(&payload).map_err(Fault::Header)?;
        if header.kind != EntryKind::Batches {
            return Ok(0);
        }
        let expected = std::mem::replace(&mut self.0, header.end_offset());
        if header.base_offset != expected {
            return Err(Fault::Gap { found: header.base_offset, expected });
        }
        let mut next = header.base_offset;
        for batch in split(payload.slice(HEADER_LEN..)) {
            let batch = batch.map_err(Fault::Batch)?;
            batch.validate().map_err(Fault::Batch)?;
            if batch.base_offset() != next {
                return Err(Fault::Gap { found: batch.base_offset(), expected: next });
            }
            next = Offset(batch.last_offset().0 + 1);
        }
        let found = next.0 - header.base_offset.0;
        if found != i64::from(header.record_count) {
            return Err(Fault::Count { said: header.record_count, found });
        }
        Ok(u64::from(header.record_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use protocol::{
        id::{EntryId, Lac, LeaderEpoch, LedgerId, Timestamp},
        ledger::entry::SEAL_LEN,
        record_batch::set_base_offset,
        testing::batches::BatchBuilder,
    };

    /// An entry of one batch of `records` records that stands at `base`.
    fn entry(base: i64, records: u32, damage: bool) -> SealedEntry {
        let header = EntryHeader {
            kind: EntryKind::Batches,
            record_count: records,
            base_offset: Offset(base),
            max_timestamp: Timestamp(0),
            append_time: Timestamp(0),
            last_index: None,
            epoch: LeaderEpoch(0),
        };
        let batch = (0..records).fold(BatchBuilder::new(), |batch, at| batch.value(format!("value {at}")));
        let mut batch = batch.build().to_vec();
        set_base_offset(&mut batch, Offset(base), LeaderEpoch(0));
        if damage {
            *batch.last_mut().expect("bytes") ^= 1;
        }
        let mut buf = BytesMut::zeroed(SEAL_LEN + HEADER_LEN);
        header.encode(&mut buf[SEAL_LEN..]);
        buf.extend_from_slice(&batch);
        SealedEntry::seal(buf, LedgerId(1), EntryId(0), Lac::NONE, 0)
    }

    #[test]
    fn a_log_goes_on_where_it_ended() {
        let mut expected = Expected::new(Offset(10));
        assert_eq!(expected.take(&entry(10, 3, false)), Ok(3));
        assert_eq!(expected.take(&entry(13, 1, false)), Ok(1));
        let gap = Fault::Gap { found: Offset(20), expected: Offset(14) };
        assert_eq!(expected.take(&entry(20, 1, false)), Err(gap));
        assert_eq!(expected.take(&entry(21, 2, false)), Ok(2), "one gap is told once");
    }

    #[test]
    fn damage_inside_a_sealed_entry_is_found() {
        let mut expected = Expected::new(Offset(0));
        assert!(matches!(expected.take(&entry(0, 2, true)), Err(Fault::Batch(BatchError::Checksum { .. }))));
    }
}

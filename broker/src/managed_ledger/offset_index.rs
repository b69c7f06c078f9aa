//! The sparse index of a ledger: from offsets and times to entries.
//!
//! One point stands for about [`INTERVAL`] bytes of payload: the entry where they begin, its base offset, and the
//! largest timestamp up to the next point. The head's index is kept in memory and grows with it; its stored form goes
//! into the ledger at each checkpoint, so that nobody ever rebuilds it by reading a whole ledger. Pure. Invariant:
//! entries and offsets of the points ascend strictly.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::id::{EntryId, Offset, Timestamp};

/// Payload bytes between two points.
const INTERVAL: u64 = 64 * 1024;
/// The version the stored form is written with.
const INDEX_VERSION: u8 = 1;
/// Bytes of a stored point.
const POINT_LEN: usize = 24;
/// Bytes before the points.
const PREFIX_LEN: usize = 1 + 8 + 8 + 4;
/// Runs looked at for one time.
const MAX_RUNS: usize = 4;

/// Where a run of entries begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexPoint {
    /// Its first entry.
    pub entry: EntryId,
    /// The first offset of that entry.
    pub base_offset: Offset,
    /// The largest timestamp from here up to the next point.
    pub max_timestamp: Timestamp,
}

/// The index of one ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerIndex {
    points: Vec<IndexPoint>,
    /// Payload bytes since the last point.
    since_point: u64,
}

impl Default for LedgerIndex {
    fn default() -> Self {
        Self { points: Vec::new(), since_point: INTERVAL }
    }
}

/// What an index entry holds beside the points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The entry with the producer snapshot; none if there were no producers.
    pub snapshot: Option<EntryId>,
    /// The snapshot covers the entries below this one; later ones are replayed.
    pub covers: EntryId,
}

/// Why bytes are not an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Written by a newer Magnetar.
    #[error("ledger index version {0} is newer than {INDEX_VERSION}; upgrade this node to read it")]
    Version(u8),
    /// Not an index.
    #[error("ledger index is cut short or not in order")]
    Malformed,
}

impl LedgerIndex {
    /// Takes note of the next entry of record batches.
    pub fn add(&mut self, entry: EntryId, base_offset: Offset, max_timestamp: Timestamp, payload: u64) {
        if self.since_point >= INTERVAL {
            self.points.push(IndexPoint { entry, base_offset, max_timestamp });
            self.since_point = 0;
        } else if let Some(last) = self.points.last_mut() {
            last.max_timestamp = last.max_timestamp.max(max_timestamp);
        }
        self.since_point += payload;
    }

    /// The points, in order.
    #[must_use]
    pub fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// The entry from which on `offset` is found by reading forward; the first entry if it lies before every point.
    #[must_use]
    pub fn floor(&self, offset: Offset) -> EntryId {
        let after = self.points.partition_point(|p| p.base_offset <= offset);
        self.points.get(after.saturating_sub(1)).map_or(EntryId(0), |p| p.entry)
    }

    /// Runs of entries that may hold the first record at or after `time` from `from` on, as first and last entry. There are
    /// only a few of them: the run of `from` may have its record before `from`, any later one has what is looked for.
    #[must_use]
    pub fn runs_at_time(&self, from: Offset, time: Timestamp) -> Vec<(EntryId, EntryId)> {
        let begin = self.points.partition_point(|p| p.base_offset <= from).saturating_sub(1);
        let runs = (begin..self.points.len()).filter(|&i| self.points[i].max_timestamp >= time);
        let last = |i: usize| self.points.get(i + 1).map_or(u64::MAX, |next| next.entry.0 - 1);
        runs.take(MAX_RUNS).map(|i| (self.points[i].entry, EntryId(last(i)))).collect()
    }

    /// The largest timestamp in the ledger.
    #[must_use]
    pub fn max_timestamp(&self) -> Timestamp {
        self.points.iter().map(|p| p.max_timestamp).max().unwrap_or(Timestamp::NONE)
    }

    /// Appends the stored form: version, snapshot (entry id + 1, 0 if none), covered entries, count, points.
    pub fn encode(&self, checkpoint: Checkpoint, out: &mut BytesMut) {
        out.reserve(PREFIX_LEN + self.points.len() * POINT_LEN);
        out.put_u8(INDEX_VERSION);
        out.put_u64(checkpoint.snapshot.map_or(0, |e| e.0 + 1));
        out.put_u64(checkpoint.covers.0);
        out.put_u32(self.points.len() as u32);
        for point in &self.points {
            out.put_u64(point.entry.0);
            out.put_i64(point.base_offset.0);
            out.put_i64(point.max_timestamp.0);
        }
    }

    /// Reads the stored form. The next entry begins a new run.
    pub fn decode(mut bytes: Bytes) -> Result<(Self, Checkpoint), IndexError> {
        let version = *bytes.first().ok_or(IndexError::Malformed)?;
        if version != INDEX_VERSION {
            return Err(IndexError::Version(version));
        }
        if bytes.len() < PREFIX_LEN {
            return Err(IndexError::Malformed);
        }
        bytes.advance(1);
        let snapshot = bytes.get_u64().checked_sub(1).map(EntryId);
        let checkpoint = Checkpoint { snapshot, covers: EntryId(bytes.get_u64()) };
        let count = bytes.get_u32() as usize;
        if bytes.len() != count * POINT_LEN {
            return Err(IndexError::Malformed);
        }
        let mut points: Vec<IndexPoint> = Vec::with_capacity(count);
        for _ in 0..count {
            let (entry, base) = (EntryId(bytes.get_u64()), Offset(bytes.get_i64()));
            let point = IndexPoint { entry, base_offset: base, max_timestamp: Timestamp(bytes.get_i64()) };
            if points.last().is_some_and(|last| last.entry >= point.entry || last.base_offset >= point.base_offset) {
                return Err(IndexError::Malformed);
            }
            points.push(point);
        }
        Ok((Self { points, since_point: INTERVAL }, checkpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKPOINT: Checkpoint = Checkpoint { snapshot: Some(EntryId(3)), covers: EntryId(2) };

    /// 30 entries of 30 KiB and 10 records each; timestamps 100, 101, ... but entry 4 is late by 50.
    fn index() -> LedgerIndex {
        let mut index = LedgerIndex::default();
        for n in 0..30_u64 {
            let time = if n == 4 { 154 } else { 100 + n as i64 };
            index.add(EntryId(n), Offset(n as i64 * 10), Timestamp(time), 30 * 1024);
        }
        index
    }

    #[test]
    fn points_are_sparse_and_lead_to_at_or_before_every_offset() {
        let index = index();
        let entries: Vec<u64> = index.points().iter().map(|p| p.entry.0).collect();
        assert_eq!(entries, (0..30).step_by(3).collect::<Vec<_>>());
        assert_eq!(index.floor(Offset(0)), EntryId(0));
        assert_eq!(index.floor(Offset(29)), EntryId(0));
        assert_eq!(index.floor(Offset(30)), EntryId(3));
        assert_eq!(index.floor(Offset(299)), EntryId(27));
    }

    #[test]
    fn times_are_found_even_where_they_do_not_ascend() {
        let index = index();
        assert_eq!(index.max_timestamp(), Timestamp(154));
        let runs = |from, time| -> Vec<(u64, u64)> {
            let runs = index.runs_at_time(Offset(from), Timestamp(time));
            runs.into_iter().map(|(a, b)| (a.0, b.0)).collect()
        };
        assert_eq!(runs(0, 0)[..2], [(0, 2), (3, 5)]);
        // The run of entries 3 to 5 holds the late record.
        assert_eq!(runs(0, 110)[..2], [(3, 5), (9, 11)]);
        assert_eq!(runs(60, 110)[0], (9, 11));
        assert_eq!(runs(0, 129), [(3, 5), (27, u64::MAX)]);
        assert!(runs(0, 155).is_empty());
    }

    #[test]
    fn the_stored_form_comes_back_and_damage_is_noticed() {
        let mut out = BytesMut::new();
        index().encode(CHECKPOINT, &mut out);
        let bytes = out.freeze();
        let (back, checkpoint) = LedgerIndex::decode(bytes.clone()).expect("decodes");
        assert_eq!((back.points(), checkpoint), (index().points(), CHECKPOINT));
        for cut in 0..bytes.len() {
            assert_eq!(LedgerIndex::decode(bytes.slice(..cut)), Err(IndexError::Malformed), "{cut}");
        }
        let mut newer = bytes.to_vec();
        newer[0] = 9;
        assert_eq!(LedgerIndex::decode(newer.into()), Err(IndexError::Version(9)));
        let mut disordered = bytes.to_vec();
        disordered[PREFIX_LEN + POINT_LEN + 7] = 0;
        assert_eq!(LedgerIndex::decode(disordered.into()), Err(IndexError::Malformed));
    }

    #[test]
    fn a_decoded_index_goes_on_with_a_new_run() {
        let mut out = BytesMut::new();
        index().encode(CHECKPOINT, &mut out);
        let (mut back, _) = LedgerIndex::decode(out.freeze()).expect("decodes");
        back.add(EntryId(32), Offset(300), Timestamp(1), 10);
        assert_eq!(back.points().last().map(|p| p.entry), Some(EntryId(32)));
    }
}

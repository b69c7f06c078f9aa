//! Idempotent producers: what each one last wrote to a partition, and whether its next batch is new, a retry, or wrong.
//!
//! Owns the sequence rules (KIP-98): the last five batches per producer are remembered, so that an exact retry is
//! answered with its first offset; an unknown producer may begin anywhere, because retention may have removed its
//! records; a new epoch begins at 0; sequences wrap after 2^31 - 1. Pure: the caller brings the time. Invariant: a
//! batch that [`ProducerTable::check`] calls new follows the last recorded one without a gap.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protocol::id::{Offset, Timestamp};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// Batches remembered per producer (Kafka: `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`); clients keep at most as many in
/// flight.
const REMEMBERED: usize = 5;
/// The most producers remembered per partition; beyond it the least recently used ones are forgotten.
const MAX_PRODUCERS: usize = 65_536;
/// The version the snapshot is written with.
const SNAPSHOT_VERSION: u8 = 1;

/// The part of a batch that the sequence rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// The producer, 0 or more.
    pub producer: i64,
    /// Its epoch, 0 or more.
    pub epoch: i16,
    /// The sequence of the first record, 0 or more.
    pub first_sequence: i32,
    /// How many sequence numbers the batch takes, 1 or more.
    pub count: u32,
}

impl ProducerBatch {
    const fn last_sequence(&self) -> i32 {
        advance(self.first_sequence, self.count - 1)
    }
}

/// Sequences run from 0 to 2^31 - 1 and then begin at 0 again.
const fn advance(sequence: i32, by: u32) -> i32 {
    ((sequence as i64 + by as i64) % (1 << 31)) as i32
}

/// A batch that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedBatch {
    first_sequence: i32,
    last_sequence: i32,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset after its last record.
    pub end_offset: Offset,
    /// The append time it was answered with, if the topic said `LogAppendTime`.
    pub append_time: Option<Timestamp>,
}

/// What the rules say about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    New,
    /// It was written before, here.
    Duplicate(RecordedBatch),
    /// A sequence is missing, or comes from the past.
    OutOfOrder {
        /// The sequence that would be right.
        expected: i32,
    },
    /// A newer epoch of the producer exists.
    Fenced {
        /// The newer epoch.
        current: i16,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    last_used: Timestamp,
    batches: VecDeque<RecordedBatch>,
}

/// The producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: HashMap<i64, Producer>,
}

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a newer Magnetar.
    #[error("producer snapshot version {0} is newer than {SNAPSHOT_VERSION}; upgrade this node to read it")]
    Version(u8),
    /// Not a snapshot.
    #[error("producer snapshot is cut short")]
    Short,
}

impl ProducerTable {
    /// Judges a batch; changes nothing.
    #[must_use]
    pub fn check(&self, batch: &ProducerBatch) -> Verdict {
        let Some(known) = self.producers.get(&batch.producer) else { return Verdict::New };
        if batch.epoch < known.epoch {
            return Verdict::Fenced { current: known.epoch };
        }
        if batch.epoch > known.epoch {
            return if batch.first_sequence == 0 { Verdict::New } else { Verdict::OutOfOrder { expected: 0 } };
        }
        let same =
            |b: &&RecordedBatch| (b.first_sequence, b.last_sequence) == (batch.first_sequence, batch.last_sequence());
        if let Some(first) = known.batches.iter().find(same) {
            return Verdict::Duplicate(*first);
        }
        let expected = known.batches.back().map_or(0, |last| advance(last.last_sequence, 1));
        if batch.first_sequence == expected { Verdict::New } else { Verdict::OutOfOrder { expected } }
    }

    /// Takes note of a batch that stands in the log. The caller has checked it, or read it back from the log.
    pub fn record(
        &mut self,
        batch: &ProducerBatch,
        placed: (Offset, Offset),
        append_time: Option<Timestamp>,
        now: Timestamp,
    ) {
        if self.producers.len() >= MAX_PRODUCERS && !self.producers.contains_key(&batch.producer) {
            self.forget_oldest();
        }
        let fresh = || Producer { epoch: batch.epoch, last_used: now, batches: VecDeque::with_capacity(REMEMBERED) };
        let producer = self.producers.entry(batch.producer).or_insert_with(fresh);
        if producer.epoch != batch.epoch {
            producer.epoch = batch.epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == REMEMBERED {
            producer.batches.pop_front();
        }
        producer.last_used = now;
        producer.batches.push_back(RecordedBatch {
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence(),
            base_offset: placed.0,
            end_offset: placed.1,
            append_time,
        });
    }

    /// Forgets producers that wrote nothing for `producer.id.expiration.ms`.
    pub fn expire(&mut self, now: Timestamp, after: Duration) {
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        self.producers.retain(|_, p| now.0.saturating_sub(p.last_used.0) < after);
    }

    /// Makes room for an eighth of the limit at once, so that the cost is spread over as many new producers.
    fn forget_oldest(&mut self) {
        let mut by_age: Vec<(Timestamp, i64)> = self.producers.iter().map(|(id, p)| (p.last_used, *id)).collect();
        by_age.sort_unstable();
        for (_, id) in by_age.iter().take(MAX_PRODUCERS / 8) {
            self.producers.remove(id);
        }
    }

    /// How many producers are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// The producers that are known.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        self.producers.keys().copied()
    }

    /// Whether no producer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Appends the stored form: a version byte, a count, then the producers in order of their ids.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(SNAPSHOT_VERSION);
        out.put_u32(self.producers.len() as u32);
        let mut ids: Vec<i64> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let producer = &self.producers[&id];
            out.put_i64(id);
            out.put_i16(producer.epoch);
            out.put_i64(producer.last_used.0);
            out.put_u8(producer.batches.len() as u8);
            for b in &producer.batches {
                out.put_i32(b.first_sequence);
                out.put_i32(b.last_sequence);
                out.put_i64(b.base_offset.0);
                out.put_i64(b.end_offset.0);
                out.put_i64(b.append_time.unwrap_or(Timestamp::NONE).0);
            }
        }
    }

    /// Reads the stored form.
    pub fn decode(mut bytes: Bytes) -> Result<Self, SnapshotError> {
        let need = |bytes: &Bytes, n: usize| if bytes.len() < n { Err(SnapshotError::Short) } else { Ok(()) };
        need(&bytes, 5)?;
        let version = bytes.get_u8();
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version(version));
        }
        let count = bytes.get_u32();
        let mut producers = HashMap::new();
        for _ in 0..count {
            need(&bytes, 19)?;
            let (id, epoch, last_used, held) = (bytes.get_i64(), bytes.get_i16(), bytes.get_i64(), bytes.get_u8());
            let mut batches = VecDeque::with_capacity(REMEMBERED);
            for _ in 0..held {
                need(&bytes, 32)?;
                let batch = RecordedBatch {
                    first_sequence: bytes.get_i32(),
                    last_sequence: bytes.get_i32(),
                    base_offset: Offset(bytes.get_i64()),
                    end_offset: Offset(bytes.get_i64()),
                    append_time: Some(Timestamp(bytes.get_i64())).filter(|t| *t != Timestamp::NONE),
                };
                if batches.len() == REMEMBERED {
                    batches.pop_front();
                }
                batches.push_back(batch);
            }
            producers.insert(id, Producer { epoch, last_used: Timestamp(last_used), batches });
        }
        Ok(Self { producers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn batch(epoch: i16, first: i32, count: u32) -> ProducerBatch {
        ProducerBatch { producer: 7, epoch, first_sequence: first, count }
    }

    /// Records batches of two records each with ascending offsets.
    fn table(batches: &[ProducerBatch]) -> ProducerTable {
        let mut table = ProducerTable::default();
        for (i, b) in batches.iter().enumerate() {
            assert_eq!(table.check(b), Verdict::New, "{b:?}");
            let base = i as i64 * 2;
            table.record(b, (Offset(base), Offset(base + 2)), None, NOW);
        }
        table
    }

    #[test]
    fn an_unknown_producer_begins_anywhere_and_a_known_one_goes_on() {
        let t = table(&[batch(0, 40, 2), batch(0, 42, 2)]);
        assert_eq!(t.check(&batch(0, 44, 9)), Verdict::New);
        assert_eq!(t.check(&batch(0, 45, 1)), Verdict::OutOfOrder { expected: 44 });
        assert_eq!(t.check(&batch(0, 41, 1)), Verdict::OutOfOrder { expected: 44 });
    }

    #[test]
    fn each_of_the_last_five_batches_is_recognized_and_no_older_one() {
        let all: Vec<_> = (0..6).map(|i| batch(3, i * 2, 2)).collect();
        let t = table(&all);
        for (i, b) in all.iter().enumerate().skip(1) {
            let Verdict::Duplicate(first) = t.check(b) else { panic!("{b:?} is a duplicate") };
            assert_eq!(first.base_offset, Offset(i as i64 * 2));
        }
        assert_eq!(t.check(&all[0]), Verdict::OutOfOrder { expected: 12 });
        // Only the exact batch is a retry: the same start with another length is not.
        assert_eq!(t.check(&batch(3, 10, 1)), Verdict::OutOfOrder { expected: 12 });
    }

    #[test]
    fn epochs_fence_and_begin_at_zero() {
        let mut t = table(&[batch(4, 0, 2)]);
        assert_eq!(t.check(&batch(3, 2, 1)), Verdict::Fenced { current: 4 });
        assert_eq!(t.check(&batch(5, 2, 1)), Verdict::OutOfOrder { expected: 0 });
        assert_eq!(t.check(&batch(5, 0, 1)), Verdict::New);
        t.record(&batch(5, 0, 1), (Offset(2), Offset(3)), None, NOW);
        assert_eq!(t.check(&batch(4, 2, 2)), Verdict::Fenced { current: 5 });
        assert_eq!(t.check(&batch(5, 1, 1)), Verdict::New);
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let t = table(&[batch(0, i32::MAX - 1, 2)]);
        assert_eq!(t.check(&batch(0, 0, 3)), Verdict::New);
        let across = table(&[batch(0, i32::MAX, 3)]);
        assert_eq!(across.check(&batch(0, 2, 1)), Verdict::New);
        assert!(matches!(across.check(&batch(0, i32::MAX, 3)), Verdict::Duplicate(_)));
    }

    #[test]
    fn silent_producers_expire() {
        let mut t = table(&[batch(0, 0, 2)]);
        t.expire(Timestamp(NOW.0 + 99), Duration::from_millis(100));
        assert_eq!(t.len(), 1);
        t.expire(Timestamp(NOW.0 + 100), Duration::from_millis(100));
        assert!(t.is_empty());
    }

    #[test]
    fn the_number_of_producers_is_bounded() {
        let mut t = ProducerTable::default();
        for id in 0..=MAX_PRODUCERS as i64 {
            let b = ProducerBatch { producer: id, ..batch(0, 0, 1) };
            t.record(&b, (Offset(id), Offset(id + 1)), None, Timestamp(id));
        }
        assert_eq!(t.len(), MAX_PRODUCERS - MAX_PRODUCERS / 8 + 1);
        let newest = ProducerBatch { producer: MAX_PRODUCERS as i64, ..batch(0, 0, 1) };
        assert!(matches!(t.check(&newest), Verdict::Duplicate(_)));
    }

    #[test]
    fn snapshots_come_back_and_damage_is_noticed() {
        let mut t = table(&[batch(2, 5, 2), batch(2, 7, 2)]);
        let other = ProducerBatch { producer: 9, ..batch(0, 0, 1) };
        t.record(&other, (Offset(4), Offset(5)), Some(Timestamp(77)), NOW);
        let mut out = BytesMut::new();
        t.encode(&mut out);
        let bytes = out.freeze();
        assert_eq!(ProducerTable::decode(bytes.clone()), Ok(t));
        for cut in 0..bytes.len() {
            assert_eq!(ProducerTable::decode(bytes.slice(..cut)), Err(SnapshotError::Short));
        }
        let mut newer = bytes.to_vec();
        newer[0] = 2;
        assert_eq!(ProducerTable::decode(newer.into()), Err(SnapshotError::Version(2)));
    }
}

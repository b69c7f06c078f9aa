//! The two headers in front of every stored payload, both permanent formats.
//!
//! *Sealed entry* (40 bytes): what a bookie stores and checks. Its CRC-32C covers ledger id, entry id,
//! last-add-confirmed, running length and payload, so that a misdirected, torn or flipped entry is never served
//! (rules W2 and B7).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version (1) |
//! | 1 | 3 | reserved, 0 |
//! | 4 | 4 | CRC-32C of bytes 8.. |
//! | 8 | 8 | ledger id |
//! | 16 | 8 | entry id |
//! | 24 | 8 | last-add-confirmed when sent, as a count of entries |
//! | 32 | 8 | payload bytes of the ledger up to and including this entry |
//! | 40 | | payload |
//!
//! *Entry header* (48 bytes, the first bytes of the payload): what a broker needs to find offsets.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version (1) |
//! | 1 | 1 | kind: 1 record batches, 2 producer snapshot, 3 index |
//! | 2 | 2 | reserved, 0 |
//! | 4 | 4 | record count (offsets spanned) |
//! | 8 | 8 | base offset |
//! | 16 | 8 | largest timestamp, -1 if none |
//! | 24 | 8 | append time |
//! | 32 | 8 | entry id + 1 of the ledger's latest index entry before this one, 0 if none |
//! | 40 | 4 | leader epoch of the writer |
//! | 44 | 4 | reserved, 0 |
//!
//! All numbers are big-endian. A newer version is refused by name. This file owns both layouts and never looks into
//! record batches.

use crate::id::{EntryId, Lac, LeaderEpoch, LedgerId, Offset, Timestamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes in front of the payload of a sealed entry.
pub const SEAL_LEN: usize = 40;
/// Bytes of the entry header at the start of a payload.
pub const HEADER_LEN: usize = 48;
/// The largest sealed entry, in bytes: what a bookie accepts and a frame carries.
pub const MAX_ENTRY: usize = 64 * 1024 * 1024;
/// The version both headers are written with.
pub const ENTRY_VERSION: u8 = 1;

/// Why bytes are not an entry. Never means "no such entry": the bytes exist and must not be served (rule R9).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Fewer bytes than a header.
    #[error("entry is cut short: {0} bytes")]
    Short(usize),
    /// Written by a newer Magnetar.
    #[error("entry format version {found} is newer than {ENTRY_VERSION}; upgrade this node to read it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The checksum does not match.
    #[error("entry checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A whole entry, but of another place.
    #[error("entry {found_ledger}/{found_entry} stands where {ledger}/{entry} was expected")]
    Misplaced {
        /// The ledger asked for.
        ledger: LedgerId,
        /// The entry asked for.
        entry: EntryId,
        /// The ledger found.
        found_ledger: LedgerId,
        /// The entry found.
        found_entry: EntryId,
    },
    /// An unknown kind of payload.
    #[error("entry kind {0} is unknown")]
    Kind(u8),
}

/// A sealed entry: one contiguous buffer that goes unchanged to the wire, the disk, the cache and the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedEntry(Bytes);

impl SealedEntry {
    /// Seals a buffer whose first [`SEAL_LEN`] bytes are free and whose rest is the payload.
    ///
    /// `length` is the running payload length of the ledger including this entry.
    ///
    /// # Panics
    /// If the buffer is shorter than [`SEAL_LEN`], or `lac` covers the entry itself: both are errors of the caller.
    #[must_use]
    pub fn seal(mut buf: BytesMut, ledger: LedgerId, entry: EntryId, lac: Lac, length: u64) -> Self {
        assert!(buf.len() >= SEAL_LEN, "no room for the seal");
        assert!(!lac.covers(entry), "an entry is sealed before it is confirmed");
        let mut head = &mut buf[..SEAL_LEN];
        head.put_u8(ENTRY_VERSION);
        head.put_bytes(0, 7);
        head.put_u64(ledger.0);
        head.put_u64(entry.0);
        head.put_u64(lac.count());
        head.put_u64(length);
        let crc = crc32c::crc32c(&buf[8..]);
        buf[4..8].copy_from_slice(&crc.to_be_bytes());
        Self(buf.freeze())
    }

    /// Takes bytes from a wire or a disk and checks version, checksum and the recorded place.
    pub fn open(bytes: Bytes, ledger: LedgerId, entry: EntryId) -> Result<Self, EntryError> {
        let sealed = Self::open_any(bytes)?;
        if (sealed.ledger(), sealed.entry()) == (ledger, entry) {
            return Ok(sealed);
        }
        let (found_ledger, found_entry) = (sealed.ledger(), sealed.entry());
        Err(EntryError::Misplaced { ledger, entry, found_ledger, found_entry })
    }

    /// Like [`SealedEntry::open`] for a caller that does not know which entry to expect.
    pub fn open_any(bytes: Bytes) -> Result<Self, EntryError> {
        if bytes.len() < SEAL_LEN {
            return Err(EntryError::Short(bytes.len()));
        }
        if bytes[0] != ENTRY_VERSION {
            return Err(EntryError::Version { found: bytes[0] });
        }
        let stored = (&bytes[4..8]).get_u32();
        let computed = crc32c::crc32c(&bytes[8..]);
        if stored != computed {
            return Err(EntryError::Checksum { stored, computed });
        }
        Ok(Self(bytes))
    }

    fn number(&self, at: usize) -> u64 {
        (&self.0[at..at + 8]).get_u64()
    }

    /// The ledger it belongs to.
    #[must_use]
    pub fn ledger(&self) -> LedgerId {
        LedgerId(self.number(8))
    }

    /// Its place in the ledger.
    #[must_use]
    pub fn entry(&self) -> EntryId {
        EntryId(self.number(16))
    }

    /// What the writer had confirmed when it sent the entry.
    #[must_use]
    pub fn lac(&self) -> Lac {
        Lac::from_count(self.number(24))
    }

    /// Payload bytes of the ledger up to and including this entry.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.number(32)
    }

    /// The payload, as a slice of the same buffer.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.0.slice(SEAL_LEN..)
    }

    /// The whole entry as stored and sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// What the payload of an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// One or more Kafka v2 record batches, byte for byte.
    Batches,
    /// The state of idempotent producers at this point.
    ProducerSnapshot,
    /// The sparse index of the entries of this ledger up to here, and where the snapshot before it stands.
    Index,
}

/// The header at the start of every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// What follows.
    pub kind: EntryKind,
    /// How many offsets the entry spans; 0 unless it holds batches.
    pub record_count: u32,
    /// The first offset of the entry; the next offset of the log if it holds no batches.
    pub base_offset: Offset,
    /// The largest record timestamp, [`Timestamp::NONE`] if there is none.
    pub max_timestamp: Timestamp,
    /// When the broker appended it.
    pub append_time: Timestamp,
    /// The latest index entry of this ledger before this entry.
    pub last_index: Option<EntryId>,
    /// The epoch of the owner that wrote it.
    pub epoch: LeaderEpoch,
}

impl EntryHeader {
    /// Writes the header to exactly [`HEADER_LEN`] bytes.
    pub fn encode(&self, mut out: &mut [u8]) {
        assert_eq!(out.len(), HEADER_LEN, "an entry header has a fixed length");
        out.put_u8(ENTRY_VERSION);
        out.put_u8(match self.kind {
            EntryKind::Batches => 1,
            EntryKind::ProducerSnapshot => 2,
            EntryKind::Index => 3,
        });
        out.put_u16(0);
        out.put_u32(self.record_count);
        out.put_i64(self.base_offset.0);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(self.append_time.0);
        out.put_u64(self.last_index.map_or(0, |e| e.0 + 1));
        out.put_i32(self.epoch.0);
        out.put_u32(0);
    }

    /// Reads the header of a payload.
    pub fn decode(mut payload: &[u8]) -> Result<Self, EntryError> {
        if payload.len() < HEADER_LEN {
            return Err(EntryError::Short(payload.len()));
        }
        let version = payload.get_u8();
        if version != ENTRY_VERSION {
            return Err(EntryError::Version { found: version });
        }
        let kind = match payload.get_u8() {
            1 => EntryKind::Batches,
            2 => EntryKind::ProducerSnapshot,
            3 => EntryKind::Index,
            other => return Err(EntryError::Kind(other)),
        };
        payload.advance(2);
        Ok(Self {
            kind,
            record_count: payload.get_u32(),
            base_offset: Offset(payload.get_i64()),
            max_timestamp: Timestamp(payload.get_i64()),
            append_time: Timestamp(payload.get_i64()),
            last_index: payload.get_u64().checked_sub(1).map(EntryId),
            epoch: LeaderEpoch(payload.get_i32()),
        })
    }

    /// The offset after the entry's last record.
    #[must_use]
    pub const fn end_offset(&self) -> Offset {
        Offset(self.base_offset.0 + self.record_count as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(payload: &[u8]) -> SealedEntry {
        let mut buf = BytesMut::zeroed(SEAL_LEN);
        buf.extend_from_slice(payload);
        SealedEntry::seal(buf, LedgerId(7), EntryId(3), Lac::at(EntryId(1)), 99)
    }

    #[test]
    fn a_sealed_entry_keeps_its_place_and_payload() {
        let entry = sealed(b"hello");
        let again = SealedEntry::open(entry.bytes().clone(), LedgerId(7), EntryId(3)).expect("opens");
        assert_eq!((again.lac(), again.length()), (Lac::at(EntryId(1)), 99));
        assert_eq!(&again.payload()[..], b"hello");
        let elsewhere = SealedEntry::open(entry.bytes().clone(), LedgerId(7), EntryId(4));
        assert!(matches!(elsewhere, Err(EntryError::Misplaced { .. })));
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = sealed(b"x").bytes().to_vec();
        bytes[0] = 2;
        assert_eq!(SealedEntry::open_any(bytes.into()), Err(EntryError::Version { found: 2 }));
    }

    #[test]
    fn the_layout_never_changes() {
        let golden = "010000002430f1810000000000000007000000000000000300000000000000020000000000000063\
                      68656c6c6f";
        let hex: String = sealed(b"hello").bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_detected(payload in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = sealed(&payload).bytes().to_vec();
            // Bytes 1..4 are reserved and carry nothing.
            let places: Vec<usize> = (0..bytes.len()).filter(|i| !(1..4).contains(i)).collect();
            bytes[places[at.index(places.len())]] ^= 1 << bit;
            prop_assert!(SealedEntry::open(bytes.into(), LedgerId(7), EntryId(3)).is_err());
        }

        #[test]
        fn headers_round_trip(record_count: u32, base in 0..i64::MAX / 2, ts in -1..i64::MAX, index in proptest::option::of(0..u64::MAX - 1), epoch in 0..i32::MAX) {
            let header = EntryHeader {
                kind: EntryKind::Index, record_count, base_offset: Offset(base), max_timestamp: Timestamp(ts),
                append_time: Timestamp(5), last_index: index.map(EntryId), epoch: LeaderEpoch(epoch),
            };
            let mut out = [0; HEADER_LEN];
            header.encode(&mut out);
            prop_assert_eq!(EntryHeader::decode(&out), Ok(header));
        }
    }
}

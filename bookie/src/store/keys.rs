//! Every key and value of the store, on one page. Permanent formats; all numbers are big-endian.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `sys` | `format` | 4 bytes: the version of this page |
//! | `sys` | `commit` | 8 bytes: the number of the last batch |
//! | `sys` | `limbo` | 1 byte: 1 while the bookie is in limbo |
//! | `sys` | `floor` | 8 bytes: no unknown ledger below this id counts as new; absent is 0; what follows is ignored |
//! | `ledger` | ledger id (8) | version 1 (1), kind (1): 1 known, 2 deleted; if known: flags (1), 0 (1), key (8), last-add-confirmed (8) |
//! | `entry` | ledger id (8), entry id (8) | the sealed entry, as `protocol::ledger::entry` lays it out |
//!
//! Flags of a known ledger: 1 fenced, 2 limbo. Ledger ids only grow, so new keys sort last, and a dead ledger is one
//! range. Owns layouts only; never touches a disk.

use super::StoreError;
use crate::ledger::{KnownLedger, LedgerRecord};
use bytes::{Buf, BufMut};
use protocol::id::{EntryId, Lac, LedgerId, LedgerKey};

/// The version of this page.
pub const FORMAT: u32 = 1;
/// `sys`: the version of the format.
pub const SYS_FORMAT: &[u8] = b"format";
/// `sys`: the number of the last batch.
pub const SYS_COMMIT: &[u8] = b"commit";
/// `sys`: whether the bookie is in limbo.
pub const SYS_LIMBO: &[u8] = b"limbo";
/// `sys`: the lowest id of an unknown ledger that counts as new.
pub const SYS_FLOOR: &[u8] = b"floor";

/// The name of the column family of the store's own state.
pub const CF_SYS: &str = "sys";
/// The name of the column family of ledger records.
pub const CF_LEDGER: &str = "ledger";
/// The name of the column family of entries.
pub const CF_ENTRY: &str = "entry";

const RECORD_VERSION: u8 = 1;
const KNOWN: u8 = 1;
const DELETED: u8 = 2;
const FENCED: u8 = 1;
const LIMBO: u8 = 2;

/// The key of an entry.
#[must_use]
pub fn entry(ledger: LedgerId, entry: EntryId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ledger.0.to_be_bytes());
    key[8..].copy_from_slice(&entry.0.to_be_bytes());
    key
}

/// The place that an entry's key names.
pub fn parse_entry(key: &[u8]) -> Result<(LedgerId, EntryId), StoreError> {
    match <[u8; 16]>::try_from(key) {
        Ok(key) => Ok((LedgerId((&key[..8]).get_u64()), EntryId((&key[8..]).get_u64()))),
        Err(_) => Err(StoreError::Damaged(format!("an entry key of {} bytes", key.len()))),
    }
}

/// The first key that can belong to a ledger, and the first that belongs to a later one.
#[must_use]
pub fn ledger_range(ledger: LedgerId) -> (Vec<u8>, Vec<u8>) {
    let end = match ledger.0.checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        // Longer than any key, so it sorts after the very last ledger.
        None => vec![0xff; 17],
    };
    (ledger.0.to_be_bytes().to_vec(), end)
}

/// The key of a ledger's record.
#[must_use]
pub const fn ledger(ledger: LedgerId) -> [u8; 8] {
    ledger.0.to_be_bytes()
}

/// The ledger that a record's key names.
pub fn parse_ledger(key: &[u8]) -> Result<LedgerId, StoreError> {
    match <[u8; 8]>::try_from(key) {
        Ok(key) => Ok(LedgerId(u64::from_be_bytes(key))),
        Err(_) => Err(StoreError::Damaged(format!("a ledger key of {} bytes", key.len()))),
    }
}

/// The value of a ledger's record.
#[must_use]
pub fn encode_record(record: &LedgerRecord) -> Vec<u8> {
    let mut value = Vec::with_capacity(20);
    value.put_u8(RECORD_VERSION);
    match record {
        LedgerRecord::Deleted => value.put_u8(DELETED),
        LedgerRecord::Known(known) => {
            value.put_u8(KNOWN);
            value.put_u8(if known.fenced { FENCED } else { 0 } | if known.limbo { LIMBO } else { 0 });
            value.put_u8(0);
            value.put_u64(known.key.0);
            value.put_u64(known.lac.count());
        }
    }
    value
}

/// The record in a value.
pub fn decode_record(mut value: &[u8]) -> Result<LedgerRecord, StoreError> {
    let damaged = |what: String| Err(StoreError::Damaged(format!("ledger record: {what}")));
    let length = value.len();
    match (value.try_get_u8(), value.try_get_u8()) {
        (Ok(RECORD_VERSION), Ok(DELETED)) if length == 2 => Ok(LedgerRecord::Deleted),
        (Ok(RECORD_VERSION), Ok(KNOWN)) if length == 20 => {
            let flags = value.get_u8();
            value.advance(1);
            let (key, lac) = (LedgerKey(value.get_u64()), Lac::from_count(value.get_u64()));
            let known = KnownLedger { key, fenced: flags & FENCED != 0, limbo: flags & LIMBO != 0, lac };
            Ok(LedgerRecord::Known(known))
        }
        (Ok(RECORD_VERSION), Ok(kind)) => damaged(format!("kind {kind} in {length} bytes")),
        (Ok(version), _) => damaged(format!("version {version}, this bookie knows {RECORD_VERSION}")),
        (Err(_), _) => damaged("empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_never_changes() {
        let known = KnownLedger { key: LedgerKey(0x0102), fenced: true, limbo: true, lac: Lac::from_count(5) };
        let golden = [1, 1, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(encode_record(&LedgerRecord::Known(known)), golden);
        assert_eq!(encode_record(&LedgerRecord::Deleted), [1, 2]);
        assert_eq!(entry(LedgerId(1), EntryId(258)), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for value in [&[][..], &[1], &[1, 9], &[1, 2, 0], &[1, 1, 0], &[2, 1], &[1, 1, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(matches!(decode_record(value), Err(StoreError::Damaged(_))), "{value:?}");
        }
        assert!(parse_entry(&[0; 15]).is_err() && parse_ledger(&[0; 9]).is_err());
    }

    #[test]
    fn the_last_ledger_has_a_range_too() {
        let (start, end) = ledger_range(LedgerId(u64::MAX));
        let key = entry(LedgerId(u64::MAX), EntryId(u64::MAX)).to_vec();
        assert!(start <= key && key < end);
    }

    proptest! {
        #[test]
        fn keys_and_records_round_trip(ledger_id: u64, entry_id: u64, key: u64, fenced: bool, limbo: bool, lac: u64) {
            let place = (LedgerId(ledger_id), EntryId(entry_id));
            prop_assert_eq!(parse_entry(&entry(place.0, place.1)), Ok(place));
            prop_assert_eq!(parse_ledger(&ledger(place.0)), Ok(place.0));
            let known = KnownLedger { key: LedgerKey(key), fenced, limbo, lac: Lac::from_count(lac) };
            for record in [LedgerRecord::Known(known), LedgerRecord::Deleted] {
                prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
            }
        }

        #[test]
        fn keys_sort_as_places_do(a: (u64, u64), b: (u64, u64)) {
            let key = |(l, e): (u64, u64)| entry(LedgerId(l), EntryId(e));
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
            let (start, end) = ledger_range(LedgerId(a.0));
            prop_assert_eq!(key(b)[..] >= start[..] && key(b)[..] < end[..], a.0 == b.0);
        }

        #[test]
        fn decoding_never_panics(value in prop::collection::vec(any::<u8>(), 0..40)) {
            drop(decode_record(&value));
        }
    }
}

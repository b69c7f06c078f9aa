//! Headers of record batches: golden bytes, damage, and the fields a broker may write.

use super::*;
use crate::testing::batches::{BatchBuilder, idempotent, plain, reseal};
use proptest::prelude::*;

/// Two records "a" and "k"="b" with one header, from an idempotent producer; written out by hand from the layout that
/// Kafka documents, so that builder and reader cannot agree on something else.
const GOLDEN: &str = "\
    000000000000000000000046ffffffff024ebe6e310000000000010000018bcfe568000000018bcfe56805\
    000000000000000700020000002900000002\
    0e0000000102610018000a02026b02620202680278";

fn golden() -> Vec<u8> {
    (0..GOLDEN.len()).step_by(2).map(|i| u8::from_str_radix(&GOLDEN[i..i + 2], 16).expect("hex")).collect()
}

fn first(bytes: impl Into<Bytes>) -> Result<RecordBatch, BatchError> {
    RecordBatch::first(&bytes.into())
}

#[test]
fn every_field_stands_where_kafka_puts_it() {
    let batch = first(golden()).expect("whole");
    assert_eq!(batch.validate(), Ok(()));
    assert_eq!((batch.base_offset(), batch.last_offset(), batch.span()), (Offset(0), Offset(1), 2));
    assert_eq!(batch.leader_epoch(), LeaderEpoch(-1));
    assert_eq!((batch.producer_id(), batch.producer_epoch(), batch.base_sequence()), (7, 2, 0x29));
    assert_eq!(
        (batch.first_timestamp(), batch.max_timestamp()),
        (Timestamp(1_700_000_000_000), Timestamp(1_700_000_000_005))
    );
    assert_eq!((batch.record_count(), batch.codec()), (2, Ok(Codec::None)));
    assert!(!batch.is_append_time() && !batch.is_control() && !batch.is_transactional());
    let built = BatchBuilder::new()
        .value("a")
        .keyed("k", "b")
        .at(Timestamp(1_700_000_000_005))
        .header("h", Some(b"x"))
        .producer(7, 2, 0x29)
        .build();
    assert_eq!(built, golden());
}

#[test]
fn attribute_bits_are_kafkas() {
    let flags = |bits| first(BatchBuilder::new().value("v").attributes(bits).build()).expect("whole");
    assert!(flags(0x08).is_append_time());
    assert!(flags(0x10).is_transactional());
    assert!(flags(0x20).is_control());
    let codecs: Vec<_> = (0..6).map(|bits| flags(bits).codec()).collect();
    let known = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].map(Ok);
    assert_eq!(codecs[..5], known);
    assert_eq!(codecs[5], Err(BatchError::Codec(5)));
}

#[test]
fn a_batch_ends_at_its_own_length() {
    let (one, two) = (plain(&["a"]), plain(&["b", "c"]));
    let both: Bytes = [&one[..], &two[..]].concat().into();
    let batches: Vec<_> = split(both.clone()).collect::<Result<_, _>>().expect("both whole");
    assert_eq!(batches.iter().map(RecordBatch::bytes).collect::<Vec<_>>(), [&one, &two]);
    let cut: Vec<_> = split(both.slice(..both.len() - 1)).collect();
    assert!(matches!(cut[..], [Ok(_), Err(BatchError::Short { .. })]));
    assert_eq!(split(Bytes::new()).count(), 0);
}

#[test]
fn what_is_cut_short_is_refused() {
    let whole = plain(&["hello"]);
    for length in 0..whole.len() {
        assert!(matches!(first(whole.slice(..length)), Err(BatchError::Short { .. })), "{length}");
    }
}

#[test]
fn impossible_lengths_are_refused_before_anything_else() {
    for length in [i32::MIN, -1, 0, 48] {
        let mut bytes = plain(&["a"]).to_vec();
        bytes[LENGTH_AT..EPOCH_AT].copy_from_slice(&length.to_be_bytes());
        assert_eq!(first(bytes), Err(BatchError::Length(length)));
    }
    let mut bytes = plain(&["a"]).to_vec();
    bytes[LENGTH_AT..EPOCH_AT].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(matches!(first(bytes), Err(BatchError::Short { .. })));
}

#[test]
fn old_and_future_formats_are_named() {
    for magic in [0, 1, 3, -1] {
        let mut bytes = plain(&["a"]).to_vec();
        bytes[MAGIC_AT] = magic as u8;
        // An old message is shorter than a header of format 2 and must still be recognised.
        bytes.truncate(30);
        assert_eq!(first(bytes), Err(BatchError::Magic(magic)));
    }
}

#[test]
fn counts_and_spans_must_agree() {
    let with = |span: i32, count: i32| {
        let mut bytes = plain(&["a"]).to_vec();
        bytes[LAST_DELTA_AT..FIRST_TIMESTAMP_AT].copy_from_slice(&(span - 1).to_be_bytes());
        bytes[COUNT_AT..].first_chunk_mut::<4>().expect("there").copy_from_slice(&count.to_be_bytes());
        reseal(&mut bytes);
        first(bytes).expect("whole").validate()
    };
    assert_eq!(with(1, 1), Ok(()));
    assert_eq!(with(9, 1), Ok(()), "compaction leaves fewer records than offsets");
    assert_eq!(with(1, 2), Err(BatchError::Count { count: 2, span: 1 }));
    assert_eq!(with(0, 0), Err(BatchError::Count { count: 0, span: 0 }));
    assert_eq!(with(1, -1), Err(BatchError::Count { count: -1, span: 1 }));
}

#[test]
fn offset_and_epoch_lie_outside_of_the_checksum() {
    let mut bytes = idempotent(5, 1, 9, 3).to_vec();
    set_base_offset(&mut bytes, Offset(1 << 40), LeaderEpoch(12));
    let batch = first(bytes).expect("whole");
    assert_eq!(batch.validate(), Ok(()));
    assert_eq!((batch.base_offset(), batch.last_offset()), (Offset(1 << 40), Offset((1 << 40) + 2)));
    assert_eq!((batch.leader_epoch(), batch.base_sequence()), (LeaderEpoch(12), 9));
}

#[test]
fn append_time_renews_the_checksum() {
    let before = first(plain(&["a", "b"])).expect("whole");
    let mut bytes = before.bytes().to_vec();
    set_append_time(&mut bytes, Timestamp(123));
    let batch = first(bytes).expect("whole");
    assert_eq!(batch.validate(), Ok(()));
    assert!(batch.is_append_time());
    assert_eq!((batch.max_timestamp(), batch.first_timestamp()), (Timestamp(123), before.first_timestamp()));
    assert_eq!(batch.body(), before.body());
}

proptest! {
    #[test]
    fn every_flipped_bit_behind_the_checksum_is_detected(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = idempotent(5, 1, 9, 3).to_vec();
        let place = CRC_AT + at.index(bytes.len() - CRC_AT);
        bytes[place] ^= 1 << bit;
        let detected = matches!(first(bytes).expect("length is untouched").validate(), Err(BatchError::Checksum { .. }));
        prop_assert!(detected);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() > MAGIC_AT {
            bytes[MAGIC_AT] = 2;
            bytes[LENGTH_AT..LENGTH_AT + 3].fill(0);
        }
        for batch in split(bytes.into()).flatten() {
            let _ = (batch.validate(), batch.last_offset(), batch.codec(), batch.body());
        }
    }
}

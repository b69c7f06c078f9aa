//! Records of every codec come back as they were sent; hostile lengths and bombs do no harm.

use super::*;
use crate::testing::batches::{self, BatchBuilder, DEFAULT_TIME, reseal};
use proptest::prelude::*;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn records(bytes: &Bytes) -> Result<Vec<RecordView>, RecordsError> {
    let batch = RecordBatch::first(bytes)?;
    let mut seen = Vec::new();
    for_each_record(&batch, &mut |record| {
        seen.push(record);
        true
    })?;
    Ok(seen)
}

/// A batch whose records are these bytes, whatever they are.
fn around(codec: Codec, count: i32, body: &[u8]) -> Bytes {
    let mut batch = BatchBuilder::new().compressed(codec).span(i32::MAX).build()[..61].to_vec();
    batch.extend_from_slice(body);
    let length = i32::try_from(batch.len() - 12).expect("small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    reseal(&mut batch);
    batch.into()
}

#[test]
fn every_codec_gives_the_same_records() {
    let long = "x".repeat(100_000);
    let build = |codec| {
        BatchBuilder::new()
            .keyed("k", "v")
            .header("trace", Some(b"1"))
            .header("trace", Some(b"2"))
            .header("empty", None)
            .at(Timestamp(DEFAULT_TIME.0 + 7))
            .tombstone("gone")
            .at(Timestamp(3))
            .value(&long)
            .compressed(codec)
            .stored_at(Offset(40), crate::id::LeaderEpoch(2))
            .build()
    };
    for codec in CODECS {
        let seen = records(&build(codec)).unwrap_or_else(|e| panic!("{codec:?}: {e}"));
        assert_eq!(seen.iter().map(|r| r.offset.0).collect::<Vec<_>>(), [40, 41, 42], "{codec:?}");
        assert_eq!(seen[0].timestamp, Timestamp(DEFAULT_TIME.0 + 7));
        assert_eq!(seen[1].timestamp, Timestamp(3), "deltas may be negative");
        assert_eq!((seen[0].key.as_deref(), seen[0].value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!((seen[1].key.as_deref(), &seen[1].value), (Some(&b"gone"[..]), &None));
        assert_eq!((&seen[2].key, seen[2].value.as_deref()), (&None, Some(long.as_bytes())));
        let headers: Vec<_> = seen[0].headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
        let same = b"trace".as_slice();
        assert_eq!(headers, [(same, Some(&b"1"[..])), (same, Some(&b"2"[..])), (&b"empty"[..], None)]);
    }
}

#[test]
fn raw_snappy_is_read_as_well_as_javas_framing() {
    let plain = BatchBuilder::new().keyed("a", "b").build();
    let raw = snap::raw::Encoder::new().compress_vec(&plain[61..]).expect("small");
    assert_eq!(records(&around(Codec::Snappy, 1, &raw)).expect("decodes")[0].key.as_deref(), Some(&b"a"[..]));
}

#[test]
fn concatenated_gzip_members_are_one_body() {
    let plain = BatchBuilder::new().keyed("a", "b").build();
    let (head, tail) = plain[61..].split_at(3);
    let members = [batches::compress(Codec::Gzip, head), batches::compress(Codec::Gzip, tail)].concat();
    assert_eq!(records(&around(Codec::Gzip, 1, &members)).expect("decodes").len(), 1);
}

#[test]
fn compacted_batches_keep_their_offsets() {
    let batch = BatchBuilder::new().keyed("a", "1").delta(3).keyed("b", "2").delta(9).span(12).build();
    let offsets: Vec<i64> = records(&batch).expect("decodes").iter().map(|r| r.offset.0).collect();
    assert_eq!(offsets, [3, 9]);
}

#[test]
fn append_time_is_the_time_of_every_record() {
    let mut batch = BatchBuilder::new().value("a").at(Timestamp(1)).value("b").at(Timestamp(2)).build().to_vec();
    crate::record_batch::set_append_time(&mut batch, Timestamp(77));
    let seen = records(&batch.into()).expect("decodes");
    assert!(seen.iter().all(|r| r.timestamp == Timestamp(77)));
}

#[test]
fn control_records_are_decoded_like_others() {
    let batch = BatchBuilder::new().keyed([0, 0, 0, 1], [0, 0, 0, 0, 0, 5]).control().build();
    assert_eq!(records(&batch).expect("decodes")[0].key.as_deref(), Some(&[0, 0, 0, 1][..]));
}

#[test]
fn visiting_ends_when_told_to() {
    let batch = RecordBatch::first(&batches::plain(&["a", "b", "c"])).expect("whole");
    let mut seen = 0;
    let result = for_each_record(&batch, &mut |_| {
        seen += 1;
        seen < 2
    });
    assert_eq!((result, seen), (Ok(()), 2));
}

#[test]
fn contradicting_lengths_are_named() {
    let good = BatchBuilder::new().keyed("key", "value").build()[61..].to_vec();
    let reason = |count: i32, body: &[u8]| match records(&around(Codec::None, count, body)) {
        Err(RecordsError::Malformed { index, reason }) => (index, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(2, &good), (1, "a number is cut short"));
    assert_eq!(reason(1, &[&good[..], &[0]].concat()), (1, "bytes follow after the last record"));
    assert_eq!(reason(1, &good[..good.len() - 1]), (0, "a length exceeds what is there"));
    assert_eq!(reason(1, &[0xff; 20]), (0, "a number is too long"));
    // length 6: attributes, time 0, offset 0, null key, null value, 3 headers in no bytes
    assert_eq!(reason(1, &[12, 0, 0, 0, 1, 1, 6]), (0, "impossible number of headers"));
    // header count -1
    assert_eq!(reason(1, &[12, 0, 0, 0, 1, 1, 1]), (0, "impossible number of headers"));
    // a second record at the same offset as the first
    let twice = [&good[..], &good[..]].concat();
    assert_eq!(reason(2, &twice), (1, "its offset does not lie in order within the batch"));
}

#[test]
fn a_record_beyond_the_span_is_malformed() {
    let batch = BatchBuilder::new().value("a").delta(5).span(3).build();
    assert!(matches!(records(&batch), Err(RecordsError::Malformed { index: 0, .. })));
}

#[test]
fn bombs_end_at_the_limit() {
    let zeros = vec![0; 4 << 20];
    for codec in CODECS.into_iter().skip(1) {
        let bomb: Bytes = batches::compress(codec, &zeros).into();
        let limit = 1 << 20;
        let refused = decompress(codec, bomb.clone(), limit);
        assert!(
            matches!(refused, Err(RecordsError::Decompress { ref reason, .. }) if reason.contains("more than")),
            "{codec:?}: {refused:?}"
        );
        assert_eq!(decompress(codec, bomb, zeros.len()).map(|b| b.len()), Ok(zeros.len()), "{codec:?}");
    }
}

#[test]
fn a_snappy_block_cannot_claim_what_it_cannot_hold() {
    // Claims 200 MiB in four bytes of length and nothing behind it.
    let refused = decompress(Codec::Snappy, Bytes::from_static(&[0x80, 0x80, 0x80, 0x64]), MAX_DECOMPRESSED);
    assert!(matches!(refused, Err(RecordsError::Decompress { codec: Codec::Snappy, .. })));
}

#[test]
fn an_unknown_codec_is_an_error() {
    assert_eq!(records(&BatchBuilder::new().attributes(7).build()), Err(BatchError::Codec(7).into()));
}

proptest! {
    #[test]
    fn records_round_trip(
        items in proptest::collection::vec((proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)), 0..i64::MAX / 4), 1..20),
        codec in 0..5_usize,
    ) {
        let mut builder = BatchBuilder::new().compressed(CODECS[codec]);
        for (key, value, time) in &items {
            builder = builder.record(key.as_ref(), value.as_ref()).at(Timestamp(*time));
        }
        let seen = records(&builder.build()).expect("decodes");
        let again: Vec<_> = seen.into_iter().map(|r| (r.key.map(Vec::from), r.value.map(Vec::from), r.timestamp.0)).collect();
        prop_assert_eq!(again, items);
    }

    #[test]
    fn hostile_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300), count in -1..50_i32, codec in 0..5_usize) {
        let _ = records(&around(CODECS[codec], count, &body));
    }

    #[test]
    fn damaged_compression_never_panics(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), codec in 1..5_usize) {
        let good = BatchBuilder::new().keyed("some key", "some value some value some value").compressed(CODECS[codec]).build();
        let mut body = good[61..].to_vec();
        let place = at.index(body.len());
        body[place] = byte;
        body.truncate(cut.index(body.len()) + 1);
        let _ = records(&around(CODECS[codec], 1, &body));
    }
}

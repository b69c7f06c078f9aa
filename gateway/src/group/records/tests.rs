//! Golden bytes of every schema, and round trips through the batch reader.

use super::*;
use protocol::{
    id::Timestamp,
    record_batch::{for_each_record, split},
};
use std::time::Duration;

fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn commit() -> OffsetValue {
    OffsetValue { offset: 258, leader_epoch: 7, metadata: "m".into(), committed: Timestamp(1000), expires: None }
}

#[test]
fn keys_are_kafkas() {
    let offset = Key::offset("gr", "t", 3);
    assert_eq!(offset.encode().unwrap(), hex("0001 0002 6772 0001 74 00000003"));
    assert_eq!(Key::decode(hex("0000 0002 6772 0001 74 00000003")), Ok(offset.clone()));
    assert_eq!(Key::decode(offset.encode().unwrap()), Ok(offset));
    let group = Key::Group("gr".into());
    assert_eq!(group.encode().unwrap(), hex("0002 0002 6772"));
    assert_eq!(Key::decode(group.encode().unwrap()), Ok(group));
    assert!(matches!(Key::decode(hex("0003 0002 6772")), Err(RecordError::Version { version: 3, .. })));
    assert!(Key::offset(&"g".repeat(40_000), "t", 0).encode().is_err());
}

#[test]
fn offset_values_are_kafkas() {
    let value = commit();
    let three = hex("0003 0000000000000102 00000007 0001 6d 00000000000003e8");
    assert_eq!(value.encode().unwrap(), three);
    assert_eq!(OffsetValue::decode(three), Ok(value.clone()));
    let old = OffsetValue { leader_epoch: -1, ..value.clone() };
    for version in ["0000", "0002"] {
        let bytes = hex(&format!("{version} 0000000000000102 0001 6d 00000000000003e8"));
        assert_eq!(OffsetValue::decode(bytes), Ok(old.clone()));
    }
    let expiring = OffsetValue { expires: Some(Timestamp(2000)), ..old.clone() };
    let one = hex("0001 0000000000000102 0001 6d 00000000000003e8 00000000000007d0");
    assert_eq!(expiring.encode().unwrap(), one);
    assert_eq!(OffsetValue::decode(one), Ok(expiring));
    let never = hex("0001 0000000000000102 0001 6d 00000000000003e8 ffffffffffffffff");
    assert_eq!(OffsetValue::decode(never), Ok(old));
    // Version 4 is compact, and bears the topic's id as tagged field 0.
    let four = hex("0004 0000000000000102 00000007 02 6d 00000000000003e8 01 00 10 000102030405060708090a0b0c0d0e0f");
    assert_eq!(OffsetValue::decode(four), Ok(value));
    assert!(matches!(OffsetValue::decode(hex("0005")), Err(RecordError::Version { version: 5, .. })));
}

fn group() -> GroupMetadata {
    GroupMetadata {
        protocol_type: "consumer".into(),
        generation: 4,
        protocol: Some("range".into()),
        leader: Some("a".into()),
        since: Timestamp(1000),
        members: vec![MemberMetadata {
            member_id: "a".into(),
            instance_id: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout: Duration::from_millis(2),
            session_timeout: Duration::from_millis(1),
            subscription: Bytes::from_static(&[9]),
            assignment: Bytes::from_static(&[8, 7]),
        }],
    }
}

#[test]
fn group_values_are_kafkas() {
    let head = "0008 636f6e73756d6572 00000004 0005 72616e6765 0001 61";
    let three = format!(
        "0003 {head} 00000000000003e8 00000001 0001 61 0001 69 0001 63 0002 2f68 00000002 00000001 00000001 09 00000002 0807"
    );
    assert_eq!(group().encode().unwrap(), hex(&three));
    assert_eq!(GroupMetadata::decode(hex(&three)), Ok(group()));

    let mut older = group();
    older.members[0].instance_id = None;
    let tail = "00000001 09 00000002 0807";
    let two = format!("0002 {head} 00000000000003e8 00000001 0001 61 0001 63 0002 2f68 00000002 00000001 {tail}");
    assert_eq!(GroupMetadata::decode(hex(&two)), Ok(older.clone()));
    older.since = Timestamp::NONE;
    let one = format!("0001 {head} 00000001 0001 61 0001 63 0002 2f68 00000002 00000001 {tail}");
    assert_eq!(GroupMetadata::decode(hex(&one)), Ok(older.clone()));
    older.members[0].rebalance_timeout = Duration::from_millis(1);
    let zero = format!("0000 {head} 00000001 0001 61 0001 63 0002 2f68 00000001 {tail}");
    assert_eq!(GroupMetadata::decode(hex(&zero)), Ok(older));

    let four = "0004 09 636f6e73756d6572 00000004 06 72616e6765 02 61 00000000000003e8 \
                02 02 61 02 69 02 63 03 2f68 00000002 00000001 02 09 03 0807 00 00";
    assert_eq!(GroupMetadata::decode(hex(four)), Ok(group()));

    let empty = GroupMetadata { protocol: None, leader: None, members: Vec::new(), ..group() };
    assert_eq!(GroupMetadata::decode(empty.encode().unwrap()), Ok(empty));
}

#[test]
fn lengths_that_lie_are_refused() {
    let full = group().encode().unwrap();
    for cut in 0..full.len() {
        assert!(GroupMetadata::decode(full.slice(..cut)).is_err(), "cut at {cut}");
    }
    let many = hex("0003 0001 63 00000004 ffff ffff 00000000000003e8 7fffffff");
    assert_eq!(GroupMetadata::decode(many), Err(RecordError::Malformed("a length is impossible")));
    let negative = hex("0003 fff0");
    assert_eq!(GroupMetadata::decode(negative), Err(RecordError::Malformed("a length is impossible")));
}

#[test]
fn a_batch_is_byte_for_byte_what_it_should_be() {
    let record = Record { key: hex("0102"), value: Some(hex("03")) };
    let tombstone = Record { key: hex("04"), value: None };
    let bytes = batch::encode(&[record, tombstone], Timestamp(1000));
    let length = bytes.len() - 12;
    let crc = crc32c::crc32c(&bytes[21..]);
    let golden = format!(
        "0000000000000000 {length:08x} ffffffff 02 {crc:08x} 0000 00000001 00000000000003e8 00000000000003e8 \
         ffffffffffffffff ffff ffffffff 00000002 \
         12 00 00 00 04 0102 02 03 00 \
         0e 00 00 02 02 04 01 00"
    );
    assert_eq!(bytes, hex(&golden));
}

#[test]
fn batches_are_split_by_size_and_read_back() {
    let record = |n: usize| Record {
        key: Bytes::from(n.to_be_bytes().to_vec()),
        value: (!n.is_multiple_of(3)).then(|| Bytes::from(vec![n as u8; 40 * 1024])),
    };
    let mut records: Vec<Record> = (0..50).map(record).collect();
    records.push(Record { key: hex("ff"), value: Some(Bytes::from(vec![1; 700 * 1024])) });
    let mut read = Vec::new();
    let mut count = 0;
    for batch in split(batch::encode(&records, Timestamp(5))) {
        let batch = batch.unwrap();
        batch.validate().unwrap();
        assert_eq!((batch.producer_id(), batch.base_sequence(), batch.max_timestamp()), (-1, -1, Timestamp(5)));
        let keep = &mut |r: protocol::record_batch::RecordView| {
            read.push(Record { key: r.key.unwrap(), value: r.value });
            true
        };
        for_each_record(&batch, keep).unwrap();
        count += 1;
    }
    assert_eq!(read, records);
    assert!(count >= 4, "{count} batches");
    assert!(batch::encode(&[], Timestamp(5)).is_empty());
}

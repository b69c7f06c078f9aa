//! One test per rule; each batch breaks exactly one.

use super::*;
use protocol::{
    settings::{BrokerSettings, CleanupPolicy},
    testing::{
        BatchBuilder,
        batches::{self, reseal},
    },
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn settings() -> TopicSettings {
    BrokerSettings::default().topic_defaults
}

fn check_with(settings: &TopicSettings, bytes: &Bytes) -> Result<ValidBatches, AppendError> {
    Rules { origin: Origin::Client, internal: false, settings, now: NOW }.check(bytes)
}

fn check(bytes: &Bytes) -> Result<ValidBatches, AppendError> {
    check_with(&settings(), bytes)
}

/// The batch with one byte changed and a checksum that fits again.
fn with(bytes: &Bytes, at: usize, byte: u8) -> Bytes {
    let mut changed = bytes.to_vec();
    changed[at] = byte;
    reseal(&mut changed);
    changed.into()
}

fn is_invalid(result: &Result<ValidBatches, AppendError>) -> bool {
    matches!(result, Err(AppendError::InvalidRecord { records, .. }) if records.is_empty())
}

#[test]
fn a_good_batch_is_described() {
    let valid = check(&batches::idempotent(7, 2, 40, 3)).expect("valid");
    assert_eq!((valid.batches, valid.span, valid.append_time), (1, 3, None));
    let producer = ProducerBatch { producer: 7, epoch: 2, first_sequence: 40, count: 3 };
    assert_eq!(valid.producer, Some(producer));
    assert_eq!(check(&batches::plain(&["a"])).expect("valid").producer, None);
}

#[test]
fn damage_and_old_formats_have_their_own_errors() {
    let good = batches::plain(&["a", "b"]);
    let mut flipped = good.to_vec();
    flipped[70] ^= 1;
    assert!(matches!(check(&flipped.into()), Err(AppendError::Corrupt { .. })));
    assert!(matches!(check(&good.slice(..good.len() - 1)), Err(AppendError::Corrupt { .. })));
    let trailing: Bytes = [&good[..], b"garbage"].concat().into();
    assert!(matches!(check(&trailing), Err(AppendError::Corrupt { .. })));
    let mut old = good.to_vec();
    old[16] = 1;
    assert_eq!(check(&old.into()).err(), Some(AppendError::UnsupportedFormat { magic: 1 }));
    assert!(is_invalid(&check(&Bytes::new())));
}

#[test]
fn clients_send_exactly_one_batch_of_as_many_records_as_it_spans() {
    let good = batches::plain(&["a", "b"]);
    let twice: Bytes = [&good[..], &good[..]].concat().into();
    assert!(is_invalid(&check(&twice)));
    assert!(is_invalid(&check(&BatchBuilder::new().value("a").span(2).build())));
    assert!(is_invalid(&check(&BatchBuilder::new().value("a").control().build())));
    assert_eq!(
        check(&BatchBuilder::new().value("a").transactional().producer(1, 0, 0).build()).err(),
        Some(AppendError::TransactionsUnsupported)
    );
    assert!(is_invalid(&check(&BatchBuilder::new().value("a").producer(1, -1, 0).build())));
    assert!(is_invalid(&check(&BatchBuilder::new().value("a").producer(1, 0, -1).build())));
    // An unknown codec stands in the low bits of the attributes.
    assert!(is_invalid(&check(&with(&good, 22, 7))));
}

#[test]
fn clients_claim_neither_an_offset_nor_more_records_than_there_is_room_for() {
    let mut placed = batches::plain(&["a"]).to_vec();
    placed[7] = 9;
    let placed: Bytes = placed.into();
    assert!(is_invalid(&check(&placed)), "base offset 9");
    // The last offset delta stands at 23, the count at 57: both claim 2^24 + 1 records, so they agree.
    let one = batches::plain(&["a"]);
    let claims = with(&with(&with(&one, 23, 1), 57, 1), 60, 1);
    assert_eq!(claims.len(), one.len());
    assert!(is_invalid(&check(&claims)), "records that are not there");
    let ours = Rules { origin: Origin::Coordinator, internal: true, settings: &settings(), now: NOW };
    assert!(ours.check(&placed).is_ok(), "our own batches are ours to place");
}

#[test]
fn coordinators_may_send_several() {
    let good = batches::plain(&["a", "b"]);
    let twice: Bytes = [&good[..], &good[..]].concat().into();
    let rules = Rules { origin: Origin::Coordinator, internal: true, settings: &settings(), now: NOW };
    let valid = rules.check(&twice).expect("valid");
    assert_eq!((valid.batches, valid.span), (2, 4));
    let client = Rules { origin: Origin::Client, ..rules };
    assert_eq!(client.check(&good).err(), Some(AppendError::InternalTopic));
}

#[test]
fn the_size_limit_counts_the_batch_as_sent() {
    let batch = batches::plain(&["0123456789"]);
    let size = batch.len() as u32;
    let exact = TopicSettings { max_message_bytes: size, ..settings() };
    assert!(check_with(&exact, &batch).is_ok());
    let short = TopicSettings { max_message_bytes: size - 1, ..settings() };
    let refused = AppendError::TooLarge { size: u64::from(size), limit: u64::from(size) - 1 };
    assert_eq!(check_with(&short, &batch).err(), Some(refused));
}

#[test]
fn timestamps_stay_within_the_limits_of_the_topic() {
    let limits = TopicSettings {
        timestamp_before_max: Some(Duration::from_millis(100)),
        timestamp_after_max: Some(Duration::from_millis(50)),
        ..settings()
    };
    let at = |time: i64| check_with(&limits, &BatchBuilder::new().value("a").at(Timestamp(time)).build());
    assert!(at(NOW.0 - 100).is_ok() && at(NOW.0 + 50).is_ok() && at(-1).is_ok());
    assert!(matches!(at(NOW.0 - 101), Err(AppendError::InvalidTimestamp { .. })));
    assert!(matches!(at(NOW.0 + 51), Err(AppendError::InvalidTimestamp { .. })));
    let stamped = with(&batches::plain(&["a"]), 22, 8);
    assert!(matches!(check(&stamped), Err(AppendError::InvalidTimestamp { .. })));
    let append_time = TopicSettings { timestamps: TimestampType::LogAppendTime, ..limits };
    let valid = check_with(&append_time, &BatchBuilder::new().value("a").at(Timestamp(5)).build()).expect("valid");
    assert_eq!((valid.append_time, valid.max_timestamp), (Some(NOW), NOW));
}

#[test]
fn compacted_topics_need_keys_and_name_the_records_without() {
    let compacted = TopicSettings { cleanup: CleanupPolicy { delete: false, compact: true }, ..settings() };
    let good = BatchBuilder::new().keyed("k", "v").tombstone("k").build();
    assert!(check_with(&compacted, &good).is_ok());
    let bad = BatchBuilder::new().keyed("k", "v").value("v").keyed("k", "v").value("v").build();
    let Err(AppendError::InvalidRecord { records, .. }) = check_with(&compacted, &bad) else { panic!("refused") };
    assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3]);
}

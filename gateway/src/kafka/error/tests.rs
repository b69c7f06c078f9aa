//! Every error of every service, and the sets of codes that clients know for each API.

use super::*;
use protocol::{
    id::{Offset, SessionId},
    topic::{PartitionId, TopicId},
};
use uuid::Uuid;

fn why() -> String {
    "because".into()
}

fn not_served() -> Vec<NotServed> {
    let (epoch, current) = (LeaderEpoch(3), LeaderEpoch(4));
    vec![
        NotServed::NotOwner { owner: Some(NodeId(2)), epoch },
        NotServed::NotOwner { owner: None, epoch },
        NotServed::FencedEpoch { current },
        NotServed::UnknownEpoch { current },
        NotServed::NoSuchPartition(PartitionId { topic: TopicId(Uuid::nil()), index: 0 }),
        NotServed::Opening,
    ]
}

fn codes<E: Into<Failure>>(errors: impl IntoIterator<Item = E>) -> Vec<i16> {
    let mut codes: Vec<i16> = errors.into_iter().map(|error| error.into().error.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn assert_within<E: Into<Failure>>(errors: impl IntoIterator<Item = E>, known: &[i16]) {
    for code in codes(errors) {
        assert!(known.contains(&code), "code {code} is unknown to clients, which know {known:?}");
    }
}

#[test]
fn fetch_errors_are_in_the_set_that_consumers_know() {
    let own = [
        FetchError::OutOfRange { asked: Offset(1), log_start: Offset(2), end: Offset(3) },
        FetchError::Storage { reason: why() },
        FetchError::Unavailable { reason: why() },
    ];
    let all = not_served().into_iter().map(FetchError::from).chain(own);
    assert_within(all, &[1, 2, 3, 6, 9, 29, -1, 56, 74, 75, 78, 100, 103]);
}

#[test]
fn offset_errors_are_in_the_set_that_consumers_know() {
    let all = || {
        let own = [ListOffsetsError::Storage { reason: why() }, ListOffsetsError::Unavailable { reason: why() }];
        not_served().into_iter().map(ListOffsetsError::from).chain(own)
    };
    assert_within(all(), &[3, 5, 6, 9, 29, 56, 74, 75, 78]);
}

#[test]
fn producer_id_errors_are_in_the_set_that_producers_know() {
    let all = [
        MetadataError::Unavailable { reason: why() },
        MetadataError::OutcomeUnknown { reason: why() },
        MetadataError::SessionExpired(SessionId(1)),
        MetadataError::Invalid(why()),
        MetadataError::TooLarge { what: "value", size: 2, limit: 1 },
    ];
    assert_within(all, &[14, 15, 16, 31, 47, 51, 53, 90, 120]);
}

#[test]
fn every_append_error_has_the_code_that_makes_producers_do_the_right_thing() {
    let failure = |error: AppendError| Failure::from(error).error.code();
    let (producer, epoch) = (7, 1);
    for (error, code) in [
        (AppendError::Corrupt { reason: why() }, 2),
        (AppendError::UnsupportedFormat { magic: 1 }, 43),
        (AppendError::InvalidRecord { reason: why(), records: vec![(2, why())] }, 87),
        (AppendError::InvalidTimestamp { reason: why() }, 32),
        (AppendError::TooLarge { size: 2, limit: 1 }, 10),
        (AppendError::InternalTopic, 17),
        (AppendError::OutOfOrderSequence { producer, sequence: 9, expected: 5 }, 45),
        (AppendError::FencedProducer { producer, epoch, current: 2 }, 47),
        (AppendError::TransactionsUnsupported, 53),
        (AppendError::NotEnoughReplicas { available: 1, required: 2 }, 19),
        (AppendError::Unavailable { reason: why() }, 6),
        (AppendError::OutcomeUnknown { reason: why() }, 7),
        (AppendError::Storage { reason: why() }, 56),
        (NotServed::Opening.into(), 6),
    ] {
        assert_eq!(failure(error.clone()), code, "{error:?}");
    }
    let blamed = Failure::from(AppendError::InvalidRecord { reason: why(), records: vec![(2, why())] });
    assert_eq!(blamed.records, [(2, why())]);
}

#[test]
fn a_new_owner_is_passed_on() {
    let moved = NotServed::NotOwner { owner: Some(NodeId(2)), epoch: LeaderEpoch(3) };
    assert_eq!(Failure::from(moved).leader, Some((NodeId(2), LeaderEpoch(3))));
    assert_eq!(Failure::from(NotServed::Opening).leader, None);
}

#[test]
fn records_that_cannot_be_deleted_say_why() {
    let out = DeleteRecordsError::OutOfRange { asked: Offset(2), high_watermark: Offset(1) };
    assert_eq!(codes([out]), [1]);
    assert_eq!(codes([DeleteRecordsError::Policy]), [44]);
    assert_eq!(codes([DeleteRecordsError::Unavailable { reason: why() }]), [6]);
}

#[test]
fn admin_errors_have_kafkas_codes() {
    for (error, code) in [
        (AdminError::TopicExists(why()), 36),
        (AdminError::NoSuchTopic(why()), 3),
        (AdminError::NoSuchTopicId(TopicId(Uuid::nil())), 100),
        (AdminError::BadName(why()), 17),
        (AdminError::BadPartitions(why()), 37),
        (AdminError::BadReplicationFactor(why()), 38),
        (AdminError::BadConfig(why()), 40),
        (AdminError::Invalid(why()), 42),
        (AdminError::Policy(why()), 44),
        (AdminError::Unavailable(why()), 41),
        (AdminError::OutcomeUnknown(why()), 7),
    ] {
        assert_eq!(codes([error.clone()]), [code], "{error:?}");
    }
}

#[test]
fn coordinators_that_do_not_answer_are_looked_for_again() {
    for (error, code) in [
        (CoordinatorError::NotCoordinator(why()), Some(16)),
        (CoordinatorError::Loading, Some(14)),
        (CoordinatorError::Unavailable { reason: why() }, Some(15)),
        (CoordinatorError::OutcomeUnknown { reason: why() }, Some(15)),
        (CoordinatorError::Malformed { reason: why() }, None),
    ] {
        assert_eq!(coordinator(&error).map(|failure| failure.error.code()), code, "{error:?}");
    }
}

//! Writes: what is acknowledged, what is shown, and what failures leave behind.

use super::{
    Desk,
    desk::{bases, eventually, in_time, record_batches, request},
};
use protocol::{
    id::{LeaderEpoch, Offset},
    model::BookieState,
    service::{
        bookie::BookieError,
        broker::{AppendError, BrokerService, NotServed, Origin},
        metadata::MetadataError,
    },
    testing::{BatchBuilder, Fault, batches},
    topic::{PartitionId, TopicId},
};
use uuid::Uuid;

#[tokio::test]
async fn what_is_appended_comes_back_byte_for_byte_with_dense_offsets() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    assert_eq!(desk.write(id, &["a", "b", "c"]).await, 0);
    let second = desk.append(id, batches::plain(&["d"])).await.expect("appended");
    assert_eq!((second.base_offset, second.log_start, second.epoch), (Offset(3), Offset(0), LeaderEpoch(0)));
    assert_eq!(second.log_append_time, None);
    let fetched = desk.fetch(id, 0).await.expect("fetched");
    assert_eq!((fetched.high_watermark, fetched.last_stable, fetched.log_start), (Offset(4), Offset(4), Offset(0)));
    let stored = record_batches(&fetched);
    assert_eq!(bases(&fetched), [0, 3]);
    // Only base offset (bytes 0 to 7) and leader epoch (12 to 15) are the broker's.
    let sent = batches::plain(&["a", "b", "c"]);
    assert_eq!(stored[0].bytes()[8..12], sent[8..12]);
    assert_eq!(stored[0].bytes()[16..], sent[16..]);
    assert_eq!(stored[0].leader_epoch(), LeaderEpoch(0));
}

#[tokio::test]
async fn nothing_is_shown_before_it_is_acknowledged_and_what_waits_joins_one_entry() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["first"]).await;
    let bookie = desk.bookie();
    bookie.faults().hold_answers();
    let answers: Vec<_> =
        (0..10).map(|n| desk.broker.append(request(id, batches::plain(&[&format!("v{n}")])))).collect();
    in_time("two adds in flight", bookie.faults().wait_held(2)).await;
    let early = desk.fetch(id, 1).await.expect("fetched");
    assert_eq!((early.high_watermark, early.batches.len()), (Offset(1), 0));
    assert!(desk.fetch(id, 2).await.is_err(), "an offset that is in flight is out of range");
    bookie.faults().release_answers();
    for (n, answer) in answers.into_iter().enumerate() {
        let appended = in_time("the answer", answer).await.expect("appended");
        assert_eq!(appended.base_offset, Offset(n as i64 + 1));
    }
    // The first of the ten went alone, the second too; the rest waited and joined.
    assert_eq!(bookie.entries(desk.head(id)).len(), 4);
    assert_eq!(desk.bases(id, 1).await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failed_write_is_unknown_and_the_log_goes_on_without_a_gap() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a", "b"]).await;
    let before = desk.head(id);
    desk.bookie().faults().push(Fault::Refuse(BookieError::Storage { reason: "disk".into() }));
    let failed = desk.append(id, batches::plain(&["lost"])).await;
    assert!(matches!(failed, Err(AppendError::OutcomeUnknown { .. })), "{failed:?}");
    assert_eq!(desk.write(id, &["c"]).await, 2);
    assert_ne!(desk.head(id), before);
    let closed = desk.closed(id);
    assert_eq!((closed.len(), closed[0].end_offset), (1, Offset(2)));
    assert_eq!(desk.bases(id, 0).await, [0, 2]);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_may_survive_and_its_retry_is_recognized() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.append(id, batches::idempotent(9, 0, 0, 2)).await.expect("appended");
    desk.bookie().faults().lose_next_answer();
    let lost = desk.append(id, batches::idempotent(9, 0, 2, 2)).await;
    assert!(matches!(lost, Err(AppendError::OutcomeUnknown { .. })), "{lost:?}");
    let retry = desk.append(id, batches::idempotent(9, 0, 2, 2)).await.expect("found again");
    assert_eq!(retry.base_offset, Offset(2));
    let next = desk.append(id, batches::idempotent(9, 0, 4, 1)).await.expect("appended");
    assert_eq!(next.base_offset, Offset(4));
    assert_eq!(desk.bases(id, 0).await, [0, 2, 4]);
}

#[tokio::test]
async fn five_in_flight_and_their_retries_get_the_first_offsets() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["x"]).await;
    desk.bookie().faults().hold_answers();
    let send = |n: i32| desk.broker.append(request(id, batches::idempotent(5, 1, n, 1)));
    let first: Vec<_> = (0..5).map(send).collect();
    let again: Vec<_> = (0..5).map(send).collect();
    desk.bookie().faults().release_answers();
    for answers in [first, again] {
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(in_time("the answer", answer).await.expect("appended").base_offset, Offset(n as i64 + 1));
        }
    }
    let gap = desk.append(id, batches::idempotent(5, 1, 7, 1)).await;
    assert_eq!(gap, Err(AppendError::OutOfOrderSequence { producer: 5, sequence: 7, expected: 5 }));
    let old = desk.append(id, batches::idempotent(5, 0, 0, 1)).await;
    assert_eq!(old, Err(AppendError::FencedProducer { producer: 5, epoch: 0, current: 1 }));
    assert_eq!(desk.bases(id, 1).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn too_few_bookies_refuse_before_anything_is_written() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.bookies.set_state(0, BookieState::ReadOnly);
    let refused = desk.append(id, batches::plain(&["a"])).await;
    assert_eq!(refused, Err(AppendError::NotEnoughReplicas { available: 0, required: 1 }));
    desk.bookies.set_state(0, BookieState::Writable);
    assert_eq!(desk.write(id, &["a"]).await, 0);
}

#[tokio::test]
async fn more_copies_than_the_deployment_holds_are_kept_as_a_wish_but_min_insync_is_a_promise() {
    let desk = Desk::start().await;
    let mut wide = super::desk::create("wide", 1, &[]);
    wide.replication_factor = Some(3);
    let created = desk.broker.create_topic(wide).await.expect("created");
    let id = PartitionId { topic: created.id, index: 0 };
    assert_eq!(desk.write(id, &["a"]).await, 0);
    let head = desk.record(id).head.expect("written");
    assert_eq!((head.ledger.quorum.write(), head.ledger.wanted_write), (1, 3));
    let strict = desk.topic("strict", &[("min.insync.replicas", "2")]).await;
    let refused = desk.append(strict, batches::plain(&["a"])).await;
    assert_eq!(refused, Err(AppendError::NotEnoughReplicas { available: 1, required: 2 }));
}

#[tokio::test]
async fn a_silent_metadata_service_stops_only_what_needs_it() {
    let desk = Desk::start().await;
    let (written, fresh) = (desk.topic("written", &[]).await, desk.topic("fresh", &[]).await);
    desk.write(written, &["a"]).await;
    let silent = MetadataError::Unavailable { reason: "no quorum".into() };
    desk.metadata.faults().always(Some(Fault::Refuse(silent)));
    assert_eq!(desk.write(written, &["b"]).await, 1);
    assert_eq!(desk.bases(written, 0).await, [0, 1]);
    let refused = desk.append(fresh, batches::plain(&["a"])).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    desk.metadata.faults().always(None);
    assert_eq!(desk.write(fresh, &["a"]).await, 0);
}

#[tokio::test]
async fn the_budget_of_unanswered_bytes_is_kept() {
    let desk = Desk::start_with(|config| config.queue_bytes = 300).await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    desk.bookie().faults().hold_answers();
    let value = "x".repeat(100);
    let first = desk.broker.append(request(id, batches::plain(&[&value])));
    let full = desk.append(id, batches::plain(&[&value])).await;
    assert!(matches!(full, Err(AppendError::Unavailable { .. })), "{full:?}");
    desk.bookie().faults().release_answers();
    in_time("the first", first).await.expect("appended");
    desk.write(id, &["b"]).await;
}

#[tokio::test]
async fn bad_appends_get_their_own_errors_and_leave_nothing() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    let nowhere = PartitionId { topic: TopicId(Uuid::from_u128(1)), index: 0 };
    let unknown = desk.append(nowhere, batches::plain(&["a"])).await;
    assert_eq!(unknown, Err(NotServed::NoSuchPartition(nowhere).into()));
    let mut stale = request(id, batches::plain(&["a"]));
    stale.epoch = Some(LeaderEpoch(1));
    let refused = desk.broker.append(stale).await;
    assert_eq!(refused, Err(NotServed::UnknownEpoch { current: LeaderEpoch(0) }.into()));
    let transactional = BatchBuilder::new().value("a").producer(1, 0, 0).transactional().build();
    assert_eq!(desk.append(id, transactional).await, Err(AppendError::TransactionsUnsupported));
    assert!(desk.record(id).head.is_none(), "nothing was written");
}

#[tokio::test]
async fn internal_topics_take_coordinators_only() {
    let desk = Desk::start().await;
    let mut internal = super::desk::create("__consumer_offsets", 1, &[]);
    internal.internal = true;
    let created = desk.broker.create_topic(internal).await.expect("created");
    let id = PartitionId { topic: created.id, index: 0 };
    desk.open(&desk.broker, id).await;
    let batch = BatchBuilder::new().keyed("k", "v").build();
    assert_eq!(desk.append(id, batch.clone()).await, Err(AppendError::InternalTopic));
    let mut own = request(id, [&batch[..], &batch[..]].concat().into());
    own.origin = Origin::Coordinator;
    own.epoch = Some(LeaderEpoch(0));
    assert_eq!(in_time("the append", desk.broker.append(own)).await.expect("appended").base_offset, Offset(0));
    assert_eq!(desk.bases(id, 0).await, [0, 1]);
}

#[tokio::test]
async fn a_full_ledger_rolls_and_the_log_goes_on() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("segment.bytes", "2000")]).await;
    let value = "x".repeat(500);
    for n in 0..12 {
        assert_eq!(desk.write(id, &[&value]).await, n);
    }
    eventually("a roll", || desk.closed(id).len() >= 2).await;
    let closed = desk.closed(id);
    for pair in closed.windows(2) {
        assert_eq!(pair[0].end_offset, pair[1].base_offset, "ledgers are contiguous");
    }
    assert!(closed.iter().all(|l| l.ledger.is_closed() && l.last_index.is_some() && l.bytes() > 0));
    assert_eq!(desk.bases(id, 0).await, (0..12).collect::<Vec<_>>());
    let status = desk.broker.partition_status(vec![id]).await.expect("answered");
    assert!(status[0].ledgers as usize >= closed.len() && status[0].bytes > 6_000);
}

#[tokio::test]
async fn a_roll_waits_for_metadata_while_writes_go_on() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("segment.bytes", "2000")]).await;
    let value = "x".repeat(1_500);
    desk.write(id, &[&value]).await;
    let silent = MetadataError::Unavailable { reason: "no quorum".into() };
    desk.metadata.faults().always(Some(Fault::Refuse(silent)));
    for n in 1..6 {
        assert_eq!(desk.write(id, &[&value]).await, n);
    }
    desk.broker.apply_retention().await;
    assert_eq!(desk.write(id, &[&value]).await, 6, "retention does not stop the head either");
    assert!(desk.closed(id).is_empty());
    desk.metadata.faults().always(None);
    let ends = async {
        while desk.closed(id).is_empty() {
            desk.broker.apply_retention().await;
            tokio::task::yield_now().await;
        }
    };
    in_time("the roll", ends).await;
}

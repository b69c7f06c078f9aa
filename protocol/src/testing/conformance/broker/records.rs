//! Appending, fetching, offsets and deletion of records.

use super::desk::Desk;
use crate::{
    id::{LeaderEpoch, Offset, Timestamp},
    record_batch::{RecordBatch, for_each_record, split},
    service::broker::{
        Append, AppendError, DeleteRecordsError, EpochEnd, Fetch, FetchError, FetchPartition, FetchedPartition,
        Isolation, ListOffset, ListOffsetsError, NotServed, OffsetSpec, Origin,
    },
    testing::{
        batches::{BatchBuilder, idempotent, plain},
        conformance::within,
    },
    topic::{CONSUMER_OFFSETS, PartitionId, TopicId},
};
use bytes::Bytes;
use std::time::Duration;
use uuid::Uuid;

pub(super) async fn check(desk: &Desk) {
    what_is_appended_is_fetched(desk).await;
    fetches_are_bounded(desk).await;
    fetches_wait_for_data(desk).await;
    bad_batches_are_refused(desk).await;
    internal_topics_are_for_coordinators(desk).await;
    retries_are_recognised(desk).await;
    epochs_are_compared(desk).await;
    offsets_are_found(desk).await;
    records_are_deleted(desk).await;
    append_time_is_the_brokers(desk).await;
    unknown_partitions_are_named(desk).await;
    calls_take_effect_in_call_order(desk).await;
    dropped_answers_do_not_stop_work(desk).await;
    every_admitted_call_is_answered(desk).await;
}

fn batches(found: &FetchedPartition) -> Vec<RecordBatch> {
    let each = found.batches.iter().flat_map(|bytes| split(bytes.clone()));
    each.map(|batch| batch.expect("whole batches only")).collect()
}

fn offsets(found: &FetchedPartition) -> Vec<i64> {
    batches(found).iter().map(|b| b.base_offset().0).collect()
}

async fn what_is_appended_is_fetched(desk: &Desk) {
    let p = desk.topic("conformance-append", &[]).await;
    let (one, three) = (plain(&["a"]), plain(&["b", "c", "d"]));
    let first = desk.send(Desk::appending(p, one.clone())).await.expect("appends");
    assert_eq!((first.base_offset, first.log_append_time, first.log_start), (Offset(0), None, Offset(0)));
    assert_eq!(desk.append(p, three.clone()).await, Ok(Offset(1)));
    assert_eq!(desk.append(p, one.clone()).await, Ok(Offset(4)));
    let found = desk.read(p, 0).await.expect("served");
    assert_eq!((found.high_watermark, found.last_stable, found.log_start), (Offset(5), Offset(5), Offset(0)));
    assert_eq!(found.epoch, first.epoch);
    assert_eq!(offsets(&found), [0, 1, 4]);
    for (batch, sent) in batches(&found).iter().zip([&one, &three, &one]) {
        assert_eq!(batch.validate(), Ok(()), "the checksum survives");
        assert_eq!(batch.leader_epoch(), first.epoch);
        assert_eq!(batch.bytes()[16..], sent[16..], "nothing else is changed");
    }
    let within_batch = desk.read(p, 2).await.expect("served");
    assert_eq!(offsets(&within_batch), [1, 4], "the batch that holds the offset comes whole");
    let at_end = desk.read(p, 5).await.expect("the end is inside");
    assert!(at_end.batches.is_empty());
    let beyond = desk.read(p, 6).await.map(drop);
    assert_eq!(beyond, Err(FetchError::OutOfRange { asked: Offset(6), log_start: Offset(0), end: Offset(5) }));
    let other = PartitionId { index: 1, ..p };
    desk.wait_served(other).await;
    assert_eq!(desk.append(other, plain(&["x"])).await, Ok(Offset(0)), "partitions count for themselves");
}

async fn fetches_are_bounded(desk: &Desk) {
    let p = desk.topic("conformance-bounds", &[]).await;
    let big = "x".repeat(1000);
    for _ in 0..5 {
        desk.append(p, plain(&[&big])).await.expect("appends");
    }
    let size = plain(&[&big]).len() as u32;
    let fetch = |of_partition, of_all| {
        let partition = FetchPartition { max_bytes: of_partition, ..Desk::from(p, 0) };
        desk.fetch(Fetch { max_bytes: of_all, ..Desk::fetching(vec![partition]) })
    };
    let count = |found: &Result<FetchedPartition, FetchError>| batches(found.as_ref().expect("served")).len();
    assert_eq!(count(&fetch(2 * size, 1 << 20).await.partitions[0]), 2);
    assert_eq!(count(&fetch(1 << 20, 3 * size).await.partitions[0]), 3);
    assert_eq!(count(&fetch(1, 1).await.partitions[0]), 1, "the first batch comes whatever its size");
    let other = PartitionId { index: 1, ..p };
    desk.wait_served(other).await;
    desk.append(other, plain(&["small"])).await.expect("appends");
    let nowhere = PartitionId { index: 99, ..p };
    let all = vec![Desk::from(nowhere, 0), Desk::from(other, 0), Desk::from(p, 0)];
    let found = desk.fetch(Fetch { max_bytes: 1, ..Desk::fetching(all) }).await.partitions;
    assert_eq!(found.len(), 3, "one result per partition, in order");
    assert!(matches!(found[0], Err(FetchError::NotServed(NotServed::NoSuchPartition(id))) if id == nowhere));
    assert_eq!((count(&found[1]), count(&found[2])), (1, 0), "only the first non-empty one may exceed the limit");
}

async fn fetches_wait_for_data(desk: &Desk) {
    let p = desk.topic("conformance-wait", &[]).await;
    let waiting = |max_wait, min_bytes| Fetch { max_wait, min_bytes, ..Desk::fetching(vec![Desk::from(p, 0)]) };
    let empty = desk.fetch(waiting(Duration::from_millis(30), 1)).await;
    assert!(empty.partitions[0].as_ref().expect("served").batches.is_empty(), "nothing came in time");
    let long = Duration::from_secs(20);
    let mut fetch = desk.0.fetch(waiting(long, 1));
    let poll = tokio::time::timeout(Duration::from_millis(50), &mut fetch).await;
    assert!(poll.is_err(), "there is nothing to answer with yet");
    desk.append(p, plain(&["wakes"])).await.expect("appends");
    let woken = within("fetch", fetch).await.expect("answers");
    assert_eq!(offsets(woken.partitions[0].as_ref().expect("served")), [0]);
    let enough = desk.fetch(waiting(long, 1)).await;
    assert_eq!(offsets(enough.partitions[0].as_ref().expect("served")), [0], "no need to wait");
    let with_error = vec![Desk::from(p, 1), Desk::from(PartitionId { index: 99, ..p }, 0)];
    let found = desk.fetch(Fetch { partitions: with_error, ..waiting(long, 1) }).await;
    assert!(found.partitions[1].is_err(), "an error is answered at once");
}

async fn bad_batches_are_refused(desk: &Desk) {
    let p = desk.topic("conformance-bad", &[("max.message.bytes", "300")]).await;
    let good = plain(&["good"]);
    let changed = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        Bytes::from(bytes)
    };
    let last = good.len() - 1;
    let corrupt = desk.append(p, changed(last, !good[last])).await;
    assert!(matches!(corrupt, Err(AppendError::Corrupt { .. })), "{corrupt:?}");
    let cut = desk.append(p, good.slice(..last)).await;
    assert!(matches!(cut, Err(AppendError::Corrupt { .. })), "{cut:?}");
    let nothing = desk.append(p, Bytes::new()).await;
    assert!(nothing.is_err());
    for magic in [0, 1] {
        assert_eq!(desk.append(p, changed(16, magic as u8)).await, Err(AppendError::UnsupportedFormat { magic }));
    }
    let large = plain(&[&"x".repeat(300)]);
    let size = large.len() as u64;
    assert_eq!(desk.append(p, large).await, Err(AppendError::TooLarge { size, limit: 300 }));
    let control = desk.append(p, BatchBuilder::new().keyed([0, 0, 0, 1], [0; 6]).control().build()).await;
    assert!(matches!(control, Err(AppendError::InvalidRecord { .. })), "{control:?}");
    let transactional = BatchBuilder::new().value("t").producer(77, 0, 0).transactional().build();
    assert_eq!(desk.append(p, transactional).await, Err(AppendError::TransactionsUnsupported));
    assert_eq!(desk.append(p, good).await, Ok(Offset(0)), "nothing of that was written");
}

async fn internal_topics_are_for_coordinators(desk: &Desk) {
    let create = crate::service::broker::CreateTopic { internal: true, ..Desk::creating(CONSUMER_OFFSETS, &[]) };
    let p = desk.served(create).await;
    assert_eq!(desk.append(p, plain(&["client"])).await, Err(AppendError::InternalTopic));
    let ours = Append { origin: Origin::Coordinator, ..Desk::appending(p, plain(&["ours"])) };
    assert_eq!(desk.send(ours).await.map(|a| a.base_offset), Ok(Offset(0)));
}

async fn retries_are_recognised(desk: &Desk) {
    let p = desk.topic("conformance-idempotence", &[]).await;
    let batch = |epoch, sequence| idempotent(7, epoch, sequence, 3);
    for sequence in [0, 3, 6] {
        assert_eq!(desk.append(p, batch(0, sequence)).await, Ok(Offset(i64::from(sequence))));
    }
    assert_eq!(desk.append(p, batch(0, 3)).await, Ok(Offset(3)), "the answer of the first append");
    let gap = AppendError::OutOfOrderSequence { producer: 7, sequence: 12, expected: 9 };
    assert_eq!(desk.append(p, batch(0, 12)).await, Err(gap));
    assert_eq!(desk.append(p, batch(1, 0)).await, Ok(Offset(9)), "a new epoch begins at 0");
    assert_eq!(
        desk.append(p, batch(0, 9)).await,
        Err(AppendError::FencedProducer { producer: 7, epoch: 0, current: 1 })
    );
    assert_eq!(desk.append(p, idempotent(8, 0, 0, 1)).await, Ok(Offset(12)), "another producer counts for itself");
}

async fn epochs_are_compared(desk: &Desk) {
    let p = desk.topic("conformance-epochs", &[]).await;
    let current = desk.epoch_at(p, 0).await;
    let at = |epoch| Append { epoch: Some(epoch), ..Desk::appending(p, plain(&["a"])) };
    assert_eq!(desk.send(at(current)).await.map(|a| a.epoch), Ok(current));
    let mut wrong = vec![(current.next(), NotServed::UnknownEpoch { current })];
    if current > LeaderEpoch(0) {
        wrong.push((LeaderEpoch(current.0 - 1), NotServed::FencedEpoch { current }));
    }
    for (epoch, not_served) in wrong {
        assert_eq!(desk.send(at(epoch)).await, Err(AppendError::NotServed(not_served.clone())));
        let fetch = FetchPartition { current_epoch: Some(epoch), ..Desk::from(p, 0) };
        let found = desk.fetch(Desk::fetching(vec![fetch])).await.partitions.remove(0).map(drop);
        assert_eq!(found, Err(FetchError::NotServed(not_served.clone())));
        let (spec, isolation) = (OffsetSpec::Latest, Isolation::ReadUncommitted);
        let listed = desk.list(ListOffset { partition: p, spec, isolation, current_epoch: Some(epoch) }).await;
        assert_eq!(listed, Err(ListOffsetsError::NotServed(not_served)));
    }
    let end = |epoch| within("epoch end", desk.0.epoch_end(EpochEnd { partition: p, epoch, current_epoch: None }));
    assert_eq!(end(current).await.map(|e| e.end), Ok(Some((current, Offset(1)))));
    assert_eq!(end(LeaderEpoch(current.0 + 5)).await.map(|e| e.end), Ok(None), "an epoch of the future is not known");
}

async fn offsets_are_found(desk: &Desk) {
    let p = desk.topic("conformance-offsets", &[]).await;
    assert_eq!(desk.found(p, OffsetSpec::Earliest).await, (Some(0), Timestamp::NONE));
    assert_eq!(desk.found(p, OffsetSpec::Latest).await, (Some(0), Timestamp::NONE));
    assert_eq!(desk.found(p, OffsetSpec::MaxTimestamp).await, (None, Timestamp::NONE));
    let start = 1_750_000_000_000;
    let time = |ms: i64| Timestamp(start + ms);
    let batch = |a, b| BatchBuilder::new().value("a").at(time(a)).value("b").at(time(b)).build();
    for (a, b) in [(10, 20), (50, 30), (40, 45)] {
        desk.append(p, batch(a, b)).await.expect("appends");
    }
    assert_eq!(desk.found(p, OffsetSpec::Latest).await, (Some(6), Timestamp::NONE));
    assert_eq!(desk.found(p, OffsetSpec::MaxTimestamp).await, (Some(2), time(50)));
    for (asked, found) in [(0, (0, 10)), (10, (0, 10)), (11, (1, 20)), (21, (2, 50)), (50, (2, 50))] {
        assert_eq!(desk.found(p, OffsetSpec::At(time(asked))).await, (Some(found.0), time(found.1)), "at {asked}");
    }
    assert_eq!(desk.found(p, OffsetSpec::At(time(51))).await, (None, Timestamp::NONE));
}

async fn records_are_deleted(desk: &Desk) {
    let p = desk.topic("conformance-delete-records", &[]).await;
    for _ in 0..3 {
        desk.append(p, plain(&["a", "b"])).await.expect("appends");
    }
    assert_eq!(desk.delete_to(p, Some(3)).await, Ok(Offset(3)), "the start may fall inside a batch");
    let below = desk.read(p, 2).await.map(drop);
    assert_eq!(below, Err(FetchError::OutOfRange { asked: Offset(2), log_start: Offset(3), end: Offset(6) }));
    assert_eq!(desk.read(p, 3).await.map(|f| (offsets(&f), f.log_start)), Ok((vec![2, 4], Offset(3))));
    assert_eq!(desk.found(p, OffsetSpec::Earliest).await.0, Some(3));
    assert_eq!(desk.delete_to(p, Some(1)).await, Ok(Offset(3)), "the start never moves back");
    let above = DeleteRecordsError::OutOfRange { asked: Offset(7), high_watermark: Offset(6) };
    assert_eq!(desk.delete_to(p, Some(7)).await, Err(above));
    assert_eq!(desk.delete_to(p, None).await, Ok(Offset(6)), "everything");
    assert_eq!(desk.append(p, plain(&["z"])).await, Ok(Offset(6)), "offsets are never given twice");
    let compacted = desk.topic("conformance-compact", &[("cleanup.policy", "compact")]).await;
    assert_eq!(desk.delete_to(compacted, None).await, Err(DeleteRecordsError::Policy));
}

async fn append_time_is_the_brokers(desk: &Desk) {
    let p = desk.topic("conformance-append-time", &[("message.timestamp.type", "LogAppendTime")]).await;
    let sent = BatchBuilder::new().value("a").at(Timestamp(5)).build();
    let appended = desk.send(Desk::appending(p, sent)).await.expect("appends");
    let time = appended.log_append_time.expect("the topic says so");
    let found = desk.read(p, 0).await.expect("served");
    let batch = batches(&found).remove(0);
    assert_eq!(batch.validate(), Ok(()));
    let walked = for_each_record(&batch, &mut |record| {
        assert_eq!(record.timestamp, time);
        true
    });
    assert_eq!(walked, Ok(()));
}

async fn unknown_partitions_are_named(desk: &Desk) {
    let p = PartitionId { topic: TopicId(Uuid::from_u128(0xdead)), index: 0 };
    let not_served = NotServed::NoSuchPartition(p);
    assert_eq!(desk.append(p, plain(&["a"])).await, Err(AppendError::NotServed(not_served.clone())));
    assert_eq!(desk.read(p, 0).await.map(drop), Err(FetchError::NotServed(not_served.clone())));
    let listed = desk.look_up(p, OffsetSpec::Latest).await;
    assert_eq!(listed, Err(ListOffsetsError::NotServed(not_served.clone())));
    assert_eq!(desk.delete_to(p, None).await, Err(DeleteRecordsError::NotServed(not_served)));
}

async fn calls_take_effect_in_call_order(desk: &Desk) {
    let p = desk.topic("conformance-order", &[]).await;
    // Any other order would be an error of the sequence.
    let appends: Vec<_> = (0..50).map(|n| desk.append_now(p, idempotent(9, 0, n, 1))).collect();
    for (n, append) in appends.into_iter().enumerate().rev() {
        assert_eq!(within("append", append).await.map(|a| a.base_offset), Ok(Offset(n as i64)));
    }
}

async fn dropped_answers_do_not_stop_work(desk: &Desk) {
    let p = desk.topic("conformance-dropped", &[]).await;
    for _ in 0..20 {
        drop(desk.append_now(p, plain(&["a"])));
    }
    assert_eq!(desk.append(p, plain(&["a"])).await, Ok(Offset(20)));
}

async fn every_admitted_call_is_answered(desk: &Desk) {
    let p = desk.topic("conformance-admission", &[]).await;
    let big = plain(&[&"x".repeat(256 * 1024)]);
    let appends: Vec<_> = (0..200).map(|_| desk.append_now(p, big.clone())).collect();
    let mut appended = 0;
    for append in appends {
        match within("append", append).await {
            Ok(_) => appended += 1,
            Err(AppendError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(appended > 0);
    assert_eq!(desk.found(p, OffsetSpec::Latest).await.0, Some(appended), "refused means not written");
}

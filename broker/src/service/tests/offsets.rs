//! Looking offsets up by position, time and epoch.

use super::{Desk, desk::append_to};
use bytes::Bytes;
use protocol::{
    id::{LeaderEpoch, Offset, Timestamp},
    service::broker::{
        BrokerService, DeleteRecords, EpochEnd, Isolation, ListOffset, ListOffsetsError, ListedOffset, NotServed,
        OffsetSpec, Origin,
    },
    testing::{BatchBuilder, batches},
    topic::PartitionId,
};

/// A batch with one record per timestamp.
fn at(times: &[i64]) -> Bytes {
    times.iter().fold(BatchBuilder::new(), |batch, time| batch.value("v").at(Timestamp(*time))).build()
}

async fn list(desk: &Desk, id: PartitionId, spec: OffsetSpec) -> (Option<i64>, i64) {
    let list = ListOffset { partition: id, spec, isolation: Isolation::ReadUncommitted, current_epoch: None };
    let ListedOffset { offset, timestamp, .. } = desk.broker.list_offset(list).await.expect("listed");
    (offset.map(|o| o.0), timestamp.0)
}

async fn time(desk: &Desk, id: PartitionId, time: i64) -> (Option<i64>, i64) {
    list(desk, id, OffsetSpec::At(Timestamp(time))).await
}

#[tokio::test]
async fn times_lead_to_the_first_record_at_or_after_them() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("message.timestamp.after.max.ms", "9223372036854775807")]).await;
    assert_eq!(list(&desk, id, OffsetSpec::MaxTimestamp).await, (None, -1));
    assert_eq!(time(&desk, id, 0).await, (None, -1));
    desk.append(id, at(&[100, 200, 300])).await.expect("appended");
    desk.append(id, at(&[250, 900, 260])).await.expect("appended");
    desk.append(id, at(&[500])).await.expect("appended");
    assert_eq!(list(&desk, id, OffsetSpec::Earliest).await, (Some(0), -1));
    assert_eq!(list(&desk, id, OffsetSpec::Latest).await, (Some(7), -1));
    assert_eq!(time(&desk, id, 0).await, (Some(0), 100));
    assert_eq!(time(&desk, id, 101).await, (Some(1), 200));
    assert_eq!(time(&desk, id, 300).await, (Some(2), 300));
    assert_eq!(time(&desk, id, 301).await, (Some(4), 900));
    assert_eq!(time(&desk, id, 901).await, (None, -1));
    assert_eq!(list(&desk, id, OffsetSpec::MaxTimestamp).await, (Some(4), 900));
}

#[tokio::test]
async fn times_are_found_across_closed_ledgers_and_below_the_log_start_never() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("segment.bytes", "1000"), ("retention.ms", "-1")]).await;
    for n in 0..40 {
        desk.append(id, at(&[1_000 + n * 10])).await.expect("appended");
    }
    assert!(desk.closed(id).len() >= 2);
    for n in [0, 7, 23, 39] {
        assert_eq!(time(&desk, id, 1_000 + n * 10).await, (Some(n), 1_000 + n * 10));
        assert_eq!(time(&desk, id, 991 + n * 10).await, (Some(n), 1_000 + n * 10));
    }
    let delete = DeleteRecords { partition: id, before: Some(Offset(30)), origin: Origin::Client };
    assert_eq!(desk.broker.delete_records(delete).await, Ok(Offset(30)));
    assert_eq!(time(&desk, id, 0).await, (Some(30), 1_300));
    assert_eq!(list(&desk, id, OffsetSpec::Earliest).await, (Some(30), -1));
}

#[tokio::test]
async fn append_time_is_stamped_answered_and_found() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("message.timestamp.type", "LogAppendTime")]).await;
    let appended = desk.append(id, at(&[1, 2])).await.expect("appended");
    let stamp = appended.log_append_time.expect("stamped").0;
    assert!(stamp > 1_000_000_000_000, "the broker's clock, not the producer's");
    assert_eq!(time(&desk, id, stamp).await, (Some(0), stamp));
    assert_eq!(list(&desk, id, OffsetSpec::MaxTimestamp).await, (Some(0), stamp));
    let fetched = desk.fetch(id, 0).await.expect("fetched");
    assert_eq!(super::desk::record_batches(&fetched)[0].max_timestamp(), Timestamp(stamp));
}

#[tokio::test]
async fn epochs_end_where_the_next_one_began() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a", "b"]).await;
    desk.assign(id, &desk.broker).await;
    desk.assign(id, &desk.broker).await;
    append_to(&desk.broker, id, batches::plain(&["c"])).await.expect("appended");
    let end = async |epoch: i32| {
        let end = EpochEnd { partition: id, epoch: LeaderEpoch(epoch), current_epoch: None };
        desk.broker.epoch_end(end).await.expect("answered").end.map(|(e, o)| (e.0, o.0))
    };
    assert_eq!(end(0).await, Some((0, 2)));
    assert_eq!(end(1).await, Some((0, 2)), "epoch 1 wrote nothing");
    assert_eq!(end(2).await, Some((2, 3)));
    assert_eq!(end(3).await, None);
    let fenced = EpochEnd { partition: id, epoch: LeaderEpoch(0), current_epoch: Some(LeaderEpoch(1)) };
    let expected = ListOffsetsError::from(NotServed::FencedEpoch { current: LeaderEpoch(2) });
    assert_eq!(desk.broker.epoch_end(fenced).await, Err(expected));
}

//! The beginning of the log: retention, DeleteRecords, and the log that was emptied.

use super::Desk;
use protocol::{
    id::{Offset, Timestamp},
    service::broker::{
        AlterConfig, BrokerService, ChangeOp, ConfigChange, ConfigResource, DeleteRecords, DeleteRecordsError,
        FetchError, Isolation, ListOffset, OffsetSpec, Origin,
    },
    testing::BatchBuilder,
    topic::PartitionId,
};

async fn delete(desk: &Desk, id: PartitionId, before: Option<i64>) -> Result<i64, DeleteRecordsError> {
    let before = before.map(Offset);
    let start = desk.broker.delete_records(DeleteRecords { partition: id, before, origin: Origin::Client }).await?;
    Ok(start.0)
}

async fn ends(desk: &Desk, id: PartitionId) -> (i64, i64) {
    let mut found = Vec::new();
    for spec in [OffsetSpec::Earliest, OffsetSpec::Latest] {
        let list = ListOffset { partition: id, spec, isolation: Isolation::ReadUncommitted, current_epoch: None };
        found.push(desk.broker.list_offset(list).await.expect("listed").offset.expect("positions exist").0);
    }
    (found[0], found[1])
}

/// Ten batches of one record in several ledgers.
async fn ten_records(desk: &Desk, settings: &[(&str, &str)]) -> PartitionId {
    let id = desk.topic("orders", settings).await;
    let value = "x".repeat(400);
    for n in 0..10 {
        assert_eq!(desk.write(id, &[&value]).await, n);
    }
    id
}

#[tokio::test]
async fn size_drops_whole_ledgers_from_the_front() {
    let desk = Desk::start().await;
    let id =
        ten_records(&desk, &[("segment.bytes", "1000"), ("retention.ms", "-1"), ("retention.bytes", "2000")]).await;
    let before = desk.closed(id);
    assert!(before.len() >= 3);
    desk.broker.apply_retention().await;
    let after = desk.closed(id);
    let dropped = before.len() - after.len();
    assert!(dropped >= 1 && after[..] == before[dropped..]);
    let start = after[0].base_offset;
    assert_eq!((desk.record(id).log_start, ends(&desk, id).await), (start, (start.0, 10)));
    let dead: Vec<_> = desk.dead().iter().map(|d| d.ledger).collect();
    assert_eq!(dead, before[..dropped].iter().map(|l| l.ledger.id).collect::<Vec<_>>());
    assert!(desk.dead().iter().all(|d| d.held_by.len() == 1));
    assert_eq!(desk.bases(id, start.0).await, (start.0..10).collect::<Vec<_>>());
    let below = desk.fetch(id, start.0 - 1).await;
    assert!(matches!(below, Err(FetchError::OutOfRange { log_start, .. }) if log_start == start));
}

#[tokio::test]
async fn a_log_that_expired_is_empty_and_goes_on_at_its_end() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("retention.ms", "60000")]).await;
    let old = BatchBuilder::new().value("old").at(Timestamp(1)).build();
    desk.append(id, old.clone()).await.expect("appended");
    desk.append(id, old).await.expect("appended");
    desk.broker.apply_retention().await;
    assert_eq!(ends(&desk, id).await, (2, 2));
    assert!(desk.closed(id).is_empty() && desk.record(id).head.is_none());
    assert_eq!(desk.dead().len(), 1);
    desk.assign(id, &desk.broker).await;
    desk.open(&desk.broker, id).await;
    assert_eq!(ends(&desk, id).await, (2, 2));
    assert_eq!(desk.write(id, &["new"]).await, 2);
}

#[tokio::test]
async fn a_deleted_beginning_may_lie_inside_a_batch() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a", "b", "c"]).await;
    desk.write(id, &["d"]).await;
    assert_eq!(delete(&desk, id, Some(1)).await, Ok(1));
    assert_eq!(delete(&desk, id, Some(0)).await, Ok(1), "it never moves back");
    assert_eq!(desk.bases(id, 1).await, [0, 3]);
    assert!(matches!(desk.fetch(id, 0).await, Err(FetchError::OutOfRange { .. })));
    let beyond = delete(&desk, id, Some(5)).await;
    assert_eq!(beyond, Err(DeleteRecordsError::OutOfRange { asked: Offset(5), high_watermark: Offset(4) }));
    assert_eq!(delete(&desk, id, None).await, Ok(4));
    assert_eq!(ends(&desk, id).await, (4, 4));
    // The head still holds what nobody can see; the next owner starts where it should.
    desk.assign(id, &desk.broker).await;
    desk.open(&desk.broker, id).await;
    assert_eq!(ends(&desk, id).await, (4, 4));
    assert_eq!(desk.write(id, &["e"]).await, 4);
}

#[tokio::test]
async fn delete_records_gives_up_the_ledgers_below() {
    let desk = Desk::start().await;
    let id = ten_records(&desk, &[("segment.bytes", "1000"), ("retention.ms", "-1")]).await;
    let hidden = desk.closed(id).iter().filter(|l| l.end_offset <= Offset(7)).count();
    assert!(hidden >= 2);
    assert_eq!(delete(&desk, id, Some(7)).await, Ok(7));
    assert_eq!(desk.dead().len(), hidden);
    assert_eq!(desk.bases(id, 7).await, [7, 8, 9]);
}

#[tokio::test]
async fn compacted_topics_keep_their_ledgers() {
    let desk = Desk::start().await;
    let id = desk.topic("state", &[("cleanup.policy", "compact"), ("retention.ms", "1")]).await;
    let keyed = BatchBuilder::new().keyed("k", "v").at(Timestamp(1)).build();
    desk.append(id, keyed).await.expect("appended");
    desk.broker.apply_retention().await;
    assert_eq!(ends(&desk, id).await, (0, 1));
    assert_eq!(delete(&desk, id, None).await, Err(DeleteRecordsError::Policy));
}

#[tokio::test]
async fn changed_settings_apply_to_open_partitions() {
    let desk = Desk::start().await;
    let id = ten_records(&desk, &[("segment.bytes", "1000"), ("retention.ms", "-1")]).await;
    desk.broker.apply_retention().await;
    assert_eq!(ends(&desk, id).await, (0, 10));
    let change = ConfigChange { name: "retention.bytes".into(), op: ChangeOp::Set, value: Some("0".into()) };
    let resource = ConfigResource::Topic("orders".into());
    let alter = AlterConfig { resource, changes: vec![change], replace: false, validate_only: false };
    desk.broker.alter_config(alter).await.expect("altered");
    super::eventually("the partition to know", || {
        desk.broker.partition(id).is_ok_and(|p| p.settings_for_tests().retention_bytes == Some(0))
    })
    .await;
    desk.broker.apply_retention().await;
    assert!(ends(&desk, id).await.0 > 0);
}

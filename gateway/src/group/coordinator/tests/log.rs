//! What is written: when it becomes visible, what survives, what is trimmed, what expires.

use super::*;
use crate::group::records;
use protocol::{
    id::Timestamp,
    service::broker::{Append, Origin},
};

#[tokio::test]
async fn a_commit_is_visible_when_it_is_written() {
    let f = Fixture::new();
    assert_eq!(f.commit("g", 0, 1).await, 0);
    f.broker().append_faults().hold_answers();
    let waiting = f.send(CoordinatorKey::Group("g".into()), 8, &commit("g", "t", 0, 2));
    f.broker().append_faults().wait_held(1).await;
    assert_eq!(f.committed("g", 0).await, 1);
    f.broker().append_faults().release_answers();
    assert!(waiting.await.is_ok());
    assert_eq!(f.committed("g", 0).await, 2);
}

#[tokio::test]
async fn a_refused_append_is_a_refused_commit() {
    let f = Fixture::new();
    let refusals = [
        (AppendError::Unavailable { reason: String::new() }, 15),
        (AppendError::NotEnoughReplicas { available: 0, required: 1 }, 15),
        (AppendError::TooLarge { size: 2, limit: 1 }, 28),
        (AppendError::Corrupt { reason: String::new() }, 15),
    ];
    for (error, code) in refusals {
        assert_eq!(f.commit("g", 0, 1).await, 0);
        f.broker().append_faults().fail_next(error);
        assert_eq!(f.commit("g", 0, 2).await, code);
        assert_eq!(f.committed("g", 0).await, 1);
    }
}

#[tokio::test]
async fn a_lost_answer_makes_the_shard_read_its_log_again() {
    let f = Fixture::new();
    assert_eq!(f.commit("g", 0, 1).await, 0);
    f.broker().append_faults().lose_next_answer();
    assert_eq!(f.commit("g", 0, 2).await, 15);
    // The record is there after all, and now everyone knows.
    assert_eq!(f.committed("g", 0).await, 2);
    f.broker().append_faults().lose_next_call();
    assert_eq!(f.commit("g", 0, 3).await, 15);
    assert_eq!(f.committed("g", 0).await, 2);
}

#[tokio::test]
async fn what_was_committed_survives_a_restart() {
    let f = Fixture::new();
    let member = f.member("members").await;
    let request = commit("members", "t", 1, 5).with_member_id(text(&member)).with_generation_id_or_member_epoch(1);
    assert_eq!(f.ask("members", 8, &request).await.topics[0].partitions[0].error_code, 0);
    assert_eq!(f.commit("simple", 0, 7).await, 0);
    assert_eq!(f.commit("simple", 1, 8).await, 0);
    assert_eq!(f.ask("simple", 0, &delete_offset("simple", 1)).await.error_code, 0);
    assert_eq!(f.commit("gone", 0, 9).await, 0);
    assert_eq!(f.ask("gone", 2, &delete("gone")).await.results[0].error_code, 0);

    let f = f.restart().await;
    assert_eq!((f.committed("members", 1).await, f.committed("simple", 0).await), (5, 7));
    assert_eq!((f.committed("simple", 1).await, f.committed("gone", 0).await), (-1, -1));
    // The member has not even noticed.
    assert_eq!(f.ask("members", 4, &heartbeat("members", &member, 1)).await.error_code, 0);
    let described = f.ask("members", 5, &describe("members")).await;
    assert_eq!((&*described.groups[0].group_state, &*described.groups[0].members[0].member_id), ("Stable", &*member));
    let listed = f.ask("", 5, &ListGroupsRequest::default()).await;
    let listed: Vec<_> = listed.groups.iter().map(|g| (&*g.group_id.0, &*g.protocol_type, &*g.group_state)).collect();
    assert_eq!(listed, [("members", "consumer", "Stable"), ("simple", "", "Empty")]);
    assert_eq!(f.ask("gone", 2, &delete("gone")).await.results[0].error_code, 69);
}

#[tokio::test]
async fn an_assignment_that_cannot_be_written_is_not_given_out() {
    let f = Fixture::new();
    let joined = f.ask("g", 3, &join("g", "")).await;
    f.broker().append_faults().fail_next(AppendError::TooLarge { size: 2, limit: 1 });
    assert_eq!(f.ask("g", 3, &sync("g", &joined)).await.error_code, 15);
    assert_eq!(f.ask("g", 3, &heartbeat("g", &joined.member_id, 1)).await.error_code, 27);
    let joined = f.ask("g", 3, &join("g", &joined.member_id)).await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 2));
    assert_eq!(f.ask("g", 3, &sync("g", &joined)).await.error_code, 0);
}

#[tokio::test]
async fn the_log_is_rewritten_and_trimmed() {
    let policy = SnapshotPolicy { records: 10, bytes: u64::MAX };
    let f = Fixture::with(policy, Arc::new(SystemClock::default()));
    let member = f.member("m").await;
    assert_eq!(f.commit("old", 0, 1).await, 0);
    for offset in 0..40 {
        assert_eq!(f.commit("busy", 0, offset).await, 0);
    }
    let trimmed = async {
        while f.log_start().await < Offset(10) {
            assert_eq!(f.commit("busy", 0, 40).await, 0);
        }
    };
    tokio::time::timeout(DEADLINE, trimmed).await.expect("the log is trimmed");
    let last = f.committed("busy", 0).await;

    let f = f.restart().await;
    assert_eq!((f.committed("old", 0).await, f.committed("busy", 0).await), (1, last));
    assert_eq!(f.ask("m", 4, &heartbeat("m", &member, 1)).await.error_code, 0);
}

#[tokio::test]
async fn a_snapshot_that_fails_trims_nothing() {
    let policy = SnapshotPolicy { records: 3, bytes: u64::MAX };
    let f = Fixture::with(policy, Arc::new(SystemClock::default()));
    // The third record makes a snapshot due; its append is the fourth.
    for fault in [Fault::Pass, Fault::Pass, Fault::Pass] {
        f.broker().append_faults().push(fault);
    }
    f.broker().append_faults().fail_next(AppendError::Unavailable { reason: String::new() });
    for offset in 0..4 {
        assert_eq!(f.commit("g", 0, offset).await, 0);
    }
    assert_eq!(f.log_start().await, Offset(0));
    assert_eq!(f.committed("g", 0).await, 3);
}

#[tokio::test]
async fn records_of_an_unknown_kind_are_kept() {
    let cluster = FakeCluster::new(2);
    let _ = cluster.create_topic("t", 1);
    let _ = cluster.create_topic(CONSUMER_OFFSETS, 1);
    let partition = cluster.partition(CONSUMER_OFFSETS, 0);
    let newer = records::Record { key: Bytes::from_static(&[0, 3, 0, 1, b'g']), value: Some(Bytes::new()) };
    let batches = records::batch::encode(&[newer], Timestamp(1));
    let origin = Origin::Coordinator;
    let append = Append { partition, batches, epoch: None, origin };
    cluster.broker(0).service().append(append).await.unwrap();

    let policy = SnapshotPolicy { records: 2, bytes: u64::MAX };
    let f = Fixture::over(cluster, policy, Arc::new(SystemClock::default()));
    for offset in 0..10 {
        assert_eq!(f.commit("g", 0, offset).await, 0);
    }
    assert_eq!(f.log_start().await, Offset(0));
}

#[tokio::test]
async fn unused_offsets_expire() {
    let clock = ManualClock::default();
    let f = Fixture::with(SnapshotPolicy::default(), Arc::new(clock.clone()));
    assert_eq!(f.commit("old", 0, 1).await, 0);
    clock.advance(Duration::from_secs(6 * 24 * 3600));
    assert_eq!(f.commit("new", 0, 2).await, 0);
    clock.advance(Duration::from_secs(24 * 3600 + 1));
    f.until("old", 6, &describe("old"), |a| a.as_ref().is_ok_and(|d| d.groups[0].error_code == 69)).await;
    assert_eq!((f.committed("old", 0).await, f.committed("new", 0).await), (-1, 2));
    let f = f.restart().await;
    assert_eq!((f.committed("old", 0).await, f.committed("new", 0).await), (-1, 2));
}

#[tokio::test]
async fn offsets_of_deleted_topics_are_forgotten() {
    let f = Fixture::new();
    let _ = f.cluster.create_topic("u", 1);
    assert_eq!(f.commit("g", 0, 1).await, 0);
    assert_eq!(f.ask("g", 8, &commit("g", "u", 0, 2)).await.topics[0].partitions[0].error_code, 0);
    f.broker().service().delete_topic(DeleteTopic::Name("u".into())).await.unwrap();
    let gone = |offset: i64| offset == -1;
    f.until("g", 7, &fetch("g", "u", 0), |a| {
        a.as_ref().is_ok_and(|r| gone(r.topics[0].partitions[0].committed_offset))
    })
    .await;
    assert_eq!(f.committed("g", 0).await, 1);
}

#[tokio::test]
async fn a_silent_member_is_removed() {
    let clock = ManualClock::default();
    let f = Fixture::with(SnapshotPolicy::default(), Arc::new(clock.clone()));
    let member = f.member("g").await;
    clock.advance(Duration::from_secs(29));
    assert_eq!(f.ask("g", 4, &heartbeat("g", &member, 1)).await.error_code, 0);
    clock.advance(Duration::from_secs(29));
    assert_eq!(f.ask("g", 4, &heartbeat("g", &member, 1)).await.error_code, 0);
    clock.advance(Duration::from_secs(31));
    f.until("g", 6, &describe("g"), |a| a.as_ref().is_ok_and(|d| &*d.groups[0].group_state == "Empty")).await;
}

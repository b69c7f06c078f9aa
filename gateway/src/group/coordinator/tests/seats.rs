//! Seats that are lost, shards that cannot load, requests that wait.

use super::*;

#[tokio::test]
async fn an_epoch_that_is_over_ends_the_shard() {
    let f = Fixture::new();
    assert_eq!(f.commit("g", 0, 1).await, 0);
    let over = NotServed::FencedEpoch { current: LeaderEpoch(9) };
    f.broker().append_faults().fail_next(AppendError::NotServed(over));
    assert_eq!(f.commit("g", 0, 2).await, 16);
    assert_eq!(f.committed("g", 0).await, 1);

    f.cluster.assign(f.groups_partition(), Some(1));
    let refused = f.try_ask("g", 8, &commit("g", "t", 0, 3)).await;
    assert_eq!(refused, Err(CoordinatorError::NotCoordinator("g".into())));
    f.cluster.assign(f.groups_partition(), Some(0));
    assert_eq!(f.commit("g", 0, 4).await, 0);
    // Every append names the epoch it was loaded at.
    let epochs: Vec<_> = f.broker().appends().iter().map(|a| a.epoch).collect();
    assert_eq!(epochs, [Some(LeaderEpoch(0)), Some(LeaderEpoch(2))]);
}

#[tokio::test]
async fn requests_that_wait_are_answered_when_the_seat_is_lost() {
    let f = Fixture::new();
    let first = f.member("g").await;
    let parked = f.send(CoordinatorKey::Group("g".into()), 3, &join("g", ""));
    assert_eq!(f.ask("g", 3, &heartbeat("g", &first, 1)).await.error_code, 27);
    f.cluster.assign(f.groups_partition(), None);
    let answer = tokio::time::timeout(DEADLINE, parked).await.unwrap();
    assert!(matches!(answer, Err(CoordinatorError::NotCoordinator(_))), "{answer:?}");
}

#[tokio::test]
async fn requests_that_wait_are_answered_when_the_node_stops() {
    let f = Fixture::new();
    f.member("g").await;
    let parked = f.send(CoordinatorKey::Group("g".into()), 3, &join("g", ""));
    assert_eq!(f.ask("g", 6, &describe("g")).await.groups[0].error_code, 0);
    assert!(f.tasks.stop(DEADLINE).await);
    let answer = tokio::time::timeout(DEADLINE, parked).await.unwrap();
    assert!(matches!(answer, Err(CoordinatorError::Unavailable { .. })), "{answer:?}");
    let late = f.try_ask("g", 6, &describe("g")).await;
    assert_eq!(late, Err(CoordinatorError::NotCoordinator("g".into())));
}

#[tokio::test]
async fn a_shard_that_cannot_load_says_so() {
    let cluster = FakeCluster::new(2);
    let _ = cluster.create_topic("t", 1);
    let _ = cluster.create_topic(CONSUMER_OFFSETS, 1);
    cluster.broker(0).list_faults().always(Some(Fault::Hang));
    let f = Fixture::over(cluster, SnapshotPolicy::default(), Arc::new(SystemClock::default()));
    assert_eq!(f.try_ask("g", 8, &commit("g", "t", 0, 1)).await, Err(CoordinatorError::Loading));
    assert_eq!(f.ask("", 5, &ListGroupsRequest::default()).await.error_code, 14);

    let cluster = FakeCluster::new(2);
    let _ = cluster.create_topic("t", 1);
    let _ = cluster.create_topic(CONSUMER_OFFSETS, 1);
    cluster.set_opening(cluster.partition(CONSUMER_OFFSETS, 0), true);
    let f = Fixture::over(cluster, SnapshotPolicy::default(), Arc::new(SystemClock::default()));
    assert_eq!(f.try_ask("g", 8, &commit("g", "t", 0, 1)).await, Err(CoordinatorError::Loading));
    f.cluster.set_opening(f.groups_partition(), false);
    f.until("g", 8, &commit("g", "t", 0, 1), |answer| answer.is_ok()).await;
}

#[tokio::test]
async fn too_many_requests_are_refused_at_once() {
    let f = Fixture::new();
    assert_eq!(f.commit("g", 0, 0).await, 0);
    f.broker().append_faults().hold_answers();
    let refused = async {
        let mut waiting = Vec::new();
        for offset in 0.. {
            let mut answer = f.send(CoordinatorKey::Group("g".into()), 8, &commit("g", "t", 0, offset));
            match futures::poll!(&mut answer) {
                std::task::Poll::Ready(answer) => return (answer, waiting),
                std::task::Poll::Pending => waiting.push(answer),
            }
            tokio::task::yield_now().await;
        }
        unreachable!("a queue without end")
    };
    let (refused, waiting) = tokio::time::timeout(DEADLINE, refused).await.unwrap();
    assert!(matches!(refused, Err(CoordinatorError::Unavailable { .. })), "{refused:?}");
    assert!(waiting.len() >= INBOX);
    f.broker().append_faults().release_answers();
    for answer in waiting {
        assert!(answer.await.is_ok());
    }
}

//! Group requests on their way to the coordinator, and the answers when there is none.

use super::client::{Client, Running, decoded, encoded, text, topic};
use kafka_protocol::{
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
        FindCoordinatorRequest, GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, LeaveGroupRequest,
        ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
        OffsetFetchResponse, SyncGroupRequest,
        delete_groups_response::DeletableGroupResult,
        describe_groups_response::DescribedGroup,
        list_groups_response::ListedGroup,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic},
        offset_fetch_response::OffsetFetchResponseGroup,
    },
    protocol::Request,
};
use protocol::{
    service::{
        broker::AdminError,
        coordinator::{CoordinatorError, CoordinatorKey},
    },
    testing::FakeCoordinator,
    topic::CONSUMER_OFFSETS,
};

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

/// A gateway whose cluster has the topic of committed offsets, on one node.
async fn with_coordinator() -> (Running, Client, FakeCoordinator) {
    let running = Running::start(1).await;
    running.topic(CONSUMER_OFFSETS, 3);
    let client = running.connect().await;
    let coordinator = running.cluster.coordinator(0);
    (running, client, coordinator)
}

#[tokio::test]
async fn the_first_group_creates_the_offsets_topic() {
    let settings = [("offsets.topic.num.partitions", "5"), ("offsets.topic.replication.factor", "2")];
    let running = Running::with(1, &settings).await;
    let mut client = running.connect().await;
    for version in 0..=3 {
        let answer = client.call(version, &FindCoordinatorRequest::default().with_key(text("readers"))).await;
        assert_eq!((answer.error_code, answer.node_id.0, answer.port), (0, 0, 9092), "{version}");
    }
    let record = running.cluster.view().snapshot().topic(CONSUMER_OFFSETS).expect("created").record.clone();
    assert_eq!((record.partitions, record.replication_factor), (5, 2));
    assert_eq!(record.config.get("cleanup.policy").map(String::as_str), Some("compact"));
}

#[tokio::test]
async fn coordinators_are_where_the_groups_partition_is_owned() {
    let running = Running::start(3).await;
    running.topic(CONSUMER_OFFSETS, 3);
    let mut client = running.connect().await;
    let keys: Vec<_> = (0..12).map(|i| text(&format!("group-{i}"))).collect();
    for version in 4..=6 {
        let answer = client.call(version, &FindCoordinatorRequest::default().with_coordinator_keys(keys.clone())).await;
        for found in answer.coordinators {
            let partition = crate::group::partition_of(&found.key, 3);
            assert_eq!((found.error_code, found.node_id.0), (0, i32::try_from(partition).expect("small")));
        }
    }
}

#[tokio::test]
async fn there_may_be_no_coordinator() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    running.cluster.broker(0).admin_faults().fail_next(AdminError::Unavailable("no quorum".into()));
    let find = FindCoordinatorRequest::default().with_key(text("readers"));
    assert_eq!(client.call(3, &find).await.error_code, 15);
    assert_eq!(client.call(3, &find.clone().with_key_type(1)).await.error_code, 53, "no transactions");
    let many = FindCoordinatorRequest::default().with_key_type(7).with_coordinator_keys(vec![text("x")]);
    assert_eq!(client.call(4, &many).await.coordinators[0].error_code, 42);
    let heartbeat = HeartbeatRequest::default().with_group_id(group("readers"));
    assert_eq!(client.call(4, &heartbeat).await.error_code, 15, "before the offsets topic exists");
}

#[tokio::test]
async fn requests_are_passed_on_unread() {
    let (_running, mut client, coordinator) = with_coordinator().await;
    let response = encoded(&HeartbeatResponse::default().with_error_code(27), 4);
    coordinator.answer(Ok(response));
    let request = HeartbeatRequest::default().with_group_id(group("readers")).with_member_id(text("m"));
    assert_eq!(client.call(4, &request).await.error_code, 27);
    let call = coordinator.calls().remove(0);
    assert_eq!(call.key, CoordinatorKey::Group("readers".into()));
    assert_eq!((call.api_key, call.api_version, call.client_id.as_deref()), (12, 4, Some("test")));
    assert_eq!((call.client_host.as_str(), call.body), ("/127.0.0.1", encoded(&request, 4)));
}

/// The code of the answer to a request whose coordinator answers `problem`, in every version from `first` to `last`.
async fn refused<Q: Request>(
    request: Q,
    versions: (i16, i16),
    problem: CoordinatorError,
    code: fn(Q::Response) -> i16,
) -> i16 {
    let (_running, mut client, coordinator) = with_coordinator().await;
    let mut codes = Vec::new();
    for version in versions.0..=versions.1 {
        coordinator.answer(Err(problem.clone()));
        codes.push(code(client.call(version, &request).await));
    }
    codes.dedup();
    assert_eq!(codes.len(), 1, "the same code in every version");
    codes[0]
}

fn commit() -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_partition_index(1).with_committed_offset(5);
    let of = OffsetCommitRequestTopic::default().with_name(topic("orders")).with_partitions(vec![partition]);
    OffsetCommitRequest::default().with_group_id(group("g")).with_topics(vec![of])
}

#[tokio::test]
async fn refusals_are_well_formed_and_in_the_set_that_clients_know() {
    let of = OffsetFetchRequestTopic::default().with_name(topic("orders")).with_partition_indexes(vec![1]);
    let fetch = OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![of]));
    let unavailable = || CoordinatorError::Unavailable { reason: "down".into() };
    let unknown = || CoordinatorError::OutcomeUnknown { reason: "lost".into() };
    let moved = || CoordinatorError::NotCoordinator("g".into());
    for (problem, join, sync, beat, rest) in [
        (moved(), 16, 16, 16, 16),
        (CoordinatorError::Loading, 14, 27, 0, 14),
        (unavailable(), 15, 15, 15, 15),
        (unknown(), 15, 15, 15, 15),
    ] {
        let p = || problem.clone();
        assert_eq!(
            refused(JoinGroupRequest::default().with_group_id(group("g")), (0, 9), p(), |r| r.error_code).await,
            join
        );
        assert_eq!(
            refused(SyncGroupRequest::default().with_group_id(group("g")), (0, 5), p(), |r| r.error_code).await,
            sync
        );
        assert_eq!(
            refused(HeartbeatRequest::default().with_group_id(group("g")), (0, 4), p(), |r| r.error_code).await,
            beat
        );
        assert_eq!(
            refused(LeaveGroupRequest::default().with_group_id(group("g")), (0, 5), p(), |r| r.error_code).await,
            rest
        );
        let of_commit = |r: <OffsetCommitRequest as Request>::Response| r.topics[0].partitions[0].error_code;
        assert_eq!(refused(commit(), (2, 9), p(), of_commit).await, rest);
        assert_eq!(
            refused(OffsetDeleteRequest::default().with_group_id(group("g")), (0, 0), p(), |r| r.error_code).await,
            rest
        );
        let of_partition = |r: OffsetFetchResponse| r.topics[0].partitions[0].error_code;
        assert_eq!(refused(fetch.clone(), (1, 1), p(), of_partition).await, rest);
        assert_eq!(refused(fetch.clone(), (2, 7), p(), |r| r.error_code).await, rest);
    }
}

#[tokio::test]
async fn a_request_the_coordinator_cannot_read_closes_the_connection() {
    let (_running, mut client, coordinator) = with_coordinator().await;
    coordinator.answer(Err(CoordinatorError::Malformed { reason: "odd".into() }));
    client.send(4, &HeartbeatRequest::default().with_group_id(group("g"))).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn requests_about_several_groups_are_split_and_merged_in_order() {
    let (_running, mut client, coordinator) = with_coordinator().await;
    let wanted = |name| OffsetFetchRequestGroup::default().with_group_id(group(name)).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![wanted("a"), wanted("b")]).with_require_stable(true);
    let part = OffsetFetchResponseGroup::default().with_group_id(group("a"));
    coordinator.answer(Ok(encoded(&OffsetFetchResponse::default().with_groups(vec![part]), 8)));
    coordinator.answer(Err(CoordinatorError::Loading));
    let answer = client.call(8, &request).await;
    let found: Vec<(String, i16)> = answer.groups.iter().map(|g| (g.group_id.to_string(), g.error_code)).collect();
    assert_eq!(found, [("a".to_owned(), 0), ("b".to_owned(), 14)]);
    let alone: OffsetFetchRequest = decoded(coordinator.calls().remove(1).body, 8);
    assert_eq!((alone.groups.len(), alone.require_stable), (1, true));
    assert_eq!(*alone.groups[0].group_id, *"b");
}

#[tokio::test]
async fn groups_are_described_and_deleted_one_by_one() {
    let (_running, mut client, coordinator) = with_coordinator().await;
    for version in 0..=6 {
        let part = DescribedGroup::default().with_group_id(group("a")).with_group_state(text("Stable"));
        coordinator.answer(Ok(encoded(&DescribeGroupsResponse::default().with_groups(vec![part]), version)));
        coordinator.answer(Err(CoordinatorError::NotCoordinator("b".into())));
        let request = DescribeGroupsRequest::default().with_groups(vec![group("a"), group("b")]);
        let answer = client.call(version, &request).await;
        assert_eq!((answer.groups[0].error_code, answer.groups[1].error_code), (0, 16), "{version}");
        assert_eq!(&*answer.groups[0].group_state, "Stable");
    }
    for version in 0..=2 {
        let part = DeletableGroupResult::default().with_group_id(group("a"));
        coordinator.answer(Ok(encoded(&DeleteGroupsResponse::default().with_results(vec![part]), version)));
        coordinator.answer(Err(CoordinatorError::Unavailable { reason: "down".into() }));
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group("a"), group("b")]);
        let answer = client.call(version, &request).await;
        assert_eq!((answer.results[0].error_code, answer.results[1].error_code), (0, 15), "{version}");
    }
}

#[tokio::test]
async fn listing_asks_every_node_and_says_when_one_is_missing() {
    let running = Running::start(2).await;
    let mut client = running.connect().await;
    let list =
        |name: &str| ListGroupsResponse::default().with_groups(vec![ListedGroup::default().with_group_id(group(name))]);
    for version in 0..=5 {
        running.cluster.coordinator(0).answer(Ok(encoded(&list("a"), version)));
        running.cluster.coordinator(1).answer(Ok(encoded(&list("b"), version)));
        let answer = client.call(version, &ListGroupsRequest::default()).await;
        assert_eq!((answer.error_code, answer.groups.len()), (0, 2), "{version}");
    }
    assert_eq!(running.cluster.coordinator(1).calls()[0].key, CoordinatorKey::Node);
    running.cluster.coordinator(0).answer(Ok(encoded(&list("a"), 4)));
    running.cluster.coordinator(1).answer(Err(CoordinatorError::Loading));
    let answer = client.call(4, &ListGroupsRequest::default()).await;
    assert_eq!((answer.error_code, answer.groups.len()), (14, 1));
}

//! Coordinators on a fake broker: every API in every version, restarts, lost seats, refused and lost appends.

use super::*;
use kafka_protocol::{
    messages::{
        DeleteGroupsRequest, DescribeGroupsRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::{Decodable, Encodable, Request as Kafka, StrBytes},
};
use protocol::{
    id::Offset,
    runtime::SystemClock,
    service::broker::{AppendError, DeleteTopic, Isolation, ListOffset, NotServed, OffsetSpec},
    testing::{FakeBroker, FakeCluster, Fault, ManualClock},
};
use std::collections::BTreeMap;

mod apis;
mod log;
mod seats;

const DEADLINE: Duration = Duration::from_secs(20);

/// One node's coordinators over a fake cluster with the topic `t` and one partition of groups.
struct Fixture {
    cluster: FakeCluster,
    coordinators: Arc<Coordinators>,
    tasks: Tasks,
}

impl Fixture {
    fn new() -> Self {
        Self::with(SnapshotPolicy::default(), Arc::new(SystemClock::default()))
    }

    fn with(policy: SnapshotPolicy, clock: Arc<dyn Clock>) -> Self {
        let cluster = FakeCluster::new(2);
        let _ = cluster.create_topic("t", 2);
        let _ = cluster.create_topic(CONSUMER_OFFSETS, 1);
        Self::over(cluster, policy, clock)
    }

    fn over(cluster: FakeCluster, policy: SnapshotPolicy, clock: Arc<dyn Clock>) -> Self {
        let tasks = Tasks::default();
        let settings = [("group.initial.rebalance.delay.ms", "0"), ("offset.metadata.max.bytes", "8")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = CoordinatorsConfig { node: NodeId(0), settings: StaticSettings::parse(settings).unwrap() };
        let broker = cluster.broker(0).service();
        let deps = CoordinatorsDeps { broker, view: cluster.view(), clock, tasks: tasks.clone() };
        Self { coordinators: Coordinators::start_with(config, deps, policy), cluster, tasks }
    }

    /// Stops this node and starts another over the same logs.
    async fn restart(self) -> Self {
        assert!(self.tasks.stop(DEADLINE).await);
        Self::over(self.cluster, SnapshotPolicy::default(), Arc::new(SystemClock::default()))
    }

    fn broker(&self) -> FakeBroker {
        self.cluster.broker(0)
    }

    fn groups_partition(&self) -> PartitionId {
        self.cluster.partition(CONSUMER_OFFSETS, 0)
    }

    fn send<Q: Kafka + Encodable>(
        &self,
        key: CoordinatorKey,
        version: i16,
        request: &Q,
    ) -> Answer<Bytes, CoordinatorError> {
        let mut body = bytes::BytesMut::new();
        request.encode(&mut body, version).unwrap();
        self.coordinators.call(CoordinatorCall {
            key,
            api_key: Q::KEY,
            api_version: version,
            client_id: Some("c".into()),
            client_host: "/127.0.0.1".into(),
            body: body.freeze(),
        })
    }

    async fn try_ask<Q>(&self, group: &str, version: i16, request: &Q) -> Result<Q::Response, CoordinatorError>
    where
        Q: Kafka + Encodable,
        Q::Response: Decodable,
    {
        let key = if Q::KEY == 16 { CoordinatorKey::Node } else { CoordinatorKey::Group(group.into()) };
        let answer = self.send(key, version, request);
        let mut body = tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time")?;
        let response = Q::Response::decode(&mut body, version).unwrap();
        assert!(body.is_empty());
        Ok(response)
    }

    async fn ask<Q>(&self, group: &str, version: i16, request: &Q) -> Q::Response
    where
        Q: Kafka + Encodable,
        Q::Response: Decodable,
    {
        self.try_ask(group, version, request).await.unwrap()
    }

    /// Asks until the answer is as wanted.
    async fn until<Q>(
        &self,
        group: &str,
        version: i16,
        request: &Q,
        wanted: impl Fn(&Result<Q::Response, CoordinatorError>) -> bool,
    ) where
        Q: Kafka + Encodable,
        Q::Response: Decodable,
    {
        let asking = async {
            while !wanted(&self.try_ask(group, version, request).await) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.expect("the wanted answer in time");
    }

    async fn commit(&self, group: &str, partition: i32, offset: i64) -> i16 {
        let response = self.ask(group, 8, &commit(group, "t", partition, offset)).await;
        response.topics[0].partitions[0].error_code
    }

    /// The committed offset of a partition of `t`.
    async fn committed(&self, group: &str, partition: i32) -> i64 {
        let response = self.ask(group, 7, &fetch(group, "t", partition)).await;
        response.topics[0].partitions[0].committed_offset
    }

    /// One member joins and gets its assignment; answers its id.
    async fn member(&self, group: &str) -> String {
        let joined = self.ask(group, 3, &join(group, "")).await;
        assert_eq!((joined.error_code, joined.generation_id), (0, 1));
        let synced = self.ask(group, 3, &sync(group, &joined)).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
        joined.member_id.to_string()
    }

    async fn log_start(&self) -> Offset {
        let list = ListOffset {
            partition: self.groups_partition(),
            spec: OffsetSpec::Earliest,
            isolation: Isolation::ReadUncommitted,
            current_epoch: None,
        };
        self.broker().service().list_offset(list).await.unwrap().offset.unwrap()
    }
}

fn id(group: &str) -> GroupId {
    GroupId(text(group))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from(text.to_owned())
}

fn join(group: &str, member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name("range".into()).with_metadata(subscription());
    JoinGroupRequest::default()
        .with_group_id(id(group))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(text(member))
        .with_protocol_type("consumer".into())
        .with_protocols(vec![protocol])
}

/// A subscription to `t`.
fn subscription() -> Bytes {
    Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff])
}

fn sync(group: &str, joined: &JoinGroupResponse) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default().with_member_id(joined.member_id.clone());
    SyncGroupRequest::default()
        .with_group_id(id(group))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(vec![assignment.with_assignment(Bytes::from_static(b"all"))])
}

fn heartbeat(group: &str, member: &str, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default().with_group_id(id(group)).with_member_id(text(member)).with_generation_id(generation)
}

fn commit(group: &str, topic: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some("note".into()));
    let topic = OffsetCommitRequestTopic::default().with_name(text(topic).into()).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

fn fetch(group: &str, topic: &str, partition: i32) -> OffsetFetchRequest {
    let topic =
        OffsetFetchRequestTopic::default().with_name(text(topic).into()).with_partition_indexes(vec![partition]);
    OffsetFetchRequest::default().with_group_id(id(group)).with_topics(Some(vec![topic]))
}

fn describe(group: &str) -> DescribeGroupsRequest {
    DescribeGroupsRequest::default().with_groups(vec![id(group)])
}

fn delete(group: &str) -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(vec![id(group)])
}

fn delete_offset(group: &str, partition: i32) -> OffsetDeleteRequest {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(partition);
    let topic = OffsetDeleteRequestTopic::default().with_name(text("t").into()).with_partitions(vec![partition]);
    OffsetDeleteRequest::default().with_group_id(id(group)).with_topics(vec![topic])
}

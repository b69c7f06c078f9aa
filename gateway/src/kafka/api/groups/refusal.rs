//! How each group API says that its coordinator does not answer. Owns the form of those answers and the codes that the
//! clients of each API know; a code outside of that set is fatal to Java clients.

use crate::kafka::error::Failure;
use kafka_protocol::{
    ResponseError,
    messages::{
        HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
        OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic},
    },
    protocol::Encodable,
};

/// A request about one group that can be refused.
pub(super) trait Refuse {
    /// Its response.
    type Response: Encodable + Send;
    /// The group it is about.
    fn group(&self) -> &str;
    /// The refusal in the form of the API.
    fn refuse(&self, failure: &Failure, version: i16) -> Self::Response;
}

impl Refuse for OffsetCommitRequest {
    type Response = OffsetCommitResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    fn refuse(&self, failure: &Failure, _version: i16) -> OffsetCommitResponse {
        let code = failure.error.code();
        let topics = self.topics.iter().map(|topic| {
            let partition =
                |index| OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code);
            let partitions = topic.partitions.iter().map(|p| partition(p.partition_index)).collect();
            OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions)
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }
}

impl Refuse for OffsetFetchRequest {
    type Response = OffsetFetchResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    /// Versions up to 7 only: from version 2 on there is an error for the request, before one for each partition.
    fn refuse(&self, failure: &Failure, version: i16) -> OffsetFetchResponse {
        let code = failure.error.code();
        if version >= 2 {
            return OffsetFetchResponse::default().with_error_code(code);
        }
        let topics = self.topics.iter().flatten().map(|topic| {
            let partition = |index: &i32| {
                let partition = OffsetFetchResponsePartition::default().with_partition_index(*index);
                partition.with_committed_offset(-1).with_error_code(code)
            };
            let partitions = topic.partition_indexes.iter().map(partition).collect();
            OffsetFetchResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions)
        });
        OffsetFetchResponse::default().with_topics(topics.collect())
    }
}

impl Refuse for JoinGroupRequest {
    type Response = JoinGroupResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    fn refuse(&self, failure: &Failure, version: i16) -> JoinGroupResponse {
        // From version 7 on "no protocol" is null, before it is the empty string.
        let none = || (version < 7).then(Default::default);
        JoinGroupResponse::default()
            .with_error_code(failure.error.code())
            .with_generation_id(-1)
            .with_protocol_name(none())
            .with_member_id(self.member_id.clone())
    }
}

impl Refuse for SyncGroupRequest {
    type Response = SyncGroupResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    /// While the coordinator loads the member is told to join again, as by Kafka: clients of SyncGroup know no "loading".
    fn refuse(&self, failure: &Failure, _version: i16) -> SyncGroupResponse {
        let error = match failure.error {
            ResponseError::CoordinatorLoadInProgress => ResponseError::RebalanceInProgress,
            error => error,
        };
        SyncGroupResponse::default().with_error_code(error.code())
    }
}

impl Refuse for HeartbeatRequest {
    type Response = HeartbeatResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    /// While the coordinator loads a heartbeat is taken on trust, as by Kafka: clients of Heartbeat know no "loading", and
    /// the session begins anew when loading ends.
    fn refuse(&self, failure: &Failure, _version: i16) -> HeartbeatResponse {
        let code = match failure.error {
            ResponseError::CoordinatorLoadInProgress => 0,
            error => error.code(),
        };
        HeartbeatResponse::default().with_error_code(code)
    }
}

impl Refuse for LeaveGroupRequest {
    type Response = LeaveGroupResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    fn refuse(&self, failure: &Failure, _version: i16) -> LeaveGroupResponse {
        LeaveGroupResponse::default().with_error_code(failure.error.code())
    }
}

impl Refuse for OffsetDeleteRequest {
    type Response = OffsetDeleteResponse;
    fn group(&self) -> &str {
        &self.group_id
    }
    fn refuse(&self, failure: &Failure, _version: i16) -> OffsetDeleteResponse {
        OffsetDeleteResponse::default().with_error_code(failure.error.code())
    }
}

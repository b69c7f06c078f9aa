//! The table of APIs: key, versions, handler. ApiVersions is answered from this table, so what is advertised is exactly
//! what is handled. Owns no handler.

use super::{
    api,
    error::Failure,
    request::{Call, Handled, Reply, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, ApiVersionsResponse, api_versions_response::ApiVersion},
};

/// One API.
pub(crate) struct Api {
    /// Its key.
    pub(crate) key: ApiKey,
    /// Its name in metrics.
    pub(crate) name: &'static str,
    first: i16,
    last: i16,
    /// The lowest version that ApiVersions names.
    advertised: i16,
    /// Starts a request.
    pub(crate) handle: fn(Request) -> Handled,
}

impl Api {
    /// Whether requests of this version are served.
    pub(crate) const fn serves(&self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    /// The versions that are served.
    #[cfg(test)]
    pub(crate) fn versions(&self) -> std::ops::RangeInclusive<i16> {
        self.first..=self.last
    }
}

const fn api(key: ApiKey, name: &'static str, first: i16, last: i16, handle: fn(Request) -> Handled) -> Api {
    Api { key, name, first, last, advertised: first, handle }
}

impl Api {
    /// Names lower versions than are served. librdkafka before 2.11.1 silently stops compressing if Produce does not
    /// begin at version 0 (KAFKA-18659).
    const fn advertised_from(mut self, version: i16) -> Self {
        self.advertised = version;
        self
    }
}

/// Everything that is served, the busiest first.
#[rustfmt::skip]
pub(crate) const APIS: &[Api] = &[
    api(ApiKey::Produce, "Produce", 3, 13, api::produce::handle).advertised_from(0),
    api(ApiKey::Fetch, "Fetch", 4, 18, api::fetch::handle),
    api(ApiKey::Metadata, "Metadata", 0, 13, api::metadata::handle),
    api(ApiKey::ListOffsets, "ListOffsets", 1, 10, api::list_offsets::handle),
    api(ApiKey::Heartbeat, "Heartbeat", 0, 4, api::groups::heartbeat),
    api(ApiKey::OffsetCommit, "OffsetCommit", 2, 9, api::groups::offset_commit),
    api(ApiKey::OffsetFetch, "OffsetFetch", 1, 9, api::groups::offset_fetch),
    api(ApiKey::FindCoordinator, "FindCoordinator", 0, 6, api::find_coordinator::handle),
    api(ApiKey::JoinGroup, "JoinGroup", 0, 9, api::groups::join_group),
    api(ApiKey::LeaveGroup, "LeaveGroup", 0, 5, api::groups::leave_group),
    api(ApiKey::SyncGroup, "SyncGroup", 0, 5, api::groups::sync_group),
    api(ApiKey::DescribeGroups, "DescribeGroups", 0, 6, api::groups::describe_groups),
    api(ApiKey::ListGroups, "ListGroups", 0, 5, api::groups::list_groups),
    api(ApiKey::ApiVersions, "ApiVersions", 0, 4, api::api_versions::handle),
    api(ApiKey::CreateTopics, "CreateTopics", 2, 7, api::create_topics::handle),
    api(ApiKey::DeleteTopics, "DeleteTopics", 1, 6, api::delete_topics::handle),
    api(ApiKey::DeleteRecords, "DeleteRecords", 0, 2, api::delete_records::handle),
    api(ApiKey::InitProducerId, "InitProducerId", 0, 5, api::init_producer_id::handle),
    api(ApiKey::OffsetForLeaderEpoch, "OffsetForLeaderEpoch", 2, 4, api::offset_for_leader_epoch::handle),
    api(ApiKey::DescribeConfigs, "DescribeConfigs", 1, 4, api::describe_configs::handle),
    api(ApiKey::AlterConfigs, "AlterConfigs", 0, 2, api::alter_configs::replace),
    api(ApiKey::DescribeLogDirs, "DescribeLogDirs", 1, 4, api::describe_log_dirs::handle),
    api(ApiKey::CreatePartitions, "CreatePartitions", 0, 3, api::create_partitions::handle),
    api(ApiKey::DeleteGroups, "DeleteGroups", 0, 2, api::groups::delete_groups),
    api(ApiKey::IncrementalAlterConfigs, "IncrementalAlterConfigs", 0, 1, api::alter_configs::change),
    api(ApiKey::ListPartitionReassignments, "ListPartitionReassignments", 0, 0, api::list_partition_reassignments::handle),
    api(ApiKey::OffsetDelete, "OffsetDelete", 0, 0, api::groups::offset_delete),
    api(ApiKey::DescribeCluster, "DescribeCluster", 0, 2, api::describe_cluster::handle),
    api(ApiKey::DescribeTopicPartitions, "DescribeTopicPartitions", 0, 0, api::describe_topic_partitions::handle),
];

/// An API with its place in the table.
pub(crate) fn find(key: i16) -> Option<(usize, &'static Api)> {
    APIS.iter().enumerate().find(|(_, api)| api.key as i16 == key)
}

/// The versions that ApiVersions names.
pub(crate) fn advertised() -> Vec<ApiVersion> {
    let mut versions: Vec<ApiVersion> = APIS.iter().map(range_of).collect();
    versions.sort_by_key(|version| version.api_key);
    versions
}

fn range_of(api: &Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.advertised).with_max_version(api.last)
}

/// The answer to a version that is not served. Only ApiVersions has one that a client can read without knowing the
/// version: version 0 with the range it should have asked for. For any other API the connection is closed (none).
pub(crate) fn refuse_version(call: &Call, api: &Api) -> Option<Reply> {
    if api.key != ApiKey::ApiVersions {
        return None;
    }
    let failure = Failure::new(ResponseError::UnsupportedVersion, "this version of ApiVersions is not supported");
    let response =
        ApiVersionsResponse::default().with_error_code(call.code(&failure)).with_api_keys(vec![range_of(api)]);
    Some(Call { version: 0, ..call.clone() }.now(&response))
}

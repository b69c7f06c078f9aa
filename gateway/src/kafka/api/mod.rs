//! The APIs, one file each (the group APIs, which are passed on to a coordinator, share one). A handler decodes, makes
//! its calls before it returns, and answers from a future. Handlers own Kafka's request semantics; they keep no state
//! between requests.

pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_topic_partitions;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod groups;
pub(crate) mod init_producer_id;
pub(crate) mod list_offsets;
pub(crate) mod list_partition_reassignments;
pub(crate) mod metadata;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;

use super::error::Failure;
use kafka_protocol::messages::TopicName;
use protocol::service::Answer;

/// A call on a broker that was made, or the reason why it was not.
pub(crate) type Made<T, E> = Result<Answer<T, E>, Failure>;

/// Calls about single partitions, in the order of the request.
pub(crate) type ByTopic<T, E> = Vec<(TopicName, Vec<(i32, Made<T, E>)>)>;

/// What became of a call.
pub(crate) async fn settle<T, E: Into<Failure>>(made: Made<T, E>) -> Result<T, Failure> {
    made?.await.map_err(Into::into)
}

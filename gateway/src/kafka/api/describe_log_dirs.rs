//! DescribeLogDirs: how much the partitions of this broker hold. There is one "directory", because partitions live on
//! bookies and not on the broker.

use crate::kafka::{
    error::Failure,
    request::{Handled, Request},
};
use kafka_protocol::{
    messages::{
        DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic},
    },
    protocol::StrBytes,
};
use protocol::service::broker::PartitionStatus;
use std::collections::BTreeMap;

/// What stands for the directory.
const LOG_DIR: &str = "/ledgers";
/// The first version with an error for the request as a whole.
const ERROR_SINCE: i16 = 3;

/// Handles DescribeLogDirs.
pub(crate) fn handle(request: Request) -> Handled {
    let message: DescribeLogDirsRequest = request.decode()?;
    let call = request.call;
    let made = call.shared.local_broker().map(|broker| broker.partition_status(Vec::new()));
    let answering = call.clone();
    Ok(call.later(async move {
        let outcome: Result<Vec<PartitionStatus>, Failure> = super::settle(made).await;
        let (code, _) = answering.verdict(&outcome);
        let topics = topics(outcome.unwrap_or_default(), message.topics.as_deref());
        let directory = StrBytes::from_static_str(LOG_DIR);
        let result = DescribeLogDirsResult::default().with_error_code(code).with_log_dir(directory).with_topics(topics);
        let response = DescribeLogDirsResponse::default().with_results(vec![result]);
        if answering.version >= ERROR_SINCE { response.with_error_code(code) } else { response }
    }))
}

fn topics(statuses: Vec<PartitionStatus>, wanted: Option<&[DescribableLogDirTopic]>) -> Vec<DescribeLogDirsTopic> {
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for status in statuses {
        let index = i32::try_from(status.partition.index).unwrap_or(i32::MAX);
        let is_wanted = wanted.is_none_or(|wanted| {
            let named = |topic: &&DescribableLogDirTopic| topic.topic.as_str() == status.topic.as_str();
            wanted.iter().filter(named).any(|topic| topic.partitions.contains(&index))
        });
        if is_wanted {
            let size = i64::try_from(status.bytes).unwrap_or(i64::MAX);
            let partition = DescribeLogDirsPartition::default().with_partition_index(index).with_partition_size(size);
            topics.entry(status.topic.to_string()).or_default().push(partition);
        }
    }
    let named = |(name, partitions)| {
        let name = TopicName(StrBytes::from_string(name));
        DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions)
    };
    topics.into_iter().map(named).collect()
}

//! OffsetCommit and OffsetFetch. A commit is answered, and visible, when its records were acknowledged.

use super::{
    super::{
        answer::{Responder, group_id},
        error::GroupError,
        machine::MemberRef,
        offsets::{GroupOffsets, TopicPartition},
        records::{OffsetValue, Record},
    },
    state::{Context, Done, State},
};
use kafka_protocol::{
    messages::{
        OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
        offset_commit_request::OffsetCommitRequestPartition,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};
use protocol::id::Timestamp;

/// The answer of a commit, as far as it is known before the write: what was refused is refused already.
#[derive(Debug)]
pub(super) struct CommitAnswer {
    responder: Responder,
    response: OffsetCommitResponse,
}

/// A partition's committed offset on its way to the wire.
struct Fetched {
    partition: i32,
    offset: i64,
    epoch: i32,
    metadata: String,
}

impl State {
    pub(super) fn commit(&mut self, ctx: &Context, responder: Responder, request: &OffsetCommitRequest) {
        let name = request.group_id.as_str();
        let generation = request.generation_id_or_member_epoch;
        let member = MemberRef {
            member_id: request.member_id.to_string(),
            instance_id: request.group_instance_id.as_ref().map(ToString::to_string),
        };
        let admitted = if generation >= 0 && !self.groups.contains_key(name) {
            Err(GroupError::IllegalGeneration)
        } else {
            self.entry(ctx, name).group.admit_commit(ctx.now, &member, generation)
        };
        let mut commits = Vec::new();
        let mut records = Vec::new();
        let expires = (request.retention_time_ms >= 0 && responder.version <= 4)
            .then(|| Timestamp(ctx.now.wall.0.saturating_add(request.retention_time_ms)));
        let mut response = OffsetCommitResponse::default();
        for topic in &request.topics {
            let exists = ctx.snapshot.topic(topic.name.as_str()).is_some();
            let mut results = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
            for partition in &topic.partitions {
                let known = if exists { Ok(()) } else { Err(GroupError::UnknownTopic) };
                let value = value_of(ctx, partition, expires);
                let record = admitted.and(known).and(value).and_then(|value| {
                    Ok((record(name, topic.name.as_str(), partition.partition_index, &value)?, value))
                });
                let code = GroupError::code_of(&record);
                let result = OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
                results.partitions.push(result.with_error_code(code));
                if let Ok((record, value)) = record {
                    records.push(record);
                    commits.push(((topic.name.to_string(), partition.partition_index), value));
                }
            }
            response.topics.push(results);
        }
        if commits.is_empty() {
            self.drop_if_unused(name);
            return responder.send(&response);
        }
        self.entry(ctx, name).offsets.begin(commits.iter().map(|(key, _)| key));
        let answer = CommitAnswer { responder, response };
        self.write(records, Done::Commit { group: name.to_owned(), commits, answer });
    }

    pub(super) fn committed(
        &mut self,
        group: &str,
        commits: Vec<(TopicPartition, OffsetValue)>,
        answer: CommitAnswer,
        outcome: Result<(), GroupError>,
    ) {
        let CommitAnswer { responder, mut response } = answer;
        match outcome {
            Ok(()) => {
                self.metrics.commits.increment(commits.len() as u64);
                if let Some(entry) = self.groups.get_mut(group) {
                    entry.offsets.confirm(commits);
                }
            }
            Err(error) => {
                if let Some(entry) = self.groups.get_mut(group) {
                    entry.offsets.abandon(commits.iter().map(|(key, _)| key));
                }
                let partitions = response.topics.iter_mut().flat_map(|t| &mut t.partitions);
                partitions.filter(|p| p.error_code == 0).for_each(|p| p.error_code = error.code());
                self.drop_if_unused(group);
            }
        }
        responder.send(&response);
    }

    pub(super) fn fetch(&self, responder: Responder, request: &OffsetFetchRequest) {
        let mut response = OffsetFetchResponse::default();
        if responder.version < 8 {
            let asked = request.topics.as_deref();
            let asked = asked.map(|all| all.iter().map(|t| (t.name.as_str(), &*t.partition_indexes)).collect());
            response.topics = self.fetched(request.group_id.as_str(), asked).into_iter().map(old_topic).collect();
            return responder.send(&response);
        }
        for group in &request.groups {
            let name = group.group_id.as_str();
            let result = OffsetFetchResponseGroup::default().with_group_id(group_id(name));
            response.groups.push(if self.is_ours(name) {
                let asked = group.topics.as_deref();
                let asked = asked.map(|all| all.iter().map(|t| (t.name.as_str(), &*t.partition_indexes)).collect());
                result.with_topics(self.fetched(name, asked).into_iter().map(new_topic).collect())
            } else {
                result.with_error_code(GroupError::NotCoordinator.code())
            });
        }
        responder.send(&response);
    }

    /// The offsets asked for, or all of the group's.
    fn fetched(&self, group: &str, asked: Option<Vec<(&str, &[i32])>>) -> Vec<(String, Vec<Fetched>)> {
        let nothing = GroupOffsets::default();
        let offsets = self.groups.get(group).map_or(&nothing, |entry| &entry.offsets);
        let look = |topic: &str, partition: i32| match offsets.get(topic, partition) {
            Some(v) => Fetched { partition, offset: v.offset, epoch: v.leader_epoch, metadata: v.metadata.clone() },
            None => Fetched { partition, offset: -1, epoch: -1, metadata: String::new() },
        };
        if let Some(asked) = asked {
            let one = |(topic, partitions): (&str, &[i32])| {
                (topic.to_owned(), partitions.iter().map(|p| look(topic, *p)).collect())
            };
            return asked.into_iter().map(one).collect();
        }
        let mut all: Vec<(String, Vec<Fetched>)> = Vec::new();
        for (topic, partition, _) in offsets.iter() {
            if all.last().is_none_or(|(name, _)| name != topic) {
                all.push((topic.to_owned(), Vec::new()));
            }
            if let Some((_, found)) = all.last_mut() {
                found.push(look(topic, partition));
            }
        }
        all
    }
}

fn value_of(
    ctx: &Context,
    partition: &OffsetCommitRequestPartition,
    expires: Option<Timestamp>,
) -> Result<OffsetValue, GroupError> {
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    if metadata.len() > ctx.settings.offset_metadata_max {
        return Err(GroupError::MetadataTooLarge);
    }
    Ok(OffsetValue {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: metadata.to_owned(),
        committed: ctx.now.wall,
        expires,
    })
}

fn record(group: &str, topic: &str, partition: i32, value: &OffsetValue) -> Result<Record, GroupError> {
    Record::offset(group, topic, partition, value).map_err(|_| GroupError::CommitTooLarge)
}

fn old_topic((name, partitions): (String, Vec<Fetched>)) -> OffsetFetchResponseTopic {
    let partition = |f: Fetched| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(f.partition)
            .with_committed_offset(f.offset)
            .with_committed_leader_epoch(f.epoch)
            .with_metadata(Some(f.metadata.into()))
    };
    OffsetFetchResponseTopic::default()
        .with_name(StrBytes::from(name).into())
        .with_partitions(partitions.into_iter().map(partition).collect())
}

fn new_topic((name, partitions): (String, Vec<Fetched>)) -> OffsetFetchResponseTopics {
    let partition = |f: Fetched| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(f.partition)
            .with_committed_offset(f.offset)
            .with_committed_leader_epoch(f.epoch)
            .with_metadata(Some(f.metadata.into()))
    };
    OffsetFetchResponseTopics::default()
        .with_name(StrBytes::from(name).into())
        .with_partitions(partitions.into_iter().map(partition).collect())
}

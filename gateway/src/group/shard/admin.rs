//! Describing, listing and deleting groups, deleting offsets, and the expiry of what nobody uses.

use super::{
    super::{
        answer::{Responder, described, group_id, not_described},
        error::GroupError,
        offsets::TopicPartition,
        placement::partition_of,
        records::Record,
    },
    state::{Context, Done, Erasure, State},
};
use kafka_protocol::{
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, ListGroupsRequest,
        OffsetDeleteRequest, OffsetDeleteResponse,
        delete_groups_response::DeletableGroupResult,
        list_groups_response::ListedGroup,
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    },
    protocol::StrBytes,
};
use std::collections::BTreeSet;

/// Kafka's name for groups of this protocol (KIP-848).
const GROUP_TYPE: &str = "classic";

/// Who waits for tombstones to be written.
#[derive(Debug)]
pub(super) enum EraseAnswer {
    /// Nobody: something expired, or its topic is gone.
    Nobody,
    /// DeleteGroups, answered except for what the write decides.
    Groups(Responder, DeleteGroupsResponse),
    /// OffsetDelete, answered except for what the write decides.
    Offsets(Responder, OffsetDeleteResponse),
}

impl State {
    /// Whether a group belongs to this shard.
    pub(super) fn is_ours(&self, group: &str) -> bool {
        let (index, partitions) = self.place;
        partition_of(group, partitions) == index
    }

    pub(super) fn describe(&self, responder: Responder, request: &DescribeGroupsRequest) {
        let version = responder.version;
        let describe = |name: &str| {
            if !self.is_ours(name) {
                return not_described(name, GroupError::NotCoordinator, version);
            }
            match self.groups.get(name) {
                Some(entry) => described(name, entry.group.describe()),
                None => not_described(name, GroupError::NotFound, version),
            }
        };
        let groups = request.groups.iter().map(|name| describe(name.as_str())).collect();
        responder.send(&DescribeGroupsResponse::default().with_groups(groups));
    }

    /// The groups that pass the request's filters.
    pub(super) fn list(&self, request: &ListGroupsRequest) -> Vec<ListedGroup> {
        let passes = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        if !passes(&request.types_filter, GROUP_TYPE) {
            return Vec::new();
        }
        let wanted = self.groups.iter().filter(|(_, e)| passes(&request.states_filter, e.group.state().name()));
        let listed = wanted.map(|(name, entry)| {
            ListedGroup::default()
                .with_group_id(group_id(name))
                .with_protocol_type(StrBytes::from(entry.group.protocol_type().to_owned()))
                .with_group_state(StrBytes::from_static_str(entry.group.state().name()))
                .with_group_type(StrBytes::from_static_str(GROUP_TYPE))
        });
        listed.collect()
    }

    pub(super) fn delete(&mut self, responder: Responder, request: &DeleteGroupsRequest) {
        let mut response = DeleteGroupsResponse::default();
        let mut erased: Vec<Erasure> = Vec::new();
        for name in &request.groups_names {
            let name = name.as_str();
            let result = if self.is_ours(name) {
                self.groups.get_mut(name).ok_or(GroupError::NotFound).and_then(|entry| entry.group.bury())
            } else {
                Err(GroupError::NotCoordinator)
            };
            let code = GroupError::code_of(&result);
            response.results.push(DeletableGroupResult::default().with_group_id(group_id(name)).with_error_code(code));
            if result.is_ok() {
                let offsets = self.groups.get(name).map(|entry| entry.offsets.keys()).unwrap_or_default();
                erased.push(Erasure { group: name.to_owned(), offsets, whole: true });
            }
        }
        if erased.is_empty() {
            return responder.send(&response);
        }
        self.erase(erased, EraseAnswer::Groups(responder, response));
    }

    pub(super) fn delete_offsets(&mut self, responder: Responder, request: &OffsetDeleteRequest) {
        let name = request.group_id.as_str();
        let Some(entry) = self.groups.get(name) else {
            return responder.send(&OffsetDeleteResponse::default().with_error_code(GroupError::NotFound.code()));
        };
        if let Err(error) = entry.group.admit_offset_delete() {
            return responder.send(&OffsetDeleteResponse::default().with_error_code(error.code()));
        }
        let known: BTreeSet<TopicPartition> = entry.offsets.keys().into_iter().collect();
        let mut offsets = Vec::new();
        let mut response = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let code = if entry.group.is_subscribed(topic.name.as_str()) { GroupError::Subscribed.code() } else { 0 };
            let mut results = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
            for partition in &topic.partitions {
                let key = (topic.name.to_string(), partition.partition_index);
                let result = OffsetDeleteResponsePartition::default().with_partition_index(partition.partition_index);
                results.partitions.push(result.with_error_code(code));
                if code == 0 && known.contains(&key) {
                    offsets.push(key);
                }
            }
            response.topics.push(results);
        }
        if offsets.is_empty() {
            return responder.send(&response);
        }
        let erasure = Erasure { group: name.to_owned(), offsets, whole: false };
        self.erase(vec![erasure], EraseAnswer::Offsets(responder, response));
    }

    /// Forgets the offsets of topics that are gone.
    pub(super) fn forget_topics(&mut self, gone: impl Fn(&str) -> bool) {
        let mut erased = Vec::new();
        for (name, entry) in &self.groups {
            let keys = entry.offsets.keys();
            let offsets: Vec<_> = keys.into_iter().filter(|(topic, _)| gone(topic)).collect();
            if !offsets.is_empty() {
                tracing::info!(group = %name, offsets = offsets.len(), "offsets of deleted topics are forgotten");
                erased.push(Erasure { group: name.clone(), offsets, whole: false });
            }
        }
        if !erased.is_empty() {
            self.erase(erased, EraseAnswer::Nobody);
        }
    }

    /// Forgets what nobody used for `offsets.retention.minutes`: offsets, and empty groups that have none left.
    pub(super) fn expire(&mut self, ctx: &Context) {
        let mut erased = Vec::new();
        for (name, entry) in &mut self.groups {
            let expiry = entry.group.expiry();
            let offsets = entry.offsets.expired(&expiry, ctx.settings.offsets_retention, ctx.now.wall);
            let nothing_left = entry.writes == 0 && entry.offsets.len() == offsets.len();
            let whole = nothing_left && entry.group.is_unused() && entry.group.bury().is_ok();
            if whole || !offsets.is_empty() {
                self.metrics.expired.increment(offsets.len() as u64);
                tracing::info!(group = %name, offsets = offsets.len(), whole, "unused offsets have expired");
                erased.push(Erasure { group: name.clone(), offsets, whole });
            }
        }
        if !erased.is_empty() {
            self.erase(erased, EraseAnswer::Nobody);
        }
    }

    /// Writes tombstones. A name that cannot be encoded cannot have been written either.
    fn erase(&mut self, erased: Vec<Erasure>, answer: EraseAnswer) {
        let mut records = Vec::new();
        for Erasure { group, offsets, whole } in &erased {
            records.extend(offsets.iter().filter_map(|(topic, p)| Record::no_offset(group, topic, *p).ok()));
            if *whole {
                records.extend(Record::no_group(group).ok());
            }
        }
        self.write(records, Done::Erase { erased, answer });
    }

    pub(super) fn erased(&mut self, erased: Vec<Erasure>, answer: EraseAnswer, outcome: Result<(), GroupError>) {
        for Erasure { group, offsets, whole } in &erased {
            let Some(entry) = self.groups.get_mut(group) else { continue };
            match (outcome, whole) {
                (Ok(()), true) => {
                    tracing::info!(group, "consumer group is deleted");
                    self.remove(group);
                }
                (Ok(()), false) => {
                    for key in offsets {
                        entry.offsets.remove(key);
                    }
                    self.drop_if_unused(group);
                }
                (Err(_), true) => entry.group.revive(),
                (Err(_), false) => {}
            }
        }
        let failed = outcome.err().map_or(0, GroupError::code);
        let mark = |code: &mut i16| {
            if *code == 0 {
                *code = failed;
            }
        };
        match answer {
            EraseAnswer::Nobody => {}
            EraseAnswer::Groups(responder, mut response) => {
                response.results.iter_mut().for_each(|r| mark(&mut r.error_code));
                responder.send(&response);
            }
            EraseAnswer::Offsets(responder, mut response) => {
                if let Err(error) = outcome {
                    response = OffsetDeleteResponse::default().with_error_code(error.code());
                }
                responder.send(&response);
            }
        }
    }
}

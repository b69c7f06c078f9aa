//! Which partitions this broker opens and closes, given what the cluster view shows. A pure difference between what is
//! held and what is assigned.
//!
//! Invariant: a partition is given up only when the view shows a higher epoch or no such partition; never because the view
//! is silent, the own registration is missing, or time has passed. Fencing does the rest.

use protocol::{
    cluster::{ClusterSnapshot, Topic},
    id::LeaderEpoch,
    model::Owner,
    service::broker::NotServed,
    topic::PartitionId,
};
use std::{collections::HashMap, sync::Arc};

/// What to do with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take it over at this epoch.
    Open(PartitionId, LeaderEpoch),
    /// Stop serving it.
    Close(PartitionId, NotServed),
}

/// The partitions held, with their epochs.
pub type Held = HashMap<PartitionId, LeaderEpoch>;

/// What changes between `before`, which was handled already, and `now`; without `before` everything is looked at.
#[must_use]
pub fn changes(before: Option<&ClusterSnapshot>, now: &ClusterSnapshot, me: Owner, held: &Held) -> Vec<Command> {
    let mut commands = Vec::new();
    for (name, topic) in &now.topics {
        let seen = before.and_then(|b| b.topics.get(name));
        if seen.is_none_or(|seen| !Arc::ptr_eq(seen, topic)) {
            compare(topic, me, held, &mut commands);
        }
    }
    // Few topics are deleted; the held partitions are searched only when one is.
    let gone = |id: &PartitionId| now.partition(*id).is_none() && now.topic_by_id(id.topic).is_none();
    let deleted = before.is_none_or(|b| b.names.keys().any(|id| !now.names.contains_key(id)));
    if deleted {
        commands
            .extend(held.keys().filter(|id| gone(id)).map(|id| Command::Close(*id, NotServed::NoSuchPartition(*id))));
    }
    commands
}

fn compare(topic: &Topic, me: Owner, held: &Held, commands: &mut Vec<Command>) {
    for (index, view) in topic.partitions.iter().enumerate() {
        let Some(view) = view else { continue };
        let id = PartitionId { topic: topic.record.id, index: index as u32 };
        let (epoch, owner) = (view.record.epoch, view.record.owner);
        let newer = held.get(&id).is_none_or(|held| epoch > *held);
        if newer && held.contains_key(&id) {
            commands.push(Command::Close(id, NotServed::NotOwner { owner: owner.map(|o| o.node), epoch }));
        }
        if newer && owner == Some(me) {
            commands.push(Command::Open(id, epoch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        cluster::PartitionView,
        id::{NodeId, Registration, Revision, Timestamp},
        model::{PartitionRecord, TopicRecord},
        topic::{TopicId, TopicName},
    };
    use std::collections::BTreeMap;
    use uuid::Uuid;

    const ME: Owner = Owner { node: NodeId(1), registration: Registration(10) };
    const OTHER: Owner = Owner { node: NodeId(2), registration: Registration(11) };

    fn partition(index: u32) -> PartitionId {
        PartitionId { topic: TopicId(Uuid::from_u128(1)), index }
    }

    fn snapshot(partitions: &[(Owner, i32)]) -> ClusterSnapshot {
        let record = TopicRecord {
            id: partition(0).topic,
            name: TopicName::new("t").expect("legal"),
            partitions: partitions.len() as u32,
            replication_factor: 1,
            config: BTreeMap::new(),
            created_at: Timestamp(0),
        };
        let view = |(owner, epoch): &(Owner, i32)| {
            let record = PartitionRecord { epoch: LeaderEpoch(*epoch), ..PartitionRecord::new(Some(*owner)) };
            Some(Arc::new(PartitionView { record, version: Revision(1) }))
        };
        let mut snapshot = ClusterSnapshot::default();
        snapshot.names.insert(record.id, record.name.clone());
        let topic = Topic { version: Revision(1), partitions: partitions.iter().map(view).collect(), record };
        snapshot.topics.insert(topic.record.name.clone(), Arc::new(topic));
        snapshot
    }

    fn held(partitions: &[(u32, i32)]) -> Held {
        partitions.iter().map(|(index, epoch)| (partition(*index), LeaderEpoch(*epoch))).collect()
    }

    #[test]
    fn own_partitions_are_opened_once() {
        let now = snapshot(&[(ME, 0), (OTHER, 0), (ME, 3)]);
        let opened = [Command::Open(partition(0), LeaderEpoch(0)), Command::Open(partition(2), LeaderEpoch(3))];
        assert_eq!(changes(None, &now, ME, &Held::new()), opened);
        assert_eq!(changes(None, &now, ME, &held(&[(0, 0), (2, 3)])), []);
    }

    #[test]
    fn a_higher_epoch_closes_and_opens_again_if_it_is_ours() {
        let now = snapshot(&[(ME, 2), (OTHER, 5)]);
        let moved = NotServed::NotOwner { owner: Some(OTHER.node), epoch: LeaderEpoch(5) };
        let renewed = NotServed::NotOwner { owner: Some(ME.node), epoch: LeaderEpoch(2) };
        assert_eq!(
            changes(None, &now, ME, &held(&[(0, 1), (1, 4)])),
            [
                Command::Close(partition(0), renewed),
                Command::Open(partition(0), LeaderEpoch(2)),
                Command::Close(partition(1), moved)
            ]
        );
    }

    #[test]
    fn nothing_is_given_up_at_the_same_epoch() {
        // Registered again after the session expired: the record still names the old registration.
        let now = snapshot(&[(ME, 4)]);
        let me = Owner { registration: Registration(12), ..ME };
        assert_eq!(changes(None, &now, me, &held(&[(0, 4)])), []);
        // A view that fell behind shows less than was opened.
        assert_eq!(changes(None, &now, ME, &held(&[(0, 5)])), []);
    }

    #[test]
    fn a_deleted_topic_closes_its_partitions() {
        let (before, now) = (snapshot(&[(ME, 0)]), ClusterSnapshot::default());
        let closed = [Command::Close(partition(0), NotServed::NoSuchPartition(partition(0)))];
        assert_eq!(changes(Some(&before), &now, ME, &held(&[(0, 0)])), closed);
        assert_eq!(changes(Some(&before), &before, ME, &Held::new()), [], "an unchanged topic is not looked at");
    }
}

//! The projection: folds records of the metadata service, in any mix of scan pages and watch events, into snapshots.
//!
//! Pure: no I/O and no clock. Keeps one invariant: a record never gives way to an older version of itself, so that a
//! scan of several pages and the events that happened meanwhile may overlap and still end in the same state.

use super::{ClusterSnapshot, PartitionView, Topic};
use crate::{
    id::Revision,
    model::{ConfigRecord, KeyKind, ModelError, Record, TopicRecord, decode},
    service::metadata::{Change, Versioned, WatchEvent},
    topic::{PartitionId, TopicId, TopicName},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// The records seen so far, and the snapshot they make.
#[derive(Debug, Default)]
pub(super) struct Projection {
    /// The version of every record that is held; the guard against older ones.
    versions: HashMap<String, Revision>,
    topics: BTreeMap<TopicName, (TopicRecord, Revision)>,
    partitions: HashMap<TopicId, BTreeMap<u32, Arc<PartitionView>>>,
    /// Topics whose entry in the snapshot no longer matches the records.
    stale: BTreeSet<TopicName>,
    names: HashMap<TopicId, TopicName>,
    next: ClusterSnapshot,
}

impl Projection {
    /// Takes a record from a scan page.
    pub(super) fn list(&mut self, item: &Versioned) {
        self.put(item);
    }

    /// Takes a transaction from the watch.
    pub(super) fn event(&mut self, event: &WatchEvent) {
        for change in &event.changes {
            match change {
                Change::Put(item) => self.put(item),
                Change::Deleted(key) => self.delete(key, event.revision),
            }
        }
        self.reached(event.revision);
    }

    /// Everything up to `revision` has been taken.
    pub(super) fn reached(&mut self, revision: Revision) {
        self.next.revision = self.next.revision.max(revision);
    }

    /// The revision of the next snapshot.
    pub(super) const fn revision(&self) -> Revision {
        self.next.revision
    }

    /// The state as it stands.
    pub(super) fn snapshot(&mut self) -> Arc<ClusterSnapshot> {
        for name in std::mem::take(&mut self.stale) {
            match self.topics.get(&name) {
                Some((record, version)) => {
                    let known = self.partitions.get(&record.id);
                    let partitions = (0..record.partitions).map(|i| known.and_then(|k| k.get(&i)).cloned()).collect();
                    let topic = Topic { record: record.clone(), version: *version, partitions };
                    self.next.topics.insert(name, Arc::new(topic));
                }
                None => drop(self.next.topics.remove(&name)),
            }
        }
        self.next.names.clone_from(&self.names);
        Arc::new(self.next.clone())
    }

    fn put(&mut self, item: &Versioned) {
        if self.versions.get(&item.key).is_some_and(|held| *held >= item.version) {
            return;
        }
        let Some(kind) = KeyKind::parse(&item.key).filter(is_shown) else { return };
        self.versions.insert(item.key.clone(), item.version);
        if let Err(problem) = self.place(&kind, item) {
            tracing::error!(key = %item.key, %problem, "a metadata record is left out of the cluster view");
            self.remove(&kind);
        }
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        if self.versions.get(key).is_some_and(|held| *held > revision) {
            return;
        }
        if self.versions.remove(key).is_some()
            && let Some(kind) = KeyKind::parse(key)
        {
            self.remove(&kind);
        }
    }

    fn place(&mut self, kind: &KeyKind, item: &Versioned) -> Result<(), ModelError> {
        match kind {
            KeyKind::Cluster => self.next.cluster = Some(shared(item)?),
            KeyKind::Node(id) => drop(self.next.nodes.insert(*id, shared(item)?)),
            KeyKind::Bookie(id) => drop(self.next.bookies.insert(*id, shared(item)?)),
            KeyKind::Cookie(id) => drop(self.next.cookies.insert(*id, shared(item)?)),
            KeyKind::Decommission(id) => drop(self.next.decommissions.insert(*id, shared(item)?)),
            KeyKind::NodeConfig(None) => self.next.config = shared(item)?,
            KeyKind::NodeConfig(Some(id)) => drop(self.next.node_config.insert(*id, shared(item)?)),
            KeyKind::Topic(name) => self.place_topic(name, decode(&item.value)?, item.version),
            KeyKind::Partition(id) => {
                let view = PartitionView { record: decode(&item.value)?, version: item.version };
                self.partitions.entry(id.topic).or_default().insert(id.index, Arc::new(view));
                self.touch(*id);
            }
            KeyKind::Deleting(_)
            | KeyKind::ClosedPage(..)
            | KeyKind::Dead(_)
            | KeyKind::Repair(_)
            | KeyKind::Repairing(_)
            | KeyKind::Stray(_)
            | KeyKind::Scrub(_)
            | KeyKind::Ticket(..) => {}
        }
        Ok(())
    }

    fn place_topic(&mut self, name: &TopicName, record: TopicRecord, version: Revision) {
        let id = record.id;
        if let Some((old, _)) = self.topics.insert(name.clone(), (record, version))
            && old.id != id
        {
            self.names.remove(&old.id);
        }
        self.names.insert(id, name.clone());
        self.stale.insert(name.clone());
    }

    fn remove(&mut self, kind: &KeyKind) {
        match kind {
            KeyKind::Cluster => self.next.cluster = None,
            KeyKind::Node(id) => drop(self.next.nodes.remove(id)),
            KeyKind::Bookie(id) => drop(self.next.bookies.remove(id)),
            KeyKind::Cookie(id) => drop(self.next.cookies.remove(id)),
            KeyKind::Decommission(id) => drop(self.next.decommissions.remove(id)),
            KeyKind::NodeConfig(None) => self.next.config = Arc::new(ConfigRecord::default()),
            KeyKind::NodeConfig(Some(id)) => drop(self.next.node_config.remove(id)),
            KeyKind::Topic(name) => {
                if let Some((record, _)) = self.topics.remove(name) {
                    self.names.remove(&record.id);
                }
                self.stale.insert(name.clone());
            }
            KeyKind::Partition(id) => {
                if let Some(of_topic) = self.partitions.get_mut(&id.topic) {
                    of_topic.remove(&id.index);
                    if of_topic.is_empty() {
                        self.partitions.remove(&id.topic);
                    }
                }
                self.touch(*id);
            }
            KeyKind::Deleting(_)
            | KeyKind::ClosedPage(..)
            | KeyKind::Dead(_)
            | KeyKind::Repair(_)
            | KeyKind::Repairing(_)
            | KeyKind::Stray(_)
            | KeyKind::Scrub(_)
            | KeyKind::Ticket(..) => {}
        }
    }

    /// The snapshot's entry of this partition's topic must be made again.
    fn touch(&mut self, id: PartitionId) {
        if let Some(name) = self.names.get(&id.topic) {
            self.stale.insert(name.clone());
        }
    }
}

/// Whether snapshots show records of this kind.
const fn is_shown(kind: &KeyKind) -> bool {
    !matches!(
        kind,
        KeyKind::Deleting(_)
            | KeyKind::ClosedPage(..)
            | KeyKind::Dead(_)
            | KeyKind::Repair(_)
            | KeyKind::Repairing(_)
            | KeyKind::Stray(_)
            | KeyKind::Scrub(_)
            | KeyKind::Ticket(..)
    )
}

fn shared<R: Record>(item: &Versioned) -> Result<Arc<R>, ModelError> {
    decode(&item.value).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::Timestamp,
        model::{PartitionRecord, encode, key},
    };
    use uuid::Uuid;

    fn item<R: Record>(key: String, record: &R, version: u64) -> Versioned {
        Versioned { key, value: encode(record), version: Revision(version), session: None }
    }

    fn topic(name: &str, id: u128, partitions: u32) -> TopicRecord {
        TopicRecord {
            id: TopicId(Uuid::from_u128(id)),
            name: TopicName::new(name).expect("legal"),
            partitions,
            replication_factor: 1,
            config: BTreeMap::new(),
            created_at: Timestamp(0),
        }
    }

    fn partition(id: u128, index: u32) -> PartitionId {
        PartitionId { topic: TopicId(Uuid::from_u128(id)), index }
    }

    #[test]
    fn partitions_find_their_topic_in_any_order() {
        let mut p = Projection::default();
        let record = topic("orders", 7, 2);
        p.list(&item(key::partition(partition(7, 1)), &PartitionRecord::new(None), 5));
        assert!(p.snapshot().topics.is_empty());
        p.list(&item(key::topic(&record.name), &record, 5));
        let seen = p.snapshot();
        let orders = seen.topic("orders").expect("shown");
        assert_eq!(orders.partitions.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
        assert_eq!(seen.partition(partition(7, 1)).map(|v| v.version), Some(Revision(5)));
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let mut p = Projection::default();
        let record = topic("orders", 7, 1);
        p.list(&item(key::topic(&record.name), &record, 9));
        // The scan saw revision 9; the watch begins earlier and repeats the past.
        let old = item(key::topic(&record.name), &topic("orders", 3, 4), 4);
        p.event(&WatchEvent { revision: Revision(4), changes: vec![Change::Put(old)] });
        p.event(&WatchEvent { revision: Revision(6), changes: vec![Change::Deleted(key::topic(&record.name))] });
        assert_eq!(p.snapshot().topic("orders").map(|t| t.record.id), Some(record.id));
        assert_eq!(p.revision(), Revision(6));
        p.event(&WatchEvent { revision: Revision(10), changes: vec![Change::Deleted(key::topic(&record.name))] });
        let gone = p.snapshot();
        assert!(gone.topic("orders").is_none() && gone.names.is_empty());
    }

    #[test]
    fn a_topic_created_again_has_only_its_new_identity() {
        let mut p = Projection::default();
        let (first, second) = (topic("t", 1, 1), topic("t", 2, 1));
        p.list(&item(key::topic(&first.name), &first, 1));
        p.list(&item(key::partition(partition(1, 0)), &PartitionRecord::new(None), 1));
        p.event(&WatchEvent {
            revision: Revision(2),
            changes: vec![
                Change::Deleted(key::topic(&first.name)),
                Change::Put(item(key::topic(&second.name), &second, 2)),
            ],
        });
        let seen = p.snapshot();
        assert!(seen.topic_by_id(first.id).is_none());
        assert_eq!(seen.topic("t").map(|t| t.partitions.clone()), Some(vec![None]));
    }

    #[test]
    fn what_cannot_be_decoded_is_left_out_and_unknown_keys_are_ignored() {
        let mut p = Projection::default();
        let record = topic("orders", 7, 1);
        p.list(&item(key::topic(&record.name), &record, 1));
        let mut broken = item(key::topic(&record.name), &record, 2);
        broken.value = bytes::Bytes::from_static(&[200, 1, 2]);
        p.list(&broken);
        p.list(&Versioned { key: "from/the/future".into(), ..broken });
        assert!(p.snapshot().topics.is_empty());
        p.list(&item(key::topic(&record.name), &record, 3));
        assert!(p.snapshot().topic("orders").is_some());
    }
}

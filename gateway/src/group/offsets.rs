//! The committed offsets of one group. Pure.
//!
//! Keeps the rule that an offset is visible only after its record is in the log: commits are announced with
//! [`GroupOffsets::begin`] and take effect with [`GroupOffsets::confirm`], in log order.

use super::{machine::Expiry, records::OffsetValue};
use protocol::id::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// A partition of a topic, as commits name it.
pub(crate) type TopicPartition = (String, i32);

/// Committed offsets by topic and partition.
#[derive(Debug, Default)]
pub(crate) struct GroupOffsets {
    topics: BTreeMap<String, BTreeMap<i32, OffsetValue>>,
    /// How many writes are under way per partition: those offsets are in use, whatever their age.
    pending: HashMap<TopicPartition, usize>,
}

impl GroupOffsets {
    /// A commit of these partitions is being written.
    pub(crate) fn begin<'a>(&mut self, commits: impl IntoIterator<Item = &'a TopicPartition>) {
        for key in commits {
            *self.pending.entry(key.clone()).or_default() += 1;
        }
    }

    /// A commit was written: it is visible now.
    pub(crate) fn confirm(&mut self, commits: Vec<(TopicPartition, OffsetValue)>) {
        for (key, value) in commits {
            self.end(&key);
            self.put(key, value);
        }
    }

    /// A commit was not written.
    pub(crate) fn abandon<'a>(&mut self, commits: impl IntoIterator<Item = &'a TopicPartition>) {
        for key in commits {
            self.end(key);
        }
    }

    fn end(&mut self, key: &TopicPartition) {
        if let Some(count) = self.pending.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(key);
            }
        }
    }

    /// Sets an offset that is in the log.
    pub(crate) fn put(&mut self, (topic, partition): TopicPartition, value: OffsetValue) {
        self.topics.entry(topic).or_default().insert(partition, value);
    }

    /// Forgets an offset.
    pub(crate) fn remove(&mut self, (topic, partition): &TopicPartition) -> Option<OffsetValue> {
        let partitions = self.topics.get_mut(topic)?;
        let removed = partitions.remove(partition);
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
        removed
    }

    /// What is committed for a partition.
    #[must_use]
    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&OffsetValue> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Everything that is committed, by topic and partition.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i32, &OffsetValue)> {
        let partitions = |(topic, partitions)| -> Box<dyn Iterator<Item = (&str, i32, &OffsetValue)>> {
            let (topic, partitions): (&String, &BTreeMap<i32, OffsetValue>) = (topic, partitions);
            Box::new(partitions.iter().map(move |(partition, value)| (topic.as_str(), *partition, value)))
        };
        self.topics.iter().flat_map(partitions)
    }

    /// Every partition with a committed offset, or with one being written; what a deletion has to name.
    #[must_use]
    pub(crate) fn keys(&self) -> Vec<TopicPartition> {
        let mut keys: Vec<_> = self.iter().map(|(topic, partition, _)| (topic.to_owned(), partition)).collect();
        keys.extend(self.pending.keys().cloned());
        keys.sort();
        keys.dedup();
        keys
    }

    /// Whether nothing is committed or being written.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.pending.is_empty()
    }

    /// How many offsets are committed.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.topics.values().map(BTreeMap::len).sum()
    }

    /// The offsets that nobody has used for `retention`, as `expiry` counts it. One that is being written is in use.
    #[must_use]
    pub(crate) fn expired(&self, expiry: &Expiry, retention: Duration, now: Timestamp) -> Vec<TopicPartition> {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let counts_from = |topic: &str, value: &OffsetValue| match expiry {
            Expiry::Never => None,
            Expiry::SinceEmpty(since) => Some(*since),
            Expiry::SinceCommit => Some(value.committed),
            Expiry::SinceCommitUnless(topics) if topics.contains(topic) => None,
            Expiry::SinceCommitUnless(_) => Some(value.committed),
        };
        let due = |topic: &str, value: &OffsetValue| match (counts_from(topic, value), value.expires) {
            (None, _) => false,
            (Some(_), Some(expires)) => now >= expires,
            (Some(from), None) => now.0.saturating_sub(from.0) >= retention,
        };
        let due = |(topic, partition, value): (&str, i32, &OffsetValue)| {
            let key = (topic.to_owned(), partition);
            (due(topic, value) && !self.pending.contains_key(&key)).then_some(key)
        };
        self.iter().filter_map(due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn value(offset: i64, committed: i64) -> OffsetValue {
        OffsetValue {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            committed: Timestamp(committed),
            expires: None,
        }
    }

    fn key(topic: &str, partition: i32) -> TopicPartition {
        (topic.into(), partition)
    }

    #[test]
    fn a_commit_is_visible_only_when_confirmed() {
        let mut offsets = GroupOffsets::default();
        offsets.begin(&[key("t", 0)]);
        offsets.begin(&[key("t", 0)]);
        assert_eq!(offsets.get("t", 0), None);
        assert!(!offsets.is_empty());
        assert_eq!(offsets.keys(), [key("t", 0)]);
        offsets.confirm(vec![(key("t", 0), value(5, 1))]);
        assert_eq!(offsets.get("t", 0).map(|v| v.offset), Some(5));
        offsets.abandon(&[key("t", 0)]);
        assert_eq!(offsets.get("t", 0).map(|v| v.offset), Some(5));
        assert!(offsets.pending.is_empty());
        assert_eq!(offsets.remove(&key("t", 0)).map(|v| v.offset), Some(5));
        assert!(offsets.is_empty());
    }

    #[test]
    fn offsets_expire_as_their_group_says() {
        let mut offsets = GroupOffsets::default();
        offsets.put(key("old", 0), value(1, 0));
        offsets.put(key("new", 0), value(1, 90));
        offsets.put(key("own", 0), OffsetValue { expires: Some(Timestamp(500)), ..value(1, 0) });
        let expired = |offsets: &GroupOffsets, expiry: &Expiry, now: i64| {
            offsets.expired(expiry, Duration::from_millis(100), Timestamp(now))
        };
        assert_eq!(expired(&offsets, &Expiry::SinceCommit, 99), []);
        assert_eq!(expired(&offsets, &Expiry::SinceCommit, 100), [key("old", 0)]);
        assert_eq!(expired(&offsets, &Expiry::SinceCommit, 500), [key("new", 0), key("old", 0), key("own", 0)]);
        assert_eq!(expired(&offsets, &Expiry::SinceEmpty(Timestamp(200)), 299), []);
        assert_eq!(expired(&offsets, &Expiry::SinceEmpty(Timestamp(200)), 300), [key("new", 0), key("old", 0)]);
        let subscribed = Expiry::SinceCommitUnless(BTreeSet::from(["old".to_owned()]));
        assert_eq!(expired(&offsets, &subscribed, 300), [key("new", 0)]);
        assert_eq!(expired(&offsets, &Expiry::Never, 9999), []);
        offsets.begin(&[key("old", 0)]);
        assert_eq!(expired(&offsets, &Expiry::SinceCommit, 100), []);
    }
}

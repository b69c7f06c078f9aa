//! How far a consumer group is behind, from its committed offsets and the ranges of partitions. Owns the arithmetic: the
//! lag of a group whose committed offset was trimmed away counts from the first record that is left.

use super::{
    client::{Connection, PATIENCE, explain},
    offsets,
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

/// A partition a group has committed an offset of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset the group goes on from.
    pub committed: i64,
    /// The first offset.
    pub start: i64,
    /// The offset after the last record.
    pub end: i64,
}

impl PartitionLag {
    /// Records the group has not read yet.
    #[must_use]
    pub fn records(&self) -> u64 {
        offsets::between(self.committed.max(self.start), self.end)
    }
}

/// The partitions that a group has committed offsets of, by topic and partition.
///
/// # Errors
/// The server did not answer.
pub fn of_group(connection: &Connection, group: &str) -> anyhow::Result<Vec<PartitionLag>> {
    let settings = [("group.id", group), ("enable.auto.commit", "false"), ("allow.auto.create.topics", "false")];
    let member: BaseConsumer = connection.client(&settings)?;
    let metadata = member.fetch_metadata(None, PATIENCE).map_err(|e| explain(&e))?;
    let mut wanted = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|t| !t.name().starts_with("__")) {
        for partition in topic.partitions() {
            wanted.add_partition(topic.name(), partition.id());
        }
    }
    if wanted.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = member.committed_offsets(wanted, PATIENCE).map_err(|e| explain(&e))?;
    let mut found = Vec::new();
    for element in committed.elements() {
        if let Offset::Offset(committed) = element.offset() {
            let (start, end) = offsets::range(&member, element.topic(), element.partition())?;
            let (topic, partition) = (element.topic().to_string(), element.partition());
            found.push(PartitionLag { topic, partition, committed, start, end });
        }
    }
    found.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_counts_what_can_still_be_read() {
        let lag =
            |committed, start, end| PartitionLag { topic: "t".into(), partition: 0, committed, start, end }.records();
        assert_eq!(lag(10, 0, 25), 15);
        assert_eq!(lag(10, 20, 25), 5, "offsets 10 to 19 were trimmed away");
        assert_eq!(lag(30, 0, 25), 0, "never negative");
    }
}

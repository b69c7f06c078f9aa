//! How far groups are behind: high watermark minus the larger of committed offset and log start, never negative. Owns
//! that arithmetic and its Prometheus text, under our own names and under those of the common Kafka exporter, so that
//! dashboards made for it work.

use super::shard::GroupReport;
use protocol::service::broker::PartitionStatus;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

/// A group's place in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The committed offset.
    pub committed: i64,
    /// The first offset of the log.
    pub log_start: i64,
    /// The offset after the last acknowledged record.
    pub high_watermark: i64,
    /// Records still to be consumed.
    pub lag: i64,
}

/// A group's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSize {
    /// The group.
    pub group: String,
    /// How many members it has.
    pub members: usize,
}

/// The extent of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRange {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
    /// The first offset of the log.
    pub log_start: i64,
    /// The offset after the last acknowledged record.
    pub high_watermark: i64,
}

/// Everything there is to say about lag on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LagReport {
    /// One per group and partition with a committed offset.
    pub partitions: Vec<PartitionLag>,
    /// One per group.
    pub groups: Vec<GroupSize>,
    /// One per partition that this node owns.
    pub ranges: Vec<PartitionRange>,
}

/// Puts committed offsets and logs together; what is not owned here has no lag here.
pub(super) fn measure(groups: &[GroupReport], status: &[PartitionStatus]) -> LagReport {
    let mut report = LagReport::default();
    let mut logs = BTreeMap::new();
    for s in status {
        logs.insert((s.topic.as_str(), i64::from(s.partition.index)), (s.log_start.0, s.high_watermark.0));
        report.ranges.push(PartitionRange {
            topic: s.topic.to_string(),
            partition: s.partition.index,
            log_start: s.log_start.0,
            high_watermark: s.high_watermark.0,
        });
    }
    for GroupReport { group, members, offsets } in groups {
        report.groups.push(GroupSize { group: group.clone(), members: *members });
        for (topic, partition, committed) in offsets {
            let Some((log_start, high_watermark)) = logs.get(&(topic.as_str(), i64::from(*partition))) else {
                continue;
            };
            report.partitions.push(PartitionLag {
                group: group.clone(),
                topic: topic.clone(),
                partition: *partition,
                committed: *committed,
                log_start: *log_start,
                high_watermark: *high_watermark,
                lag: (high_watermark - committed.max(log_start)).max(0),
            });
        }
    }
    report
}

/// A label value with the three characters escaped that the exposition format names.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// One metric with its samples: labels in braces, and a value.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    samples: Vec<(String, i64)>,
}

impl fmt::Display for Family<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, help, samples } = self;
        writeln!(f, "# HELP {name} {help}")?;
        writeln!(f, "# TYPE {name} gauge")?;
        samples.iter().try_for_each(|(labels, value)| writeln!(f, "{name}{{{labels}}} {value}"))
    }
}

/// The report in Prometheus' text format.
#[must_use]
pub fn render_prometheus(report: &LagReport) -> String {
    let of_lag = |group: &str, value: fn(&PartitionLag) -> i64| {
        let labels = |l: &PartitionLag| {
            let (id, topic, partition) = (Label(&l.group), Label(&l.topic), l.partition);
            (format!("{group}=\"{id}\",topic=\"{topic}\",partition=\"{partition}\""), value(l))
        };
        report.partitions.iter().map(labels).collect::<Vec<_>>()
    };
    let of_group = |group: &str| {
        let labels =
            |g: &GroupSize| (format!("{group}=\"{}\"", Label(&g.group)), i64::try_from(g.members).unwrap_or(i64::MAX));
        report.groups.iter().map(labels).collect::<Vec<_>>()
    };
    let of_log = |value: fn(&PartitionRange) -> i64| {
        let labels =
            |r: &PartitionRange| (format!("topic=\"{}\",partition=\"{}\"", Label(&r.topic), r.partition), value(r));
        report.ranges.iter().map(labels).collect::<Vec<_>>()
    };
    let family = |name, help, samples| Family { name, help, samples };
    let families = [
        family(
            "magnetar_gateway_group_lag_records",
            "Records a group has still to consume.",
            of_lag("group", |l| l.lag),
        ),
        family(
            "magnetar_gateway_group_committed_offset",
            "Committed offset of a group.",
            of_lag("group", |l| l.committed),
        ),
        family("magnetar_gateway_group_members", "Members of a group.", of_group("group")),
        family("kafka_consumergroup_lag", "Records a group has still to consume.", of_lag("consumergroup", |l| l.lag)),
        family(
            "kafka_consumergroup_current_offset",
            "Committed offset of a group.",
            of_lag("consumergroup", |l| l.committed),
        ),
        family("kafka_consumergroup_members", "Members of a group.", of_group("consumergroup")),
        family("kafka_topic_partition_current_offset", "Offset after the last record.", of_log(|r| r.high_watermark)),
        family("kafka_topic_partition_oldest_offset", "First offset of the log.", of_log(|r| r.log_start)),
    ];
    families.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{LeaderEpoch, Offset},
        topic::{PartitionId, TopicId, TopicName},
    };
    use uuid::Uuid;

    fn status(topic: &str, index: u32, log_start: i64, high_watermark: i64) -> PartitionStatus {
        PartitionStatus {
            partition: PartitionId { topic: TopicId(Uuid::nil()), index },
            topic: TopicName::new(topic).unwrap(),
            epoch: LeaderEpoch(0),
            log_start: Offset(log_start),
            high_watermark: Offset(high_watermark),
            bytes: 0,
            ledgers: 0,
            copies: 1,
            last_append: None,
        }
    }

    #[test]
    fn lag_is_clamped_at_both_ends() {
        let offsets = vec![("t".into(), 0, 3), ("t".into(), 1, 3), ("t".into(), 2, 99), ("gone".into(), 0, 1)];
        let groups = [GroupReport { group: "g".into(), members: 2, offsets }];
        let report = measure(&groups, &[status("t", 0, 0, 10), status("t", 1, 5, 10), status("t", 2, 0, 10)]);
        let lags: Vec<_> = report.partitions.iter().map(|l| (l.partition, l.lag)).collect();
        assert_eq!(lags, [(0, 7), (1, 5), (2, 0)]);
        assert_eq!(report.groups, [GroupSize { group: "g".into(), members: 2 }]);
    }

    #[test]
    fn the_text_is_prometheus() {
        let groups = [GroupReport { group: "a\"b\\c\nd".into(), members: 1, offsets: vec![("t".into(), 0, 3)] }];
        let text = render_prometheus(&measure(&groups, &[status("t", 0, 2, 10)]));
        for line in [
            "# TYPE magnetar_gateway_group_lag_records gauge",
            "magnetar_gateway_group_lag_records{group=\"a\\\"b\\\\c\\nd\",topic=\"t\",partition=\"0\"} 7",
            "magnetar_gateway_group_committed_offset{group=\"a\\\"b\\\\c\\nd\",topic=\"t\",partition=\"0\"} 3",
            "magnetar_gateway_group_members{group=\"a\\\"b\\\\c\\nd\"} 1",
            "# HELP kafka_consumergroup_lag Records a group has still to consume.",
            "kafka_consumergroup_lag{consumergroup=\"a\\\"b\\\\c\\nd\",topic=\"t\",partition=\"0\"} 7",
            "kafka_consumergroup_current_offset{consumergroup=\"a\\\"b\\\\c\\nd\",topic=\"t\",partition=\"0\"} 3",
            "kafka_consumergroup_members{consumergroup=\"a\\\"b\\\\c\\nd\"} 1",
            "kafka_topic_partition_current_offset{topic=\"t\",partition=\"0\"} 10",
            "kafka_topic_partition_oldest_offset{topic=\"t\",partition=\"0\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}

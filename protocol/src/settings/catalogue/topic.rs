//! The settings of a topic: every one of Kafka's. Owns the rows only.

use super::{Kind, Row};

const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;
const FOREVER: Option<&str> = Some("9223372036854775807");

const fn row(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Row {
    Row::new(name, kind, default, doc).dynamic()
}

/// Ordered by name.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("cleanup.policy", Kind::List, Some("delete"), "What happens to old records: \"delete\" drops them by retention, \"compact\" keeps the last of each key; both are possible. A compacted topic refuses records without a key.")
        .words(&["compact", "delete"]).from(&[("log.cleanup.policy", 1)]),
    row("compression.gzip.level", Kind::Int, Some("-1"), "No effect: batches are stored as the producer sent them.")
        .between(-1, 9).from(&[("compression.gzip.level", 1)]),
    row("compression.lz4.level", Kind::Int, Some("9"), "No effect: batches are stored as the producer sent them.")
        .between(1, 17).from(&[("compression.lz4.level", 1)]),
    row("compression.type", Kind::Text, Some("producer"), "No effect: batches are stored as the producer sent them, which is what \"producer\" means.")
        .words(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]).from(&[("compression.type", 1)]),
    row("compression.zstd.level", Kind::Int, Some("3"), "No effect: batches are stored as the producer sent them.")
        .between(-131_072, 22).from(&[("compression.zstd.level", 1)]),
    row("delete.retention.ms", Kind::Long, Some("86400000"), "How long a tombstone of a compacted topic is kept, in milliseconds. No effect until compaction exists.")
        .least(0).from(&[("log.cleaner.delete.retention.ms", 1)]),
    row("file.delete.delay.ms", Kind::Long, Some("60000"), "No effect: ledgers are deleted by bookies when no partition refers to them.")
        .least(0).from(&[("log.segment.delete.delay.ms", 1)]),
    row("flush.messages", Kind::Long, FOREVER, "No effect: every acknowledged record is synced.")
        .least(1).from(&[("log.flush.interval.messages", 1)]),
    row("flush.ms", Kind::Long, FOREVER, "No effect: every acknowledged record is synced.")
        .least(0).from(&[("log.flush.interval.ms", 1)]),
    row("follower.replication.throttled.replicas", Kind::List, Some(""), "No effect: partitions have no followers, ledgers are replicated by bookies."),
    row("index.interval.bytes", Kind::Int, Some("4096"), "No effect: the index of a ledger is stored inside it.")
        .least(0).from(&[("log.index.interval.bytes", 1)]),
    row("leader.replication.throttled.replicas", Kind::List, Some(""), "No effect: partitions have no followers, ledgers are replicated by bookies."),
    row("local.retention.bytes", Kind::Long, Some("-2"), "No effect: there is no remote storage tier.").least(-2),
    row("local.retention.ms", Kind::Long, Some("-2"), "No effect: there is no remote storage tier.").least(-2),
    row("max.compaction.lag.ms", Kind::Long, FOREVER, "The longest time a record may stay uncompacted, in milliseconds. No effect until compaction exists.")
        .least(1).from(&[("log.cleaner.max.compaction.lag.ms", 1)]),
    row("max.message.bytes", Kind::Int, Some("1048588"), "The largest record batch a producer may send, in bytes as sent (after compression).")
        .least(0).from(&[("message.max.bytes", 1)]),
    row("message.downconversion.enable", Kind::Bool, Some("true"), "No effect: only the current record format is stored and served."),
    row("message.timestamp.after.max.ms", Kind::Long, Some("3600000"), "How far a record's timestamp may lie in the future, in milliseconds. Ignored with LogAppendTime.")
        .least(0).from(&[("log.message.timestamp.after.max.ms", 1)]),
    row("message.timestamp.before.max.ms", Kind::Long, FOREVER, "How far a record's timestamp may lie in the past, in milliseconds. Ignored with LogAppendTime.")
        .least(0).from(&[("log.message.timestamp.before.max.ms", 1)]),
    row("message.timestamp.type", Kind::Text, Some("CreateTime"), "Whether a record's timestamp is the producer's (CreateTime) or the broker's (LogAppendTime).")
        .words(&["CreateTime", "LogAppendTime"]).from(&[("log.message.timestamp.type", 1)]),
    row("min.cleanable.dirty.ratio", Kind::Double, Some("0.5"), "Which part of a log must be uncompacted before it is compacted. No effect until compaction exists.")
        .between(0, 1).from(&[("log.cleaner.min.cleanable.ratio", 1)]),
    row("min.compaction.lag.ms", Kind::Long, Some("0"), "The shortest time a record stays uncompacted, in milliseconds. No effect until compaction exists.")
        .least(0).from(&[("log.cleaner.min.compaction.lag.ms", 1)]),
    row("min.insync.replicas", Kind::Int, Some("1"), "How many bookies must have synced a record before it is acknowledged.")
        .between(1, 255).from(&[("min.insync.replicas", 1)]),
    row("preallocate", Kind::Bool, Some("false"), "No effect: bookies decide how they use their disks.").from(&[("log.preallocate", 1)]),
    row("remote.log.copy.disable", Kind::Bool, Some("false"), "No effect: there is no remote storage tier."),
    row("remote.log.delete.on.disable", Kind::Bool, Some("false"), "No effect: there is no remote storage tier."),
    row("remote.storage.enable", Kind::Bool, Some("false"), "Only false is possible: there is no remote storage tier.").words(&["false"]),
    row("retention.bytes", Kind::Long, Some("-1"), "How many bytes a partition keeps; older ledgers are dropped whole. -1 is without limit.")
        .least(-1).from(&[("log.retention.bytes", 1)]),
    row("retention.ms", Kind::Long, Some("604800000"), "How long records are kept, in milliseconds; ledgers are dropped whole. -1 is for ever.")
        .least(-1).from(&[("log.retention.ms", 1), ("log.retention.minutes", MINUTE), ("log.retention.hours", HOUR)]),
    row("segment.bytes", Kind::Int, Some("1073741824"), "A partition begins a new ledger when its current one has this many bytes.")
        .least(14).from(&[("log.segment.bytes", 1)]),
    row("segment.index.bytes", Kind::Int, Some("10485760"), "No effect: the index of a ledger is stored inside it.")
        .least(4).from(&[("log.index.size.max.bytes", 1)]),
    row("segment.jitter.ms", Kind::Long, Some("0"), "No effect: ledgers of many partitions may roll at once at no cost.")
        .least(0).from(&[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR)]),
    row("segment.ms", Kind::Long, Some("604800000"), "A partition begins a new ledger when its current one is this old, in milliseconds.")
        .least(1).from(&[("log.roll.ms", 1), ("log.roll.hours", HOUR)]),
    row("unclean.leader.election.enable", Kind::Bool, Some("false"), "No effect: an owner that lacks acknowledged records cannot exist.")
        .from(&[("unclean.leader.election.enable", 1)]),
];

//! The table of Magnetar's own keys: one row each. Owns names, types, defaults and documentation of what Kafka has no
//! setting for; never holds a value that somebody set.

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number, 0 or more.
    Number,
    /// Bytes, with a unit: `64MiB`; empty is "not set" where that is the default.
    Size,
    /// A duration, with a unit: `30s`.
    Duration,
    /// A directory; empty is "not set".
    Path,
    /// `host:port`.
    Address,
    /// Text.
    Text,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Section and name, with a dot between them.
    pub path: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The built-in value.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// The sections in the order in which they are shown, each with what it is about.
pub const SECTIONS: [(&str, &str); 8] = [
    ("node", "The process itself."),
    ("kafka", "Settings of the broker under Kafka's own names, with Kafka's meaning."),
    ("metadata", "The metadata service: what exists, and who owns it."),
    ("bookie", "The bookie: it stores the records."),
    ("repair", "Repair: copies that were lost are made again, by the bookies, as the controller finds them."),
    ("broker", "The broker: it serves partitions."),
    ("gateway", "The gateway: it speaks Kafka. It has no keys of its own yet; see [kafka]."),
    ("admin", "Metrics, health and readiness over HTTP."),
];

const fn key(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

/// All keys but those of `[kafka]`, section by section.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("node.id", Kind::Number, "1", "The number of this node, unique in its cluster; the same as Kafka's node.id."),
    key("node.data_dir", Kind::Path, "", "Where data is kept; $XDG_DATA_HOME/magnetar or ~/.local/share/magnetar if empty."),
    key("node.log", Kind::Text, "", "Which log lines are written: error, warn, info, debug, trace, or per module (\"info,broker=debug\"). If empty: warn at a terminal, info elsewhere."),
    key("node.log_format", Kind::Words(&["text", "json"]), "text", "How log lines are written: text or json."),
    key("node.stop_deadline", Kind::Duration, "20s", "How long a shutdown may take before what is left is cut off."),
    key("metadata.data_dir", Kind::Path, "", "Where the metadata service keeps its log; <node.data_dir>/metadata if empty."),
    key("metadata.address", Kind::Address, "localhost:9095", "Where the metadata service listens for the other processes of the cluster. A standalone server goes on without it if another program has the default port."),
    key("metadata.advertised", Kind::Text, "", "Where other processes reach the metadata service, as host:port, if that is not metadata.address."),
    key("metadata.id", Kind::Text, "", "The number of this metadata node, unique among them. If empty, the first one is 1, and one that joins is given a number."),
    key("metadata.peer_address", Kind::Address, "localhost:9094", "Where the metadata service listens for other metadata nodes. A standalone server goes on without it if another program has the default port."),
    key("metadata.peer_advertised", Kind::Text, "", "Where other metadata nodes reach this one, as host:port, if that is not metadata.peer_address."),
    key("metadata.join", Kind::Text, "", "The metadata nodes of the cluster that this one joins at its first start: host:port, several with commas between them. If empty, it founds a cluster of its own."),
    key("metadata.learner", Kind::Words(&["true", "false"]), "false", "Whether this metadata node only follows the others, without a vote."),
    key("metadata.servers", Kind::Text, "localhost:9095", "Where processes without a metadata service of their own find one: host:port, several with commas between them."),
    key("metadata.snapshot_after_logs", Kind::Number, "10000", "A snapshot is taken, and the log cut, after this many log entries."),
    key("bookie.id", Kind::Number, "1", "The number of this bookie, unique in its cluster."),
    key("bookie.address", Kind::Address, "localhost:9096", "Where the bookie listens for brokers and other bookies. A standalone server goes on without it if another program has the default port."),
    key("bookie.advertised", Kind::Text, "", "Where others reach the bookie, as host:port, if that is not bookie.address."),
    key("bookie.data_dir", Kind::Path, "", "Where entries are kept; <node.data_dir>/bookie if empty."),
    key("bookie.wal_dir", Kind::Path, "", "Where the journal is kept if it has a disk of its own; beside the entries if empty."),
    key("bookie.reserve", Kind::Size, "", "Below this much free space the bookie takes no new entries; reads go on. The smaller of 1GiB and 5 % of the disk if empty."),
    key("bookie.accept_lost_entries", Kind::Words(&["true", "false"]), "false", "Set to true for one start after acknowledged entries were lost, to serve what is left."),
    key("bookie.on_empty_disk", Kind::Words(&["heal", "refuse", "discard"]), "heal", "What a bookie does whose directories are all empty although the cluster knows it. heal: begin a new life, and let repair copy what the old one held; the only bookie of a cluster does not start instead. refuse: do not start, because the disk may only not be mounted. discard: begin a new life even if nobody else has what is lost."),
    key("bookie.scrub_interval", Kind::Duration, "7d", "How often the bookie reads all its entries again to find damage; 0s is never."),
    key("bookie.scrub_bandwidth", Kind::Size, "8MiB", "How many bytes a second that may read."),
    key("repair.grace", Kind::Duration, "10s", "How long a bookie may be away before what it held is copied to others."),
    key("repair.bandwidth", Kind::Size, "64MiB", "How many bytes a second one bookie may copy."),
    key("repair.audit_interval", Kind::Duration, "10min", "How often every ledger is looked at for copies that are missing, beside whenever a bookie comes or goes."),
    key("broker.cache", Kind::Size, "128MiB", "Memory for recently written entries, from which consumers that keep up are served."),
    key("broker.queue", Kind::Size, "128MiB", "Memory for records that wait to be written; at the limit producers are told to wait."),
    key("admin.address", Kind::Address, "localhost:8080", "Where /metrics, /health, /ready and /config are served."),
];

/// The key of this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The known path most similar to a mistyped one; none if nothing is similar. A key under the wrong section is found by
/// its own name.
#[must_use]
pub fn nearest(path: &str) -> Option<&'static str> {
    let name = |p: &'static str| p.rsplit('.').next().unwrap_or(p);
    let mistyped = path.rsplit('.').next().unwrap_or(path);
    let near = KEYS.iter().map(|key| (strsim::osa_distance(key.path, path), key.path)).min()?;
    if near.0 <= 2.max(path.len() / 4) {
        return Some(near.1);
    }
    KEYS.iter().map(|key| key.path).find(|known| name(known) == mistyped)
}

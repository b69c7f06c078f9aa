//! The key layout of the cluster model, on one page.
//!
//! | key | value |
//! |---|---|
//! | `cluster` | [`ClusterRecord`](super::ClusterRecord) |
//! | `nodes/<node>` | [`NodeRecord`](super::NodeRecord), ephemeral |
//! | `bookies/<bookie>` | [`BookieRecord`](super::BookieRecord), ephemeral |
//! | `cookies/<bookie>` | [`Cookie`](super::Cookie) |
//! | `topics/<name>` | [`TopicRecord`](super::TopicRecord) |
//! | `deleting/<topic id>` | [`TopicRecord`](super::TopicRecord) of a topic whose ledgers are being given up |
//! | `partitions/<topic id>/<index>` | [`PartitionRecord`](super::PartitionRecord) |
//! | `closed/<topic id>/<index>/<page>` | [`ClosedPage`](super::ClosedPage) |
//! | `dead/<ledger>` | [`DeadLedger`](super::DeadLedger) |
//! | `decommissions/<bookie>` | [`Decommission`](super::Decommission) |
//! | `repairs/<ledger>` | [`RepairTask`](super::RepairTask) |
//! | `repairing/<ledger>` | [`RepairClaim`](super::RepairClaim), ephemeral |
//! | `strays/<ledger>` | [`StrayCopies`](super::StrayCopies) |
//! | `scrubs/<bookie>` | [`ScrubRecord`](super::ScrubRecord) |
//! | `config/<scope>` | [`ConfigRecord`](super::ConfigRecord) |
//! | `locks/<name>/<session>` | [`QueueTicket`](super::QueueTicket), ephemeral |
//! | `elections/<name>/<session>` | [`QueueTicket`](super::QueueTicket), ephemeral |
//!
//! Numbers are zero-padded hexadecimal, so that the order of keys is the order of numbers.

use super::{QueueKind, QueueName};
use crate::{
    id::{BookieId, LedgerId, NodeId, SessionId},
    topic::{PartitionId, TopicId, TopicName},
};
use uuid::Uuid;

/// A sequence of numbers that are never issued twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sequence {
    /// Ledger ids.
    Ledger,
    /// Producer ids.
    Producer,
    /// Incarnations of bookies.
    Incarnation,
    /// Registrations of nodes.
    Registration,
}

impl Sequence {
    /// The name the metadata service knows it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Producer => "producer",
            Self::Incarnation => "incarnation",
            Self::Registration => "registration",
        }
    }
}

/// Keys of single records.
pub mod key {
    use super::{BookieId, LedgerId, NodeId, PartitionId, TopicId, TopicName};

    /// The cluster's own record.
    #[must_use]
    pub fn cluster() -> String {
        "cluster".into()
    }
    /// A live node.
    #[must_use]
    pub fn node(id: NodeId) -> String {
        format!("nodes/{:08x}", id.0)
    }
    /// A live bookie.
    #[must_use]
    pub fn bookie(id: BookieId) -> String {
        format!("bookies/{:08x}", id.0)
    }
    /// A bookie's identity.
    #[must_use]
    pub fn cookie(id: BookieId) -> String {
        format!("cookies/{:08x}", id.0)
    }
    /// A topic, by name.
    #[must_use]
    pub fn topic(name: &TopicName) -> String {
        format!("topics/{name}")
    }
    /// A deleted topic whose ledgers are being given up.
    #[must_use]
    pub fn deleting(topic: TopicId) -> String {
        format!("deleting/{topic}")
    }
    /// A partition.
    #[must_use]
    pub fn partition(id: PartitionId) -> String {
        format!("partitions/{}/{:08x}", id.topic, id.index)
    }
    /// A page of a partition's closed ledgers.
    #[must_use]
    pub fn closed_page(id: PartitionId, page: u32) -> String {
        format!("closed/{}/{:08x}/{page:08x}", id.topic, id.index)
    }
    /// A ledger whose entries may be deleted.
    #[must_use]
    pub fn dead(ledger: LedgerId) -> String {
        format!("dead/{:016x}", ledger.0)
    }
    /// The order to take a bookie out.
    #[must_use]
    pub fn decommission(id: BookieId) -> String {
        format!("decommissions/{:08x}", id.0)
    }
    /// A ledger that lacks copies.
    #[must_use]
    pub fn repair(ledger: LedgerId) -> String {
        format!("repairs/{:016x}", ledger.0)
    }
    /// Who repairs a ledger.
    #[must_use]
    pub fn repairing(ledger: LedgerId) -> String {
        format!("repairing/{:016x}", ledger.0)
    }
    /// Copies of a ledger that its metadata does not name.
    #[must_use]
    pub fn stray(ledger: LedgerId) -> String {
        format!("strays/{:016x}", ledger.0)
    }
    /// The latest scrub of a bookie.
    #[must_use]
    pub fn scrub(id: BookieId) -> String {
        format!("scrubs/{:08x}", id.0)
    }
    /// Dynamic settings of one node, or of all with `None`.
    #[must_use]
    pub fn node_config(node: Option<NodeId>) -> String {
        node.map_or_else(|| "config/nodes".into(), |id| format!("config/nodes/{:08x}", id.0))
    }
}

/// Prefixes of ranges of records.
pub mod prefix {
    use super::{PartitionId, TopicId};

    /// All live nodes.
    pub const NODES: &str = "nodes/";
    /// All live bookies.
    pub const BOOKIES: &str = "bookies/";
    /// All identities of bookies.
    pub const COOKIES: &str = "cookies/";
    /// All topics.
    pub const TOPICS: &str = "topics/";
    /// All deleted topics whose ledgers are being given up.
    pub const DELETING: &str = "deleting/";
    /// All partitions.
    pub const PARTITIONS: &str = "partitions/";
    /// All pages of closed ledgers.
    pub const CLOSED: &str = "closed/";
    /// All ledgers to delete.
    pub const DEAD: &str = "dead/";
    /// All bookies that are being taken out.
    pub const DECOMMISSIONS: &str = "decommissions/";
    /// All ledgers that lack copies.
    pub const REPAIRS: &str = "repairs/";
    /// All ledgers that are being repaired.
    pub const REPAIRING: &str = "repairing/";
    /// All ledgers with copies that their metadata does not name.
    pub const STRAYS: &str = "strays/";
    /// The latest scrubs.
    pub const SCRUBS: &str = "scrubs/";
    /// All dynamic settings.
    pub const CONFIG: &str = "config/";
    /// All places in queues for locks.
    pub const LOCKS: &str = "locks/";
    /// All places in queues for a lead.
    pub const ELECTIONS: &str = "elections/";

    /// The partitions of one topic.
    #[must_use]
    pub fn partitions_of(topic: TopicId) -> String {
        format!("partitions/{topic}/")
    }
    /// The pages of one partition.
    #[must_use]
    pub fn closed_of(id: PartitionId) -> String {
        format!("closed/{}/{:08x}/", id.topic, id.index)
    }
}

impl QueueKind {
    /// The queue with this name.
    #[must_use]
    pub fn prefix(self, name: &QueueName) -> String {
        let kind = match self {
            Self::Lock => prefix::LOCKS,
            Self::Election => prefix::ELECTIONS,
        };
        format!("{kind}{name}/")
    }

    /// The place of a session in the queue with this name.
    #[must_use]
    pub fn key(self, name: &QueueName, session: SessionId) -> String {
        format!("{}{:016x}", self.prefix(name), session.0)
    }
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// `cluster`
    Cluster,
    /// `nodes/<node>`
    Node(NodeId),
    /// `bookies/<bookie>`
    Bookie(BookieId),
    /// `cookies/<bookie>`
    Cookie(BookieId),
    /// `topics/<name>`
    Topic(TopicName),
    /// `deleting/<topic id>`
    Deleting(TopicId),
    /// `partitions/<topic id>/<index>`
    Partition(PartitionId),
    /// `closed/<topic id>/<index>/<page>`
    ClosedPage(PartitionId, u32),
    /// `dead/<ledger>`
    Dead(LedgerId),
    /// `decommissions/<bookie>`
    Decommission(BookieId),
    /// `repairs/<ledger>`
    Repair(LedgerId),
    /// `repairing/<ledger>`
    Repairing(LedgerId),
    /// `strays/<ledger>`
    Stray(LedgerId),
    /// `scrubs/<bookie>`
    Scrub(BookieId),
    /// `config/...`
    NodeConfig(Option<NodeId>),
    /// `locks/<name>/<session>` or `elections/<name>/<session>`
    Ticket(QueueKind, QueueName, SessionId),
}

impl KeyKind {
    /// What a key names; `None` if it is not of this layout.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let hex = |s: &str| u32::from_str_radix(s, 16).ok();
        let ledger = |s: &str| u64::from_str_radix(s, 16).ok().map(LedgerId);
        let partition = |topic: &str, index: &str| {
            Some(PartitionId { topic: TopicId(Uuid::parse_str(topic).ok()?), index: hex(index)? })
        };
        let ticket = |kind, name: &str, session: &str| {
            let session = SessionId(u64::from_str_radix(session, 16).ok()?);
            Some(Self::Ticket(kind, QueueName::new(name).ok()?, session))
        };
        let parts: Vec<&str> = key.split('/').collect();
        match parts[..] {
            ["cluster"] => Some(Self::Cluster),
            ["nodes", id] => Some(Self::Node(NodeId(hex(id)? as i32))),
            ["bookies", id] => Some(Self::Bookie(BookieId(hex(id)?))),
            ["cookies", id] => Some(Self::Cookie(BookieId(hex(id)?))),
            ["topics", name] => Some(Self::Topic(TopicName::new(name).ok()?)),
            ["deleting", topic] => Some(Self::Deleting(TopicId(Uuid::parse_str(topic).ok()?))),
            ["partitions", topic, index] => Some(Self::Partition(partition(topic, index)?)),
            ["closed", topic, index, page] => Some(Self::ClosedPage(partition(topic, index)?, hex(page)?)),
            ["dead", id] => Some(Self::Dead(ledger(id)?)),
            ["decommissions", id] => Some(Self::Decommission(BookieId(hex(id)?))),
            ["repairs", id] => Some(Self::Repair(ledger(id)?)),
            ["repairing", id] => Some(Self::Repairing(ledger(id)?)),
            ["strays", id] => Some(Self::Stray(ledger(id)?)),
            ["scrubs", id] => Some(Self::Scrub(BookieId(hex(id)?))),
            ["locks", name, session] => ticket(QueueKind::Lock, name, session),
            ["elections", name, session] => ticket(QueueKind::Election, name, session),
            ["config", "nodes"] => Some(Self::NodeConfig(None)),
            ["config", "nodes", id] => Some(Self::NodeConfig(Some(NodeId(hex(id)? as i32)))),
            _ => None,
        }
    }
}

/// The smallest key that is greater than every key with this prefix, to end a range scan; `None` means "to the end".
#[must_use]
pub fn successor(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_parse_back() {
        let p = PartitionId { topic: TopicId(Uuid::from_u128(5)), index: 11 };
        let name = TopicName::new("orders").expect("legal");
        let queue = QueueName::new("the big lock").expect("legal");
        for (key, kind) in [
            (key::cluster(), KeyKind::Cluster),
            (key::node(NodeId(0)), KeyKind::Node(NodeId(0))),
            (key::bookie(BookieId(9)), KeyKind::Bookie(BookieId(9))),
            (key::cookie(BookieId(9)), KeyKind::Cookie(BookieId(9))),
            (key::topic(&name), KeyKind::Topic(name.clone())),
            (key::deleting(p.topic), KeyKind::Deleting(p.topic)),
            (key::partition(p), KeyKind::Partition(p)),
            (key::closed_page(p, 3), KeyKind::ClosedPage(p, 3)),
            (key::dead(LedgerId(u64::MAX)), KeyKind::Dead(LedgerId(u64::MAX))),
            (key::decommission(BookieId(9)), KeyKind::Decommission(BookieId(9))),
            (key::repair(LedgerId(7)), KeyKind::Repair(LedgerId(7))),
            (key::repairing(LedgerId(7)), KeyKind::Repairing(LedgerId(7))),
            (key::stray(LedgerId(7)), KeyKind::Stray(LedgerId(7))),
            (key::scrub(BookieId(9)), KeyKind::Scrub(BookieId(9))),
            (key::node_config(None), KeyKind::NodeConfig(None)),
            (key::node_config(Some(NodeId(4))), KeyKind::NodeConfig(Some(NodeId(4)))),
            (
                QueueKind::Lock.key(&queue, SessionId(u64::MAX)),
                KeyKind::Ticket(QueueKind::Lock, queue.clone(), SessionId(u64::MAX)),
            ),
            (
                QueueKind::Election.key(&queue, SessionId(1)),
                KeyKind::Ticket(QueueKind::Election, queue.clone(), SessionId(1)),
            ),
        ] {
            assert_eq!(KeyKind::parse(&key), Some(kind), "{key}");
        }
        assert_eq!(KeyKind::parse("nonsense/1"), None);
    }

    #[test]
    fn ranges_end_after_their_prefix() {
        assert_eq!(successor("a/"), Some(b"a0".to_vec()));
        assert_eq!(successor(""), None);
    }
}

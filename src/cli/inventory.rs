//! Every ledger of the cluster, as metadata names it. Owns the reading of partitions and pages of closed ledgers for the
//! commands that show them; never asks a bookie and never writes.

use super::cluster_client::ClusterClient;
use anyhow::{Context, bail};
use protocol::{
    cluster::ClusterSnapshot,
    id::{BookieId, EntryId, LeaderEpoch, LedgerId, Offset, Revision},
    ledger::metadata::{BookieMember, LedgerMetadata, LedgerState},
    model::{ClosedLedger, ClosedPage, KeyKind, PartitionRecord, decode, prefix},
    service::metadata::{Consistency, Scan, Versioned},
    topic::{PartitionId, TopicName},
};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// Keys per page of a scan.
const PAGE: u32 = 1_000;

/// A ledger, and whose it is.
#[derive(Debug, Clone)]
pub struct Owned {
    /// The topic's name; its id if the topic is being deleted.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The ledger.
    pub ledger: LedgerMetadata,
    /// The epoch it was written in.
    pub epoch: LeaderEpoch,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset after its last record; none while it is written.
    pub end_offset: Option<Offset>,
}

/// Entries of one fragment, and the bookies that hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The entries; unbounded above in the fragment that is written now.
    pub entries: RangeInclusive<u64>,
    /// Who holds them.
    pub ensemble: Vec<BookieMember>,
}

impl Owned {
    /// The fragments with where each ends; those without an entry are left out.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        let last = match self.ledger.state {
            LedgerState::Closed { last_entry: None, .. } => return Vec::new(),
            LedgerState::Closed { last_entry: Some(last), .. } => last.0,
            LedgerState::Open | LedgerState::InRecovery => u64::MAX,
        };
        let starts = self.ledger.fragments.iter().map(|f| f.first_entry.0);
        let ends = starts.clone().skip(1).map(|next| next.saturating_sub(1)).chain([last]);
        starts
            .zip(ends)
            .zip(&self.ledger.fragments)
            .map(|((first, end), f)| Extent { entries: first..=end.min(last), ensemble: f.ensemble.clone() })
            .filter(|extent| !extent.entries.is_empty())
            .collect()
    }

    /// Payload bytes, if it has ended.
    #[must_use]
    pub const fn bytes(&self) -> Option<u64> {
        match self.ledger.state {
            LedgerState::Closed { length, .. } => Some(length),
            LedgerState::Open | LedgerState::InRecovery => None,
        }
    }

    /// The last entry, if it has ended and has one.
    #[must_use]
    pub const fn last_entry(&self) -> Option<EntryId> {
        match self.ledger.state {
            LedgerState::Closed { last_entry, .. } => last_entry,
            LedgerState::Open | LedgerState::InRecovery => None,
        }
    }

    /// About how many payload bytes this life of a bookie holds of it: entries are taken to be of one size.
    #[must_use]
    pub fn bytes_on(&self, member: BookieMember) -> u64 {
        let (Some(bytes), Some(last)) = (self.bytes(), self.last_entry()) else { return 0 };
        let held: u64 = self
            .extents()
            .iter()
            .filter(|e| e.ensemble.contains(&member))
            .map(|e| e.entries.end() - e.entries.start() + 1)
            .sum();
        u64::try_from(u128::from(bytes) * u128::from(held) / (u128::from(last.0) + 1)).unwrap_or(u64::MAX)
    }

    /// Whether any of its fragments names the bookie, in whatever life.
    #[must_use]
    pub fn is_on(&self, bookie: BookieId) -> bool {
        self.ledger.fragments.iter().any(|f| f.ensemble.iter().any(|m| m.id == bookie))
    }

    /// Whether any of its fragments names this life of the bookie.
    #[must_use]
    pub fn names(&self, member: BookieMember) -> bool {
        self.ledger.fragments.iter().any(|f| f.ensemble.contains(&member))
    }

    /// The bookies that any of its fragments names, in these lives.
    #[must_use]
    pub fn members(&self) -> BTreeSet<BookieMember> {
        self.ledger.fragments.iter().flat_map(|f| f.ensemble.iter().copied()).collect()
    }

    /// The bookies that its last entries were sent to, in words.
    #[must_use]
    pub fn last_bookies(&self) -> String {
        let ensemble = self.ledger.last_fragment().map(|f| f.ensemble.as_slice()).unwrap_or_default();
        let ids: Vec<String> = ensemble.iter().map(|member| member.id.to_string()).collect();
        format!("{} {}", if ids.len() == 1 { "bookie" } else { "bookies" }, ids.join(", "))
    }

    /// The fewest copies that any of its entries has on bookies that live.
    #[must_use]
    pub fn live_copies(&self, snapshot: &ClusterSnapshot) -> usize {
        let lives = |m: &&BookieMember| snapshot.bookies.get(&m.id).is_some_and(|b| b.member == **m);
        let of = |ensemble: &[BookieMember]| ensemble.iter().filter(lives).count();
        self.ledger.fragments.iter().map(|f| of(&f.ensemble)).min().unwrap_or(0)
    }

    /// How many copies it is meant to have.
    #[must_use]
    pub fn wanted_copies(&self) -> usize {
        self.ledger.quorum.write().max(usize::from(self.ledger.wanted_write))
    }
}

/// Every ledger of the cluster, those of a partition in log order and its head last.
///
/// # Errors
/// The metadata service does not answer, or a record cannot be read.
pub async fn ledgers(client: &ClusterClient) -> anyhow::Result<Vec<Owned>> {
    let snapshot = client.view.snapshot();
    let mut found = Vec::new();
    for item in scan(client, prefix::CLOSED).await? {
        let Some(KeyKind::ClosedPage(partition, _)) = KeyKind::parse(&item.key) else { continue };
        let page: ClosedPage = decode(&item.value)?;
        found.extend(page.ledgers.into_iter().map(|closed| closed_ledger(&snapshot, partition, closed)));
    }
    for item in scan(client, prefix::PARTITIONS).await? {
        let Some(KeyKind::Partition(partition)) = KeyKind::parse(&item.key) else { continue };
        let record: PartitionRecord = decode(&item.value)?;
        if let Some(head) = record.head {
            found.push(Owned {
                topic: topic_of(&snapshot, partition),
                partition,
                ledger: head.ledger,
                epoch: head.epoch,
                base_offset: head.base_offset,
                end_offset: None,
            });
        }
    }
    found.sort_by(|a, b| {
        (&a.topic, a.partition.index, a.base_offset).cmp(&(&b.topic, b.partition.index, b.base_offset))
    });
    Ok(found)
}

/// The ledgers of one topic.
///
/// # Errors
/// As [`ledgers`], or there is no such topic.
pub async fn ledgers_of(client: &ClusterClient, topic: &str) -> anyhow::Result<Vec<Owned>> {
    let name = TopicName::new(topic)?;
    let snapshot = client.view.snapshot();
    let Some(topic) = snapshot.topics.get(&name) else {
        bail!("no topic {name}; magnetar topic list shows those there are");
    };
    let id = topic.record.id;
    Ok(ledgers(client).await?.into_iter().filter(|l| l.partition.topic == id).collect())
}

/// One ledger.
///
/// # Errors
/// As [`ledgers`], or no partition names it.
pub async fn ledger(client: &ClusterClient, id: LedgerId) -> anyhow::Result<Owned> {
    let found = ledgers(client).await?.into_iter().find(|l| l.ledger.id == id);
    found.with_context(|| format!("no partition names ledger {id}; magnetar ledger list shows those there are"))
}

/// A partition's record with its version.
///
/// # Errors
/// The metadata service does not answer, or there is no such partition.
pub async fn partition(client: &ClusterClient, id: PartitionId) -> anyhow::Result<(PartitionRecord, Revision)> {
    let key = protocol::model::key::partition(id);
    let found = client.metadata.get(key, Consistency::Linearizable).await?;
    let item = found.with_context(|| format!("partition {id} is gone"))?;
    Ok((decode(&item.value)?, item.version))
}

/// Everything below a prefix.
///
/// # Errors
/// The metadata service does not answer.
pub async fn scan(client: &ClusterClient, prefix: &str) -> anyhow::Result<Vec<Versioned>> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let scan = Scan { prefix: prefix.into(), after, limit: PAGE, consistency: Consistency::Linearizable };
        let page = client.metadata.scan(scan).await?;
        let more = page.more;
        items.extend(page.items);
        after = items.last().map(|item: &Versioned| item.key.clone());
        if !more || after.is_none() {
            return Ok(items);
        }
    }
}

fn closed_ledger(snapshot: &ClusterSnapshot, partition: PartitionId, closed: ClosedLedger) -> Owned {
    Owned {
        topic: topic_of(snapshot, partition),
        partition,
        epoch: closed.epoch,
        base_offset: closed.base_offset,
        end_offset: Some(closed.end_offset),
        ledger: closed.ledger,
    }
}

fn topic_of(snapshot: &ClusterSnapshot, partition: PartitionId) -> String {
    snapshot.names.get(&partition.topic).map_or_else(|| partition.topic.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{Incarnation, LedgerKey, Timestamp},
        ledger::{metadata::Fragment, quorum::Quorum},
        topic::TopicId,
    };
    use uuid::Uuid;

    fn member(id: u32) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
    }

    fn owned(state: LedgerState) -> Owned {
        let quorum = Quorum::new(2, 2, 2).expect("legal");
        let ensemble = vec![member(1), member(2)];
        let mut ledger = LedgerMetadata::open(LedgerId(4), LedgerKey(1), quorum, ensemble, Timestamp(0));
        ledger.fragments.push(Fragment { first_entry: EntryId(6), ensemble: vec![member(1), member(3)] });
        ledger.state = state;
        Owned {
            topic: "t".into(),
            partition: PartitionId { topic: TopicId(Uuid::nil()), index: 0 },
            ledger,
            epoch: LeaderEpoch(0),
            base_offset: Offset(0),
            end_offset: None,
        }
    }

    #[test]
    fn a_fragment_ends_where_the_next_begins_or_the_ledger_does() {
        let closed = owned(LedgerState::Closed { last_entry: Some(EntryId(7)), length: 800 });
        let ranges: Vec<_> = closed.extents().into_iter().map(|e| e.entries).collect();
        assert_eq!(ranges, [0..=5, 6..=7]);
        assert_eq!(
            [closed.bytes_on(member(1)), closed.bytes_on(member(2)), closed.bytes_on(member(3))],
            [800, 600, 200]
        );
        let cut = owned(LedgerState::Closed { last_entry: Some(EntryId(5)), length: 600 });
        assert_eq!(cut.extents().len(), 1, "nothing of the second fragment was kept");
        let empty = owned(LedgerState::Closed { last_entry: None, length: 0 });
        assert!(empty.extents().is_empty());
        assert_eq!(owned(LedgerState::Open).extents()[1].entries, 6..=u64::MAX);
    }

    #[test]
    fn lives_are_told_apart() {
        let open = owned(LedgerState::Open);
        let reborn = BookieMember { incarnation: Incarnation(2), ..member(3) };
        assert!(open.is_on(BookieId(3)) && open.names(member(3)) && !open.names(reborn));
    }
}

//! Orders to take a bookie out: how far they are, what keeps them, and when they are carried out.
//!
//! Owns the proof that no ledger names the member any more. It is given by listings that come from a state which already
//! held the order, read in an order in which a ledger cannot slip through: the partitions with their heads, then the
//! closed ledgers, then the partitions again, for a head becomes a closed ledger and never the other way. What cannot be
//! read counts as naming it.

use super::{
    desk::{AuditError, Desk},
    findings::{Facts, Load},
    strays,
};
use protocol::{
    cluster::ClusterSnapshot,
    id::Revision,
    ledger::metadata::{BookieMember, LedgerMetadata},
    model::{ClosedPage, Cookie, Decommission, PartitionRecord, Record, decode, encode, key, prefix},
    service::metadata::{Condition, Operation, Versioned},
};

/// Records per page of a listing of partitions, and of pages of closed ledgers.
const PARTITIONS: u32 = 1_000;
const PAGES: u32 = 8;

/// Looks after every order that stands, with what an audit has found.
pub(super) async fn attend(desk: &Desk, cluster: &ClusterSnapshot, facts: &Facts) -> Result<(), AuditError> {
    for (bookie, order) in &cluster.decommissions {
        let key = key::decommission(*bookie);
        let Some(item) = desk.get(key.clone()).await? else { continue };
        let Ok(current) = decode::<Decommission>(&item.value) else {
            tracing::error!(%bookie, "the order to take a bookie out cannot be read; it is not carried out");
            continue;
        };
        if current.member != order.member {
            continue;
        }
        let load = facts.members.get(&order.member).copied().unwrap_or_default();
        let heads = heads(cluster, order.member);
        if load.ledgers == 0 && heads == 0 && facts.unreadable == 0 && finish(desk, &item, &current).await? {
            continue;
        }
        let obstacle = obstacle(load, heads, facts.unreadable);
        let next = Decommission {
            total_bytes: Some(current.total_bytes.map_or(load.bytes, |total| total.max(load.bytes))),
            obstacle: obstacle.clone(),
            ..current.clone()
        };
        if next != current {
            if let Some(obstacle) = obstacle.filter(|_| next.obstacle != current.obstacle) {
                tracing::warn!(bookie = %order.member, %obstacle, "a bookie cannot be taken out yet");
            }
            let operation = Operation::Put { key: key.clone(), value: encode(&next), session: None };
            desk.write(vec![Condition::Version(key, item.version)], vec![operation]).await?;
        }
    }
    Ok(())
}

/// What to tell the operator.
fn obstacle(load: Load, heads: usize, unreadable: u64) -> Option<String> {
    if load.stranded > 0 {
        let ledgers = load.stranded;
        return Some(format!(
            "{ledgers} of its ledgers have entries that no other live bookie holds; start it, or the others, again"
        ));
    }
    if load.blocked > 0 {
        let ledgers = load.blocked;
        return Some(format!(
            "{ledgers} of its ledgers have no other bookie to go to: too few bookies are live and writable; start another one"
        ));
    }
    if unreadable > 0 {
        return Some(format!("{unreadable} records of ledgers cannot be read; see the log of the metadata node"));
    }
    (load.ledgers == 0 && heads > 0)
        .then(|| format!("{heads} partitions still write to it; their brokers are about to begin other ledgers"))
}

/// Partitions whose unclosed ledger names the member.
fn heads(cluster: &ClusterSnapshot, member: BookieMember) -> usize {
    let partitions = cluster.topics.values().flat_map(|topic| topic.partitions.iter().flatten());
    partitions.filter(|p| p.record.head.as_ref().is_some_and(|head| names(&head.ledger, member))).count()
}

fn names(ledger: &LedgerMetadata, member: BookieMember) -> bool {
    ledger.fragments.iter().any(|fragment| fragment.ensemble.contains(&member))
}

/// Ends an order if nothing names the member any more; whether it has ended.
async fn finish(desk: &Desk, item: &Versioned, order: &Decommission) -> Result<bool, AuditError> {
    let member = order.member;
    let since = item.version;
    let heads = |record: PartitionRecord| record.head.is_some_and(|head| names(&head.ledger, member));
    let closed = |page: ClosedPage| page.ledgers.iter().any(|closed| names(&closed.ledger, member));
    let named = any(desk, (prefix::PARTITIONS, PARTITIONS), since, &heads).await?
        || any(desk, (prefix::CLOSED, PAGES), since, &closed).await?
        || any(desk, (prefix::PARTITIONS, PARTITIONS), since, &heads).await?;
    if named || !strays::forget(desk, member).await? {
        return Ok(false);
    }
    let mut conditions = vec![Condition::Version(item.key.clone(), item.version)];
    let mut operations = vec![Operation::Delete(item.key.clone())];
    if !order.keeps_id {
        let key = key::cookie(member.id);
        let held = desk.get(key.clone()).await?;
        let is_its = |item: &&Versioned| {
            decode::<Cookie>(&item.value).is_ok_and(|cookie| cookie.incarnation == member.incarnation)
        };
        if let Some(cookie) = held.as_ref().filter(is_its) {
            conditions.push(Condition::Version(key.clone(), cookie.version));
            operations.push(Operation::Delete(key));
        }
    }
    let is_done = desk.write(conditions, operations).await?;
    if is_done {
        let keeps_id = order.keeps_id;
        tracing::info!(bookie = %member, keeps_id, "no ledger names the bookie any more: it is taken out");
    }
    Ok(is_done)
}

/// Whether any record under a prefix names the member, or cannot be read. A listing from before the order proves
/// nothing and counts as one that does.
async fn any<R: Record>(
    desk: &Desk,
    (prefix, limit): (&str, u32),
    since: Revision,
    names: &(dyn Fn(R) -> bool + Sync),
) -> Result<bool, AuditError> {
    let mut found = false;
    let from = desk.each(prefix, limit, |item| {
        found |= decode(&item.value).map_or(true, names);
        Ok(())
    });
    let is_newer = from.await? >= since;
    Ok(found || !is_newer)
}

//! Who owns a partition. [`plan`] decides, [`Assigner`] writes.
//!
//! The assignment is the epoch change: owner, epoch + 1 and the head IN_RECOVERY are one write, conditional on the
//! version of the partition it was decided on and on the chosen node still being registered.

use super::{PAUSE, pause};
use crate::metrics::ControllerMetrics;
use protocol::{
    cluster::{ClusterSnapshot, ClusterView, PartitionView},
    id::{NodeId, Revision},
    model::{NodeRecord, Owner, PartitionRecord, decode, encode, key},
    service::metadata::{Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
    topic::PartitionId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The most partitions assigned in one transaction.
const PER_TRANSACTION: usize = 500;
/// The most bytes of one transaction, well below the service's limit.
const TRANSACTION_BYTES: usize = 2 * 1024 * 1024;
/// How long to wait for the view to show what was written before deciding again.
const SETTLE: Duration = Duration::from_secs(5);

/// One partition and its new owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: PartitionId,
    /// The version this was decided on.
    pub version: Revision,
    /// The record to write.
    pub record: PartitionRecord,
    /// The new owner.
    pub owner: Owner,
}

/// Gives every partition without a live owner to a live node: to the node that had it, if that came back, else to the
/// one with the fewest partitions. Without any live node there is nothing to decide.
#[must_use]
pub fn plan(cluster: &ClusterSnapshot) -> Vec<Assignment> {
    if cluster.nodes.is_empty() {
        return Vec::new();
    }
    let mut load: BTreeMap<NodeId, usize> = cluster.nodes.keys().map(|node| (*node, 0)).collect();
    let mut orphans = Vec::new();
    for topic in cluster.topics.values() {
        for (index, view) in (0u32..).zip(&topic.partitions) {
            let Some(view) = view else { continue };
            let partition = PartitionId { topic: topic.record.id, index };
            match view.record.owner.filter(|owner| is_live(cluster, *owner)) {
                Some(owner) => *load.entry(owner.node).or_default() += 1,
                None => orphans.push((partition, view)),
            }
        }
    }
    orphans.into_iter().filter_map(|(partition, view)| assign(cluster, &mut load, partition, view)).collect()
}

fn is_live(cluster: &ClusterSnapshot, owner: Owner) -> bool {
    cluster.nodes.get(&owner.node).is_some_and(|node| node.registration == owner.registration)
}

fn assign(
    cluster: &ClusterSnapshot,
    load: &mut BTreeMap<NodeId, usize>,
    partition: PartitionId,
    view: &Arc<PartitionView>,
) -> Option<Assignment> {
    let before = view.record.owner.map(|owner| owner.node).filter(|node| cluster.nodes.contains_key(node));
    let node = before.or_else(|| load.iter().min_by_key(|(_, count)| **count).map(|(node, _)| *node))?;
    *load.entry(node).or_default() += 1;
    let owner = Owner { node, registration: cluster.nodes.get(&node)?.registration };
    let record = view.record.clone().assigned(Some(owner));
    Some(Assignment { partition, version: view.version, record, owner })
}

/// Writes what [`plan`] decides, as soon as the cluster changes.
pub(super) struct Assigner {
    pub metadata: Arc<dyn MetadataService>,
    pub view: ClusterView,
    pub metrics: ControllerMetrics,
}

/// What became of a plan.
enum Written {
    /// All of it, up to this revision.
    All(Revision),
    /// Something changed meanwhile.
    Outdated,
}

impl Assigner {
    pub(super) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let mut changes = self.view.changes();
        let mut wait = PAUSE.0;
        loop {
            let plan = plan(&changes.borrow_and_update());
            if !plan.is_empty() {
                match self.write(&plan).await {
                    Ok(Written::All(revision)) => {
                        wait = PAUSE.0;
                        self.view.wait_for(revision, SETTLE).await;
                        continue;
                    }
                    Ok(Written::Outdated) => tracing::debug!("assignments were decided on an old state; again"),
                    Err(problem) => {
                        tracing::warn!(%problem, partitions = plan.len(), "partitions stay without an owner")
                    }
                }
                // The view may already be current, so this does not wait for it to change.
                if !pause(&mut wait, &stopping).await {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                moved = changes.changed() => if moved.is_err() { return Ok(()) },
            }
        }
    }

    async fn write(&self, plan: &[Assignment]) -> Result<Written, MetadataError> {
        let owners: BTreeSet<_> = plan.iter().map(|a| (a.owner.node, a.owner.registration)).collect();
        let mut versions = BTreeMap::new();
        for (node, registration) in owners {
            let held = self.metadata.get(key::node(node), Consistency::Linearizable).await?;
            let same = |item: &_| decode_registration(item) == Some(registration);
            match held.filter(same) {
                Some(item) => drop(versions.insert(node, item.version)),
                None => return Ok(Written::Outdated),
            }
        }
        let mut revision = Revision(0);
        let mut rest = plan;
        while !rest.is_empty() {
            let (transaction, taken) = transaction(rest, &versions);
            match self.metadata.transact(transaction).await? {
                Outcome::Committed { revision: at, .. } => revision = at,
                Outcome::Conflict { .. } => return Ok(Written::Outdated),
            }
            self.metrics.assigned.increment(taken as u64);
            for assignment in &rest[..taken] {
                let Assignment { partition, record, owner, .. } = assignment;
                tracing::debug!(%partition, epoch = record.epoch.0, node = owner.node.0, "partition assigned");
            }
            rest = &rest[taken..];
        }
        tracing::info!(partitions = plan.len(), nodes = versions.len(), %revision, "partitions assigned");
        Ok(Written::All(revision))
    }
}

fn decode_registration(item: &protocol::service::metadata::Versioned) -> Option<protocol::id::Registration> {
    decode::<NodeRecord>(&item.value).ok().map(|node| node.registration)
}

/// As many assignments as fit into one transaction, at least one.
fn transaction(plan: &[Assignment], nodes: &BTreeMap<NodeId, Revision>) -> (Transaction, usize) {
    let mut transaction = Transaction::default();
    for (node, version) in nodes {
        transaction.conditions.push(Condition::Version(key::node(*node), *version));
    }
    let mut taken = 0;
    let mut bytes = 0;
    for assignment in plan.iter().take(PER_TRANSACTION) {
        let (key, value) = (key::partition(assignment.partition), encode(&assignment.record));
        bytes += 2 * key.len() + value.len();
        if taken > 0 && bytes > TRANSACTION_BYTES {
            break;
        }
        transaction.conditions.push(Condition::Version(key.clone(), assignment.version));
        transaction.operations.push(Operation::Put { key, value, session: None });
        taken += 1;
    }
    (transaction, taken)
}

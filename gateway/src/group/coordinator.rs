//! Which shards this node runs, and the way of a call to its shard.
//!
//! A shard runs here while the cluster view says that this node's current registration owns the shard's partition of
//! `__consumer_offsets`; a new epoch is a new shard. Owns seats and routing; never touches a group.

use super::{
    answer::Responder,
    lag::{self, LagReport},
    metrics::CoordinatorMetrics,
    placement::partition_of,
    request::Request,
    shard::{self, Call, Client, GroupReport, Message, Seat, ShardConfig, SnapshotPolicy},
};
use crate::kafka::settings::LiveSettings;
use bytes::Bytes;
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use parking_lot::RwLock;
use protocol::{
    cluster::{ClusterSnapshot, ClusterView},
    id::{LeaderEpoch, NodeId, Revision},
    runtime::{Clock, TaskKind, Tasks},
    service::{
        Answer,
        broker::BrokerService,
        coordinator::{CoordinatorCall, CoordinatorError, CoordinatorKey, CoordinatorService},
        ready, reply,
    },
    settings::StaticSettings,
    topic::{CONSUMER_OFFSETS, PartitionId, TopicName},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Requests that wait for one shard; more are refused.
const INBOX: usize = 1024;
/// How long a listing or report waits for one shard.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who the coordinators are.
#[derive(Debug, Clone)]
pub struct CoordinatorsConfig {
    /// This node.
    pub node: NodeId,
    /// The node's settings; dynamic ones come with the view.
    pub settings: StaticSettings,
}

/// What the coordinators need.
pub struct CoordinatorsDeps {
    /// This node's broker, which owns the partitions of this node's shards.
    pub broker: Arc<dyn BrokerService>,
    /// Who owns what.
    pub view: ClusterView,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the shards run.
    pub tasks: Tasks,
}

/// All coordinators of a node.
pub struct Coordinators {
    node: NodeId,
    shards: ShardConfig,
    tasks: Tasks,
    seats: RwLock<Seats>,
}

#[derive(Default)]
struct Seats {
    /// The view they follow from.
    revision: Revision,
    by_index: BTreeMap<u32, Taken>,
}

/// A seat of this node and the shard in it.
struct Taken {
    partition: PartitionId,
    epoch: LeaderEpoch,
    inbox: mpsc::Sender<Message>,
    stop: CancellationToken,
}

impl Coordinators {
    /// Starts following the view; shards start as this node owns their partitions.
    #[must_use]
    pub fn start(config: CoordinatorsConfig, deps: CoordinatorsDeps) -> Arc<Self> {
        Self::start_with(config, deps, SnapshotPolicy::default())
    }

    /// As [`Coordinators::start`], with another snapshot policy.
    #[must_use]
    pub fn start_with(config: CoordinatorsConfig, deps: CoordinatorsDeps, snapshots: SnapshotPolicy) -> Arc<Self> {
        let CoordinatorsDeps { broker, view, clock, tasks } = deps;
        let settings = Arc::new(LiveSettings::new(config.settings, config.node, view.clone()));
        let metrics = CoordinatorMetrics::new();
        let shards = ShardConfig { broker, view, clock, settings, snapshots, metrics };
        let this = Arc::new(Self { node: config.node, shards, tasks, seats: RwLock::default() });
        let follower = Arc::clone(&this);
        this.tasks.spawn(TaskKind::Vital, "group coordinators", async move {
            follower.follow().await;
            Ok(())
        });
        this
    }

    async fn follow(&self) {
        let stopping = self.tasks.stopping();
        let mut changes = self.shards.view.changes();
        let mut previous = Arc::clone(&changes.borrow_and_update());
        self.reconcile(&previous);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    stopping.cancelled().await;
                    return;
                },
            }
            let current = Arc::clone(&changes.borrow_and_update());
            self.reconcile(&current);
            self.announce_deleted(&previous, &current).await;
            previous = current;
        }
    }

    /// Takes and leaves seats as the view says. Also called by requests that find the view ahead of the seats.
    fn reconcile(&self, snapshot: &ClusterSnapshot) {
        let mut seats = self.seats.write();
        if snapshot.revision < seats.revision {
            return;
        }
        seats.revision = snapshot.revision;
        let topic = snapshot.topic(CONSUMER_OFFSETS);
        let mut owned = BTreeMap::new();
        for (index, view) in topic.iter().flat_map(|t| t.partitions.iter().enumerate()) {
            let (Some(topic), Some(view), Ok(index)) = (topic, view, u32::try_from(index)) else { continue };
            let partition = PartitionId { topic: topic.record.id, index };
            if snapshot.owner(partition).is_some_and(|node| node.node == self.node) {
                owned.insert(index, (partition, view.record.epoch));
            }
        }
        seats.by_index.retain(|index, taken| {
            let keep = owned.get(index) == Some(&(taken.partition, taken.epoch));
            if !keep {
                tracing::info!(partition = %taken.partition, epoch = %taken.epoch, "group coordinator leaves");
                taken.stop.cancel();
            }
            keep
        });
        let partitions = topic.map_or(0, |t| t.record.partitions);
        for (index, (partition, epoch)) in owned {
            seats.by_index.entry(index).or_insert_with(|| self.take_seat(partition, partitions, epoch));
        }
        self.shards.metrics.shards.set(seats.by_index.len() as f64);
    }

    fn take_seat(&self, partition: PartitionId, partitions: u32, epoch: LeaderEpoch) -> Taken {
        let stopping = self.tasks.stopping();
        let stop = stopping.child_token();
        let (inbox, messages) = mpsc::channel(INBOX);
        let seat = Seat { partition, partitions, epoch, stop: stop.clone(), stopping };
        let config = self.shards.clone();
        self.tasks.spawn(TaskKind::Vital, "group coordinator", async move {
            shard::run(config, seat, messages).await;
            Ok(())
        });
        Taken { partition, epoch, inbox, stop }
    }

    /// Tells every shard which topics are gone between two views.
    async fn announce_deleted(&self, previous: &ClusterSnapshot, current: &ClusterSnapshot) {
        let gone = previous.names.iter().filter(|(id, _)| !current.names.contains_key(id));
        let gone: Arc<[TopicName]> = gone.map(|(_, name)| name.clone()).collect();
        if gone.is_empty() {
            return;
        }
        for inbox in self.inboxes() {
            // A shard that is gone has no offsets to forget; the next owner drops them when it loads.
            drop(inbox.send(Message::TopicsDeleted(Arc::clone(&gone))).await);
        }
    }

    fn inboxes(&self) -> Vec<mpsc::Sender<Message>> {
        self.seats.read().by_index.values().map(|taken| taken.inbox.clone()).collect()
    }

    /// The shard of a group, if this node has it.
    fn shard_of(&self, group: &str) -> Result<mpsc::Sender<Message>, CoordinatorError> {
        let not_ours = || CoordinatorError::NotCoordinator(group.to_owned());
        let snapshot = self.shards.view.snapshot();
        if snapshot.revision > self.seats.read().revision {
            self.reconcile(&snapshot);
        }
        let topic = snapshot.topic(CONSUMER_OFFSETS).ok_or_else(not_ours)?;
        let index = partition_of(group, topic.record.partitions);
        let seats = self.seats.read();
        seats.by_index.get(&index).map(|taken| taken.inbox.clone()).ok_or_else(not_ours)
    }

    fn call_group(&self, group: String, call: CoordinatorCall) -> Answer<Bytes, CoordinatorError> {
        let (shard, request) = match self.shard_of(&group).and_then(|shard| {
            Request::decode(call.api_key, call.api_version, call.body).map(|request| (shard, request))
        }) {
            Ok(found) => found,
            Err(error) => return ready(Err(error)),
        };
        let (reply, answer) = reply();
        let client = Client {
            id: call.client_id.unwrap_or_default(),
            host: call.client_host,
            fresh: Uuid::new_v4().to_string(),
        };
        let responder = Responder::new(reply, call.api_version);
        let refused = |message, error: CoordinatorError| {
            if let Message::Call(call) = message {
                call.responder.refuse(error);
            }
        };
        let message = Message::Call(Box::new(Call { request, responder, client, key: group.clone() }));
        match shard.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(message)) => {
                refused(
                    message,
                    CoordinatorError::Unavailable { reason: "too many requests wait for the group".into() },
                );
            }
            Err(mpsc::error::TrySendError::Closed(message)) => {
                refused(message, CoordinatorError::NotCoordinator(group));
            }
        }
        answer
    }

    /// The groups of all shards. Shards that are loading make the answer an error that clients retry.
    async fn list(inboxes: Vec<mpsc::Sender<Message>>, request: ListGroupsRequest) -> ListGroupsResponse {
        let mut response = ListGroupsResponse::default();
        let ask = |reply| Message::List(request.clone(), reply);
        for answer in ask_all(inboxes, ask).await {
            match answer {
                Some(mut groups) => response.groups.append(&mut groups),
                None => response.error_code = super::error::GroupError::Loading.code(),
            }
        }
        response
    }

    /// How far every group of this node is behind, exact at the time of the call. Shards that are loading, and
    /// partitions that other nodes own, are left out.
    pub async fn lag(&self) -> LagReport {
        let groups: Vec<GroupReport> =
            ask_all(self.inboxes(), Message::Report).await.into_iter().flatten().flatten().collect();
        let status = tokio::time::timeout(PATIENCE, self.shards.broker.partition_status(Vec::new())).await;
        match status {
            Ok(Ok(status)) => lag::measure(&groups, &status),
            Ok(Err(problem)) => {
                tracing::warn!(%problem, "the lag of consumer groups cannot be measured");
                lag::measure(&groups, &[])
            }
            Err(_) => {
                tracing::warn!("the lag of consumer groups was not measured in time");
                lag::measure(&groups, &[])
            }
        }
    }
}

/// Asks every shard at once; none for one that does not answer.
async fn ask_all<T>(
    inboxes: Vec<mpsc::Sender<Message>>,
    ask: impl Fn(oneshot::Sender<T>) -> Message,
) -> Vec<Option<T>> {
    let one = |inbox: mpsc::Sender<Message>| {
        let (reply, answer) = oneshot::channel();
        let message = ask(reply);
        async move {
            let asked = async { if inbox.send(message).await.is_ok() { answer.await.ok() } else { None } };
            tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
        }
    };
    futures::future::join_all(inboxes.into_iter().map(one)).await
}

impl CoordinatorService for Coordinators {
    fn call(&self, call: CoordinatorCall) -> Answer<Bytes, CoordinatorError> {
        match call.key.clone() {
            CoordinatorKey::Group(group) => self.call_group(group, call),
            CoordinatorKey::Transaction(id) => ready(Err(CoordinatorError::NotCoordinator(id))),
            CoordinatorKey::Node => {
                let version = call.api_version;
                match Request::decode(call.api_key, version, call.body) {
                    Ok(Request::List(request)) => {
                        let inboxes = self.inboxes();
                        let (reply, answer) = reply();
                        self.tasks.spawn(TaskKind::Request, "list groups", async move {
                            Responder::new(reply, version).send(&Self::list(inboxes, request).await);
                            Ok(())
                        });
                        answer
                    }
                    Ok(_) => ready(Err(CoordinatorError::Malformed { reason: "only listings are per node".into() })),
                    Err(error) => ready(Err(error)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

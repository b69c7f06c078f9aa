//! The broker: what it serves, how it starts, and how it stops.
//!
//! [`Broker`] is the in-process [`BrokerService`]. It looks partitions up and passes calls on; the rules are in
//! [`crate::partition`], [`crate::topics`] and [`crate::fetch`]. Owns the set of partitions and follows the cluster view.

mod bookies;

use crate::{
    config::{BrokerConfig, BrokerDeps},
    context::{Context, Shares, TopicHandle},
    fetch::{FetchRun, Target},
    metadata_client::MetadataClient,
    metrics::TopicMetrics,
    ownership::{Command, Held, changes},
    partition::Partition,
    registration::{Registered, Registrar, StartError},
    roster::Roster,
    topics::{Topics, effective},
};
use parking_lot::{Mutex, RwLock};
use protocol::{
    cluster::{ClusterSnapshot, ClusterView, Topic},
    id::{LeaderEpoch, Offset},
    model::{NodeRecord, Owner},
    runtime::TaskKind,
    service::{
        Abandoned, Answer,
        broker::{
            AdminError, AlterConfig, Append, AppendError, Appended, BrokerService, ConfigEntry, CreatePartitions,
            CreateTopic, DeleteRecords, DeleteRecordsError, DeleteTopic, DescribeConfig, EpochEnd, EpochEndOffset,
            Fetch, FetchError, Fetched, ListOffset, ListOffsetsError, ListedOffset, NotServed, PartitionStatus,
            TopicCreated,
        },
        ready, reply,
    },
    topic::{PartitionId, TopicId},
};
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long the start waits for the own registration to appear in the view.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// A broker.
pub struct Broker {
    context: Arc<Context>,
    topics: Arc<Topics>,
    view: ClusterView,
    partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    handles: Mutex<HashMap<TopicId, Arc<TopicHandle>>>,
    registered: Arc<watch::Sender<Registered>>,
}

impl Broker {
    /// Registers the node and follows its assignments until the tasks stop.
    ///
    /// # Errors
    /// [`StartError`] says what to do about it.
    pub async fn start(config: BrokerConfig, deps: BrokerDeps) -> Result<Arc<Self>, StartError> {
        crate::metrics::describe();
        let metadata = Arc::new(MetadataClient::new(Arc::clone(&deps.metadata)));
        let snapshot = deps.view.snapshot();
        let settings = effective(&config.settings, &snapshot, config.node);
        let roster = Roster::new(Arc::clone(&deps.bookies), deps.view.clone());
        let shares = Shares {
            cache: config.cache_bytes,
            queue: config.queue_bytes,
            copies: config.copies,
            rack: config.rack.clone(),
        };
        let bookies = (roster, Arc::clone(&deps.clock));
        let context = Context::new(Arc::clone(&metadata), bookies, settings, deps.tasks.clone(), shares);
        let record = NodeRecord {
            node: config.node,
            registration: protocol::id::Registration(0),
            instance: config.instance,
            host: config.host,
            port: config.port,
            internal_address: config.internal_address,
            rack: config.rack,
            started_at: deps.clock.wall(),
        };
        let registrar = Registrar { metadata: Arc::clone(&metadata), record, ttl: config.session_timeout };
        let registered = registrar.register().await?;
        deps.view.wait_for(registered.revision, SHOWN_WITHIN).await;
        let broker = Arc::new(Self {
            context: Arc::new(context),
            topics: Arc::new(Topics {
                node: config.node,
                metadata,
                view: deps.view.clone(),
                fixed: config.settings,
                clock: deps.clock,
            }),
            view: deps.view,
            partitions: RwLock::default(),
            handles: Mutex::default(),
            registered: Arc::new(watch::Sender::new(registered)),
        });
        broker.start_tasks(registrar, config.bookie_grace);
        Ok(broker)
    }

    fn start_tasks(self: &Arc<Self>, registrar: Registrar, grace: Duration) {
        let tasks = &self.context.tasks;
        let (broker, stopping) = (Arc::clone(self), tasks.stopping());
        tasks.spawn(TaskKind::Background, "bookies of heads", async move {
            tokio::select! {
                () = Arc::clone(&broker).watch_bookies(grace) => {}
                () = broker.context.ledgers.idle.run() => {}
                () = stopping.cancelled() => {}
            }
            Ok(())
        });
        let (current, stopping) = (Arc::clone(&self.registered), tasks.stopping());
        tasks.spawn(TaskKind::Background, "broker heartbeats", async move {
            registrar.keep(current, stopping).await;
            Ok(())
        });
        let (broker, stopping) = (Arc::clone(self), tasks.stopping());
        tasks.spawn(TaskKind::Vital, "broker assignments", async move {
            tokio::select! {
                () = broker.follow() => {}
                () = stopping.cancelled() => {}
            }
            Ok(())
        });
        let (broker, stopping) = (Arc::clone(self), tasks.stopping());
        tasks.spawn(TaskKind::Background, "retention", async move {
            tokio::select! {
                () = broker.retain() => {}
                () = stopping.cancelled() => {}
            }
            Ok(())
        });
    }

    /// Opens and closes partitions as the view says.
    async fn follow(self: Arc<Self>) {
        let mut view = self.view.changes();
        let mut registered = self.registered.subscribe();
        let mut before: Option<Arc<ClusterSnapshot>> = None;
        let mut held = Held::new();
        loop {
            let now = view.borrow_and_update().clone();
            if registered.has_changed().unwrap_or(false) {
                before = None;
            }
            let me = registered.borrow_and_update().owner;
            self.follow_settings(before.as_deref(), &now);
            let commands = changes(before.as_deref(), &now, me, &held);
            self.apply(commands, &now, me, &mut held);
            before = Some(now);
            let more = tokio::select! {
                changed = view.changed() => changed.is_ok(),
                changed = registered.changed() => { registered.mark_changed(); changed.is_ok() }
            };
            if !more {
                return;
            }
        }
    }

    fn apply(&self, commands: Vec<Command>, now: &ClusterSnapshot, me: Owner, held: &mut Held) {
        for command in commands {
            match command {
                Command::Open(id, epoch) => {
                    if let Some(topic) = now.topic_by_id(id.topic) {
                        held.insert(id, epoch);
                        self.open(id, epoch, me, topic);
                    }
                }
                Command::Close(id, why) => {
                    held.remove(&id);
                    if let Some(partition) = self.partitions.write().remove(&id) {
                        partition.close(why);
                    }
                }
            }
        }
        self.handles.lock().retain(|id, _| now.names.contains_key(id));
    }

    fn open(&self, id: PartitionId, epoch: LeaderEpoch, me: Owner, topic: &Topic) {
        let handle = self.handle(topic);
        let partition = Partition::new(id, me, epoch, handle, Arc::clone(&self.context));
        self.partitions.write().insert(id, Arc::clone(&partition));
        partition.start_open();
    }

    fn handle(&self, topic: &Topic) -> Arc<TopicHandle> {
        let mut handles = self.handles.lock();
        let make = || {
            let settings = self.context.settings.load().topic_defaults.resolve(&topic.record.config);
            Arc::new(TopicHandle {
                id: topic.record.id,
                name: topic.record.name.clone(),
                replication_factor: topic.record.replication_factor,
                settings: arc_swap::ArcSwap::from_pointee(settings),
                metrics: TopicMetrics::new(topic.record.name.as_str()),
            })
        };
        Arc::clone(handles.entry(topic.record.id).or_insert_with(make))
    }

    /// Brings the settings of open topics up to date.
    fn follow_settings(&self, before: Option<&ClusterSnapshot>, now: &ClusterSnapshot) {
        let node = self.topics.node;
        let same = before.is_some_and(|b| {
            Arc::ptr_eq(&b.config, &now.config) && b.node_config.get(&node) == now.node_config.get(&node)
        });
        if !same {
            self.context.settings.store(Arc::new(effective(&self.topics.fixed, now, node)));
        }
        let settings = self.context.settings.load();
        for handle in self.handles.lock().values() {
            let Some(topic) = now.topic_by_id(handle.id) else { continue };
            let seen = before.and_then(|b| b.topic_by_id(handle.id));
            if !same || seen.is_none_or(|seen| seen.record.config != topic.record.config) {
                handle.settings.store(Arc::new(settings.topic_defaults.resolve(&topic.record.config)));
            }
        }
    }

    /// Applies retention now and then.
    async fn retain(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.context.settings.load().retention_check).await;
            let partitions: Vec<_> = self.partitions.read().values().cloned().collect();
            for partition in partitions {
                partition.apply_retention().await;
            }
        }
    }

    /// Applies retention to every partition at once, without waiting for the next check.
    pub async fn apply_retention(&self) {
        let partitions: Vec<_> = self.partitions.read().values().cloned().collect();
        for partition in partitions {
            partition.apply_retention().await;
        }
    }

    /// Whether the node is registered, every partition that is its own has been opened, and none waits to be assigned.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let me = self.registered.borrow().owner;
        let snapshot = self.view.snapshot();
        let shown = snapshot.nodes.get(&me.node).is_some_and(|n| n.registration == me.registration);
        let partitions = self.partitions.read();
        let own = snapshot.topics.values().flat_map(|topic| {
            let id = topic.record.id;
            topic.partitions.iter().enumerate().filter_map(move |(index, view)| {
                let record = &view.as_ref()?.record;
                // Nobody's, or of an earlier life of this node: the controller is about to give it to somebody.
                let is_due = record.owner.is_none_or(|owner| owner.node == me.node);
                is_due.then_some((PartitionId { topic: id, index: index as u32 }, record.owner, record.epoch))
            })
        });
        let open = |(id, owner, epoch)| {
            owner == Some(me) && partitions.get(&id).is_some_and(|p| p.epoch() >= epoch && p.is_open())
        };
        shown && own.into_iter().all(open)
    }

    /// Stops taking appends, writes what was accepted, ends every head, and gives the registration up. `false` if the
    /// deadline came first: then the next owner recovers what is left.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let partitions: Vec<_> = self.partitions.read().values().cloned().collect();
        let work = async {
            futures::future::join_all(partitions.iter().map(|p| p.drain())).await;
            let session = self.registered.borrow().session;
            if let Err(problem) = self.context.metadata.service().close_session(session).await {
                tracing::warn!(%problem, "the broker's session could not be closed; it will expire");
            }
        };
        let drained = tokio::time::timeout(deadline, work).await.is_ok();
        tracing::info!(partitions = partitions.len(), drained, "broker drained");
        drained
    }

    /// The partition, or why it is not served here.
    fn partition(&self, id: PartitionId) -> Target {
        if let Some(partition) = self.partitions.read().get(&id) {
            return Ok(Arc::clone(partition));
        }
        let snapshot = self.view.snapshot();
        let view = snapshot.partition(id).ok_or(NotServed::NoSuchPartition(id))?;
        let (owner, epoch) = (view.record.owner, view.record.epoch);
        if owner == Some(self.registered.borrow().owner) {
            return Err(NotServed::Opening);
        }
        Err(NotServed::NotOwner { owner: owner.map(|o| o.node), epoch })
    }

    /// Runs a call to its end, whoever still waits for the answer.
    fn run<T, E>(&self, work: impl Future<Output = Result<T, E>> + Send + 'static) -> Answer<T, E>
    where
        T: Send + 'static,
        E: Abandoned + Send + 'static,
    {
        let (answering, answer) = reply();
        self.context.tasks.spawn(TaskKind::Background, "broker call", async move {
            answering.send(work.await);
            Ok(())
        });
        answer
    }
}

impl BrokerService for Broker {
    fn append(&self, append: Append) -> Answer<Appended, AppendError> {
        match self.partition(append.partition) {
            Ok(partition) => partition.append(&append),
            Err(why) => ready(Err(why.into())),
        }
    }

    fn fetch(&self, fetch: Fetch) -> Answer<Fetched, FetchError> {
        let targets = fetch.partitions.iter().map(|p| self.partition(p.partition)).collect();
        FetchRun::new(fetch, targets).start()
    }

    fn list_offset(&self, list: ListOffset) -> Answer<ListedOffset, ListOffsetsError> {
        match self.partition(list.partition) {
            Ok(partition) => Box::pin(async move { partition.list_offset(&list).await }),
            Err(why) => ready(Err(why.into())),
        }
    }

    fn epoch_end(&self, end: EpochEnd) -> Answer<EpochEndOffset, ListOffsetsError> {
        ready(self.partition(end.partition).map_err(Into::into).and_then(|partition| partition.epoch_end(&end)))
    }

    fn delete_records(&self, delete: DeleteRecords) -> Answer<Offset, DeleteRecordsError> {
        match self.partition(delete.partition) {
            Ok(partition) => self.run(async move { partition.delete_records(&delete).await }),
            Err(why) => ready(Err(why.into())),
        }
    }

    fn create_topic(&self, create: CreateTopic) -> Answer<TopicCreated, AdminError> {
        let topics = Arc::clone(&self.topics);
        self.run(async move { topics.create(create).await })
    }

    fn delete_topic(&self, delete: DeleteTopic) -> Answer<(), AdminError> {
        let topics = Arc::clone(&self.topics);
        self.run(async move { topics.delete(&delete).await })
    }

    fn create_partitions(&self, create: CreatePartitions) -> Answer<(), AdminError> {
        let topics = Arc::clone(&self.topics);
        self.run(async move { topics.create_partitions(&create).await })
    }

    fn alter_config(&self, alter: AlterConfig) -> Answer<(), AdminError> {
        let topics = Arc::clone(&self.topics);
        self.run(async move { topics.alter(&alter).await })
    }

    fn describe_config(&self, describe: DescribeConfig) -> Answer<Vec<ConfigEntry>, AdminError> {
        ready(self.topics.describe(&describe))
    }

    fn partition_status(&self, only: Vec<PartitionId>) -> Answer<Vec<PartitionStatus>, AdminError> {
        let partitions = self.partitions.read();
        let status = if only.is_empty() {
            partitions.values().filter_map(|p| p.status()).collect()
        } else {
            only.iter().filter_map(|id| partitions.get(id)?.status()).collect()
        };
        ready(Ok(status))
    }
}

#[cfg(test)]
mod tests;

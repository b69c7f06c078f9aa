//! The test bench: one broker, or several, on fakes, with a hand that plays the controller.

use crate::{Broker, BrokerConfig, BrokerDeps};
use bytes::Bytes;
use protocol::{
    cluster::ClusterView,
    id::{LedgerId, NodeId, Offset},
    model::{ClosedPage, DeadLedger, Owner, PartitionRecord, decode, key, prefix},
    record_batch::{RecordBatch, split},
    runtime::{SystemClock, Tasks},
    service::broker::{
        Append, AppendError, Appended, BrokerService, CreateTopic, Fetch, FetchError, FetchPartition, FetchedPartition,
        Isolation, NotServed, Origin,
    },
    testing::{FakeBookie, FakeDirectory, FakeMetadata, batches},
    topic::PartitionId,
};
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use uuid::Uuid;

/// Waits for a condition; every test ends.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    in_time(what, waiting).await;
}

/// Waits for a future; every test ends.
pub(super) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

pub(super) struct Desk {
    pub(super) metadata: FakeMetadata,
    pub(super) bookies: Arc<FakeDirectory>,
    pub(super) view: ClusterView,
    pub(super) broker: Arc<Broker>,
    pub(super) tasks: Tasks,
}

impl Desk {
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(super) async fn start_with(adjust: impl Fn(&mut BrokerConfig)) -> Self {
        let metadata = FakeMetadata::new();
        let bookies = FakeDirectory::of(1);
        let tasks = Tasks::default();
        let view = ClusterView::start(metadata.service(), &tasks).await.expect("the fake answers");
        let broker = start(&metadata, &bookies, &view, &tasks.child(), config(1, adjust)).await;
        Self { metadata, bookies, view, broker, tasks }
    }

    /// Another broker; node 1 is the same instance again.
    pub(super) async fn another(&self, node: i32) -> Arc<Broker> {
        self.another_with(node, |_| {}).await
    }

    pub(super) async fn another_with(&self, node: i32, adjust: impl Fn(&mut BrokerConfig)) -> Arc<Broker> {
        start(&self.metadata, &self.bookies, &self.view, &self.tasks.child(), config(node, adjust)).await
    }

    pub(super) fn deps(&self) -> BrokerDeps {
        deps(&self.metadata, &self.bookies, &self.view, &self.tasks.child())
    }

    pub(super) fn bookie(&self) -> FakeBookie {
        self.bookies.fake(0)
    }

    /// A topic of one partition with these settings, open.
    pub(super) async fn topic(&self, name: &str, config: &[(&str, &str)]) -> PartitionId {
        let created = self.broker.create_topic(create(name, 1, config)).await.expect("created");
        let id = PartitionId { topic: created.id, index: 0 };
        self.open(&self.broker, id).await;
        id
    }

    pub(super) async fn open(&self, broker: &Arc<Broker>, id: PartitionId) {
        let open = || broker.partition(id).is_ok_and(|p| p.high_watermark_for_tests().is_some());
        eventually("the partition to open", open).await;
    }

    pub(super) fn record(&self, id: PartitionId) -> PartitionRecord {
        let held = self.metadata.peek(&key::partition(id)).expect("the partition exists");
        decode(&held.value).expect("a partition record")
    }

    pub(super) fn head(&self, id: PartitionId) -> LedgerId {
        self.record(id).head.expect("the partition has a head").ledger.id
    }

    pub(super) fn closed(&self, id: PartitionId) -> Vec<protocol::model::ClosedLedger> {
        let pages = self.metadata.peek_all(&prefix::closed_of(id));
        pages.iter().flat_map(|p| decode::<ClosedPage>(&p.value).expect("a page").ledgers).collect()
    }

    pub(super) fn dead(&self) -> Vec<DeadLedger> {
        self.metadata.peek_all(prefix::DEAD).iter().map(|d| decode(&d.value).expect("a dead ledger")).collect()
    }

    /// Gives the partition to a broker, as the controller would.
    pub(super) async fn assign(&self, id: PartitionId, broker: &Arc<Broker>) {
        let owner: Owner = broker.registered.borrow().owner;
        let revision = self.metadata.put(key::partition(id), &self.record(id).assigned(Some(owner)));
        assert!(self.view.wait_for(revision, Duration::from_secs(5)).await, "the view follows");
    }

    pub(super) async fn append(&self, id: PartitionId, batches: Bytes) -> Result<Appended, AppendError> {
        in_time("an append", append_to(&self.broker, id, batches)).await
    }

    /// Appends values in one batch; answers the base offset.
    pub(super) async fn write(&self, id: PartitionId, values: &[&str]) -> i64 {
        self.append(id, batches::plain(values)).await.expect("appended").base_offset.0
    }

    pub(super) async fn fetch(&self, id: PartitionId, offset: i64) -> Result<FetchedPartition, FetchError> {
        fetch_from(&self.broker, id, offset).await
    }

    /// The base offsets of all batches from `offset` on.
    pub(super) async fn bases(&self, id: PartitionId, offset: i64) -> Vec<i64> {
        bases(&self.fetch(id, offset).await.expect("fetched"))
    }
}

pub(super) fn create(name: &str, partitions: i32, config: &[(&str, &str)]) -> CreateTopic {
    CreateTopic {
        name: name.into(),
        partitions: Some(partitions),
        replication_factor: Some(1),
        config: config.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<BTreeMap<_, _>>(),
        validate_only: false,
        internal: false,
    }
}

pub(super) fn config(node: i32, adjust: impl Fn(&mut BrokerConfig)) -> BrokerConfig {
    let instance = Uuid::from_u128(node as u128);
    let mut config = BrokerConfig::standalone(NodeId(node), instance, "localhost".into(), 9092);
    config.cache_bytes = 8 * 1024 * 1024;
    adjust(&mut config);
    config
}

fn deps(metadata: &FakeMetadata, bookies: &Arc<FakeDirectory>, view: &ClusterView, tasks: &Tasks) -> BrokerDeps {
    BrokerDeps {
        metadata: metadata.service(),
        view: view.clone(),
        bookies: bookies.clone(),
        clock: Arc::new(SystemClock::default()),
        tasks: tasks.clone(),
    }
}

async fn start(
    metadata: &FakeMetadata,
    bookies: &Arc<FakeDirectory>,
    view: &ClusterView,
    tasks: &Tasks,
    config: BrokerConfig,
) -> Arc<Broker> {
    Broker::start(config, deps(metadata, bookies, view, tasks)).await.expect("the broker starts")
}

pub(super) fn request(id: PartitionId, batches: Bytes) -> Append {
    Append { partition: id, batches, epoch: None, origin: Origin::Client }
}

/// Appends, again while the partition is being opened.
pub(super) async fn append_to(broker: &Arc<Broker>, id: PartitionId, batches: Bytes) -> Result<Appended, AppendError> {
    loop {
        match broker.append(request(id, batches.clone())).await {
            Err(AppendError::NotServed(NotServed::Opening)) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

pub(super) fn part(id: PartitionId, offset: i64) -> FetchPartition {
    FetchPartition {
        partition: id,
        offset: Offset(offset),
        max_bytes: 16 * 1024 * 1024,
        current_epoch: None,
        last_fetched_epoch: None,
    }
}

pub(super) fn fetch_of(partitions: Vec<FetchPartition>) -> Fetch {
    Fetch {
        partitions,
        max_wait: Duration::ZERO,
        min_bytes: 1,
        max_bytes: 64 * 1024 * 1024,
        isolation: Isolation::ReadUncommitted,
    }
}

pub(super) async fn fetch_from(
    broker: &Arc<Broker>,
    id: PartitionId,
    offset: i64,
) -> Result<FetchedPartition, FetchError> {
    let fetched = in_time("a fetch", broker.fetch(fetch_of(vec![part(id, offset)]))).await?;
    fetched.partitions.into_iter().next().expect("one result per partition")
}

pub(super) fn record_batches(fetched: &FetchedPartition) -> Vec<RecordBatch> {
    let each = fetched.batches.iter().flat_map(|b| split(b.clone()));
    each.map(|b| b.expect("whole batches")).inspect(|b| b.validate().expect("undamaged")).collect()
}

pub(super) fn bases(fetched: &FetchedPartition) -> Vec<i64> {
    record_batches(fetched).iter().map(|b| b.base_offset().0).collect()
}

//! One node's broker in a fake cluster: serves what the cluster says it owns.

use super::{
    admin,
    cluster::{Shared, State},
    log::Rules,
};
use crate::{
    id::{NodeId, Offset, Timestamp},
    service::{
        Answer,
        broker::{
            AdminError, AlterConfig, Append, AppendError, Appended, BrokerService, ConfigEntry, CreatePartitions,
            CreateTopic, DeleteRecords, DeleteRecordsError, DeleteTopic, DescribeConfig, EpochEnd, EpochEndOffset,
            Fetch, FetchError, FetchPartition, Fetched, FetchedPartition, ListOffset, ListOffsetsError, ListedOffset,
            Origin, PartitionStatus, TopicCreated,
        },
    },
    testing::faults::Faults,
    topic::PartitionId,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Kafka's default of `max.message.bytes`.
const MAX_MESSAGE: usize = 1_048_588;
/// The append time of topics that ask for one.
const APPEND_TIME: Timestamp = Timestamp(1_750_000_000_000);

/// An in-memory [`BrokerService`]. Clones share one state.
#[derive(Debug, Clone)]
pub struct FakeBroker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    cluster: Arc<Shared>,
    appended: Mutex<Vec<Append>>,
    append: Faults<AppendError>,
    fetch: Faults<FetchError>,
    list: Faults<ListOffsetsError>,
    delete: Faults<DeleteRecordsError>,
    admin: Faults<AdminError>,
}

impl FakeBroker {
    pub(super) fn new(node: NodeId, cluster: Arc<Shared>) -> Self {
        Self(Arc::new(Inner {
            node,
            cluster,
            appended: Mutex::default(),
            append: Faults::default(),
            fetch: Faults::default(),
            list: Faults::default(),
            delete: Faults::default(),
            admin: Faults::default(),
        }))
    }

    /// Whose broker it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// This broker as its users hold it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn BrokerService> {
        Arc::new(self.clone())
    }

    /// The appends that reached it, in order, refused ones included.
    #[must_use]
    pub fn appends(&self) -> Vec<Append> {
        self.0.appended.lock().clone()
    }

    /// The switches of `append`.
    #[must_use]
    pub fn append_faults(&self) -> &Faults<AppendError> {
        &self.0.append
    }

    /// The switches of `fetch`.
    #[must_use]
    pub fn fetch_faults(&self) -> &Faults<FetchError> {
        &self.0.fetch
    }

    /// The switches of `list_offset` and `epoch_end`.
    #[must_use]
    pub fn list_faults(&self) -> &Faults<ListOffsetsError> {
        &self.0.list
    }

    /// The switches of `delete_records`.
    #[must_use]
    pub fn delete_faults(&self) -> &Faults<DeleteRecordsError> {
        &self.0.delete
    }

    /// The switches of everything administrative.
    #[must_use]
    pub fn admin_faults(&self) -> &Faults<AdminError> {
        &self.0.admin
    }

    fn admin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, AdminError>,
    ) -> Answer<T, AdminError> {
        self.0.admin.run(|| self.0.cluster.change(work))
    }

    fn append_now(&self, append: &Append) -> Result<Appended, AppendError> {
        self.0.appended.lock().push(append.clone());
        let mut state = self.0.cluster.state.lock();
        let topic = state.snapshot.topic_by_id(append.partition.topic);
        let setting = |name: &str| topic.and_then(|t| t.record.config.get(name)).cloned();
        let internal = topic.is_some_and(|t| t.record.name.is_internal());
        let size = setting("max.message.bytes").and_then(|v| v.parse().ok());
        let stamped = setting("message.timestamp.type").as_deref() == Some("LogAppendTime");
        let (log, epoch) = state.served(self.0.node, append.partition, append.epoch)?;
        if append.origin == Origin::Client && internal {
            return Err(AppendError::InternalTopic);
        }
        let rules = Rules {
            epoch,
            max_message_bytes: size.unwrap_or(MAX_MESSAGE),
            control: append.origin == Origin::Coordinator,
            append_time: stamped.then_some(APPEND_TIME),
        };
        let base_offset = log.append(&append.batches, rules)?;
        Ok(Appended { base_offset, log_append_time: rules.append_time, log_start: log.start, epoch })
    }

    fn read(&self, fetch: &Fetch) -> Fetched {
        let mut state = self.0.cluster.state.lock();
        let mut left = fetch.max_bytes as usize;
        let mut nothing_yet = true;
        let partitions = fetch.partitions.iter().map(|wanted| {
            let result = read_one(&mut state, self.0.node, wanted, left, nothing_yet);
            if let Ok(found) = &result {
                left = left.saturating_sub(found.size());
                nothing_yet &= found.batches.is_empty();
            }
            result
        });
        Fetched { partitions: partitions.collect() }
    }
}

fn read_one(
    state: &mut State,
    node: NodeId,
    wanted: &FetchPartition,
    left: usize,
    at_least_one: bool,
) -> Result<FetchedPartition, FetchError> {
    let (log, epoch) = state.served(node, wanted.partition, wanted.current_epoch)?;
    let mut found = FetchedPartition {
        high_watermark: log.end(),
        last_stable: log.end(),
        log_start: log.start,
        epoch,
        ..FetchedPartition::default()
    };
    if let Some(last) = wanted.last_fetched_epoch {
        let end = log.epoch_end(last, epoch);
        if let Some((known, end)) = end.filter(|(known, end)| *known < last || *end < wanted.offset) {
            found.diverging = Some((known, end));
            return Ok(found);
        }
    }
    found.batches = log.read(wanted.offset, left.min(wanted.max_bytes as usize), at_least_one)?;
    Ok(found)
}

fn is_enough(fetched: &Fetched, min_bytes: u32) -> bool {
    let mut bytes = 0;
    for partition in &fetched.partitions {
        match partition {
            Ok(found) if found.diverging.is_none() => bytes += found.batches.iter().map(Bytes::len).sum::<usize>(),
            Ok(_) | Err(_) => return true,
        }
    }
    bytes >= min_bytes as usize
}

impl BrokerService for FakeBroker {
    fn append(&self, append: Append) -> Answer<Appended, AppendError> {
        let answer = self.0.append.run(|| self.append_now(&append));
        self.0.cluster.wake();
        answer
    }

    fn fetch(&self, fetch: Fetch) -> Answer<Fetched, FetchError> {
        let this = self.clone();
        self.0.fetch.run_async(|| async move {
            let until = Instant::now() + fetch.max_wait;
            let mut changes = this.0.cluster.changes.subscribe();
            loop {
                let fetched = this.read(&fetch);
                if is_enough(&fetched, fetch.min_bytes) || timeout_at(until, changes.changed()).await.is_err() {
                    return Ok(fetched);
                }
            }
        })
    }

    fn list_offset(&self, list: ListOffset) -> Answer<ListedOffset, ListOffsetsError> {
        self.0.list.run(|| {
            let mut state = self.0.cluster.state.lock();
            let (log, epoch) = state.served(self.0.node, list.partition, list.current_epoch)?;
            log.look_up(list.spec, epoch)
        })
    }

    fn epoch_end(&self, end: EpochEnd) -> Answer<EpochEndOffset, ListOffsetsError> {
        self.0.list.run(|| {
            let mut state = self.0.cluster.state.lock();
            let (log, epoch) = state.served(self.0.node, end.partition, end.current_epoch)?;
            Ok(EpochEndOffset { end: log.epoch_end(end.epoch, epoch) })
        })
    }

    fn delete_records(&self, delete: DeleteRecords) -> Answer<Offset, DeleteRecordsError> {
        let answer = self.0.delete.run(|| {
            let mut state = self.0.cluster.state.lock();
            let topic = state.snapshot.topic_by_id(delete.partition.topic);
            let policy = topic.and_then(|t| t.record.config.get("cleanup.policy")).cloned();
            let (log, _) = state.served(self.0.node, delete.partition, None)?;
            if policy.as_deref() == Some("compact") && delete.origin == Origin::Client {
                return Err(DeleteRecordsError::Policy);
            }
            let high_watermark = log.end();
            let asked = delete.before.unwrap_or(high_watermark);
            if asked > high_watermark {
                return Err(DeleteRecordsError::OutOfRange { asked, high_watermark });
            }
            log.trim(asked);
            Ok(log.start)
        });
        self.0.cluster.wake();
        answer
    }

    fn create_topic(&self, create: CreateTopic) -> Answer<TopicCreated, AdminError> {
        self.admin(|state| admin::create_topic(state, create))
    }

    fn delete_topic(&self, delete: DeleteTopic) -> Answer<(), AdminError> {
        self.admin(|state| admin::delete_topic(state, delete))
    }

    fn create_partitions(&self, create: CreatePartitions) -> Answer<(), AdminError> {
        self.admin(|state| admin::create_partitions(state, &create))
    }

    fn alter_config(&self, alter: AlterConfig) -> Answer<(), AdminError> {
        self.admin(|state| admin::alter_config(state, alter))
    }

    fn describe_config(&self, describe: DescribeConfig) -> Answer<Vec<ConfigEntry>, AdminError> {
        self.admin(|state| admin::describe_config(state, &describe))
    }

    fn partition_status(&self, only: Vec<PartitionId>) -> Answer<Vec<PartitionStatus>, AdminError> {
        self.admin(|state| Ok(admin::partition_status(state, self.0.node, &only)))
    }
}

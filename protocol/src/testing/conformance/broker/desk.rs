//! Short forms of the calls that the suite makes.

use crate::{
    id::{LeaderEpoch, Offset, Timestamp},
    service::{
        Answer,
        broker::{
            Append, AppendError, Appended, BrokerService, CreateTopic, DeleteRecords, DeleteRecordsError, Fetch,
            FetchError, FetchPartition, Fetched, FetchedPartition, Isolation, ListOffset, ListOffsetsError,
            ListedOffset, OffsetSpec, Origin, TopicCreated,
        },
    },
    testing::conformance::{until, within},
    topic::PartitionId,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A broker and how to talk to it.
pub(super) struct Desk(pub(super) Arc<dyn BrokerService>);

impl Desk {
    pub(super) fn creating(name: &str, config: &[(&str, &str)]) -> CreateTopic {
        let config: BTreeMap<_, _> = config.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        let (partitions, replication_factor) = (Some(2), Some(1));
        let name = name.to_string();
        CreateTopic { name, partitions, replication_factor, config, validate_only: false, internal: false }
    }

    /// Creates a topic and waits until its first partition is served.
    pub(super) async fn topic(&self, name: &str, config: &[(&str, &str)]) -> PartitionId {
        self.served(Self::creating(name, config)).await
    }

    pub(super) async fn served(&self, create: CreateTopic) -> PartitionId {
        let created: TopicCreated = within("create", self.0.create_topic(create)).await.expect("creates");
        let partition = PartitionId { topic: created.id, index: 0 };
        self.wait_served(partition).await;
        partition
    }

    pub(super) async fn wait_served(&self, partition: PartitionId) {
        let served = async || self.look_up(partition, OffsetSpec::Latest).await.ok().map(drop);
        until("a new partition is served", served).await;
    }

    pub(super) fn appending(partition: PartitionId, batches: Bytes) -> Append {
        Append { partition, batches, epoch: None, origin: Origin::Client }
    }

    pub(super) fn append_now(&self, partition: PartitionId, batches: Bytes) -> Answer<Appended, AppendError> {
        self.0.append(Self::appending(partition, batches))
    }

    pub(super) async fn send(&self, append: Append) -> Result<Appended, AppendError> {
        within("append", self.0.append(append)).await
    }

    pub(super) async fn append(&self, partition: PartitionId, batches: Bytes) -> Result<Offset, AppendError> {
        within("append", self.append_now(partition, batches)).await.map(|appended| appended.base_offset)
    }

    pub(super) const fn from(partition: PartitionId, offset: i64) -> FetchPartition {
        let (current_epoch, last_fetched_epoch) = (None, None);
        let offset = Offset(offset);
        FetchPartition { partition, offset, max_bytes: 1 << 20, current_epoch, last_fetched_epoch }
    }

    pub(super) const fn fetching(partitions: Vec<FetchPartition>) -> Fetch {
        let isolation = Isolation::ReadUncommitted;
        Fetch { partitions, max_wait: Duration::ZERO, min_bytes: 1, max_bytes: 1 << 20, isolation }
    }

    pub(super) async fn fetch(&self, fetch: Fetch) -> Fetched {
        within("fetch", self.0.fetch(fetch)).await.expect("a broker that is there answers")
    }

    pub(super) async fn read(&self, partition: PartitionId, offset: i64) -> Result<FetchedPartition, FetchError> {
        self.fetch(Self::fetching(vec![Self::from(partition, offset)])).await.partitions.remove(0)
    }

    pub(super) async fn list(&self, list: ListOffset) -> Result<ListedOffset, ListOffsetsError> {
        within("list offset", self.0.list_offset(list)).await
    }

    pub(super) async fn look_up(
        &self,
        partition: PartitionId,
        spec: OffsetSpec,
    ) -> Result<ListedOffset, ListOffsetsError> {
        let isolation = Isolation::ReadUncommitted;
        self.list(ListOffset { partition, spec, isolation, current_epoch: None }).await
    }

    /// The offset and timestamp a look-up finds.
    pub(super) async fn found(&self, partition: PartitionId, spec: OffsetSpec) -> (Option<i64>, Timestamp) {
        let listed = self.look_up(partition, spec).await.expect("served");
        (listed.offset.map(|o| o.0), listed.timestamp)
    }

    pub(super) async fn delete_to(
        &self,
        partition: PartitionId,
        before: Option<i64>,
    ) -> Result<Offset, DeleteRecordsError> {
        let delete = DeleteRecords { partition, before: before.map(Offset), origin: Origin::Client };
        within("delete records", self.0.delete_records(delete)).await
    }

    /// The epoch a partition is served at; `offset` is any offset of its log.
    pub(super) async fn epoch_at(&self, partition: PartitionId, offset: i64) -> LeaderEpoch {
        self.read(partition, offset).await.expect("served").epoch
    }
}

//! Reading a partition of `__consumer_offsets` from its start to its high watermark. Stops at anything it does not
//! understand, except for kinds of records that a newer coordinator may have written: those are kept by never trimming
//! the log below them.

use super::super::{
    offsets::GroupOffsets,
    records::{GroupMetadata, Key, OffsetValue, RecordError},
};
use bytes::Bytes;
use protocol::{
    id::{LeaderEpoch, Offset},
    record_batch::{self, RecordBatch, RecordView, RecordsError},
    service::broker::{
        BrokerService, Fetch, FetchError, FetchPartition, FetchedPartition, Isolation, ListOffset, ListOffsetsError,
        NotServed, OffsetSpec,
    },
    topic::PartitionId,
};
use std::{collections::BTreeMap, time::Duration};

/// Bytes per read.
const READ_BYTES: u32 = 1024 * 1024;
/// How long a read may wait for records that must be there.
const READ_WAIT: Duration = Duration::from_millis(500);
/// After this long a read is given up.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Why a log could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The broker does not serve the partition at this epoch.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// The broker could not read.
    #[error("{0}")]
    Unreadable(String),
    /// A batch is damaged.
    #[error(transparent)]
    Batch(#[from] RecordsError),
    /// A record is damaged.
    #[error("record at offset {offset}: {problem}")]
    Record {
        /// Where.
        offset: Offset,
        /// What is wrong.
        problem: RecordError,
    },
}

impl From<ListOffsetsError> for LoadError {
    fn from(error: ListOffsetsError) -> Self {
        match error {
            ListOffsetsError::NotServed(not) => Self::NotServed(not),
            other @ (ListOffsetsError::Storage { .. } | ListOffsetsError::Unavailable { .. }) => {
                Self::Unreadable(other.to_string())
            }
        }
    }
}

impl From<FetchError> for LoadError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::NotServed(not) => Self::NotServed(not),
            other @ (FetchError::OutOfRange { .. } | FetchError::Storage { .. } | FetchError::Unavailable { .. }) => {
                Self::Unreadable(other.to_string())
            }
        }
    }
}

/// What a log says about one group.
#[derive(Debug, Default)]
pub(super) struct PastGroup {
    /// Its metadata, decoded and as stored.
    pub(super) metadata: Option<(GroupMetadata, Bytes)>,
    /// Its offsets.
    pub(super) offsets: GroupOffsets,
}

/// What a log says.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The groups that have metadata or offsets.
    pub(super) groups: BTreeMap<String, PastGroup>,
    /// Records read.
    pub(super) records: u64,
    /// Bytes of record batches read.
    pub(super) bytes: u64,
    /// The offset after the last record.
    pub(super) end: Offset,
    /// There were records of an unknown kind, which a rewrite would lose.
    pub(super) has_unknown: bool,
}

impl Replayed {
    fn apply(&mut self, record: RecordView) -> Result<(), RecordError> {
        self.records += 1;
        let key = match record.key.map(Key::decode) {
            Some(Ok(key)) => key,
            Some(Err(RecordError::Version { what, version })) => {
                tracing::warn!(what, version, "a record of an unknown kind is passed over");
                self.has_unknown = true;
                return Ok(());
            }
            Some(Err(problem)) => return Err(problem),
            None => return Err(RecordError::Malformed("the key is null")),
        };
        match key {
            Key::Offset { group, topic, partition } => {
                let past = self.groups.entry(group).or_default();
                match record.value {
                    Some(value) => past.offsets.put((topic, partition), OffsetValue::decode(value)?),
                    None => drop(past.offsets.remove(&(topic, partition))),
                }
            }
            Key::Group(group) => {
                let decode = |value: Bytes| {
                    let own = Bytes::copy_from_slice(&value);
                    GroupMetadata::decode(value).map(|metadata| (metadata, own))
                };
                self.groups.entry(group).or_default().metadata = record.value.map(decode).transpose()?;
            }
        }
        Ok(())
    }

    fn apply_batch(&mut self, batch: &RecordBatch, from: Offset) -> Result<(), LoadError> {
        batch.validate().map_err(RecordsError::from)?;
        self.bytes += batch.bytes().len() as u64;
        if batch.is_control() {
            return Ok(());
        }
        let mut failed = None;
        record_batch::for_each_record(batch, &mut |record| {
            let offset = record.offset;
            if offset < from {
                return true;
            }
            let applied = self.apply(record);
            failed = applied.err().map(|problem| LoadError::Record { offset, problem });
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// Reads a partition's log as the owner of `epoch` sees it.
pub(super) async fn load(
    broker: &dyn BrokerService,
    partition: PartitionId,
    epoch: LeaderEpoch,
) -> Result<Replayed, LoadError> {
    let list = ListOffset {
        partition,
        spec: OffsetSpec::Earliest,
        isolation: Isolation::ReadUncommitted,
        current_epoch: Some(epoch),
    };
    let listed = timely(broker.list_offset(list)).await??;
    let mut next = listed.offset.unwrap_or_default();
    let mut replayed = Replayed::default();
    loop {
        let fetched = read(broker, partition, epoch, next).await?;
        let from = next;
        for piece in &fetched.batches {
            for batch in record_batch::split(piece.clone()) {
                let batch = batch.map_err(RecordsError::from)?;
                replayed.apply_batch(&batch, from)?;
                next = next.max(Offset(batch.last_offset().0 + 1));
            }
        }
        if next >= fetched.high_watermark {
            replayed.end = next;
            replayed.groups.retain(|_, past| past.metadata.is_some() || !past.offsets.is_empty());
            return Ok(replayed);
        }
        if next == from {
            return Err(LoadError::Unreadable(format!("the log has no record at {next}, below its high watermark")));
        }
    }
}

async fn read(
    broker: &dyn BrokerService,
    partition: PartitionId,
    epoch: LeaderEpoch,
    offset: Offset,
) -> Result<FetchedPartition, LoadError> {
    let wanted = FetchPartition {
        partition,
        offset,
        max_bytes: READ_BYTES,
        current_epoch: Some(epoch),
        last_fetched_epoch: None,
    };
    let fetch = |max_wait| Fetch {
        partitions: vec![wanted.clone()],
        max_wait,
        min_bytes: 1,
        max_bytes: READ_BYTES,
        isolation: Isolation::ReadUncommitted,
    };
    // An empty log answers at once; only a log that owes us records is waited for.
    let mut fetched = one(timely(broker.fetch(fetch(Duration::ZERO))).await??.partitions)?;
    if fetched.batches.is_empty() && offset < fetched.high_watermark {
        fetched = one(timely(broker.fetch(fetch(READ_WAIT))).await??.partitions)?;
    }
    Ok(fetched)
}

fn one(mut partitions: Vec<Result<FetchedPartition, FetchError>>) -> Result<FetchedPartition, LoadError> {
    match partitions.pop() {
        Some(result) => Ok(result?),
        None => Err(LoadError::Unreadable("the broker answered for no partition".into())),
    }
}

async fn timely<T>(answer: impl Future<Output = T>) -> Result<T, LoadError> {
    let late = |_| LoadError::Unreadable(format!("no answer within {} s", READ_DEADLINE.as_secs()));
    tokio::time::timeout(READ_DEADLINE, answer).await.map_err(late)
}

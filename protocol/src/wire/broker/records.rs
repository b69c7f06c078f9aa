//! Messages about records and offsets. A field's number is never used for anything else.

use super::{
    Append, Appended, Bytes, DeleteRecords, EpochEnd, EpochEndOffset, Failure, Fetch, FetchError, Fetched, ListOffset,
    ListedOffset, MAX_BODY, Offset, PartitionId, Problem, WireError, pack,
};
use crate::{
    id::{LeaderEpoch, Timestamp},
    service::broker::{FetchPartition, FetchedPartition, Isolation, OffsetSpec, Origin},
    topic::TopicId,
    wire::{
        envelope::{divide, lengths, wait_ms, wait_of},
        server::Reply,
    },
};
use prost::Message;
use uuid::Uuid;

pub(super) fn malformed(what: &str, found: impl std::fmt::Display) -> WireError {
    WireError::Malformed(format!("{what} {found}"))
}

/// A partition; the topic's identity as two halves.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PartitionMessage {
    #[prost(fixed64, tag = "1")]
    pub(super) high: u64,
    #[prost(fixed64, tag = "2")]
    pub(super) low: u64,
    #[prost(uint32, tag = "3")]
    pub(super) index: u32,
}

impl From<PartitionId> for PartitionMessage {
    fn from(id: PartitionId) -> Self {
        let (high, low) = id.topic.0.as_u64_pair();
        Self { high, low, index: id.index }
    }
}

impl From<PartitionMessage> for PartitionId {
    fn from(id: PartitionMessage) -> Self {
        Self { topic: TopicId(Uuid::from_u64_pair(id.high, id.low)), index: id.index }
    }
}

/// A partition that was left out is partition 0 of the nil topic, which does not exist.
fn partition(message: Option<PartitionMessage>) -> PartitionId {
    message.unwrap_or_default().into()
}

fn origin(number: u32) -> Result<Origin, WireError> {
    match number {
        1 => Ok(Origin::Client),
        2 => Ok(Origin::Coordinator),
        other => Err(malformed("origin", other)),
    }
}

const fn of_origin(origin: Origin) -> u32 {
    match origin {
        Origin::Client => 1,
        Origin::Coordinator => 2,
    }
}

fn isolation(number: u32) -> Result<Isolation, WireError> {
    match number {
        1 => Ok(Isolation::ReadUncommitted),
        2 => Ok(Isolation::ReadCommitted),
        other => Err(malformed("isolation", other)),
    }
}

const fn of_isolation(isolation: Isolation) -> u32 {
    match isolation {
        Isolation::ReadUncommitted => 1,
        Isolation::ReadCommitted => 2,
    }
}

/// Append; the body is the batches.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct AppendMessage {
    #[prost(message, optional, tag = "1")]
    partition: Option<PartitionMessage>,
    #[prost(int32, optional, tag = "2")]
    epoch: Option<i32>,
    #[prost(uint32, tag = "3")]
    origin: u32,
}

impl From<&Append> for AppendMessage {
    fn from(append: &Append) -> Self {
        let origin = of_origin(append.origin);
        Self { partition: Some(append.partition.into()), epoch: append.epoch.map(|e| e.0), origin }
    }
}

impl AppendMessage {
    pub(super) fn with(self, batches: Bytes) -> Result<Append, WireError> {
        let (epoch, origin) = (self.epoch.map(LeaderEpoch), origin(self.origin)?);
        Ok(Append { partition: partition(self.partition), batches, epoch, origin })
    }
}

/// The answer of an append.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct AppendedMessage {
    #[prost(int64, tag = "1")]
    base_offset: i64,
    #[prost(int64, optional, tag = "2")]
    log_append_time: Option<i64>,
    #[prost(int64, tag = "3")]
    log_start: i64,
    #[prost(int32, tag = "4")]
    epoch: i32,
}

impl From<Appended> for AppendedMessage {
    fn from(appended: Appended) -> Self {
        Self {
            base_offset: appended.base_offset.0,
            log_append_time: appended.log_append_time.map(|t| t.0),
            log_start: appended.log_start.0,
            epoch: appended.epoch.0,
        }
    }
}

impl From<AppendedMessage> for Appended {
    fn from(appended: AppendedMessage) -> Self {
        Self {
            base_offset: Offset(appended.base_offset),
            log_append_time: appended.log_append_time.map(Timestamp),
            log_start: Offset(appended.log_start),
            epoch: LeaderEpoch(appended.epoch),
        }
    }
}

/// Fetch.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FetchMessage {
    #[prost(message, repeated, tag = "1")]
    partitions: Vec<FetchPartitionMessage>,
    #[prost(uint32, tag = "2")]
    max_wait_ms: u32,
    #[prost(uint32, tag = "3")]
    min_bytes: u32,
    #[prost(uint32, tag = "4")]
    max_bytes: u32,
    #[prost(uint32, tag = "5")]
    isolation: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FetchPartitionMessage {
    #[prost(message, optional, tag = "1")]
    partition: Option<PartitionMessage>,
    #[prost(int64, tag = "2")]
    offset: i64,
    #[prost(uint32, tag = "3")]
    max_bytes: u32,
    #[prost(int32, optional, tag = "4")]
    current_epoch: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    last_fetched_epoch: Option<i32>,
}

impl From<&Fetch> for FetchMessage {
    fn from(fetch: &Fetch) -> Self {
        let of = |wanted: &FetchPartition| FetchPartitionMessage {
            partition: Some(wanted.partition.into()),
            offset: wanted.offset.0,
            max_bytes: wanted.max_bytes,
            current_epoch: wanted.current_epoch.map(|e| e.0),
            last_fetched_epoch: wanted.last_fetched_epoch.map(|e| e.0),
        };
        Self {
            partitions: fetch.partitions.iter().map(of).collect(),
            max_wait_ms: wait_ms(fetch.max_wait),
            min_bytes: fetch.min_bytes,
            max_bytes: fetch.max_bytes,
            isolation: of_isolation(fetch.isolation),
        }
    }
}

impl FetchMessage {
    pub(super) fn decode_all(self) -> Result<Fetch, WireError> {
        let of = |wanted: FetchPartitionMessage| FetchPartition {
            partition: partition(wanted.partition),
            offset: Offset(wanted.offset),
            max_bytes: wanted.max_bytes,
            current_epoch: wanted.current_epoch.map(LeaderEpoch),
            last_fetched_epoch: wanted.last_fetched_epoch.map(LeaderEpoch),
        };
        // No frame carries more; fewer bytes are always a legal answer.
        let limit = MAX_BODY as u32;
        Ok(Fetch {
            partitions: self.partitions.into_iter().map(of).collect(),
            max_wait: wait_of(self.max_wait_ms),
            min_bytes: self.min_bytes.min(limit),
            max_bytes: self.max_bytes.min(limit),
            isolation: isolation(self.isolation)?,
        })
    }
}

/// The answer of a fetch; the body is all batches of all partitions in order.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FetchedMessage {
    #[prost(message, repeated, tag = "1")]
    partitions: Vec<FetchedPartitionMessage>,
    /// Of the parts of the body.
    #[prost(uint32, repeated, tag = "2")]
    lengths: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct FetchedPartitionMessage {
    #[prost(message, optional, tag = "1")]
    problem: Option<Problem>,
    #[prost(int64, tag = "2")]
    high_watermark: i64,
    #[prost(int64, tag = "3")]
    last_stable: i64,
    #[prost(int64, tag = "4")]
    log_start: i64,
    #[prost(int32, tag = "5")]
    epoch: i32,
    #[prost(message, optional, tag = "6")]
    diverging: Option<EndMessage>,
    /// How many parts of the body are this partition's.
    #[prost(uint32, tag = "7")]
    parts: u32,
}

impl FetchedMessage {
    pub(super) fn reply(fetched: Fetched) -> Reply {
        let mut body = Vec::new();
        let mut of = |found: Result<FetchedPartition, FetchError>| match found {
            Err(problem) => {
                FetchedPartitionMessage { problem: Some(problem.to_problem()), ..FetchedPartitionMessage::default() }
            }
            Ok(found) => {
                let message = FetchedPartitionMessage {
                    problem: None,
                    high_watermark: found.high_watermark.0,
                    last_stable: found.last_stable.0,
                    log_start: found.log_start.0,
                    epoch: found.epoch.0,
                    diverging: found.diverging.map(|end| EpochEndOffset { end: Some(end) }.into()),
                    parts: found.batches.len() as u32,
                };
                body.extend(found.batches);
                message
            }
        };
        let partitions = fetched.partitions.into_iter().map(&mut of).collect();
        let message = Self { partitions, lengths: lengths(&body) };
        (pack(&message), body)
    }

    pub(super) fn with(self, body: Bytes, asked: usize) -> Result<Fetched, WireError> {
        if self.partitions.len() != asked {
            return Err(malformed("partitions fetched:", self.partitions.len()));
        }
        let mut parts = divide(body, &self.lengths)?.into_iter();
        let mut of = |found: FetchedPartitionMessage| {
            if let Some(problem) = found.problem {
                return Err(FetchError::of(&problem));
            }
            Ok(FetchedPartition {
                high_watermark: Offset(found.high_watermark),
                last_stable: Offset(found.last_stable),
                log_start: Offset(found.log_start),
                epoch: LeaderEpoch(found.epoch),
                diverging: found.diverging.and_then(|end| EpochEndOffset::from(end).end),
                batches: parts.by_ref().take(found.parts as usize).collect(),
            })
        };
        let partitions = self.partitions.into_iter().map(&mut of).collect();
        match parts.next() {
            None => Ok(Fetched { partitions }),
            Some(rest) => Err(malformed("unclaimed bytes:", rest.len())),
        }
    }
}

/// Look up an offset.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ListMessage {
    #[prost(message, optional, tag = "1")]
    partition: Option<PartitionMessage>,
    /// 1 earliest, 2 latest, 3 largest timestamp, 4 by time.
    #[prost(uint32, tag = "2")]
    spec: u32,
    #[prost(int64, tag = "3")]
    time: i64,
    #[prost(uint32, tag = "4")]
    isolation: u32,
    #[prost(int32, optional, tag = "5")]
    current_epoch: Option<i32>,
}

impl From<&ListOffset> for ListMessage {
    fn from(list: &ListOffset) -> Self {
        let (spec, time) = match list.spec {
            OffsetSpec::Earliest => (1, 0),
            OffsetSpec::Latest => (2, 0),
            OffsetSpec::MaxTimestamp => (3, 0),
            OffsetSpec::At(time) => (4, time.0),
        };
        let (isolation, current_epoch) = (of_isolation(list.isolation), list.current_epoch.map(|e| e.0));
        Self { partition: Some(list.partition.into()), spec, time, isolation, current_epoch }
    }
}

impl ListMessage {
    pub(super) fn decode_all(self) -> Result<ListOffset, WireError> {
        let spec = match self.spec {
            1 => OffsetSpec::Earliest,
            2 => OffsetSpec::Latest,
            3 => OffsetSpec::MaxTimestamp,
            4 => OffsetSpec::At(Timestamp(self.time)),
            other => return Err(malformed("offset look-up", other)),
        };
        let (isolation, current_epoch) = (isolation(self.isolation)?, self.current_epoch.map(LeaderEpoch));
        Ok(ListOffset { partition: partition(self.partition), spec, isolation, current_epoch })
    }
}

/// The answer of a look-up.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ListedMessage {
    #[prost(int64, optional, tag = "1")]
    offset: Option<i64>,
    #[prost(int64, tag = "2")]
    timestamp: i64,
    #[prost(int32, optional, tag = "3")]
    epoch: Option<i32>,
}

impl From<ListedOffset> for ListedMessage {
    fn from(listed: ListedOffset) -> Self {
        let (offset, epoch) = (listed.offset.map(|o| o.0), listed.epoch.map(|e| e.0));
        Self { offset, timestamp: listed.timestamp.0, epoch }
    }
}

impl From<ListedMessage> for ListedOffset {
    fn from(listed: ListedMessage) -> Self {
        let (offset, epoch) = (listed.offset.map(Offset), listed.epoch.map(LeaderEpoch));
        Self { offset, timestamp: Timestamp(listed.timestamp), epoch }
    }
}

/// Where does an epoch end?
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct EpochEndMessage {
    #[prost(message, optional, tag = "1")]
    partition: Option<PartitionMessage>,
    #[prost(int32, tag = "2")]
    epoch: i32,
    #[prost(int32, optional, tag = "3")]
    current_epoch: Option<i32>,
}

impl From<&EpochEnd> for EpochEndMessage {
    fn from(end: &EpochEnd) -> Self {
        let current_epoch = end.current_epoch.map(|e| e.0);
        Self { partition: Some(end.partition.into()), epoch: end.epoch.0, current_epoch }
    }
}

impl From<EpochEndMessage> for EpochEnd {
    fn from(end: EpochEndMessage) -> Self {
        let current_epoch = end.current_epoch.map(LeaderEpoch);
        Self { partition: partition(end.partition), epoch: LeaderEpoch(end.epoch), current_epoch }
    }
}

/// An epoch and its end; both or none.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct EndMessage {
    #[prost(int32, optional, tag = "1")]
    epoch: Option<i32>,
    #[prost(int64, optional, tag = "2")]
    offset: Option<i64>,
}

impl From<EpochEndOffset> for EndMessage {
    fn from(end: EpochEndOffset) -> Self {
        Self { epoch: end.end.map(|(epoch, _)| epoch.0), offset: end.end.map(|(_, offset)| offset.0) }
    }
}

impl From<EndMessage> for EpochEndOffset {
    fn from(end: EndMessage) -> Self {
        Self { end: end.epoch.map(LeaderEpoch).zip(end.offset.map(Offset)) }
    }
}

/// Delete records.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DeleteRecordsMessage {
    #[prost(message, optional, tag = "1")]
    partition: Option<PartitionMessage>,
    #[prost(int64, optional, tag = "2")]
    before: Option<i64>,
    #[prost(uint32, tag = "3")]
    origin: u32,
}

impl From<&DeleteRecords> for DeleteRecordsMessage {
    fn from(delete: &DeleteRecords) -> Self {
        let (before, origin) = (delete.before.map(|o| o.0), of_origin(delete.origin));
        Self { partition: Some(delete.partition.into()), before, origin }
    }
}

impl DeleteRecordsMessage {
    pub(super) fn decode_all(self) -> Result<DeleteRecords, WireError> {
        let (before, origin) = (self.before.map(Offset), origin(self.origin)?);
        Ok(DeleteRecords { partition: partition(self.partition), before, origin })
    }
}

/// An offset.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct OffsetMessage {
    #[prost(int64, tag = "1")]
    pub(super) offset: i64,
}

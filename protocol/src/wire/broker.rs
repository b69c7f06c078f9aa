//! The broker over a stream. Record batches travel as bodies, byte for byte.
//!
//! Owns the numbers of methods, the client and the dispatch; `records` and `topics` own the messages, `problems` the
//! errors.

use super::{
    connection::{Link, RemoteSettings, Request},
    envelope::{Method, pack, unpack},
    frame::{MAX_BODY, WireError},
    problem::{Failure, Problem},
    server::{Incoming, Outgoing, done, message, unknown_method},
};
use crate::{
    id::Offset,
    runtime::Tasks,
    service::{
        Answer,
        broker::{
            AdminError, AlterConfig, Append, AppendError, Appended, BrokerService, ConfigEntry, CreatePartitions,
            CreateTopic, DeleteRecords, DeleteRecordsError, DeleteTopic, DescribeConfig, EpochEnd, EpochEndOffset,
            Fetch, FetchError, Fetched, ListOffset, ListOffsetsError, ListedOffset, PartitionStatus, TopicCreated,
        },
        ready,
    },
    topic::PartitionId,
    transport::Connect,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use std::{sync::Arc, time::Duration};

mod problems;
mod records;
mod topics;

use records::{
    AppendMessage, AppendedMessage, DeleteRecordsMessage, EndMessage, EpochEndMessage, FetchMessage, FetchedMessage,
    ListMessage, ListedMessage, OffsetMessage, PartitionMessage,
};
use topics::{
    AlterMessage, CreateMessage, CreatedMessage, DeleteMessage, EntriesMessage, PartitionsMessage, ResourceMessage,
    StatusMessage, StatusesMessage,
};

/// The high byte of this service's methods.
pub(super) const SERVICE: u32 = 2;

const APPEND: Method = Method(0x201);
const FETCH: Method = Method(0x202);
const LIST_OFFSET: Method = Method(0x203);
const EPOCH_END: Method = Method(0x204);
const DELETE_RECORDS: Method = Method(0x205);
const CREATE_TOPIC: Method = Method(0x206);
const DELETE_TOPIC: Method = Method(0x207);
const CREATE_PARTITIONS: Method = Method(0x208);
const ALTER_CONFIG: Method = Method(0x209);
const DESCRIBE_CONFIG: Method = Method(0x20a);
const STATUS: Method = Method(0x20b);

/// A broker on the other side of a stream. Clones share one connection.
#[derive(Debug, Clone)]
pub struct RemoteBroker(Link);

impl RemoteBroker {
    /// A broker behind `connector`, connected when it is first called.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, settings: RemoteSettings, tasks: &Tasks) -> Self {
        Self(Link::new(connector, settings, tasks))
    }

    /// A call without a body in either direction.
    fn call<R, T, E>(
        &self,
        method: Method,
        message: &impl Message,
        finish: impl FnOnce(R) -> Result<T, WireError> + Send + 'static,
    ) -> Answer<T, E>
    where
        R: Message + Default,
        T: Send + 'static,
        E: Failure,
    {
        let request = Request { method, message: pack(message), body: Vec::new(), wait: Duration::ZERO };
        self.0.call(request, |reply, _| finish(reply).map_err(misunderstood))
    }
}

/// The error for an answer that makes no sense: whatever was asked for may have happened.
fn misunderstood<E: Failure>(problem: WireError) -> E {
    E::unknown(problem.to_string())
}

impl BrokerService for RemoteBroker {
    fn append(&self, append: Append) -> Answer<Appended, AppendError> {
        let size = append.batches.len();
        if size > MAX_BODY {
            return ready(Err(AppendError::TooLarge { size: size as u64, limit: MAX_BODY as u64 }));
        }
        let message = pack(&AppendMessage::from(&append));
        let request = Request { method: APPEND, message, body: vec![append.batches], wait: Duration::ZERO };
        self.0.call(request, |appended: AppendedMessage, _| Ok(appended.into()))
    }

    fn fetch(&self, fetch: Fetch) -> Answer<Fetched, FetchError> {
        let (wait, asked) = (fetch.max_wait, fetch.partitions.len());
        let request = Request { method: FETCH, message: pack(&FetchMessage::from(&fetch)), body: Vec::new(), wait };
        self.0.call(request, move |fetched: FetchedMessage, body| fetched.with(body, asked).map_err(misunderstood))
    }

    fn list_offset(&self, list: ListOffset) -> Answer<ListedOffset, ListOffsetsError> {
        self.call(LIST_OFFSET, &ListMessage::from(&list), |listed: ListedMessage| Ok(listed.into()))
    }

    fn epoch_end(&self, end: EpochEnd) -> Answer<EpochEndOffset, ListOffsetsError> {
        self.call(EPOCH_END, &EpochEndMessage::from(&end), |end: EndMessage| Ok(end.into()))
    }

    fn delete_records(&self, delete: DeleteRecords) -> Answer<Offset, DeleteRecordsError> {
        let message = DeleteRecordsMessage::from(&delete);
        self.call(DELETE_RECORDS, &message, |start: OffsetMessage| Ok(Offset(start.offset)))
    }

    fn create_topic(&self, create: CreateTopic) -> Answer<TopicCreated, AdminError> {
        self.call(CREATE_TOPIC, &CreateMessage::from(create), CreatedMessage::decode_all)
    }

    fn delete_topic(&self, delete: DeleteTopic) -> Answer<(), AdminError> {
        self.call(DELETE_TOPIC, &DeleteMessage::from(delete), Ok::<(), _>)
    }

    fn create_partitions(&self, create: CreatePartitions) -> Answer<(), AdminError> {
        self.call(CREATE_PARTITIONS, &PartitionsMessage::from(create), Ok::<(), _>)
    }

    fn alter_config(&self, alter: AlterConfig) -> Answer<(), AdminError> {
        self.call(ALTER_CONFIG, &AlterMessage::from(alter), Ok::<(), _>)
    }

    fn describe_config(&self, describe: DescribeConfig) -> Answer<Vec<ConfigEntry>, AdminError> {
        self.call(DESCRIBE_CONFIG, &ResourceMessage::from(describe.resource), EntriesMessage::decode_all)
    }

    fn partition_status(&self, only: Vec<PartitionId>) -> Answer<Vec<PartitionStatus>, AdminError> {
        let only = only.into_iter().map(Into::into).collect();
        self.call(STATUS, &StatusMessage { only }, StatusesMessage::decode_all)
    }
}

/// Starts a request that arrived.
pub(super) fn start(
    broker: Option<&Arc<dyn BrokerService>>,
    incoming: Incoming,
) -> Result<BoxFuture<'static, Outgoing>, WireError> {
    let Some(broker) = broker else { return Ok(absent(incoming)) };
    let bytes = incoming.message.clone();
    Ok(match incoming.method {
        APPEND => {
            let append = unpack::<AppendMessage>(bytes)?.with(incoming.body.clone())?;
            incoming.answer(broker.append(append), |appended| message(&AppendedMessage::from(appended)))
        }
        FETCH => {
            let fetch = unpack::<FetchMessage>(bytes)?.decode_all()?;
            incoming.answer(broker.fetch(fetch), FetchedMessage::reply)
        }
        LIST_OFFSET => {
            let list = unpack::<ListMessage>(bytes)?.decode_all()?;
            incoming.answer(broker.list_offset(list), |listed| message(&ListedMessage::from(listed)))
        }
        EPOCH_END => {
            let end = unpack::<EpochEndMessage>(bytes)?.into();
            incoming.answer(broker.epoch_end(end), |end| message(&EndMessage::from(end)))
        }
        DELETE_RECORDS => {
            let delete = unpack::<DeleteRecordsMessage>(bytes)?.decode_all()?;
            incoming.answer(broker.delete_records(delete), |start| message(&OffsetMessage { offset: start.0 }))
        }
        _ => return administer(broker, incoming),
    })
}

fn administer(broker: &Arc<dyn BrokerService>, incoming: Incoming) -> Result<BoxFuture<'static, Outgoing>, WireError> {
    let bytes = incoming.message.clone();
    Ok(match incoming.method {
        CREATE_TOPIC => {
            let create = unpack::<CreateMessage>(bytes)?.decode_all()?;
            incoming.answer(broker.create_topic(create), |created| message(&CreatedMessage::from(created)))
        }
        DELETE_TOPIC => {
            let delete = unpack::<DeleteMessage>(bytes)?.decode_all()?;
            incoming.answer(broker.delete_topic(delete), done)
        }
        CREATE_PARTITIONS => {
            let create = unpack::<PartitionsMessage>(bytes)?.into();
            incoming.answer(broker.create_partitions(create), done)
        }
        ALTER_CONFIG => {
            let alter = unpack::<AlterMessage>(bytes)?.decode_all()?;
            incoming.answer(broker.alter_config(alter), done)
        }
        DESCRIBE_CONFIG => {
            let resource = unpack::<ResourceMessage>(bytes)?.decode_all()?;
            let answer = broker.describe_config(DescribeConfig { resource });
            incoming.answer(answer, |entries| message(&EntriesMessage::from(entries)))
        }
        STATUS => {
            let only = unpack::<StatusMessage>(bytes)?.only.into_iter().map(Into::into).collect();
            incoming.answer(broker.partition_status(only), |found| message(&StatusesMessage::from(found)))
        }
        Method(other) => return Err(unknown_method(other)),
    })
}

/// Every method's own error type says "unavailable" in its own number.
fn absent(incoming: Incoming) -> BoxFuture<'static, Outgoing> {
    match incoming.method {
        APPEND => incoming.absent::<AppendError>("broker"),
        FETCH => incoming.absent::<FetchError>("broker"),
        LIST_OFFSET | EPOCH_END => incoming.absent::<ListOffsetsError>("broker"),
        DELETE_RECORDS => incoming.absent::<DeleteRecordsError>("broker"),
        _ => incoming.absent::<AdminError>("broker"),
    }
}

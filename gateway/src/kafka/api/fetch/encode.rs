//! The Fetch response, versions 4 to 18, written by hand: what stands around the records is encoded into small pieces, the
//! records stay the slices they are. Byte for byte what the message crate would encode, which the tests check.

#[cfg(test)]
mod tests;

use crate::kafka::cluster::Broker;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::TopicName;
use protocol::{
    id::{LeaderEpoch, NodeId},
    service::broker::FetchedPartition,
};
use uuid::Uuid;

/// The first version with compact lengths and tagged fields.
const FLEXIBLE_SINCE: i16 = 12;

/// The answer to a fetch.
#[derive(Debug, Default)]
pub(super) struct FetchAnswer {
    /// The error of the request as a whole, 0 if there is none.
    pub(super) error: i16,
    /// Whether only committed records were asked for.
    pub(super) committed: bool,
    /// The topics, as they were asked for.
    pub(super) topics: Vec<TopicAnswer>,
    /// Where new leaders are.
    pub(super) endpoints: Vec<Broker>,
}

/// One topic of the answer.
#[derive(Debug)]
pub(super) struct TopicAnswer {
    /// Its name, for versions that know it by name.
    pub(super) name: TopicName,
    /// Its identity, for versions that know it by that.
    pub(super) id: Uuid,
    /// Its partitions, as they were asked for.
    pub(super) partitions: Vec<PartitionAnswer>,
}

/// A Kafka error code, and who leads the partition if the one who refused knows.
pub(super) type Refusal = (i16, Option<(NodeId, LeaderEpoch)>);

/// One partition of the answer.
#[derive(Debug)]
pub(super) struct PartitionAnswer {
    /// Its number.
    pub(super) index: i32,
    /// What it gave.
    pub(super) result: Result<FetchedPartition, Refusal>,
}

/// The body of the response, in pieces.
pub(super) fn encode(answer: FetchAnswer, version: i16) -> Vec<Bytes> {
    let mut writer = Writer::new(version);
    writer.head.put_i32(0);
    if version >= 7 {
        writer.head.put_i16(answer.error);
        writer.head.put_i32(0);
    }
    writer.length(answer.topics.len());
    for topic in answer.topics {
        if version >= 13 {
            writer.head.put_slice(topic.id.as_bytes());
        } else {
            writer.text(topic.name.as_str());
        }
        writer.length(topic.partitions.len());
        for partition in topic.partitions {
            writer.partition(partition, answer.committed);
        }
        writer.no_tags();
    }
    writer.endpoints(&answer.endpoints);
    writer.finish()
}

struct Writer {
    version: i16,
    flexible: bool,
    head: BytesMut,
    pieces: Vec<Bytes>,
}

impl Writer {
    fn new(version: i16) -> Self {
        Self { version, flexible: version >= FLEXIBLE_SINCE, head: BytesMut::with_capacity(256), pieces: Vec::new() }
    }

    fn partition(&mut self, partition: PartitionAnswer, committed: bool) {
        let (code, leader, data) = match partition.result {
            Ok(data) => (0, None, Some(data)),
            Err((code, leader)) => (code, leader, None),
        };
        let offset = |pick: fn(&FetchedPartition) -> i64| data.as_ref().map_or(-1, pick);
        let (watermark, stable) = (offset(|d| d.high_watermark.0), offset(|d| d.last_stable.0));
        let log_start = offset(|d| d.log_start.0);
        self.head.put_i32(partition.index);
        self.head.put_i16(code);
        self.head.put_i64(watermark);
        self.head.put_i64(stable);
        if self.version >= 5 {
            self.head.put_i64(log_start);
        }
        // Aborted transactions: none, or null where they were not asked for.
        if committed {
            self.length(0)
        } else {
            self.null_array()
        }
        if self.version >= 11 {
            self.head.put_i32(-1);
        }
        let diverging = data.as_ref().and_then(|d| d.diverging);
        self.records(data.map(|d| d.batches).unwrap_or_default());
        self.partition_tags(diverging.map(|(epoch, end)| (epoch.0, end.0)), leader);
    }

    /// The records, as slices between the pieces.
    fn records(&mut self, batches: Vec<Bytes>) {
        let size: usize = batches.iter().map(Bytes::len).sum();
        if self.flexible {
            self.varint(size + 1);
        } else {
            self.head.put_i32(i32::try_from(size).expect("a fetch is bounded by fetch.max.bytes"));
        }
        if size > 0 {
            self.pieces.push(self.head.split().freeze());
            self.pieces.extend(batches.into_iter().filter(|batch| !batch.is_empty()));
        }
    }

    /// Tag 0: where the client's log diverges. Tag 1: who leads the partition now.
    fn partition_tags(&mut self, diverging: Option<(i32, i64)>, leader: Option<(NodeId, LeaderEpoch)>) {
        if !self.flexible {
            return;
        }
        self.varint(usize::from(diverging.is_some()) + usize::from(leader.is_some()));
        if let Some((epoch, end)) = diverging {
            self.head.put_slice(&[0, 4 + 8 + 1]);
            self.head.put_i32(epoch);
            self.head.put_i64(end);
            self.no_tags();
        }
        if let Some((leader, epoch)) = leader {
            self.head.put_slice(&[1, 4 + 4 + 1]);
            self.head.put_i32(leader.0);
            self.head.put_i32(epoch.0);
            self.no_tags();
        }
    }

    /// The tagged fields of the response. Tag 0: where new leaders are.
    fn endpoints(&mut self, endpoints: &[Broker]) {
        if self.version < 16 || endpoints.is_empty() {
            return self.no_tags();
        }
        let mut inner = Self::new(self.version);
        inner.length(endpoints.len());
        for broker in endpoints {
            inner.head.put_i32(broker.id.0);
            inner.text(broker.host.as_str());
            inner.head.put_i32(broker.port);
            match &broker.rack {
                Some(rack) => inner.text(rack.as_str()),
                None => inner.varint(0),
            }
            inner.no_tags();
        }
        self.head.put_slice(&[1, 0]);
        self.varint(inner.head.len());
        self.head.put_slice(&inner.head);
    }

    /// The length of an array.
    fn length(&mut self, length: usize) {
        if self.flexible {
            self.varint(length + 1);
        } else {
            self.head.put_i32(i32::try_from(length).expect("as many as the request, which is bounded"));
        }
    }

    fn null_array(&mut self) {
        if self.flexible { self.varint(0) } else { self.head.put_i32(-1) }
    }

    fn text(&mut self, text: &str) {
        if self.flexible {
            self.varint(text.len() + 1);
        } else {
            self.head.put_i16(i16::try_from(text.len()).expect("a name of a request of this version"));
        }
        self.head.put_slice(text.as_bytes());
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.head.put_u8(0);
        }
    }

    fn varint(&mut self, value: usize) {
        let mut value = u32::try_from(value).expect("lengths of a response are bounded");
        while value >= 0x80 {
            self.head.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.head.put_u8(value as u8);
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.head.is_empty() {
            self.pieces.push(self.head.freeze());
        }
        self.pieces
    }
}

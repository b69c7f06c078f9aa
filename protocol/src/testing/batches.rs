//! Builders of valid v2 record batches, for tests of everyone who handles them.
//!
//! Owns the encoding of single records; the product never encodes client records, so nothing but tests uses it.

use crate::{
    id::{LeaderEpoch, Offset, Timestamp},
    record_batch::{BATCH_OVERHEAD, Codec},
};
use bytes::{BufMut, Bytes};
use std::io::Write;

/// The timestamp of records that were not given one: 2023-11-14T22:13:20Z.
pub const DEFAULT_TIME: Timestamp = Timestamp(1_700_000_000_000);

/// One record to be encoded.
#[derive(Debug, Clone, Default)]
struct Record {
    timestamp: Option<Timestamp>,
    delta: i32,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(Bytes, Option<Bytes>)>,
}

/// A record batch in the making. Without further words it is what a plain producer sends: base offset 0, no epoch, no
/// producer, not compressed.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_offset: Offset,
    epoch: LeaderEpoch,
    attributes: i16,
    codec: Codec,
    producer: (i64, i16, i32),
    max_timestamp: Option<Timestamp>,
    span: Option<i32>,
    records: Vec<Record>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self {
            base_offset: Offset(0),
            epoch: LeaderEpoch(-1),
            attributes: 0,
            codec: Codec::None,
            producer: (-1, -1, -1),
            max_timestamp: None,
            span: None,
            records: Vec::new(),
        }
    }
}

impl BatchBuilder {
    /// A batch without records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record with a value and no key.
    #[must_use]
    pub fn value(self, value: impl AsRef<[u8]>) -> Self {
        self.record(None::<&[u8]>, Some(value))
    }

    /// Adds a record with a key and a value.
    #[must_use]
    pub fn keyed(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.record(Some(key), Some(value))
    }

    /// Adds a record with a key and a null value.
    #[must_use]
    pub fn tombstone(self, key: impl AsRef<[u8]>) -> Self {
        self.record(Some(key), None::<&[u8]>)
    }

    /// Adds a record; the key, the value or both may be null.
    #[must_use]
    pub fn record(mut self, key: Option<impl AsRef<[u8]>>, value: Option<impl AsRef<[u8]>>) -> Self {
        let delta = self.records.last().map_or(0, |last| last.delta + 1);
        let (key, value) = (key.map(|k| copy(k.as_ref())), value.map(|v| copy(v.as_ref())));
        self.records.push(Record { delta, key, value, ..Record::default() });
        self
    }

    /// Gives the last record a timestamp.
    #[must_use]
    pub fn at(mut self, timestamp: Timestamp) -> Self {
        self.last().timestamp = Some(timestamp);
        self
    }

    /// Gives the last record a header; the same key may come again.
    #[must_use]
    pub fn header(mut self, key: &str, value: Option<&[u8]>) -> Self {
        self.last().headers.push((copy(key.as_bytes()), value.map(copy)));
        self
    }

    /// Leaves a gap before the last record, as compaction does: its offset is `delta` after the base.
    #[must_use]
    pub fn delta(mut self, delta: i32) -> Self {
        self.last().delta = delta;
        self
    }

    /// Makes the batch span this many offsets, though it holds fewer records.
    #[must_use]
    pub const fn span(mut self, offsets: i32) -> Self {
        self.span = Some(offsets);
        self
    }

    /// Sends it as an idempotent producer.
    #[must_use]
    pub const fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Compresses the records.
    #[must_use]
    pub const fn compressed(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Marks it as part of a transaction.
    #[must_use]
    pub const fn transactional(mut self) -> Self {
        self.attributes |= 0x10;
        self
    }

    /// Marks it as a control batch.
    #[must_use]
    pub const fn control(mut self) -> Self {
        self.attributes |= 0x20;
        self
    }

    /// Sets attribute bits, whatever they mean; a codec named this way is claimed, not applied.
    #[must_use]
    pub const fn attributes(mut self, bits: i16) -> Self {
        self.attributes |= bits;
        self
    }

    /// Claims a largest timestamp.
    #[must_use]
    pub const fn max_timestamp(mut self, timestamp: Timestamp) -> Self {
        self.max_timestamp = Some(timestamp);
        self
    }

    /// Sets base offset and leader epoch, as a broker would.
    #[must_use]
    pub const fn stored_at(mut self, base: Offset, epoch: LeaderEpoch) -> Self {
        self.base_offset = base;
        self.epoch = epoch;
        self
    }

    /// The batch.
    ///
    /// # Panics
    /// If it is larger than 2 GiB.
    #[must_use]
    pub fn build(&self) -> Bytes {
        let first = self.records.first().map_or(DEFAULT_TIME, |r| r.timestamp.unwrap_or(DEFAULT_TIME));
        let largest = self.records.iter().map(|r| r.timestamp.unwrap_or(DEFAULT_TIME)).max().unwrap_or(first);
        let last_delta = self.records.last().map_or(0, |r| r.delta);
        let mut records = Vec::new();
        for record in &self.records {
            encode(record, first, &mut records);
        }
        let body = compress(self.codec, &records);
        let mut batch = Vec::with_capacity(BATCH_OVERHEAD + body.len());
        batch.put_i64(self.base_offset.0);
        batch.put_i32(i32::try_from(BATCH_OVERHEAD - 12 + body.len()).expect("test batches are small"));
        batch.put_i32(self.epoch.0);
        batch.put_i8(2);
        batch.put_u32(0);
        batch.put_i16(self.attributes | codec_bits(self.codec));
        batch.put_i32(self.span.map_or(last_delta, |span| span - 1));
        batch.put_i64(first.0);
        batch.put_i64(self.max_timestamp.unwrap_or(largest).0);
        batch.put_i64(self.producer.0);
        batch.put_i16(self.producer.1);
        batch.put_i32(self.producer.2);
        batch.put_i32(i32::try_from(self.records.len()).expect("test batches are small"));
        batch.extend_from_slice(&body);
        reseal(&mut batch);
        batch.into()
    }

    fn last(&mut self) -> &mut Record {
        self.records.last_mut().expect("a test adds a record before it describes it")
    }
}

/// A plain batch of these values.
#[must_use]
pub fn plain(values: &[&str]) -> Bytes {
    values.iter().fold(BatchBuilder::new(), BatchBuilder::value).build()
}

/// A batch of an idempotent producer with `count` records.
#[must_use]
pub fn idempotent(producer: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let batch = BatchBuilder::new().producer(producer, epoch, sequence);
    (0..count).fold(batch, |batch, i| batch.value(format!("v{i}"))).build()
}

/// Writes the checksum that belongs to the bytes, for tests that change them.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn reseal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Compresses as a Kafka producer would.
#[must_use]
pub fn compress(codec: Codec, records: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => records.to_vec(),
        Codec::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(records).expect("memory takes everything");
            gzip.finish().expect("memory takes everything")
        }
        Codec::Snappy => xerial(records),
        Codec::Lz4 => {
            let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
            lz4.write_all(records).expect("memory takes everything");
            lz4.finish().expect("memory takes everything")
        }
        Codec::Zstd => zstd::stream::encode_all(records, 3).expect("memory takes everything"),
    }
}

/// Java's framing around raw snappy blocks.
fn xerial(records: &[u8]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0".to_vec();
    out.put_u32(1);
    out.put_u32(1);
    for block in records.chunks(32 * 1024) {
        let raw = snap::raw::Encoder::new().compress_vec(block).expect("a block is small");
        out.put_u32(u32::try_from(raw.len()).expect("a block is small"));
        out.extend_from_slice(&raw);
    }
    out
}

const fn codec_bits(codec: Codec) -> i16 {
    match codec {
        Codec::None => 0,
        Codec::Gzip => 1,
        Codec::Snappy => 2,
        Codec::Lz4 => 3,
        Codec::Zstd => 4,
    }
}

fn encode(record: &Record, first: Timestamp, out: &mut Vec<u8>) {
    let mut body = vec![0];
    varint(record.timestamp.unwrap_or(DEFAULT_TIME).0 - first.0, &mut body);
    varint(i64::from(record.delta), &mut body);
    nullable(record.key.as_ref(), &mut body);
    nullable(record.value.as_ref(), &mut body);
    varint(record.headers.len() as i64, &mut body);
    for (key, value) in &record.headers {
        nullable(Some(key), &mut body);
        nullable(value.as_ref(), &mut body);
    }
    varint(body.len() as i64, out);
    out.extend_from_slice(&body);
}

fn nullable(bytes: Option<&Bytes>, out: &mut Vec<u8>) {
    varint(bytes.map_or(-1, |b| b.len() as i64), out);
    out.extend_from_slice(bytes.map_or(&[], |b| b));
}

/// Zigzag, then seven bits per byte, low ones first.
fn varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

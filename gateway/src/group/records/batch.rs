//! Writing record batches, format 2: uncompressed, without a producer. Owns the writer only; batches are read with
//! [`protocol::record_batch`]. The base offset and the leader epoch are the broker's to fill in.

use super::Record;
use bytes::{BufMut, Bytes, BytesMut};
use protocol::{id::Timestamp, record_batch::BATCH_OVERHEAD};

/// A batch ends when its records reach this size, so that it stays below `max.message.bytes`.
const BATCH_BYTES: usize = 512 * 1024;
/// Where the checksummed part of a batch begins.
const CHECKED_FROM: usize = 21;
/// The part of a batch that its length field does not count.
const UNCOUNTED: usize = 12;
/// The most bytes a record adds to its key and value: five varints, and one byte of attributes.
const RECORD_OVERHEAD: usize = 26;

/// The records as one or more batches, in order; all bear `time`. Nothing for no records.
pub(in crate::group) fn encode(records: &[Record], time: Timestamp) -> Bytes {
    let total: usize = records.iter().map(|r| r.size() + RECORD_OVERHEAD).sum();
    let mut out = BytesMut::with_capacity(total + BATCH_OVERHEAD * (1 + total / BATCH_BYTES));
    let mut rest = records;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.size() + RECORD_OVERHEAD;
            bytes <= BATCH_BYTES
        };
        // A record that is larger than a batch should be goes alone.
        let count = rest.iter().take_while(fits).count().max(1);
        let (batch, later) = rest.split_at(count);
        put_batch(&mut out, batch, time);
        rest = later;
    }
    out.freeze()
}

fn put_batch(out: &mut BytesMut, records: &[Record], time: Timestamp) {
    let start = out.len();
    let count = i32::try_from(records.len()).expect("a batch of half a mebibyte has fewer records");
    out.put_i64(0);
    out.put_i32(0);
    out.put_i32(-1);
    out.put_i8(2);
    out.put_u32(0);
    out.put_i16(0);
    out.put_i32(count - 1);
    out.put_i64(time.0);
    out.put_i64(time.0);
    out.put_i64(-1);
    out.put_i16(-1);
    out.put_i32(-1);
    out.put_i32(count);
    for (delta, record) in records.iter().enumerate() {
        put_record(out, delta, record);
    }
    let length = i32::try_from(out.len() - start - UNCOUNTED).expect("a record fits a frame, and so its batch does");
    out[start + 8..start + UNCOUNTED].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&out[start + CHECKED_FROM..]);
    out[start + 17..start + CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
}

fn put_record(out: &mut BytesMut, delta: usize, record: &Record) {
    let (delta, key) = (delta as i64, record.key.len() as i64);
    let value = record.value.as_ref().map_or(-1, |v| v.len() as i64);
    let body = 1 + varint_len(0) + varint_len(delta) + varint_len(key) + varint_len(value) + varint_len(0);
    put_varint(out, (body + record.size()) as i64);
    out.put_i8(0);
    put_varint(out, 0);
    put_varint(out, delta);
    put_varint(out, key);
    out.put_slice(&record.key);
    put_varint(out, value);
    if let Some(value) = &record.value {
        out.put_slice(value);
    }
    put_varint(out, 0);
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn varint_len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

//! Decoding single records, for the few who must: time look-ups, key checks of compacted topics, coordinators.
//!
//! Decompression is bounded: a batch may not grow beyond [`MAX_DECOMPRESSED`]. Keys, values and headers are slices of
//! one decompressed buffer. Nothing here panics on what it reads, or allocates on the strength of a length alone.

use super::{BatchError, Codec, RecordBatch};
use crate::id::{Offset, Timestamp};
use bytes::{Buf, Bytes};
use std::io::Read;

/// The most bytes the records of one batch may decompress to.
const MAX_DECOMPRESSED: usize = 256 * 1024 * 1024;
/// The most headers of one record: each costs more memory than the two bytes it takes at least.
const MAX_HEADERS: i64 = 65_536;
/// What a byte of raw snappy can grow to at most; a longer claim is a lie, found before it allocates.
const MAX_SNAPPY_GROWTH: usize = 64;
/// How Java's framing of snappy begins, followed by two version numbers of four bytes.
const XERIAL: &[u8] = b"\x82SNAPPY\0";

/// One record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its key; none if null.
    pub key: Option<Bytes>,
    /// Its value; none if null (a tombstone).
    pub value: Option<Bytes>,
    /// Its headers in order, duplicates included.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Why records cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// The batch around them is bad.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The compressed form is damaged, or grows beyond the limit.
    #[error("cannot decompress {codec:?} records: {reason}")]
    Decompress {
        /// The codec.
        codec: Codec,
        /// Why.
        reason: String,
    },
    /// A record's own lengths contradict the batch's.
    #[error("record {index} of the batch is malformed: {reason}")]
    Malformed {
        /// Which record, from 0.
        index: i32,
        /// Why.
        reason: &'static str,
    },
}

/// Calls `visit` for each record in order until it says stop (`false`).
///
/// # Errors
/// The first thing that is wrong, after the records before it were visited. Stopping early checks nothing further.
pub fn for_each_record(batch: &RecordBatch, visit: &mut dyn FnMut(RecordView) -> bool) -> Result<(), RecordsError> {
    let codec = batch.codec()?;
    let mut cursor = Cursor { rest: decompress(codec, batch.body(), MAX_DECOMPRESSED)?, index: 0 };
    let mut last_delta = -1;
    for index in 0..batch.record_count() {
        cursor.index = index;
        let (delta, record) = cursor.record(batch)?;
        if delta <= last_delta || delta >= batch.span() {
            return Err(cursor.malformed("its offset does not lie in order within the batch"));
        }
        last_delta = delta;
        if !visit(record) {
            return Ok(());
        }
    }
    if cursor.rest.has_remaining() {
        cursor.index = batch.record_count();
        return Err(cursor.malformed("bytes follow after the last record"));
    }
    Ok(())
}

/// What is left of a run of encoded records.
struct Cursor {
    rest: Bytes,
    /// Which record is being read; for error messages.
    index: i32,
}

impl Cursor {
    fn malformed(&self, reason: &'static str) -> RecordsError {
        RecordsError::Malformed { index: self.index, reason }
    }

    /// The next record and its offset delta.
    fn record(&mut self, batch: &RecordBatch) -> Result<(i64, RecordView), RecordsError> {
        let length = self.varint()?;
        let mut body = Self { rest: self.take(length)?, index: self.index };
        body.take(1)?; // attributes; none is defined
        let (time_delta, delta) = (body.varint()?, body.varint()?);
        let timestamp = if batch.is_append_time() {
            batch.max_timestamp()
        } else {
            Timestamp(batch.first_timestamp().0.saturating_add(time_delta))
        };
        let (key, value) = (body.nullable()?, body.nullable()?);
        let count = body.varint()?;
        // A header takes two bytes at least, so that a short record cannot ask for a long list.
        if !(0..=MAX_HEADERS).contains(&count) || count > body.rest.len() as i64 / 2 {
            return Err(body.malformed("impossible number of headers"));
        }
        let mut headers = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let key = body.nullable()?.ok_or_else(|| body.malformed("a header has no key"))?;
            headers.push((key, body.nullable()?));
        }
        if body.rest.has_remaining() {
            return Err(body.malformed("bytes follow after its headers"));
        }
        let offset = Offset(batch.base_offset().0.saturating_add(delta));
        Ok((delta, RecordView { offset, timestamp, key, value, headers }))
    }

    /// A zigzag number of up to 64 bits.
    fn varint(&mut self) -> Result<i64, RecordsError> {
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            if !self.rest.has_remaining() {
                return Err(self.malformed("a number is cut short"));
            }
            let byte = self.rest.get_u8();
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        Err(self.malformed("a number is too long"))
    }

    /// Bytes behind their length; a negative length is null.
    fn nullable(&mut self) -> Result<Option<Bytes>, RecordsError> {
        match self.varint()? {
            -1 => Ok(None),
            length => self.take(length).map(Some),
        }
    }

    fn take(&mut self, length: i64) -> Result<Bytes, RecordsError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(self.rest.split_to(length)),
            _ => Err(self.malformed("a length exceeds what is there")),
        }
    }
}

/// The records' plain bytes; an error if there are more than `limit`.
fn decompress(codec: Codec, body: Bytes, limit: usize) -> Result<Bytes, RecordsError> {
    let plain = match codec {
        Codec::None => return Ok(body),
        Codec::Gzip => read_all(flate2::bufread::MultiGzDecoder::new(&body[..]), limit),
        Codec::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(&body[..]), limit),
        Codec::Zstd => {
            zstd::stream::read::Decoder::with_buffer(&body[..]).map_err(text).and_then(|zstd| read_all(zstd, limit))
        }
        Codec::Snappy => snappy(&body, limit),
    };
    plain.map(Bytes::from).map_err(|reason| RecordsError::Decompress { codec, reason })
}

fn read_all(decoder: impl Read, limit: usize) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut plain).map_err(text)?;
    if plain.len() > limit {
        return Err(too_large(limit));
    }
    Ok(plain)
}

fn snappy(body: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let Some(framed) = body.strip_prefix(XERIAL) else {
        snappy_block(body, &mut plain, limit)?;
        return Ok(plain);
    };
    let mut blocks = framed.get(8..).ok_or("the frame header is cut short")?;
    while !blocks.is_empty() {
        let (length, rest) = blocks.split_at_checked(4).ok_or("a block length is cut short")?;
        let length = usize::try_from((&length[..]).get_u32()).map_err(text)?;
        let (block, rest) = rest.split_at_checked(length).ok_or("a block is cut short")?;
        snappy_block(block, &mut plain, limit)?;
        blocks = rest;
    }
    Ok(plain)
}

/// Appends one raw block.
fn snappy_block(block: &[u8], plain: &mut Vec<u8>, limit: usize) -> Result<(), String> {
    let claimed = snap::raw::decompress_len(block).map_err(text)?;
    if claimed > block.len().saturating_mul(MAX_SNAPPY_GROWTH) {
        return Err(format!("{} bytes claim to hold {claimed}", block.len()));
    }
    let at = plain.len();
    if claimed > limit - at.min(limit) {
        return Err(too_large(limit));
    }
    plain.resize(at + claimed, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut plain[at..]).map_err(text)?;
    plain.truncate(at + written);
    Ok(())
}

fn too_large(limit: usize) -> String {
    format!("more than {limit} bytes")
}

fn text(problem: impl ToString) -> String {
    problem.to_string()
}

#[cfg(test)]
mod tests;

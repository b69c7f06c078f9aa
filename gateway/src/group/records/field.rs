//! Kafka's primitive fields: reading them with every length checked against what is left, and writing them. Owns both
//! encodings, the plain one and the "flexible" one with compact lengths and tagged fields (KIP-482).

use super::RecordError;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Reads fields from the front of a buffer.
#[derive(Debug)]
pub(super) struct Reader {
    rest: Bytes,
    flexible: bool,
}

const SHORT: RecordError = RecordError::Malformed("it is cut short");
const LENGTH: RecordError = RecordError::Malformed("a length is impossible");

impl Reader {
    pub(super) const fn new(rest: Bytes) -> Self {
        Self { rest, flexible: false }
    }

    /// From here on lengths are compact and structs end with tagged fields.
    pub(super) const fn flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn take(&mut self, length: usize) -> Result<Bytes, RecordError> {
        if self.rest.len() < length { Err(SHORT) } else { Ok(self.rest.split_to(length)) }
    }

    pub(super) fn i16(&mut self) -> Result<i16, RecordError> {
        Ok(self.take(2)?.get_i16())
    }

    pub(super) fn i32(&mut self) -> Result<i32, RecordError> {
        Ok(self.take(4)?.get_i32())
    }

    pub(super) fn i64(&mut self) -> Result<i64, RecordError> {
        Ok(self.take(8)?.get_i64())
    }

    fn unsigned_varint(&mut self) -> Result<u32, RecordError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(LENGTH)
    }

    /// A length in the current encoding; none for null. `short` says that the plain form has two bytes, not four.
    fn length(&mut self, short: bool) -> Result<Option<usize>, RecordError> {
        let plain = match (self.flexible, short) {
            (true, _) => i64::from(self.unsigned_varint()?) - 1,
            (false, true) => i64::from(self.i16()?),
            (false, false) => i64::from(self.i32()?),
        };
        match plain {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| LENGTH),
        }
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<String>, RecordError> {
        let Some(length) = self.length(true)? else { return Ok(None) };
        let bytes = self.take(length)?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| RecordError::Malformed("a string is not UTF-8"))?;
        Ok(Some(text))
    }

    pub(super) fn string(&mut self) -> Result<String, RecordError> {
        self.nullable_string()?.ok_or(RecordError::Malformed("a string is null"))
    }

    /// Bytes of their own, so that a small field does not keep a whole batch in memory.
    pub(super) fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let length = self.length(false)?.ok_or(RecordError::Malformed("bytes are null"))?;
        Ok(Bytes::copy_from_slice(&self.take(length)?))
    }

    /// The number of elements of an array whose elements take `least` bytes or more.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, RecordError> {
        let count = self.length(false)?.ok_or(RecordError::Malformed("an array is null"))?;
        if count > self.rest.len() / least { Err(LENGTH) } else { Ok(count) }
    }

    /// The end of a struct: skips tagged fields.
    pub(super) fn end_struct(&mut self) -> Result<(), RecordError> {
        if self.flexible {
            for _ in 0..self.unsigned_varint()? {
                self.unsigned_varint()?;
                let size = self.unsigned_varint()?;
                self.take(usize::try_from(size).map_err(|_| LENGTH)?)?;
            }
        }
        Ok(())
    }
}

/// Writes fields in the plain encoding.
#[derive(Debug, Default)]
pub(super) struct Writer(BytesMut);

impl Writer {
    pub(super) fn i16(&mut self, value: i16) {
        self.0.put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.put_i64(value);
    }

    pub(super) fn string(&mut self, text: &str) -> Result<(), RecordError> {
        let length = i16::try_from(text.len()).map_err(|_| RecordError::TooLong(text.len()))?;
        self.0.put_i16(length);
        self.0.put_slice(text.as_bytes());
        Ok(())
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) -> Result<(), RecordError> {
        match text {
            Some(text) => self.string(text)?,
            None => self.0.put_i16(-1),
        }
        Ok(())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.count(bytes.len())?;
        self.0.put_slice(bytes);
        Ok(())
    }

    pub(super) fn count(&mut self, count: usize) -> Result<(), RecordError> {
        self.0.put_i32(i32::try_from(count).map_err(|_| RecordError::TooLong(count))?);
        Ok(())
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

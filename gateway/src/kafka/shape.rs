//! The guard in front of the decoders: walks a request body along the table of [`schema`] and checks every length.
//!
//! The decoders behind it reserve memory for as many array elements as the wire claims, so a body of twelve bytes can
//! ask for gigabytes. After [`check`] every string and blob lies inside the body, every array is backed by bytes, and the
//! elements of one request are bounded in number. Bytes after the last field are ignored. The walk itself allocates
//! nothing; its depth is the depth of the table.

mod schema;
#[cfg(test)]
pub(super) mod tests;

use schema::{Field, Kind, Shape};

/// The most array elements and tagged fields in one request. A decoded element costs up to some 150 bytes of memory
/// for as little as one byte on the wire; this bounds the ratio.
const MAX_ELEMENTS: u64 = 500_000;

/// Why a body is not a request of its API and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    /// No such API, or not in this version.
    #[error("API {0} version {1} is not served")]
    Unknown(i16, i16),
    /// A field reaches beyond the end of the body.
    #[error("cut short: a field of {need} bytes has only {have}")]
    Short {
        /// What the field takes.
        need: u64,
        /// What is left.
        have: u64,
    },
    /// A length below zero that does not stand for null.
    #[error("negative length {0}")]
    Negative(i64),
    /// A variable-length number of more than five bytes or 32 bits.
    #[error("variable-length number out of range")]
    Varint,
    /// An array that claims more elements than its bytes can hold.
    #[error("array of {claimed} elements in {have} bytes")]
    Array {
        /// The elements claimed.
        claimed: u64,
        /// The bytes left.
        have: u64,
    },
    /// More elements in one request than is sane.
    #[error("more than {MAX_ELEMENTS} elements in one request")]
    TooMany,
    /// A tagged field whose content is not as long as it says.
    #[error("tagged field {0} has the wrong size")]
    TagSize(u32),
}

/// Checks the body of a request, without header.
///
/// # Errors
/// [`ShapeError`]; the first thing that is wrong.
pub(crate) fn check(api_key: i16, version: i16, body: &[u8]) -> Result<(), ShapeError> {
    let shape = schema::find(api_key)
        .filter(|shape| shape.versions.contains(&version))
        .ok_or(ShapeError::Unknown(api_key, version))?;
    let mut walk = Walk::new(body, version, shape);
    walk.fields(shape.fields)?;
    // What follows the last field is ignored, as Kafka does: librdkafka 2 asks for all topics with three stray bytes.
    Ok(())
}

/// Reads the tagged fields of a flexible request header, none of which is known, and returns what follows them.
///
/// # Errors
/// [`ShapeError`], as [`check`].
pub(crate) fn skip_header_tags(rest: &[u8]) -> Result<&[u8], ShapeError> {
    let mut walk = Walk { rest, version: 0, flexible: true, elements: 0 };
    walk.tags(&[])?;
    Ok(walk.rest)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: u64,
}

impl<'a> Walk<'a> {
    fn new(body: &'a [u8], version: i16, shape: &Shape) -> Self {
        Self { rest: body, version, flexible: version >= shape.flexible_since, elements: 0 }
    }

    /// Walks the fields of a struct, then its tagged fields.
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.kind(&field.kind)?;
            }
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    fn kind(&mut self, kind: &'static Kind) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(size) => self.take(u64::from(*size)).map(drop),
            Kind::Text => {
                let length = if self.flexible { self.compact_length()? } else { self.length16()? };
                self.take(length.unwrap_or(0)).map(drop)
            }
            Kind::Blob => {
                let length = if self.flexible { self.compact_length()? } else { self.length32()? };
                self.take(length.unwrap_or(0)).map(drop)
            }
            Kind::Each(fields) => {
                let element = self.size_of_struct(fields);
                let count = self.count(element)?;
                (0..count).try_for_each(|_| self.fields(fields))
            }
            Kind::List(item) => {
                let element = self.size_of(item);
                let count = self.count(element)?;
                (0..count).try_for_each(|_| self.kind(item))
            }
            Kind::One(fields) => self.fields(fields),
            Kind::Maybe(fields) => match self.take(1)?[0] as i8 {
                -1 => Ok(()),
                _ => self.fields(fields),
            },
        }
    }

    fn tags(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        let count = self.varint()?;
        self.spend(u64::from(count))?;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = u64::from(self.varint()?);
            let content = self.take(size)?;
            let known = fields.iter().find(|f| f.tag == Some(tag) && f.is_in(self.version));
            let Some(field) = known else { continue };
            let mut inner = Walk { rest: content, ..*self };
            inner.kind(&field.kind)?;
            if !inner.rest.is_empty() {
                return Err(ShapeError::TagSize(tag));
            }
            self.elements = inner.elements;
        }
        Ok(())
    }

    /// The number of elements of an array whose elements take at least `element` bytes each.
    fn count(&mut self, element: u64) -> Result<u64, ShapeError> {
        let claimed = if self.flexible { self.compact_length()? } else { self.length32()? }.unwrap_or(0);
        let have = self.rest.len() as u64;
        // No element of the table is empty, so this bounds every count by the bytes that are there.
        if claimed > have / element.max(1) {
            return Err(ShapeError::Array { claimed, have });
        }
        self.spend(claimed)?;
        Ok(claimed)
    }

    fn spend(&mut self, elements: u64) -> Result<(), ShapeError> {
        self.elements += elements;
        if self.elements > MAX_ELEMENTS { Err(ShapeError::TooMany) } else { Ok(()) }
    }

    /// The fewest bytes a struct can take in this version.
    fn size_of_struct(&self, fields: &'static [Field]) -> u64 {
        let present = fields.iter().filter(|f| f.tag.is_none() && f.is_in(self.version));
        present.map(|f| self.size_of(&f.kind)).sum::<u64>() + u64::from(self.flexible)
    }

    fn size_of(&self, kind: &'static Kind) -> u64 {
        match kind {
            Kind::Fixed(size) => u64::from(*size),
            Kind::Text => {
                if self.flexible {
                    1
                } else {
                    2
                }
            }
            Kind::Blob | Kind::Each(_) | Kind::List(_) => {
                if self.flexible {
                    1
                } else {
                    4
                }
            }
            Kind::One(fields) => self.size_of_struct(fields),
            Kind::Maybe(_) => 1,
        }
    }

    fn take(&mut self, size: u64) -> Result<&'a [u8], ShapeError> {
        let have = self.rest.len() as u64;
        if size > have {
            return Err(ShapeError::Short { need: size, have });
        }
        let (taken, rest) = self.rest.split_at(size as usize);
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned number of 1 to 5 bytes, seven bits each (KIP-482).
    fn varint(&mut self) -> Result<u32, ShapeError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| ShapeError::Varint);
            }
        }
        Err(ShapeError::Varint)
    }

    /// A length plus one; none for null.
    fn compact_length(&mut self) -> Result<Option<u64>, ShapeError> {
        Ok(u64::from(self.varint()?).checked_sub(1))
    }

    fn length16(&mut self) -> Result<Option<u64>, ShapeError> {
        let bytes = self.take(2)?;
        length(i64::from(i16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn length32(&mut self) -> Result<Option<u64>, ShapeError> {
        let bytes = self.take(4)?;
        length(i64::from(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    }
}

/// A length; none for null, which is -1.
fn length(value: i64) -> Result<Option<u64>, ShapeError> {
    match value {
        -1 => Ok(None),
        _ => u64::try_from(value).map(Some).map_err(|_| ShapeError::Negative(value)),
    }
}

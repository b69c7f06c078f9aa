//! Request headers: the few bytes in front of every request. Owns their layout (versions 1 and 2); never looks into a
//! body, and takes nothing for granted about the frame but its length.

use super::shape::{self, ShapeError};
use bytes::Bytes;
use kafka_protocol::{messages::ApiKey, protocol::StrBytes};

/// The part of a header that is the same for every API and version, known or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preamble {
    /// Kafka's API key.
    pub(crate) api_key: i16,
    /// The version of the request and of its answer.
    pub(crate) version: i16,
    /// What the client recognises the answer by.
    pub(crate) correlation: i32,
}

/// Bytes of a [`Preamble`].
const PREAMBLE: usize = 8;

/// Why a header cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The frame ends inside the header, or a length in it is wrong.
    #[error("bad request header: {0}")]
    Shape(#[from] ShapeError),
    /// The client id is not UTF-8.
    #[error("bad request header: the client id is not UTF-8")]
    ClientId,
}

impl Preamble {
    /// Reads the first bytes of a frame.
    ///
    /// # Errors
    /// The frame is shorter than that.
    pub(crate) fn read(frame: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = frame.first_chunk::<PREAMBLE>() else {
            return Err(ShapeError::Short { need: PREAMBLE as u64, have: frame.len() as u64 }.into());
        };
        let [k0, k1, v0, v1, c @ ..] = *bytes;
        Ok(Self {
            api_key: i16::from_be_bytes([k0, k1]),
            version: i16::from_be_bytes([v0, v1]),
            correlation: i32::from_be_bytes(c),
        })
    }

    /// Reads what follows the preamble: the client id, tagged fields in a flexible header, and the body.
    ///
    /// # Errors
    /// A length reaches beyond the frame, or the client id is not UTF-8.
    pub(crate) fn rest(self, key: ApiKey, frame: &Bytes) -> Result<(Option<StrBytes>, Bytes), HeaderError> {
        let after = &frame[PREAMBLE..];
        let short = |need: u64| ShapeError::Short { need, have: after.len() as u64 };
        let (length, text) = after.split_first_chunk::<2>().ok_or_else(|| short(2))?;
        let length = match i16::from_be_bytes(*length) {
            -1 => None,
            length => Some(usize::try_from(length).map_err(|_| ShapeError::Negative(i64::from(length)))?),
        };
        let size = length.unwrap_or(0);
        let tail = text.get(size..).ok_or_else(|| short(size as u64))?;
        let client = match length {
            None => None,
            Some(_) => {
                let bytes = frame.slice_ref(&text[..size]);
                Some(StrBytes::from_utf8(bytes).map_err(|_| HeaderError::ClientId)?)
            }
        };
        let body = if key.request_header_version(self.version) >= 2 { shape::skip_header_tags(tail)? } else { tail };
        Ok((client, frame.slice_ref(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tail: &[u8]) -> Bytes {
        [&[0, 3, 0, 9, 0, 0, 0, 7], tail].concat().into()
    }

    #[test]
    fn a_flexible_header_is_read_with_its_tags() {
        let frame = frame(&[0, 1, b'x', 1, 5, 2, 9, 9, 0xaa]);
        let preamble = Preamble::read(&frame).expect("long enough");
        assert_eq!(preamble, Preamble { api_key: 3, version: 9, correlation: 7 });
        let (client, body) = preamble.rest(ApiKey::Metadata, &frame).expect("well formed");
        assert_eq!((client.as_deref(), &body[..]), (Some("x"), &[0xaa][..]));
    }

    #[test]
    fn a_plain_header_may_have_no_client_id() {
        let frame = Bytes::from_static(&[0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 1, 2]);
        let preamble = Preamble::read(&frame).expect("long enough");
        let (client, body) = preamble.rest(ApiKey::Metadata, &frame).expect("well formed");
        assert_eq!((client, &body[..]), (None, &[1, 2][..]));
    }

    #[test]
    fn every_bad_header_is_refused() {
        assert!(Preamble::read(&[0; 7]).is_err());
        for tail in [&[][..], &[0], &[0, 5, b'x'], &[0x80, 0], &[0, 0], &[0, 0, 1], &[0, 0, 1, 5, 9, 1]] {
            let frame = frame(tail);
            let preamble = Preamble::read(&frame).expect("long enough");
            assert!(preamble.rest(ApiKey::Metadata, &frame).is_err(), "{tail:?}");
        }
        let frame = frame(&[0, 1, 0xff, 0]);
        let preamble = Preamble::read(&frame).expect("long enough");
        assert_eq!(preamble.rest(ApiKey::Metadata, &frame), Err(HeaderError::ClientId));
    }
}

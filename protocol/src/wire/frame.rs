//! Frames: how messages lie on a stream of bytes.
//!
//! A connection begins with a preface of 8 bytes in each direction: `MGNTR`, the version (1), two zeros. A newer
//! version is refused by name. Frames follow:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of the rest of the frame, at most [`MAX_FRAME`] |
//! | 4 | length of the header, at most [`MAX_HEADER`] |
//! | | header: a protobuf message |
//! | | body: raw bytes that no decoder touches |
//!
//! Numbers are big-endian. This file owns the layout; it never knows what a header means. No length allocates before it
//! is checked, and a length that is in range allocates only as its bytes arrive.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use std::{collections::VecDeque, io::IoSlice};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest frame, in bytes behind its length field.
pub const MAX_FRAME: usize = 128 * 1024 * 1024;
/// The largest header, in bytes.
pub const MAX_HEADER: usize = 16 * 1024 * 1024;
/// The most bytes of body that anyone asks for; leaves room for the header.
pub const MAX_BODY: usize = MAX_FRAME - MAX_HEADER;
/// The version of preface, frames and headers.
pub const WIRE_VERSION: u8 = 1;

const NAME: &[u8; 5] = b"MGNTR";
const PREFACE_LEN: usize = 8;
/// The two length fields.
const LENGTHS: usize = 8;
/// Room that is made for arriving bytes at a time, whatever length was announced.
const STEP: usize = 256 * 1024;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The stream failed.
    #[error("connection failed: {0}")]
    Io(String),
    /// The stream ended inside a frame, or before the preface.
    #[error("connection ended inside a frame")]
    CutShort,
    /// The peer does not speak this protocol at all.
    #[error("the peer is not a Magnetar node")]
    NotMagnetar,
    /// The peer speaks a newer version.
    #[error("the peer speaks version {found} of the wire protocol, this node {WIRE_VERSION}; upgrade this node first")]
    Version {
        /// The peer's version.
        found: u8,
    },
    /// A length exceeds its limit.
    #[error("{what} of {size} bytes exceeds the limit of {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The announced size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A header that cannot be decoded, or says something impossible.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The peer took too long.
    #[error("the peer did not {0} in time")]
    Slow(&'static str),
}

impl From<std::io::Error> for WireError {
    fn from(problem: std::io::Error) -> Self {
        Self::Io(problem.to_string())
    }
}

impl From<prost::DecodeError> for WireError {
    fn from(problem: prost::DecodeError) -> Self {
        Self::Malformed(problem.to_string())
    }
}

/// Sends our preface and checks the peer's. Both sides send first, so that both can name a mismatch.
pub(super) async fn exchange_prefaces(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
) -> Result<(), WireError> {
    let mut ours = [0; PREFACE_LEN];
    ours[..NAME.len()].copy_from_slice(NAME);
    ours[NAME.len()] = WIRE_VERSION;
    write.write_all(&ours).await?;
    write.flush().await?;
    let mut theirs = [0; PREFACE_LEN];
    match read.read_exact(&mut theirs).await {
        Err(problem) if problem.kind() == std::io::ErrorKind::UnexpectedEof => return Err(WireError::CutShort),
        other => other?,
    };
    if !theirs.starts_with(NAME) {
        return Err(WireError::NotMagnetar);
    }
    match theirs[NAME.len()] {
        WIRE_VERSION => Ok(()),
        found => Err(WireError::Version { found }),
    }
}

/// A whole frame; both parts are slices of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) header: Bytes,
    pub(super) body: Bytes,
}

/// Reads frames. Cancelling a read loses nothing.
pub(super) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    received: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new(), received: 0 }
    }

    /// The next frame; none if the stream ended between frames.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            let missing = match self.missing()? {
                0 => return Ok(Some(self.take())),
                missing => missing,
            };
            self.buffer.reserve(missing.clamp(4096, STEP));
            let count = self.from.read_buf(&mut self.buffer).await?;
            if count == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::CutShort) };
            }
            self.received += count as u64;
        }
    }

    /// Bytes that have arrived so far, those of unfinished frames too.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes of the first frame are missing, as far as is known.
    fn missing(&self) -> Result<usize, WireError> {
        let Some(mut lengths) = self.buffer.get(..LENGTHS) else { return Ok(LENGTHS - self.buffer.len()) };
        let (frame, header) = (lengths.get_u32() as usize, lengths.get_u32() as usize);
        check("frame", frame, MAX_FRAME)?;
        check("header", header, MAX_HEADER)?;
        if frame < header + 4 {
            return Err(WireError::Malformed("a header exceeds its frame".into()));
        }
        Ok((frame + 4).saturating_sub(self.buffer.len()))
    }

    fn take(&mut self) -> Frame {
        let length = self.buffer.get_u32() as usize;
        let mut frame = self.buffer.split_to(length).freeze();
        let header = frame.get_u32() as usize;
        Frame { header: frame.split_to(header), body: frame }
    }
}

fn check(what: &'static str, size: usize, limit: usize) -> Result<(), WireError> {
    if size <= limit { Ok(()) } else { Err(WireError::TooLong { what, size, limit }) }
}

/// Frames on their way out: bodies are referred to, not copied, and all of it goes out in few vectored writes.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Bytes>,
    remaining: usize,
}

impl Outbox {
    /// Adds a frame. The caller has checked its size.
    pub(super) fn push(&mut self, header: &impl Message, body: Vec<Bytes>) {
        let (header_len, body_len) = (header.encoded_len(), body.iter().map(Bytes::len).sum::<usize>());
        let mut head = BytesMut::with_capacity(LENGTHS + header_len);
        head.put_u32((4 + header_len + body_len) as u32);
        head.put_u32(header_len as u32);
        header.encode(&mut head).expect("a growing buffer takes everything");
        self.remaining += head.len() + body_len;
        self.chunks.push_back(head.freeze());
        self.chunks.extend(body.into_iter().filter(|chunk| !chunk.is_empty()));
    }
}

impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let filled = out.iter_mut().zip(&self.chunks).map(|(slot, chunk)| *slot = IoSlice::new(chunk));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while let Some(first) = self.chunks.front_mut().filter(|_| count > 0) {
            if first.len() > count {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;

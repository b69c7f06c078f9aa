//! Frames off a socket: a length, then that many bytes. Owns the read buffer, which exists only while something is being
//! read, so that an idle connection costs no buffer; a request is one allocation that its records are slices of.
//! Never decodes.

use super::budget::SMALL_REQUEST;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{io, time::Duration};
use tokio::{net::tcp::OwnedReadHalf, time::timeout};

/// How much is read at once while the size of the next frame is not known.
const CHUNK: usize = SMALL_REQUEST;
/// Bytes of the length in front of a frame.
const LENGTH: usize = 4;
/// How long a client may pause in the middle of a frame: it holds budget that others wait for.
const STALL: Duration = Duration::from_secs(30);

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    /// The client closed the connection between two frames.
    #[error("closed by the client")]
    Closed,
    /// The client closed the connection inside a frame.
    #[error("closed in the middle of a request")]
    Cut,
    /// The client stopped sending inside a frame.
    #[error("no byte for {} s in the middle of a request", STALL.as_secs())]
    Stalled,
    /// A length that is negative or above `socket.request.max.bytes`.
    #[error("request of {size} bytes, socket.request.max.bytes is {limit}")]
    Size {
        /// The length found.
        size: i32,
        /// The limit.
        limit: usize,
    },
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct Intake {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

impl Intake {
    /// Reads frames from a socket.
    pub(super) fn new(socket: OwnedReadHalf) -> Self {
        Self { socket, buffer: BytesMut::new() }
    }

    /// The size of the next frame. May be dropped and called again: nothing is lost.
    pub(super) async fn next_size(&mut self, limit: usize) -> Result<usize, IntakeError> {
        while self.buffer.len() < LENGTH {
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
                self.fill(CHUNK)
                    .await
                    .map_err(|e| if matches!(e, IntakeError::Cut) { IntakeError::Closed } else { e })?;
            } else {
                timeout(STALL, self.fill(CHUNK)).await.map_err(|_| IntakeError::Stalled)??;
            }
        }
        let size = (&self.buffer[..]).get_i32();
        match usize::try_from(size) {
            Ok(length) if length <= limit => Ok(length),
            Ok(_) | Err(_) => Err(IntakeError::Size { size, limit }),
        }
    }

    /// The frame whose size [`Intake::next_size`] has just answered.
    pub(super) async fn frame(&mut self, size: usize) -> Result<Bytes, IntakeError> {
        self.buffer.advance(LENGTH);
        if self.buffer.len() < size && size > CHUNK {
            // Read straight into an allocation of the frame's own size, and not a byte of the next frame.
            let mut frame = BytesMut::with_capacity(size);
            frame.extend_from_slice(&self.buffer);
            self.buffer = frame;
        }
        while self.buffer.len() < size {
            let room = if size > CHUNK { size - self.buffer.len() } else { CHUNK };
            timeout(STALL, self.fill(room)).await.map_err(|_| IntakeError::Stalled)??;
        }
        Ok(self.buffer.split_to(size).freeze())
    }

    /// Reads what is there, at most `room` bytes; waits without holding a buffer.
    async fn fill(&mut self, room: usize) -> Result<(), IntakeError> {
        loop {
            self.socket.readable().await?;
            self.buffer.reserve(room);
            match self.socket.try_read_buf(&mut (&mut self.buffer).limit(room)) {
                Ok(0) => return Err(IntakeError::Cut),
                Ok(_) => return Ok(()),
                Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => {
                    if self.buffer.is_empty() {
                        self.buffer = BytesMut::new();
                    }
                }
                Err(problem) => return Err(problem.into()),
            }
        }
    }
}

//! A stream of bytes in checked chunks: what a snapshot is wrapped in on disks and wires.
//!
//! First eight bytes: seven that say what this is, and the version of the format. Then chunks, each with a kind (data,
//! or the end), its number, its length (at most [`CHUNK`]) and a CRC-32C over these and its content; numbers are
//! little-endian. The chunk of kind "end" is the last; without it the stream was cut off.
//!
//! Owns the frame and knows nothing of what is in it. Never allocates more than a chunk, whatever a length says.

use super::SnapshotError;
use std::io::{self, ErrorKind, Read, Write};

/// What a snapshot begins with.
const MAGIC: [u8; 7] = *b"MGNMETA";
/// The version every snapshot is written with.
pub(super) const VERSION: u8 = 2;
/// The content of a chunk, in bytes; the last ones of a stream may be shorter.
pub(super) const CHUNK: usize = 1024 * 1024;
/// Kind, number, length, checksum.
const HEAD: usize = 13;

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The next bytes.
    Data = 1,
    /// Nothing follows.
    End = 2,
}

/// The first nine bytes of a chunk: all but the checksum.
fn head(kind: u8, number: u32, length: u32) -> [u8; 9] {
    let mut head = [kind; 9];
    head[1..5].copy_from_slice(&number.to_le_bytes());
    head[5..].copy_from_slice(&length.to_le_bytes());
    head
}

fn checksum(head: &[u8; 9], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), content)
}

/// Cuts bytes into chunks.
#[derive(Debug)]
pub(super) struct ChunkWriter<'a, W> {
    to: &'a mut W,
    content: Vec<u8>,
    number: u32,
}

impl<'a, W: Write> ChunkWriter<'a, W> {
    pub(super) fn new(to: &'a mut W) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        to.write_all(&[VERSION])?;
        Ok(Self { to, content: Vec::with_capacity(CHUNK), number: 0 })
    }

    /// Writes data.
    pub(super) fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.content.len()));
            self.content.extend_from_slice(now);
            bytes = later;
            if self.content.len() == CHUNK {
                self.flush(Kind::Data)?;
            }
        }
        Ok(())
    }

    /// Writes the last chunk, which is short.
    pub(super) fn end(mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.content.is_empty() {
            self.flush(Kind::Data)?;
        }
        self.content.extend_from_slice(bytes);
        self.flush(Kind::End)?;
        self.to.flush()
    }

    fn flush(&mut self, kind: Kind) -> io::Result<()> {
        let head = head(kind as u8, self.number, self.content.len() as u32);
        self.to.write_all(&head)?;
        self.to.write_all(&checksum(&head, &self.content).to_le_bytes())?;
        self.to.write_all(&self.content)?;
        self.content.clear();
        self.number += 1;
        Ok(())
    }
}

/// Puts chunks together again. Reads as a stream of the data; what is wrong with it is found in [`Self::problem`].
#[derive(Debug)]
pub(super) struct ChunkReader<R> {
    from: R,
    content: Vec<u8>,
    /// How much of the content was read.
    read: usize,
    number: u32,
    ended: bool,
    problem: Option<SnapshotError>,
}

impl<R: Read> ChunkReader<R> {
    /// Reads the first bytes.
    pub(super) fn new(mut from: R) -> Result<Self, SnapshotError> {
        let mut first = [0; 8];
        exactly(&mut from, &mut first)?;
        let [magic @ .., version] = first;
        if magic != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        if version != VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        Ok(Self { from, content: Vec::new(), read: 0, number: 0, ended: false, problem: None })
    }

    /// Whether all data was read.
    pub(super) fn is_at_end(&mut self) -> Result<bool, SnapshotError> {
        while self.read == self.content.len() && !self.ended {
            self.next()?;
        }
        Ok(self.ended)
    }

    /// The content of the last chunk.
    pub(super) fn end(&self) -> &[u8] {
        if self.ended { &self.content } else { &[] }
    }

    /// Why the last read failed, if the chunks are to blame.
    pub(super) fn problem(&mut self) -> Option<SnapshotError> {
        self.problem.take()
    }

    fn next(&mut self) -> Result<(), SnapshotError> {
        let mut first = [0; HEAD];
        exactly(&mut self.from, &mut first)?;
        let [kind, n0, n1, n2, n3, l0, l1, l2, l3, c0, c1, c2, c3] = first;
        let (number, length) = (u32::from_le_bytes([n0, n1, n2, n3]), u32::from_le_bytes([l0, l1, l2, l3]));
        let damaged = || SnapshotError::Damaged { chunk: self.number };
        if length as usize > CHUNK {
            return Err(damaged());
        }
        self.content.resize(length as usize, 0);
        self.read = 0;
        exactly(&mut self.from, &mut self.content)?;
        if checksum(&head(kind, number, length), &self.content) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(damaged());
        }
        if number != self.number {
            return Err(SnapshotError::Order { expected: self.number, found: number });
        }
        self.number += 1;
        self.ended = match kind {
            k if k == Kind::Data as u8 => false,
            k if k == Kind::End as u8 => true,
            k => return Err(SnapshotError::Malformed(format!("chunk {number} is of unknown kind {k}"))),
        };
        Ok(())
    }
}

impl<R: Read> Read for ChunkReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.is_at_end() {
            Ok(true) => Ok(0),
            Ok(false) => {
                let count = (&self.content[self.read..]).read(into)?;
                self.read += count;
                Ok(count)
            }
            Err(problem) => {
                let told = io::Error::new(ErrorKind::InvalidData, problem.to_string());
                self.problem = Some(problem);
                Err(told)
            }
        }
    }
}

fn exactly(from: &mut impl Read, into: &mut [u8]) -> Result<(), SnapshotError> {
    from.read_exact(into).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => SnapshotError::Truncated,
        _ => SnapshotError::Read(e),
    })
}

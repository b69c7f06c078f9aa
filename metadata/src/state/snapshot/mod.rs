//! The state as a stream of records, and back.
//!
//! Equal states have equal bytes. The history is left out, and so is all that follows from the rest. The end of the
//! stream says how much there was and the state's digest; a reader counts and computes both anew, so that what it
//! holds in the end is what the writer held, or an error. Records are read one by one: beside the state itself, reading
//! needs one chunk and one record.

mod chunks;

#[cfg(test)]
mod tests;

use super::{
    Item, Reply, State, binary,
    dedupe::{Client, ClientId},
    history::History,
    session::Holding,
};
use bytes::Bytes;
use chunks::{ChunkReader, ChunkWriter, VERSION};
use protocol::id::{Revision, SessionId};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    io::{self, Read, Write},
    sync::Arc,
};

/// Why bytes are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They come from somewhere else.
    #[error("this is not a metadata snapshot")]
    Foreign,
    /// Written by a newer Magnetar.
    #[error("the metadata snapshot has format version {found}, this node knows {VERSION}; upgrade it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The end is missing.
    #[error("the metadata snapshot is cut off")]
    Truncated,
    /// A checksum does not match: bytes were damaged on the way.
    #[error("the metadata snapshot is damaged in chunk {chunk}")]
    Damaged {
        /// The chunk, from 0.
        chunk: u32,
    },
    /// A chunk is not where it belongs.
    #[error("the metadata snapshot has chunk {found} where {expected} belongs")]
    Order {
        /// The chunk that belongs there.
        expected: u32,
        /// The chunk that is there.
        found: u32,
    },
    /// Not decodable, or it contradicts itself.
    #[error("the metadata snapshot cannot be decoded: {0}")]
    Malformed(String),
    /// What was read is not as much as was written.
    #[error("the metadata snapshot holds {found} {what} instead of {expected}")]
    Count {
        /// What there should be more or less of.
        what: &'static str,
        /// How many the writer counted.
        expected: u64,
        /// How many were read.
        found: u64,
    },
    /// What was read is not what was written, although it looks whole.
    #[error("the metadata snapshot has digest {found:016x}, its writer had {expected:016x}")]
    Digest {
        /// The writer's digest.
        expected: u64,
        /// The digest of what was read.
        found: u64,
    },
    /// The bytes cannot be read.
    #[error("the metadata snapshot cannot be read")]
    Read(#[source] io::Error),
}

/// One piece of the state. Sessions come before the keys that live with them, clients before their answers.
#[derive(Serialize, Deserialize)]
enum Record<'a> {
    Head {
        revision: Revision,
        uptime_ms: u64,
        last_session: u64,
    },
    Session {
        id: SessionId,
        ttl_ms: u64,
    },
    Key {
        key: Cow<'a, str>,
        #[serde(with = "binary")]
        value: Bytes,
        version: Revision,
        session: Option<SessionId>,
    },
    Sequence {
        name: Cow<'a, str>,
        next: u64,
    },
    Client {
        id: ClientId,
        highest: u64,
        given_up: Option<u64>,
        heard: u64,
    },
    Answer {
        client: ClientId,
        sequence: u64,
        reply: Cow<'a, Reply>,
    },
}

/// What the stream ends with.
#[derive(Serialize, Deserialize)]
struct End {
    sessions: u64,
    keys: u64,
    sequences: u64,
    clients: u64,
    answers: u64,
    digest: u64,
}

impl End {
    fn of(state: &State) -> Self {
        Self {
            sessions: state.sessions.live().len() as u64,
            keys: state.keys.len() as u64,
            sequences: state.sequences.len() as u64,
            clients: state.dedupe.clients().len() as u64,
            answers: state.dedupe.answers().len() as u64,
            digest: state.digest(),
        }
    }

    /// Compares what was read with what the writer says.
    fn verify(&self, read: &Self) -> Result<(), SnapshotError> {
        for (what, expected, found) in [
            ("sessions", self.sessions, read.sessions),
            ("keys", self.keys, read.keys),
            ("sequences", self.sequences, read.sequences),
            ("clients", self.clients, read.clients),
            ("answers", self.answers, read.answers),
        ] {
            if expected != found {
                return Err(SnapshotError::Count { what, expected, found });
            }
        }
        if self.digest != read.digest {
            return Err(SnapshotError::Digest { expected: self.digest, found: read.digest });
        }
        Ok(())
    }
}

impl State {
    /// Writes the state as a stream of bytes.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_snapshot(&self, to: &mut impl Write) -> io::Result<()> {
        let mut chunks = ChunkWriter::new(to)?;
        let mut bytes = Vec::new();
        for record in self.records() {
            bytes.clear();
            encode(&mut bytes, &record);
            chunks.data(&bytes)?;
        }
        bytes.clear();
        encode(&mut bytes, &End::of(self));
        chunks.end(&bytes)
    }

    /// Reads a state that [`State::write_snapshot`] wrote, up to its end and no further.
    ///
    /// # Errors
    /// If it is cut off or damaged, or a newer Magnetar made it, or `from` fails.
    pub fn read_snapshot(from: &mut impl Read) -> Result<Self, SnapshotError> {
        let mut reader = rmp_serde::Deserializer::new(ChunkReader::new(from)?);
        let mut state = Self::default();
        let mut is_first = true;
        while !reader.get_mut().is_at_end()? {
            let record = Record::deserialize(&mut reader);
            let record = record.map_err(|e| match reader.get_mut().problem() {
                Some(problem) => problem,
                None => SnapshotError::Malformed(e.to_string()),
            })?;
            let is_head = matches!(record, Record::Head { .. });
            if is_head != is_first || !state.take(record) {
                return Err(SnapshotError::Malformed("a record is not where it belongs".into()));
            }
            is_first = false;
        }
        let end: End = rmp_serde::from_slice(reader.get_ref().end())
            .map_err(|e| SnapshotError::Malformed(format!("its end: {e}")))?;
        end.verify(&End::of(&state))?;
        Ok(state)
    }

    /// The state as bytes.
    #[must_use]
    #[expect(clippy::expect_used, reason = "memory takes all that is written to it")]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_snapshot(&mut bytes).expect("memory takes all that is written to it");
        bytes
    }

    /// The state in bytes that [`State::encode`] made.
    ///
    /// # Errors
    /// If they are damaged, or a newer Magnetar made them, or more follows.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, SnapshotError> {
        let state = Self::read_snapshot(&mut bytes)?;
        match bytes.len() {
            0 => Ok(state),
            more => Err(SnapshotError::Malformed(format!("{more} bytes follow its end"))),
        }
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let (revision, uptime_ms, last_session) = (self.revision, self.uptime_ms, self.last_session);
        let sessions = self.sessions().map(|(id, ttl_ms)| Record::Session { id, ttl_ms });
        let keys = self.keys.iter().map(|(key, Item { value, version, session })| Record::Key {
            key: Cow::Borrowed(key),
            value: value.clone(),
            version: *version,
            session: *session,
        });
        let sequences =
            self.sequences.iter().map(|(name, next)| Record::Sequence { name: Cow::Borrowed(name), next: *next });
        let clients = self.dedupe.clients().iter().map(|(id, client)| {
            let Client { highest, given_up, heard, kept: _ } = *client;
            Record::Client { id: *id, highest, given_up, heard }
        });
        let answers = self.dedupe.answers().iter().map(|((client, sequence), reply)| Record::Answer {
            client: *client,
            sequence: *sequence,
            reply: Cow::Borrowed(reply),
        });
        let head = std::iter::once(Record::Head { revision, uptime_ms, last_session });
        head.chain(sessions).chain(keys).chain(sequences).chain(clients).chain(answers)
    }

    /// Takes in a record; `false` if it does not fit to the ones before.
    fn take(&mut self, record: Record<'_>) -> bool {
        match record {
            Record::Head { revision, uptime_ms, last_session } => {
                (self.revision, self.uptime_ms, self.last_session) = (revision, uptime_ms, last_session);
                self.history = History::starting_at(revision);
                true
            }
            Record::Session { id, ttl_ms } => self.sessions.open(id, ttl_ms),
            Record::Key { key, value, version, session } => {
                let key: Arc<str> = key.into();
                if let Some(session) = session {
                    if !self.sessions.lives(session) {
                        return false;
                    }
                    self.sessions.adopt(session, Arc::clone(&key), Holding::of(&key, &value));
                }
                self.keys.insert(key, Item { value, version, session }).is_none()
            }
            Record::Sequence { name, next } => self.sequences.insert(name.into(), next).is_none(),
            Record::Client { id, highest, given_up, heard } => {
                self.dedupe.restore_client(id, Client { highest, given_up, heard, kept: 0 })
            }
            Record::Answer { client, sequence, reply } => {
                self.dedupe.restore_answer(client, sequence, reply.into_owned())
            }
        }
    }
}

#[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
fn encode(bytes: &mut Vec<u8>, value: &impl Serialize) {
    rmp_serde::encode::write(bytes, value).expect("records are plain data");
}

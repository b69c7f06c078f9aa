//! The state as bytes, and back: one version byte, a MessagePack map, a checksum.
//!
//! Equal states have equal bytes, which is what makes the digest meaningful. The history is left out.

use super::{Dedupe, History, Item, Session, State, binary};
use bytes::Bytes;
use protocol::id::{Revision, SessionId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    sync::Arc,
};

/// The version every snapshot is written with.
const SNAPSHOT_VERSION: u8 = 1;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a newer Magnetar.
    #[error("the metadata snapshot has format version {found}, this node knows {SNAPSHOT_VERSION}; upgrade it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The checksum does not match: bytes were damaged on the way.
    #[error("the metadata snapshot is damaged: its checksum does not match")]
    Checksum,
    /// Too short to be one, or not decodable.
    #[error("the metadata snapshot cannot be decoded: {0}")]
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    revision: Revision,
    keys: Vec<StoredItem>,
    sequences: BTreeMap<String, u64>,
    sessions: Vec<(SessionId, u64)>,
    last_session: u64,
    dedupe: Dedupe,
}

#[derive(Serialize, Deserialize)]
struct StoredItem {
    key: String,
    #[serde(with = "binary")]
    value: Bytes,
    version: Revision,
    session: Option<SessionId>,
}

impl State {
    /// The state as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let item = |(key, item): (&Arc<str>, &Item)| StoredItem {
            key: key.as_ref().into(),
            value: item.value.clone(),
            version: item.version,
            session: item.session,
        };
        let stored = Stored {
            revision: self.revision,
            keys: self.keys.iter().map(item).collect(),
            sequences: self.sequences.clone(),
            sessions: self.sessions().collect(),
            last_session: self.last_session,
            dedupe: self.dedupe.clone(),
        };
        let mut bytes = vec![SNAPSHOT_VERSION];
        #[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
        rmp_serde::encode::write_named(&mut bytes, &stored).expect("a snapshot is plain data");
        let sum = fnv64(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The state in bytes that [`State::encode`] made.
    ///
    /// # Errors
    /// If they are damaged, or a newer Magnetar made them.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let Some((body, sum)) = bytes.split_last_chunk::<8>() else {
            return Err(SnapshotError::Malformed(format!("{} bytes are too few", bytes.len())));
        };
        let Some((&version, map)) = body.split_first() else {
            return Err(SnapshotError::Malformed("it is empty".into()));
        };
        if fnv64(body) != u64::from_be_bytes(*sum) {
            return Err(SnapshotError::Checksum);
        }
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        let stored: Stored = rmp_serde::from_slice(map).map_err(|e| SnapshotError::Malformed(e.to_string()))?;
        Ok(stored.into())
    }

    /// Writes the state as a stream of bytes.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_snapshot(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode())
    }

    /// Reads a state that [`State::write_snapshot`] wrote.
    ///
    /// # Errors
    /// If it is damaged, or a newer Magnetar made it, or `from` fails.
    pub fn read_snapshot(from: &mut impl Read) -> Result<Self, SnapshotError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(|e| SnapshotError::Malformed(e.to_string()))?;
        Self::decode(&bytes)
    }

    /// A number that differs when the state does; voters at the same log index must agree on it.
    #[must_use]
    pub fn digest(&self) -> u64 {
        fnv64(&self.encode())
    }
}

impl From<Stored> for State {
    fn from(stored: Stored) -> Self {
        let mut sessions: BTreeMap<SessionId, Session> =
            stored.sessions.into_iter().map(|(id, ttl_ms)| (id, Session { ttl_ms, keys: BTreeSet::new() })).collect();
        let mut keys = BTreeMap::new();
        for StoredItem { key, value, version, session } in stored.keys {
            let key: Arc<str> = key.into();
            if let Some(holder) = session.and_then(|id| sessions.get_mut(&id)) {
                holder.keys.insert(Arc::clone(&key));
            }
            keys.insert(key, Item { value, version, session });
        }
        Self {
            revision: stored.revision,
            keys,
            sequences: stored.sequences,
            sessions,
            last_session: stored.last_session,
            dedupe: stored.dedupe,
            history: History::starting_at(stored.revision),
        }
    }
}

/// FNV-1a, 64 bits: small, stable for ever, and enough against damage (not against malice).
fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

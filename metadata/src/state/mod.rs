//! The state machine of the metadata service: a pure function from a command to a reply.
//!
//! Owns keys, sequences, sessions, the answers kept for retries, and the history that watches read. It has no clock,
//! no I/O and no randomness, so that the same commands make the same state on every voter; [`State::digest`] proves it.
//! It never decides *when* something happens: session expiry is a command, proposed by whoever watches the clock.
//!
//! Invariants:
//! * Every committed transaction has a revision of its own, one higher than the last.
//! * An ephemeral key exists only while its session does ([`State::check`]).
//! * A number of a sequence is issued once.

mod apply;
pub(crate) mod binary;
mod command;
mod dedupe;
mod history;
mod snapshot;

#[cfg(test)]
mod tests;

pub use command::{Batch, BatchError, Command, Replies, Reply};
pub use history::{History, Since};
pub use snapshot::SnapshotError;

use dedupe::Dedupe;
use protocol::{
    id::{Revision, SessionId},
    service::metadata::Versioned,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    value: bytes::Bytes,
    version: Revision,
    session: Option<SessionId>,
}

/// A session and the keys that die with it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    ttl_ms: u64,
    keys: BTreeSet<Arc<str>>,
}

/// Everything the metadata service knows. Cheap to clone per key: keys and values are shared.
#[derive(Debug, Clone, Default)]
pub struct State {
    revision: Revision,
    keys: BTreeMap<Arc<str>, Item>,
    sequences: BTreeMap<String, u64>,
    sessions: BTreeMap<SessionId, Session>,
    last_session: u64,
    dedupe: Dedupe,
    history: History,
}

impl State {
    /// The revision of the latest transaction.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// What a key holds.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Versioned> {
        self.keys.get_key_value(key).map(|(key, item)| versioned(key, item))
    }

    /// The keys under `prefix` that follow `after`, in order: at most `limit` of them, and no more than about
    /// `max_bytes` after the first. Also whether more follow.
    #[must_use]
    pub fn scan(&self, prefix: &str, after: Option<&str>, limit: usize, max_bytes: usize) -> (Vec<Versioned>, bool) {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut bytes = 0;
        let mut items = Vec::new();
        for (key, item) in self.keys.range::<str, _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            if items.len() == limit || (bytes >= max_bytes && !items.is_empty()) {
                return (items, true);
            }
            bytes += key.len() + item.value.len();
            items.push(versioned(key, item));
        }
        (items, false)
    }

    /// Every session and its time to live, in milliseconds.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, u64)> + '_ {
        self.sessions.iter().map(|(id, session)| (*id, session.ttl_ms))
    }

    /// A session's time to live, in milliseconds; `None` if it does not live.
    #[must_use]
    pub fn session_ttl(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(&session).map(|s| s.ttl_ms)
    }

    /// How many keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The recent past, for watches.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// A copy without the history, for a snapshot.
    #[must_use]
    pub fn image(&self) -> Self {
        Self {
            revision: self.revision,
            keys: self.keys.clone(),
            sequences: self.sequences.clone(),
            sessions: self.sessions.clone(),
            last_session: self.last_session,
            dedupe: self.dedupe.clone(),
            history: History::starting_at(self.revision),
        }
    }

    /// temporary
    #[must_use]
    pub fn restored(mut self) -> Self {
        self.revision.0 += 1 << 32;
        self.sequences.values_mut().for_each(|n| *n += 1 << 32);
        self.history = History::starting_at(self.revision);
        self
    }

    /// Checks the invariants between keys and sessions.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        for (key, item) in &self.keys {
            assert!(item.version <= self.revision, "{key} is newer than the state");
            if let Some(session) = item.session {
                let owner = self.sessions.get(&session);
                assert!(owner.is_some_and(|s| s.keys.contains(key)), "{key} outlived session {session}");
            }
        }
        for (id, session) in &self.sessions {
            for key in &session.keys {
                let owner = self.keys.get(key).and_then(|item| item.session);
                assert_eq!(owner, Some(*id), "session {id} holds {key} which is not its own");
            }
        }
    }
}

fn versioned(key: &Arc<str>, item: &Item) -> Versioned {
    Versioned { key: key.as_ref().into(), value: item.value.clone(), version: item.version, session: item.session }
}

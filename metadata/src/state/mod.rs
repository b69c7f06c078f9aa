//! The state machine of the metadata service: a pure function from a command to a reply.
//!
//! Owns keys, sequences, sessions, the answers kept for retries, and the history that watches read. It has no clock,
//! no I/O and no randomness, so that the same commands make the same state on every voter; [`State::digest`] proves it.
//! It never decides *when* something happens: session expiry is a command, proposed by whoever watches the clock. The
//! only time it knows is its uptime: what the leaders' clocks measured between their batches, added up.
//!
//! Invariants:
//! * Every committed transaction has a revision of its own, one higher than the last.
//! * An ephemeral key exists only while its session does ([`State::check`]).
//! * A number of a sequence is issued once.
//! * A request of a client takes effect once, and never after a later one of the same client.

mod apply;
mod batch;
pub(crate) mod binary;
mod command;
mod dedupe;
mod digest;
mod history;
mod reply;
mod session;
mod snapshot;
mod tree;

#[cfg(test)]
mod tests;

pub use batch::{Batch, BatchError};
pub use command::{Command, StoredCondition, StoredOperation, StoredRequest, StoredVersioned};
pub use history::{History, Since};
pub use reply::{Agreement, Replies, Reply};
pub use snapshot::SnapshotError;

use dedupe::Dedupe;
use digest::{Hashed, Hasher, Summed};
use protocol::{
    id::{Revision, SessionId},
    service::metadata::Versioned,
};
use session::{Holding, Sessions};
use std::{ops::Bound, sync::Arc};

/// How far revisions and sequences jump ahead when a state is restored from a backup.
const RESTORE_JUMP: u64 = 1 << 32;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    value: bytes::Bytes,
    version: Revision,
    session: Option<SessionId>,
}

impl Hashed for Item {
    fn feed(&self, hasher: &mut Hasher) {
        hasher.bytes(&self.value).number(self.version.0).option(self.session.map(|s| s.0));
    }
}

/// Everything the metadata service knows. Its maps are copied by sharing ([`State::image`]).
#[derive(Debug, Clone, Default)]
pub struct State {
    revision: Revision,
    uptime_ms: u64,
    last_session: u64,
    keys: Summed<Arc<str>, Item>,
    /// The next number of each sequence.
    sequences: Summed<Arc<str>, u64>,
    sessions: Sessions,
    dedupe: Dedupe,
    history: History,
}

impl State {
    /// The revision of the latest transaction.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Milliseconds that this cluster has been led, as its leaders' clocks measured them; never goes back.
    #[must_use]
    pub const fn uptime_ms(&self) -> u64 {
        self.uptime_ms
    }

    /// What a key holds.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Versioned> {
        self.keys.entry(key).map(|(key, item)| versioned(key, item))
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
        for (key, item) in self.keys.range(from) {
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

    /// Every session and its time to live, in milliseconds; in the order in which they were opened.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, u64)> + '_ {
        self.sessions_after(SessionId(0))
    }

    /// The sessions that were opened after another one.
    pub fn sessions_after(&self, after: SessionId) -> impl Iterator<Item = (SessionId, u64)> + '_ {
        self.sessions.after(after).map(|(id, session)| (id, session.ttl_ms))
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.live().len()
    }

    /// A session's time to live, in milliseconds; `None` if it does not live.
    #[must_use]
    pub fn session_ttl(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(session).map(|s| s.ttl_ms)
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

    /// A copy without the history, for a snapshot. It is made at once, however large the state is.
    #[must_use]
    pub fn image(&self) -> Self {
        Self {
            revision: self.revision,
            uptime_ms: self.uptime_ms,
            last_session: self.last_session,
            keys: self.keys.clone(),
            sequences: self.sequences.clone(),
            sessions: self.sessions.clone(),
            dedupe: self.dedupe.clone(),
            history: History::starting_at(self.revision),
        }
    }

    /// The state of a backup, made fit to go on from: revisions, sessions and sequences continue 2^32 further on, so
    /// that no number which was issued after the backup was made is ever issued again. Keys and sessions are kept.
    #[must_use]
    pub fn restored(mut self) -> Self {
        self.revision = Revision(self.revision.0.saturating_add(RESTORE_JUMP));
        self.last_session = self.last_session.saturating_add(RESTORE_JUMP);
        for (name, next) in self.sequences.clone().iter() {
            self.sequences.insert(Arc::clone(name), next.saturating_add(RESTORE_JUMP));
        }
        self.history = History::starting_at(self.revision);
        self
    }

    /// A number that differs when the state does; voters at the same log index must agree on it. Costs nothing.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest_of([
            self.keys.sum(),
            self.sequences.sum(),
            self.sessions.live().sum(),
            self.dedupe.clients().sum(),
            self.dedupe.answers().sum(),
        ])
    }

    fn digest_of(&self, sums: [u64; 5]) -> u64 {
        let mut hasher = Hasher::new();
        hasher.number(self.revision.0).number(self.uptime_ms).number(self.last_session);
        sums.iter().fold(&mut hasher, |hasher, sum| hasher.number(*sum)).finish()
    }

    /// Checks the invariants between keys, sessions and kept answers, and the digest against all that it stands for.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        let mut owned = 0;
        for (key, item) in self.keys.iter() {
            assert!(item.version <= self.revision, "{key} is newer than the state");
            if let Some(session) = item.session {
                owned += 1;
                let place = self.sessions.owned().get(&(session, Arc::clone(key)));
                assert!(place.is_some(), "{key} does not die with session {session}");
            }
        }
        assert_eq!(owned, self.sessions.owned().len(), "a session holds a key which is not its own");
        for (id, session) in self.sessions.after(SessionId(0)) {
            let first = (id, Arc::from(""));
            let keys = self.sessions.owned().range(Bound::Included(&first)).take_while(|((owner, _), ())| *owner == id);
            let holds = keys.fold(Holding::default(), |holds, ((_, key), ())| {
                let item = self.keys.get(key).filter(|item| item.session == Some(id));
                owned -= 1;
                holds.plus(item.map_or_else(Holding::default, |item| Holding::of(key, &item.value)))
            });
            assert_eq!(session.holds, holds, "what session {id} holds");
        }
        assert_eq!(owned, 0, "a key outlived its session");
        self.dedupe.check();
        let recounted = [
            self.keys.recount(),
            self.sequences.recount(),
            self.sessions.live().recount(),
            self.dedupe.clients().recount(),
            self.dedupe.answers().recount(),
        ];
        assert_eq!(self.digest(), self.digest_of(recounted), "the digest is that of what is held");
    }
}

fn versioned(key: &Arc<str>, item: &Item) -> Versioned {
    Versioned { key: key.as_ref().into(), value: item.value.clone(), version: item.version, session: item.session }
}

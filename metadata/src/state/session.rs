//! The sessions that live, and which keys die with each.
//!
//! Owns how much a session may hold. The limits are part of the replicated rules: voters that disagree about them
//! diverge. It never decides when a session ends, and it does not hold values.
//!
//! Invariant: a session's counts are those of the keys that name it ([`super::State::check`]).

use super::{
    digest::{Hashed, Hasher, Summed},
    tree::Tree,
};
use protocol::{
    id::SessionId,
    service::metadata::{MAX_SESSION_BYTES, MAX_SESSION_KEYS},
};
use std::{ops::Bound, sync::Arc};

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    /// Its time to live without a heartbeat, in milliseconds.
    pub ttl_ms: u64,
    /// What lives with it.
    pub holds: Holding,
}

/// Keys, and the bytes of them and their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Holding {
    pub keys: u64,
    pub bytes: u64,
}

impl Holding {
    /// One key.
    pub(super) const fn of(key: &str, value: &[u8]) -> Self {
        Self { keys: 1, bytes: (key.len() + value.len()) as u64 }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self { keys: self.keys + other.keys, bytes: self.bytes + other.bytes }
    }

    /// Less, and never below nothing.
    pub(super) const fn minus(self, other: Self) -> Self {
        Self { keys: self.keys.saturating_sub(other.keys), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    /// Whether it is more than a session may hold.
    pub(super) const fn is_too_much(self) -> bool {
        self.keys > MAX_SESSION_KEYS || self.bytes > MAX_SESSION_BYTES
    }
}

impl Hashed for Session {
    /// What it holds is told by the keys.
    fn feed(&self, hasher: &mut Hasher) {
        hasher.number(self.ttl_ms);
    }
}

/// All sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    live: Summed<SessionId, Session>,
    /// The keys that die with a session.
    owned: Tree<(SessionId, Arc<str>), ()>,
}

impl Sessions {
    /// A session begins; `false` if it has begun already.
    pub(super) fn open(&mut self, session: SessionId, ttl_ms: u64) -> bool {
        self.live.insert(session, Session { ttl_ms, holds: Holding::default() }).is_none()
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Session> {
        self.live.get(&session)
    }

    pub(super) fn lives(&self, session: SessionId) -> bool {
        self.get(session).is_some()
    }

    /// Those after `after`, in order.
    pub(super) fn after(&self, after: SessionId) -> impl Iterator<Item = (SessionId, &Session)> {
        self.live.range(Bound::Excluded(&after)).map(|(id, session)| (*id, session))
    }

    pub(super) const fn live(&self) -> &Summed<SessionId, Session> {
        &self.live
    }

    pub(super) const fn owned(&self) -> &Tree<(SessionId, Arc<str>), ()> {
        &self.owned
    }

    /// A key lives with a session from now on.
    pub(super) fn adopt(&mut self, session: SessionId, key: Arc<str>, size: Holding) {
        self.hold(session, |holds| holds.plus(size));
        self.owned.insert((session, key), ());
    }

    /// A key does not live with a session any more.
    pub(super) fn release(&mut self, session: SessionId, key: Arc<str>, size: Holding) {
        self.hold(session, |holds| holds.minus(size));
        self.owned.remove(&(session, key));
    }

    /// Ends a session; answers the keys that die with it, in order. `None` if it did not live.
    pub(super) fn close(&mut self, session: SessionId) -> Option<Vec<Arc<str>>> {
        self.live.remove(&session)?;
        let first = (session, Arc::from(""));
        let owned = self.owned.range(Bound::Included(&first)).take_while(|((id, _), ())| *id == session);
        let keys: Vec<_> = owned.map(|((_, key), ())| Arc::clone(key)).collect();
        for key in &keys {
            self.owned.remove(&(session, Arc::clone(key)));
        }
        Some(keys)
    }

    fn hold(&mut self, id: SessionId, change: impl FnOnce(Holding) -> Holding) {
        if let Some(mut session) = self.live.get(&id).copied() {
            session.holds = change(session.holds);
            self.live.insert(id, session);
        }
    }
}

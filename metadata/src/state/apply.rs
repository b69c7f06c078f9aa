//! Applying a command: conditions first, then everything or nothing.

use super::{
    Agreement, Command, Holding, Item, Reply, State,
    command::{StoredCondition, StoredOperation, StoredRequest, StoredVersioned},
    versioned,
};
use protocol::{
    id::{Revision, SessionId},
    service::metadata::{Change, Versioned, WatchEvent},
};
use std::{collections::BTreeMap, sync::Arc};

/// The first number of every sequence; 0 is left to mean "none".
const FIRST_NUMBER: u64 = 1;

impl State {
    /// Time has passed.
    pub fn advance(&mut self, elapsed_ms: u64) {
        self.uptime_ms = self.uptime_ms.saturating_add(elapsed_ms);
        self.dedupe.sweep(self.uptime());
    }

    /// Applies one command and answers it.
    pub fn apply(&mut self, command: Command) -> Reply {
        let reply = match command {
            Command::Transact { conditions, operations, request: None } => self.transact(&conditions, operations),
            Command::Transact { conditions, operations, request: Some(request) } => {
                self.transact_once(&conditions, operations, request)
            }
            Command::OpenSession { ttl_ms } => {
                self.last_session += 1;
                let id = SessionId(self.last_session);
                self.sessions.open(id, ttl_ms);
                Reply::Session(id)
            }
            Command::CloseSession { session } => self.close(session),
            // Whoever applies log entries knows more; see `crate::applied`.
            Command::Audit { .. } => Reply::Audited(Agreement::Unknown),
        };
        // As rarely as the state is large, so that a check costs the same per command whatever it holds.
        #[cfg(feature = "invariants")]
        if self.revision.0.is_multiple_of(1 + self.keys.len() as u64 / 256) {
            self.check();
        }
        reply
    }

    /// Seconds of uptime.
    const fn uptime(&self) -> u64 {
        self.uptime_ms / 1_000
    }

    fn transact_once(
        &mut self,
        conditions: &[StoredCondition],
        operations: Vec<StoredOperation>,
        request: StoredRequest,
    ) -> Reply {
        let now = self.uptime();
        if let Some(decided) = self.dedupe.answer(request, now) {
            return decided;
        }
        let reply = self.transact(conditions, operations);
        self.dedupe.keep(request, reply.clone(), now);
        reply
    }

    fn transact(&mut self, conditions: &[StoredCondition], operations: Vec<StoredOperation>) -> Reply {
        if let Some(failed) = conditions.iter().position(|c| !self.holds(c)) {
            return Reply::Conflict { condition: failed as u64, current: self.held_by(&conditions[failed]) };
        }
        if let Err(refusal) = self.admit(&operations) {
            return refusal;
        }
        let revision = self.next_revision();
        let mut sequences = Vec::new();
        let mut changes = Vec::with_capacity(operations.len());
        for operation in operations {
            match operation {
                StoredOperation::Put { key, value, session } => {
                    changes.push(Change::Put(self.put(key, Item { value, version: revision, session })));
                }
                StoredOperation::Delete(key) => {
                    if self.remove(&key) {
                        changes.push(Change::Deleted(key));
                    }
                }
                StoredOperation::Sequence { name, count } => {
                    let first = self.next_number(&name);
                    sequences.push(first);
                    self.sequences.insert(name.into(), first.saturating_add(count));
                }
            }
        }
        self.history.push(WatchEvent { revision, changes });
        Reply::Committed { revision, sequences }
    }

    fn holds(&self, condition: &StoredCondition) -> bool {
        match condition {
            StoredCondition::Absent(key) => self.keys.get(key.as_str()).is_none(),
            StoredCondition::Present(key) => self.keys.get(key.as_str()).is_some(),
            StoredCondition::Version(key, version) => {
                self.keys.get(key.as_str()).is_some_and(|item| item.version == *version)
            }
            StoredCondition::Session(session) => self.sessions.lives(*session),
        }
    }

    fn held_by(&self, condition: &StoredCondition) -> Option<StoredVersioned> {
        match condition {
            StoredCondition::Absent(key) | StoredCondition::Present(key) | StoredCondition::Version(key, _) => {
                self.get(key).map(Into::into)
            }
            StoredCondition::Session(_) => None,
        }
    }

    fn next_number(&self, sequence: &str) -> u64 {
        self.sequences.get(sequence).copied().unwrap_or(FIRST_NUMBER)
    }

    /// Refuses, before anything changes, what could only be carried out in part.
    fn admit(&self, operations: &[StoredOperation]) -> Result<(), Reply> {
        let mut taken = BTreeMap::<&str, u64>::new();
        let mut is_ephemeral = false;
        for operation in operations {
            match operation {
                StoredOperation::Put { session: Some(session), .. } => {
                    if !self.sessions.lives(*session) {
                        return Err(Reply::SessionExpired(*session));
                    }
                    is_ephemeral = true;
                }
                StoredOperation::Sequence { name, count } => {
                    let next = taken.entry(name).or_insert_with(|| self.next_number(name));
                    *next = next
                        .checked_add(*count)
                        .ok_or_else(|| Reply::Refused(format!("sequence \"{name}\" is exhausted")))?;
                }
                StoredOperation::Put { session: None, .. } | StoredOperation::Delete(_) => {}
            }
        }
        if is_ephemeral { self.admit_to_sessions(operations) } else { Ok(()) }
    }

    /// Refuses what would make a session hold more than it may. Only what is there in the end counts.
    fn admit_to_sessions(&self, operations: &[StoredOperation]) -> Result<(), Reply> {
        let mut written = BTreeMap::<&str, Option<(SessionId, Holding)>>::new();
        for operation in operations {
            match operation {
                StoredOperation::Put { key, value, session } => {
                    written.insert(key, session.map(|session| (session, Holding::of(key, value))));
                }
                StoredOperation::Delete(key) => drop(written.insert(key, None)),
                StoredOperation::Sequence { .. } => {}
            }
        }
        let (mut gained, mut lost) = (BTreeMap::<SessionId, Holding>::new(), BTreeMap::<SessionId, Holding>::new());
        let count = |sum: &mut BTreeMap<SessionId, Holding>, session, size| {
            let holding = sum.entry(session).or_default();
            *holding = holding.plus(size);
        };
        for (key, now) in written {
            if let Some(item) = self.keys.get(key)
                && let Some(session) = item.session
            {
                count(&mut lost, session, Holding::of(key, &item.value));
            }
            if let Some((session, size)) = now {
                count(&mut gained, session, size);
            }
        }
        for (session, gains) in gained {
            let held = self.sessions.get(session).map(|s| s.holds).unwrap_or_default();
            let holds = held.plus(gains).minus(lost.get(&session).copied().unwrap_or_default());
            if holds.is_too_much() {
                return Err(Reply::SessionFull { session, keys: holds.keys, bytes: holds.bytes });
            }
        }
        Ok(())
    }

    fn close(&mut self, session: SessionId) -> Reply {
        let Some(keys) = self.sessions.close(session) else {
            return Reply::SessionExpired(session);
        };
        let revision = self.next_revision();
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            self.keys.remove(&key);
            changes.push(Change::Deleted(key.as_ref().into()));
        }
        self.history.push(WatchEvent { revision, changes });
        Reply::Closed
    }

    fn next_revision(&mut self) -> Revision {
        self.revision = Revision(self.revision.0 + 1);
        self.revision
    }

    fn put(&mut self, key: String, item: Item) -> Versioned {
        let key: Arc<str> = key.into();
        let written = versioned(&key, &item);
        let (session, size) = (item.session, Holding::of(&key, &item.value));
        let old = self.keys.insert(Arc::clone(&key), item);
        self.release(&key, old);
        if let Some(session) = session {
            self.sessions.adopt(session, key, size);
        }
        written
    }

    fn remove(&mut self, key: &str) -> bool {
        let Some((key, item)) = self.keys.remove(key) else { return false };
        self.release(&key, Some(item));
        true
    }

    /// What a key held is gone, and so is its place with a session.
    fn release(&mut self, key: &Arc<str>, old: Option<Item>) {
        if let Some(Item { value, session: Some(session), .. }) = old {
            self.sessions.release(session, Arc::clone(key), Holding::of(key, &value));
        }
    }
}

//! Applying a command: conditions first, then everything or nothing.

use super::{
    Command, Item, Reply, Session, State,
    command::{StoredCondition, StoredOperation, StoredRequest},
    versioned,
};
use protocol::{
    id::{Revision, SessionId},
    service::metadata::{Change, Versioned, WatchEvent},
};
use std::{collections::BTreeSet, sync::Arc};

/// The first number of every sequence; 0 is left to mean "none".
const FIRST_NUMBER: u64 = 1;

impl State {
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
                self.sessions.insert(id, Session { ttl_ms, keys: BTreeSet::new() });
                Reply::Session(id)
            }
            Command::CloseSession { session } => self.close(session),
        };
        #[cfg(feature = "invariants")]
        self.check();
        reply
    }

    fn transact_once(
        &mut self,
        conditions: &[StoredCondition],
        operations: Vec<StoredOperation>,
        request: StoredRequest,
    ) -> Reply {
        if let Some(first) = self.dedupe.answer(request) {
            return first;
        }
        let reply = self.transact(conditions, operations);
        self.dedupe.keep(request, reply.clone());
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
                    let next = self.sequences.entry(name).or_insert(FIRST_NUMBER);
                    sequences.push(*next);
                    *next = next.saturating_add(count);
                }
            }
        }
        self.history.push(WatchEvent { revision, changes });
        Reply::Committed { revision, sequences }
    }

    fn holds(&self, condition: &StoredCondition) -> bool {
        match condition {
            StoredCondition::Absent(key) => !self.keys.contains_key(key.as_str()),
            StoredCondition::Present(key) => self.keys.contains_key(key.as_str()),
            StoredCondition::Version(key, version) => {
                self.keys.get(key.as_str()).is_some_and(|item| item.version == *version)
            }
            StoredCondition::Session(session) => self.sessions.contains_key(session),
        }
    }

    fn held_by(&self, condition: &StoredCondition) -> Option<super::command::StoredVersioned> {
        match condition {
            StoredCondition::Absent(key) | StoredCondition::Present(key) | StoredCondition::Version(key, _) => {
                self.get(key).map(Into::into)
            }
            StoredCondition::Session(_) => None,
        }
    }

    /// Refuses, before anything changes, what could only be carried out in part.
    fn admit(&self, operations: &[StoredOperation]) -> Result<(), Reply> {
        let mut taken = std::collections::BTreeMap::<&str, u64>::new();
        for operation in operations {
            match operation {
                StoredOperation::Put { session: Some(session), .. } if !self.sessions.contains_key(session) => {
                    return Err(Reply::SessionExpired(*session));
                }
                StoredOperation::Sequence { name, count } => {
                    let issued = self.sequences.get(name).copied().unwrap_or(FIRST_NUMBER);
                    let next = taken.entry(name).or_insert(issued);
                    *next = next
                        .checked_add(*count)
                        .ok_or_else(|| Reply::Refused(format!("sequence \"{name}\" is exhausted")))?;
                }
                StoredOperation::Put { .. } | StoredOperation::Delete(_) => {}
            }
        }
        Ok(())
    }

    fn close(&mut self, session: SessionId) -> Reply {
        let Some(closed) = self.sessions.remove(&session) else {
            return Reply::SessionExpired(session);
        };
        let revision = self.next_revision();
        let mut changes = Vec::with_capacity(closed.keys.len());
        for key in closed.keys {
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
        let session = item.session;
        let old = self.keys.insert(Arc::clone(&key), item).and_then(|old| old.session);
        if old != session
            && let Some(holder) = old.and_then(|id| self.sessions.get_mut(&id))
        {
            holder.keys.remove(&key);
        }
        if let Some(holder) = session.and_then(|id| self.sessions.get_mut(&id)) {
            holder.keys.insert(key);
        }
        written
    }

    fn remove(&mut self, key: &str) -> bool {
        let Some(item) = self.keys.remove(key) else { return false };
        if let Some(holder) = item.session.and_then(|id| self.sessions.get_mut(&id)) {
            holder.keys.remove(key);
        }
        true
    }
}

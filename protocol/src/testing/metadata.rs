//! An in-memory metadata service: complete, single, and as fast as a map.
//!
//! Every call takes effect when it is made. Sessions expire only when a test says so. Watches read the history, so
//! they can be compacted away or ended on purpose.

use super::faults::Faults;
use crate::{
    id::{Revision, SessionId},
    model::{Record, encode},
    service::{
        Answer,
        metadata::{
            Change, Condition, Consistency, MAX_KEY, MAX_SCAN, MAX_TRANSACTION, MAX_VALUE, MetadataError,
            MetadataService, Operation, Outcome, RequestId, Scan, ScanPage, Transaction, Versioned, WatchEvent,
            WatchStream,
        },
    },
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// The state behind a [`FakeMetadata`].
#[derive(Debug, Default)]
struct Keyspace {
    revision: Revision,
    keys: BTreeMap<String, Versioned>,
    sequences: HashMap<String, u64>,
    sessions: BTreeSet<SessionId>,
    last_session: u64,
    answered: HashMap<RequestId, Result<Outcome, MetadataError>>,
    /// The highest sequence that was carried out of each client.
    clients: HashMap<u128, u64>,
    history: VecDeque<WatchEvent>,
    /// The oldest revision a watch may start after.
    oldest: Revision,
}

/// What watches wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    revision: Revision,
    /// Watches opened under an earlier generation have ended.
    generation: u64,
}

/// An in-memory [`MetadataService`]. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct FakeMetadata(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<Keyspace>,
    progress: watch::Sender<Progress>,
    heartbeats: AtomicU64,
    faults: Faults<MetadataError>,
}

impl FakeMetadata {
    /// An empty service.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This service as its users hold it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn MetadataService> {
        Arc::new(self.clone())
    }

    /// The switches: fail, lose answers, hang, hold.
    #[must_use]
    pub fn faults(&self) -> &Faults<MetadataError> {
        &self.0.faults
    }

    /// The next call answers `error`, and nothing happens.
    pub fn fail_next(&self, error: MetadataError) {
        self.0.faults.fail_next(error);
    }

    /// The latest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.state.lock().revision
    }

    /// What a key holds.
    #[must_use]
    pub fn peek(&self, key: &str) -> Option<Versioned> {
        self.0.state.lock().keys.get(key).cloned()
    }

    /// Everything under a prefix.
    #[must_use]
    pub fn peek_all(&self, prefix: &str) -> Vec<Versioned> {
        let state = self.0.state.lock();
        state.keys.values().filter(|item| item.key.starts_with(prefix)).cloned().collect()
    }

    /// Writes a record, whatever was there; faults do not apply.
    pub fn put<R: Record>(&self, key: String, record: &R) -> Revision {
        let operations = vec![Operation::Put { key, value: encode(record), session: None }];
        self.commit(&Transaction { operations, ..Transaction::default() });
        self.revision()
    }

    /// Deletes a key; faults do not apply.
    pub fn delete(&self, key: String) -> Revision {
        self.commit(&Transaction { operations: vec![Operation::Delete(key)], ..Transaction::default() });
        self.revision()
    }

    /// Ends a session as if its time to live had passed.
    pub fn expire(&self, session: SessionId) {
        self.0.state.lock().end_session(session);
        self.wake();
    }

    /// The sessions that live.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionId> {
        self.0.state.lock().sessions.iter().copied().collect()
    }

    /// Forgets the history up to now: watches that resume from earlier are told so.
    pub fn compact(&self) {
        let mut state = self.0.state.lock();
        state.oldest = state.revision;
        state.history.clear();
    }

    /// Ends every open watch with an error, as a lost connection would.
    pub fn end_watches(&self) {
        self.0.progress.send_modify(|p| p.generation += 1);
    }

    /// How many heartbeats arrived for sessions that live.
    #[must_use]
    pub fn heartbeats(&self) -> u64 {
        self.0.heartbeats.load(Ordering::Relaxed)
    }

    /// How many watches are open.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.0.progress.receiver_count()
    }

    fn commit(&self, transaction: &Transaction) {
        let _outcome = self.0.state.lock().transact(transaction);
        self.wake();
    }

    fn wake(&self) {
        let revision = self.revision();
        self.0.progress.send_if_modified(|p| std::mem::replace(&mut p.revision, revision) != revision);
    }
}

impl MetadataService for FakeMetadata {
    fn get(&self, key: String, _consistency: Consistency) -> Answer<Option<Versioned>, MetadataError> {
        self.0.faults.run(|| {
            check_key(&key)?;
            Ok(self.0.state.lock().keys.get(&key).cloned())
        })
    }

    fn scan(&self, scan: Scan) -> Answer<ScanPage, MetadataError> {
        self.0.faults.run(|| self.0.state.lock().scan(&scan))
    }

    fn transact(&self, transaction: Transaction) -> Answer<Outcome, MetadataError> {
        let answer = self.0.faults.run(|| self.0.state.lock().transact(&transaction));
        self.wake();
        answer
    }

    fn watch(&self, prefix: String, after: Revision) -> Answer<WatchStream, MetadataError> {
        let watched = Arc::clone(&self.0);
        self.0.faults.run(|| {
            let state = self.0.state.lock();
            if after < state.oldest {
                return Err(MetadataError::Compacted { asked: after, oldest: state.oldest });
            }
            let progress = self.0.progress.subscribe();
            let generation = progress.borrow().generation;
            let watch = Watch { watched, prefix, after, progress, generation, ended: false };
            Ok(stream::unfold(watch, Watch::next).boxed())
        })
    }

    fn open_session(&self, _ttl: Duration) -> Answer<SessionId, MetadataError> {
        self.0.faults.run(|| {
            let mut state = self.0.state.lock();
            state.last_session += 1;
            let session = SessionId(state.last_session);
            state.sessions.insert(session);
            Ok(session)
        })
    }

    fn keep_alive(&self, session: SessionId) -> Answer<(), MetadataError> {
        self.0.faults.run(|| {
            if !self.0.state.lock().sessions.contains(&session) {
                return Err(MetadataError::SessionExpired(session));
            }
            self.0.heartbeats.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    fn close_session(&self, session: SessionId) -> Answer<(), MetadataError> {
        let answer = self.0.faults.run(|| {
            let lived = self.0.state.lock().end_session(session);
            if lived { Ok(()) } else { Err(MetadataError::SessionExpired(session)) }
        });
        self.wake();
        answer
    }
}

/// One open watch.
struct Watch {
    watched: Arc<Inner>,
    prefix: String,
    after: Revision,
    progress: watch::Receiver<Progress>,
    generation: u64,
    ended: bool,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<WatchEvent, MetadataError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            let found = self.find();
            if let Some(event) = found {
                self.ended = event.is_err();
                return Some((event, self));
            }
            // The sender is part of `watched`.
            let _ = self.progress.changed().await;
        }
    }

    fn find(&mut self) -> Option<Result<WatchEvent, MetadataError>> {
        let state = self.watched.state.lock();
        if self.progress.borrow_and_update().generation != self.generation {
            return Some(Err(MetadataError::Unavailable { reason: "the watch was ended by the test".into() }));
        }
        if self.after < state.oldest {
            return Some(Err(MetadataError::Compacted { asked: self.after, oldest: state.oldest }));
        }
        let from = state.history.partition_point(|event| event.revision <= self.after);
        for event in state.history.range(from..) {
            self.after = event.revision;
            let ours = |change: &&Change| match change {
                Change::Put(item) => item.key.starts_with(&self.prefix),
                Change::Deleted(key) => key.starts_with(&self.prefix),
            };
            let changes: Vec<Change> = event.changes.iter().filter(ours).cloned().collect();
            if !changes.is_empty() || self.prefix.is_empty() {
                return Some(Ok(WatchEvent { revision: event.revision, changes }));
            }
        }
        None
    }
}

impl Keyspace {
    fn scan(&self, scan: &Scan) -> Result<ScanPage, MetadataError> {
        if !(1..=MAX_SCAN).contains(&scan.limit) {
            return Err(MetadataError::Invalid(format!("a scan page has 1 to {MAX_SCAN} items, not {}", scan.limit)));
        }
        let start = match &scan.after {
            Some(after) if *after >= scan.prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(scan.prefix.clone()),
        };
        let range = self.keys.range::<String, _>((start, Bound::Unbounded));
        let mut items: Vec<Versioned> = range
            .map(|(_, item)| item)
            .take_while(|item| item.key.starts_with(&scan.prefix))
            .take(scan.limit as usize + 1)
            .cloned()
            .collect();
        let more = items.len() > scan.limit as usize;
        items.truncate(scan.limit as usize);
        Ok(ScanPage { items, more, revision: self.revision })
    }

    fn transact(&mut self, transaction: &Transaction) -> Result<Outcome, MetadataError> {
        check(transaction)?;
        let Some(request) = transaction.request else { return self.decide(transaction) };
        if let Some(first) = self.answered.get(&request) {
            return first.clone();
        }
        let highest = self.clients.entry(request.client).or_default();
        if request.sequence < *highest {
            return Err(MetadataError::overtaken());
        }
        *highest = request.sequence;
        let outcome = self.decide(transaction);
        self.answered.insert(request, outcome.clone());
        outcome
    }

    fn decide(&mut self, transaction: &Transaction) -> Result<Outcome, MetadataError> {
        if let Some(condition) = transaction.conditions.iter().position(|c| !self.holds(c)) {
            let current = match &transaction.conditions[condition] {
                Condition::Absent(key) | Condition::Present(key) | Condition::Version(key, _) => self.keys.get(key),
                Condition::Session(_) => None,
            };
            return Ok(Outcome::Conflict { condition, current: current.cloned() });
        }
        for operation in &transaction.operations {
            if let Operation::Put { session: Some(session), .. } = operation
                && !self.sessions.contains(session)
            {
                return Err(MetadataError::SessionExpired(*session));
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let (mut changes, mut sequences) = (Vec::new(), Vec::new());
        for operation in transaction.operations.iter().cloned() {
            match operation {
                Operation::Put { key, value, session } => changes.push(self.put(key, value, session, revision)),
                Operation::Delete(key) => {
                    if self.keys.remove(&key).is_some() {
                        changes.push(Change::Deleted(key));
                    }
                }
                Operation::Sequence { name, count } => {
                    let next = self.sequences.entry(name).or_insert(1);
                    sequences.push(*next);
                    *next += count;
                }
            }
        }
        self.record(revision, changes);
        Ok(Outcome::Committed { revision, sequences })
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(key) => !self.keys.contains_key(key),
            Condition::Present(key) => self.keys.contains_key(key),
            Condition::Version(key, version) => self.keys.get(key).is_some_and(|item| item.version == *version),
            Condition::Session(session) => self.sessions.contains(session),
        }
    }

    fn put(&mut self, key: String, value: Bytes, session: Option<SessionId>, version: Revision) -> Change {
        let item = Versioned { key: key.clone(), value, version, session };
        self.keys.insert(key, item.clone());
        Change::Put(item)
    }

    fn record(&mut self, revision: Revision, changes: Vec<Change>) {
        self.revision = revision;
        self.history.push_back(WatchEvent { revision, changes });
    }

    /// Whether the session lived.
    fn end_session(&mut self, session: SessionId) -> bool {
        if !self.sessions.remove(&session) {
            return false;
        }
        let dead: Vec<String> =
            self.keys.values().filter(|item| item.session == Some(session)).map(|item| item.key.clone()).collect();
        for key in &dead {
            self.keys.remove(key);
        }
        self.record(Revision(self.revision.0 + 1), dead.into_iter().map(Change::Deleted).collect());
        true
    }
}

fn check(transaction: &Transaction) -> Result<(), MetadataError> {
    for condition in &transaction.conditions {
        if let Condition::Absent(key) | Condition::Present(key) | Condition::Version(key, _) = condition {
            check_key(key)?;
        }
    }
    for operation in &transaction.operations {
        match operation {
            Operation::Put { key, value, .. } => {
                check_key(key)?;
                check_size("value", value.len(), MAX_VALUE)?;
            }
            Operation::Delete(key) => check_key(key)?,
            Operation::Sequence { count: 0, .. } => {
                return Err(MetadataError::Invalid("a sequence gives 1 or more numbers".into()));
            }
            Operation::Sequence { name, .. } => check_key(name)?,
        }
    }
    check_size("transaction", transaction.size(), MAX_TRANSACTION)
}

fn check_key(key: &str) -> Result<(), MetadataError> {
    if key.is_empty() {
        return Err(MetadataError::Invalid("a key must not be empty".into()));
    }
    check_size("key", key.len(), MAX_KEY)
}

fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), MetadataError> {
    if size <= limit {
        return Ok(());
    }
    Err(MetadataError::TooLarge { what, size: size as u64, limit: limit as u64 })
}

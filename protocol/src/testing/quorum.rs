//! A metadata cluster for operators that writes down what it is asked; nobody joins or leaves it for real.

use super::faults::Faults;
use crate::service::{
    Answer,
    quorum::{BackupStream, Joined, Joining, QuorumError, QuorumService, QuorumStatus, SnapshotStatus},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;

/// The number that a node gets which did not ask for one.
const NEXT_ID: u64 = 4;

/// What a [`FakeQuorum`] was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuorumAsk {
    /// `status`
    Status,
    /// `join`
    Join(Joining),
    /// `promote`
    Promote(u64),
    /// `remove`
    Remove(u64),
    /// `transfer`
    Transfer(Option<u64>),
    /// `snapshot`
    Snapshot,
    /// `backup`
    Backup,
}

/// An in-memory [`QuorumService`] of one node. Clones share one state.
#[derive(Debug, Clone)]
pub struct FakeQuorum(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    status: Mutex<QuorumStatus>,
    asked: Mutex<Vec<QuorumAsk>>,
    backup: Mutex<Vec<Result<Bytes, QuorumError>>>,
    faults: Faults<QuorumError>,
}

/// The status of node `node` of `group`, which leads and knows nobody else.
#[must_use]
pub fn status(node: u64, group: Uuid) -> QuorumStatus {
    QuorumStatus {
        node,
        group,
        term: 1,
        leader: Some(node),
        last_log: 0,
        committed: 0,
        applied: 0,
        members: Vec::new(),
        revision: Default::default(),
        keys: 0,
        sessions: 0,
        watches: 0,
        log_bytes: 0,
        snapshot: None,
        audited: None,
        is_changing: false,
    }
}

impl FakeQuorum {
    /// Node `node` of `group`, which leads.
    #[must_use]
    pub fn new(node: u64, group: Uuid) -> Self {
        let (asked, backup) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { status: Mutex::new(status(node, group)), asked, backup, faults: Faults::default() }))
    }

    /// This cluster as its users hold it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn QuorumService> {
        Arc::new(self.clone())
    }

    /// The switches: fail, lose answers, hang, hold.
    #[must_use]
    pub fn faults(&self) -> &Faults<QuorumError> {
        &self.0.faults
    }

    /// Changes what `status` shows.
    pub fn set_status(&self, change: impl FnOnce(&mut QuorumStatus)) {
        change(&mut self.0.status.lock());
    }

    /// Sets the pieces of a backup.
    pub fn set_backup(&self, pieces: Vec<Result<Bytes, QuorumError>>) {
        *self.0.backup.lock() = pieces;
    }

    /// What took effect so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<QuorumAsk> {
        self.0.asked.lock().clone()
    }

    fn take<T: Send + 'static>(&self, ask: QuorumAsk, answer: impl FnOnce(&Inner) -> T) -> Answer<T, QuorumError> {
        self.0.faults.run(|| {
            self.0.asked.lock().push(ask);
            Ok(answer(&self.0))
        })
    }
}

impl QuorumService for FakeQuorum {
    fn status(&self) -> Answer<QuorumStatus, QuorumError> {
        self.take(QuorumAsk::Status, |inner| inner.status.lock().clone())
    }

    fn join(&self, joining: Joining) -> Answer<Joined, QuorumError> {
        let id = joining.id.unwrap_or(NEXT_ID);
        self.take(QuorumAsk::Join(joining), |inner| Joined { id, group: inner.status.lock().group })
    }

    fn promote(&self, id: u64) -> Answer<(), QuorumError> {
        self.take(QuorumAsk::Promote(id), |_| ())
    }

    fn remove(&self, id: u64) -> Answer<(), QuorumError> {
        self.take(QuorumAsk::Remove(id), |_| ())
    }

    fn transfer(&self, to: Option<u64>) -> Answer<u64, QuorumError> {
        self.take(QuorumAsk::Transfer(to), |inner| to.unwrap_or(inner.status.lock().node))
    }

    fn snapshot(&self) -> Answer<SnapshotStatus, QuorumError> {
        self.take(QuorumAsk::Snapshot, |_| SnapshotStatus { index: 1, bytes: 2, age: None })
    }

    fn backup(&self) -> Answer<BackupStream, QuorumError> {
        self.take(QuorumAsk::Backup, |inner| stream::iter(inner.backup.lock().clone()).boxed())
    }
}

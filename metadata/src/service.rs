//! The metadata service in-process: checks limits, then queues the call. A method has made its call when it returns.

use crate::{
    applied::Applied,
    limits,
    queue::{Call, Entrance, Queued},
};
use protocol::{
    id::{Revision, SessionId},
    runtime::Clock,
    service::{
        Answer,
        metadata::{
            Consistency, MetadataError, MetadataService, Outcome, Scan, ScanPage, Transaction, Versioned, WatchStream,
        },
        ready, reply,
    },
};
use std::{sync::Arc, time::Duration};

/// A handle of this node's metadata service.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) entrance: Entrance,
    pub(crate) applied: Arc<Applied>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether calls on this handle were passed on by another node.
    pub(crate) is_passed_on: bool,
}

impl Service {
    fn push(&self, call: Call, bytes: usize) {
        let made = self.clock.monotonic();
        self.entrance.push(Queued { call, bytes, made, is_passed_on: self.is_passed_on });
    }
}

impl MetadataService for Service {
    fn get(&self, key: String, consistency: Consistency) -> Answer<Option<Versioned>, MetadataError> {
        if let Err(refused) = limits::key(&key) {
            return ready(Err(refused));
        }
        if consistency == Consistency::Stale {
            return ready(Ok(self.applied.get(&key)));
        }
        let (caller, answer) = reply();
        let bytes = key.len();
        self.push(Call::Get(key, caller), bytes);
        answer
    }

    fn scan(&self, scan: Scan) -> Answer<ScanPage, MetadataError> {
        if let Err(refused) = limits::scan(&scan) {
            return ready(Err(refused));
        }
        if scan.consistency == Consistency::Stale {
            return ready(Ok(self.applied.scan(&scan.prefix, scan.after.as_deref(), scan.limit)));
        }
        let (caller, answer) = reply();
        let bytes = scan.prefix.len();
        self.push(Call::Scan(scan, caller), bytes);
        answer
    }

    fn transact(&self, transaction: Transaction) -> Answer<Outcome, MetadataError> {
        if let Err(refused) = limits::transaction(&transaction) {
            return ready(Err(refused));
        }
        let (caller, answer) = reply();
        let bytes = transaction.size();
        self.push(Call::Transact(transaction, caller), bytes);
        answer
    }

    fn watch(&self, prefix: String, after: Revision) -> Answer<WatchStream, MetadataError> {
        ready(limits::prefix(&prefix).and_then(|()| self.applied.watch(prefix, after)))
    }

    fn open_session(&self, ttl: Duration) -> Answer<SessionId, MetadataError> {
        if let Err(refused) = limits::ttl(ttl) {
            return ready(Err(refused));
        }
        let (caller, answer) = reply();
        self.push(Call::OpenSession(ttl, caller), 0);
        answer
    }

    fn keep_alive(&self, session: SessionId) -> Answer<(), MetadataError> {
        let (caller, answer) = reply();
        self.push(Call::KeepAlive(session, caller), 0);
        answer
    }

    fn close_session(&self, session: SessionId) -> Answer<(), MetadataError> {
        let (caller, answer) = reply();
        self.push(Call::CloseSession(session, caller), 0);
        answer
    }
}

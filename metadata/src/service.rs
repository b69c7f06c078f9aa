//! The metadata service in-process: checks limits, then queues the call. A method has made its call when it returns.

use crate::{
    applied::Applied,
    limits,
    queue::{Call, Entrance, Write, WriteAnswer},
    state::Command,
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
pub(crate) struct Service {
    pub entrance: Entrance,
    pub applied: Arc<Applied>,
    pub clock: Arc<dyn Clock>,
}

impl Service {
    fn write(&self, command: Command, answer: WriteAnswer, bytes: usize) {
        self.entrance.push(Call::Write(Write { command, answer, called: self.clock.monotonic() }), bytes);
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
        self.entrance.push(Call::Get(key, caller), bytes);
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
        self.entrance.push(Call::Scan(scan, caller), bytes);
        answer
    }

    fn transact(&self, transaction: Transaction) -> Answer<Outcome, MetadataError> {
        if let Err(refused) = limits::transaction(&transaction) {
            return ready(Err(refused));
        }
        let (caller, answer) = reply();
        let bytes = transaction.size();
        self.write(transaction.into(), WriteAnswer::Outcome(caller), bytes);
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
        let command = Command::OpenSession { ttl_ms: ttl.as_millis() as u64 };
        self.write(command, WriteAnswer::Session(caller, ttl), 0);
        answer
    }

    fn keep_alive(&self, session: SessionId) -> Answer<(), MetadataError> {
        let (caller, answer) = reply();
        self.entrance.push(Call::KeepAlive(session, caller), 0);
        answer
    }

    fn close_session(&self, session: SessionId) -> Answer<(), MetadataError> {
        let (caller, answer) = reply();
        self.write(Command::CloseSession { session }, WriteAnswer::Closed(caller, session), 0);
        answer
    }
}

//! The calling end: a [`MetadataService`] whose calls travel to one or more servers of a cluster.
//!
//! [`RemoteMetadata`] is the handle: it makes calls and admits them by bytes. What becomes of a call is decided by pure
//! machines, `calls` and `watches`; `driver` is the task that connects them to a server, and `route` says to which.

mod buffer;
mod calls;
pub(super) mod dial;
mod driver;
mod machine;
pub(super) mod quorum;
mod room;
mod route;
mod waiting;
mod watches;

pub use quorum::RemoteQuorum;

use self::{
    buffer::Dropped,
    calls::{Calls, Outgoing},
    dial::Server,
    driver::{Driver, deadline},
    room::Room,
    route::Route,
    waiting::Waiting,
    watches::{Request, Watches},
};
use super::{
    check_message,
    hello::Guest,
    proto::{self, call::Kind},
};
use crate::{
    id::{Revision, SessionId},
    runtime::{TaskKind, Tasks},
    service::{
        Answer,
        metadata::{
            Consistency, MAX_KEY, MAX_TRANSACTION, MetadataError, MetadataService, Outcome, Scan, ScanPage,
            Transaction, Versioned, WatchStream,
        },
        ready, reply,
    },
};
use prost::Message;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

/// How a remote metadata service is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long a call may take, with everything that is tried for it; a write that may have taken effect by then is
    /// "outcome unknown".
    pub deadline: Duration,
    /// The most bytes of calls that wait for an answer; beyond that a call is refused as unavailable.
    pub in_flight_bytes: usize,
    /// The group that the servers must belong to; with `None` it is the first one met.
    pub group: Option<Uuid>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), in_flight_bytes: 64 * 1024 * 1024, group: None }
    }
}

/// A metadata service in other processes. Clones share one stream of calls, and so one order, and one of watches.
///
/// Any server of the cluster works. A call whose server goes away, or says that it cannot serve, is made again elsewhere
/// until its deadline: reads as they are, transactions under one request id, so that they take effect once and in call
/// order. A session may be opened twice by that; the one that nobody learned of expires by itself. Watches resume by
/// themselves and end only with `Compacted`, `Invalid`, `TooLarge`, with `Unavailable` if their reader falls behind, and
/// with the client.
#[derive(Clone)]
pub struct RemoteMetadata {
    calls: mpsc::UnboundedSender<Outgoing>,
    watches: mpsc::UnboundedSender<Request>,
    dropped: Dropped,
    room: Arc<Room>,
    options: RemoteOptions,
    start: Instant,
}

impl fmt::Debug for RemoteMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteMetadata").field("options", &self.options).finish_non_exhaustive()
    }
}

impl RemoteMetadata {
    /// A client of the cluster behind these servers (`host:port`). Connects when it is first used, and again when it
    /// must; it begins with any of them.
    ///
    /// # Errors
    /// `Invalid` if an address is not one, or there is none.
    pub fn connect(servers: &[impl AsRef<str>], options: RemoteOptions, tasks: &Tasks) -> Result<Self, MetadataError> {
        let servers = servers.iter().map(|server| Server::at(server.as_ref())).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(MetadataError::Invalid)?;
        if servers.is_empty() {
            return Err(MetadataError::Invalid("no metadata server was named".into()));
        }
        Ok(Self::over(servers, Guest::new(options.group, false), options, tasks))
    }

    /// A handle for calls that this node passes on to the one at `address`. They are never passed on again, and each is
    /// sent once: what then fails is the answer. What is not sent yet waits for that node.
    ///
    /// # Errors
    /// `Invalid` if the address is not one.
    pub fn passing_on(address: &str, options: RemoteOptions, tasks: &Tasks) -> Result<Self, MetadataError> {
        let server = Server::at(address).map_err(MetadataError::Invalid)?;
        Ok(Self::over(vec![server], Guest::new(options.group, true), options, tasks))
    }

    /// A client of the cluster behind these lines, which begins with the first of them.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn across(lines: &[super::MemoryLine], options: RemoteOptions, tasks: &Tasks) -> Self {
        let servers = lines.iter().map(super::MemoryLine::server).collect();
        Self::begin(servers, Guest::new(options.group, false), 0, options, tasks)
    }

    /// As [`RemoteMetadata::passing_on`], over a line.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn passing_across(line: &super::MemoryLine, options: RemoteOptions, tasks: &Tasks) -> Self {
        Self::begin(vec![line.server()], Guest::new(options.group, true), 0, options, tasks)
    }

    fn over(servers: Vec<Server>, guest: Guest, options: RemoteOptions, tasks: &Tasks) -> Self {
        // Not all clients shall begin with the same server.
        let first = Uuid::new_v4().as_u128() as usize;
        Self::begin(servers, guest, first, options, tasks)
    }

    fn begin(servers: Vec<Server>, guest: Guest, first: usize, options: RemoteOptions, tasks: &Tasks) -> Self {
        let (start, retries, client) = (Instant::now(), !guest.passes_on(), Uuid::new_v4().as_u128());
        let servers: Arc<[Server]> = servers.into();
        let way = || (Arc::clone(&servers), guest.clone(), Route::new(servers.len(), first));
        let (calls, outgoing) = mpsc::unbounded_channel();
        let caller = Driver::new(Calls::new(client, retries), outgoing, way(), start, tasks.stopping());
        tasks.spawn(TaskKind::Background, "metadata calls", caller.run());
        let (watches, requests) = mpsc::unbounded_channel();
        let watcher = Driver::new(Watches::new(retries), requests, way(), start, tasks.stopping());
        tasks.spawn(TaskKind::Background, "metadata watches", watcher.run());
        let closing = watches.clone();
        // The task may have ended before its readers.
        let dropped: Dropped = Arc::new(move |watch| drop(closing.send(Request::Close(watch))));
        let room = Arc::new(Room::new(options.in_flight_bytes));
        Self { calls, watches, dropped, room, options, start }
    }

    fn call(&self, kind: Kind, waiting: Waiting) {
        let call = proto::Call { id: 0, kind: Some(kind) };
        // A message that no server reads would cost the whole stream, again and again.
        if let Err(too_large) = check_message("request", &call) {
            return waiting.fail(too_large);
        }
        let room = self.room.take(call.encoded_len());
        let (Some(room), Some(kind)) = (room, call.kind) else {
            return waiting.give_up(false, "too many calls are waiting for an answer");
        };
        let deadline = deadline(self.start, self.options.deadline);
        if let Err(refused) = self.calls.send(Outgoing { kind, waiting, deadline, _room: room }) {
            refused.0.waiting.give_up(false, "the client is shutting down");
        }
    }
}

/// "Nothing happened", and why.
fn unavailable(reason: &str) -> MetadataError {
    MetadataError::Unavailable { reason: reason.into() }
}

impl MetadataService for RemoteMetadata {
    fn get(&self, key: String, consistency: Consistency) -> Answer<Option<Versioned>, MetadataError> {
        let (caller, answer) = reply();
        let stale = consistency == Consistency::Stale;
        self.call(Kind::Get(proto::Get { key, stale }), Waiting::Value(caller));
        answer
    }

    fn scan(&self, scan: Scan) -> Answer<ScanPage, MetadataError> {
        let (caller, answer) = reply();
        self.call(Kind::Scan(scan.into()), Waiting::Page(caller));
        answer
    }

    fn transact(&self, transaction: Transaction) -> Answer<Outcome, MetadataError> {
        let (size, limit) = (transaction.size() as u64, MAX_TRANSACTION as u64);
        if size > limit {
            return ready(Err(MetadataError::TooLarge { what: "transaction", size, limit }));
        }
        let (caller, answer) = reply();
        self.call(Kind::Transact(transaction.into()), Waiting::Outcome(caller));
        answer
    }

    fn watch(&self, prefix: String, after: Revision) -> Answer<WatchStream, MetadataError> {
        let (size, limit) = (prefix.len() as u64, MAX_KEY as u64);
        if size > limit {
            return ready(Err(MetadataError::TooLarge { what: "key", size, limit }));
        }
        let (caller, answer) = reply();
        let deadline = deadline(self.start, self.options.deadline);
        let open = Request::Open { prefix, after, caller, deadline, dropped: Arc::clone(&self.dropped) };
        if let Err(mpsc::error::SendError(Request::Open { caller, .. })) = self.watches.send(open) {
            caller.send(Err(unavailable("the client is shutting down")));
        }
        answer
    }

    fn open_session(&self, ttl: Duration) -> Answer<SessionId, MetadataError> {
        let (caller, answer) = reply();
        let ttl_micros = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        self.call(Kind::OpenSession(proto::OpenSession { ttl_micros }), Waiting::Session(caller));
        answer
    }

    fn keep_alive(&self, session: SessionId) -> Answer<(), MetadataError> {
        let (caller, answer) = reply();
        self.call(Kind::KeepAlive(proto::KeepAlive { session: session.0 }), Waiting::KeptAlive(caller));
        answer
    }

    fn close_session(&self, session: SessionId) -> Answer<(), MetadataError> {
        let (caller, answer) = reply();
        self.call(Kind::CloseSession(proto::CloseSession { session: session.0 }), Waiting::Closed(caller));
        answer
    }
}

#[cfg(test)]
mod tests;

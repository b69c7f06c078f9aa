//! The calling end: a [`MetadataService`] whose calls travel to another process. Owns admission by bytes and the
//! opening of watches; the stream of calls belongs to the `caller` task.

mod caller;
pub(super) mod dial;
pub(super) mod quorum;

pub use quorum::RemoteQuorum;

use self::caller::{Caller, Outgoing, Waiting};
use super::{
    MAX_MESSAGE,
    convert::incomplete,
    hello::Guest,
    proto::{self, call::Kind, metadata_client::MetadataClient, watch_answer, watch_call},
};
use crate::{
    id::{Revision, SessionId},
    runtime::{TaskKind, Tasks},
    service::{
        Answer,
        metadata::{
            Consistency, MAX_TRANSACTION, MetadataError, MetadataService, Outcome, Scan, ScanPage, Transaction,
            Versioned, WatchStream,
        },
        ready, reply,
    },
};
use futures::{StreamExt, stream};
use prost::Message;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a silent connection is probed, and how long the probe may take: a server that hangs is noticed well before
/// sessions expire.
const PROBE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// How a remote metadata service is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long a call may take; a write without an answer by then is "outcome unknown".
    pub deadline: Duration,
    /// The most bytes of calls that wait for an answer; beyond that a call is refused as unavailable.
    pub in_flight_bytes: usize,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), in_flight_bytes: 64 * 1024 * 1024 }
    }
}

/// A metadata service in another process. Clones share one stream of calls, and so one order.
#[derive(Clone)]
pub struct RemoteMetadata {
    calls: mpsc::UnboundedSender<Outgoing>,
    room: Arc<Room>,
    client: MetadataClient<Channel>,
    options: RemoteOptions,
    tasks: Tasks,
}

impl std::fmt::Debug for RemoteMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteMetadata").field("options", &self.options).finish_non_exhaustive()
    }
}

impl RemoteMetadata {
    /// A client of the server at `address` (`host:port`). Connects when it is first used, and again when it must.
    ///
    /// # Errors
    /// `Invalid` if the address is not one.
    pub fn connect(address: &str, options: RemoteOptions, tasks: &Tasks) -> Result<Self, MetadataError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| MetadataError::Invalid(format!("\"{address}\" is not an address: {e}")))?;
        let endpoint = endpoint
            .connect_timeout(options.deadline.min(CONNECT))
            .http2_keep_alive_interval(PROBE.0)
            .keep_alive_timeout(PROBE.1)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        Ok(Self::over(endpoint.connect_lazy(), options, tasks))
    }

    /// A client over any tonic channel.
    #[must_use]
    pub fn over(channel: Channel, options: RemoteOptions, tasks: &Tasks) -> Self {
        let client =
            MetadataClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let (calls, outgoing) = mpsc::unbounded_channel();
        let room = Arc::new(Room { used: AtomicUsize::new(0), limit: options.in_flight_bytes });
        let caller = Caller::new(client.clone(), outgoing, options.deadline, tasks.stopping());
        tasks.spawn(TaskKind::Background, "metadata client", caller.run());
        Self { calls, room, client, options, tasks: tasks.clone() }
    }

    fn call(&self, kind: Kind, waiting: Waiting) {
        let call = proto::Call { id: 0, kind: Some(kind) };
        let Some(room) = self.room.take(call.encoded_len()) else {
            return waiting.fail(unavailable("too many calls are waiting for an answer"));
        };
        let outgoing = Outgoing { call, waiting, deadline: Instant::now() + self.options.deadline, room };
        if let Err(refused) = self.calls.send(outgoing) {
            refused.0.waiting.fail(unavailable("the client is shutting down"));
        }
    }
}

/// "Nothing happened", and why.
pub(super) fn unavailable(reason: &str) -> MetadataError {
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
        // The service refuses it too, but a message that no server reads would cost the whole stream.
        let (size, limit) = (transaction.size(), MAX_TRANSACTION);
        if size > limit {
            let (size, limit) = (size as u64, limit as u64);
            return ready(Err(MetadataError::TooLarge { what: "transaction", size, limit }));
        }
        let (caller, answer) = reply();
        self.call(Kind::Transact(transaction.into()), Waiting::Outcome(caller));
        answer
    }

    fn watch(&self, prefix: String, after: Revision) -> Answer<WatchStream, MetadataError> {
        let (caller, answer) = reply();
        let (client, deadline) = (self.client.clone(), self.options.deadline);
        self.tasks.spawn(TaskKind::Request, "metadata watch", async move {
            let opened = tokio::time::timeout(deadline, watch(client, prefix, after)).await;
            caller.send(opened.unwrap_or_else(|_| Err(unavailable("the watch was not opened in time"))));
            Ok(())
        });
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

async fn watch(
    mut client: MetadataClient<Channel>,
    prefix: String,
    after: Revision,
) -> Result<WatchStream, MetadataError> {
    let lost = |status: Status| unavailable(&format!("the watch was lost: {}", status.message()));
    let (calls, sent) = mpsc::channel(2);
    let hello = watch_call::Kind::Hello(Guest::default().hello());
    let open = watch_call::Kind::Open(proto::OpenWatch { id: 1, prefix, after: after.0 });
    for kind in [hello, open] {
        let opened = calls.send(proto::WatchCall { kind: Some(kind) }).await;
        opened.map_err(|_| unavailable("the stream of watches did not open"))?;
    }
    let mut answers = client.watches(ReceiverStream::new(sent)).await.map_err(lost)?.into_inner();
    loop {
        match answers.message().await.map_err(lost)?.and_then(|first| first.kind) {
            Some(watch_answer::Kind::Hello(_)) => {}
            Some(watch_answer::Kind::Opened(_)) => break,
            Some(watch_answer::Kind::Failed(error)) => return Err(error.into()),
            Some(watch_answer::Kind::Event(_)) | None => return Err(incomplete("the answer to a watch")),
        }
    }
    let events = stream::unfold(Some((answers, calls)), move |held| async move {
        let (mut answers, calls) = held?;
        let event = match answers.message().await {
            Ok(Some(proto::WatchAnswer { kind: Some(watch_answer::Kind::Event(event)), .. })) => event.try_into(),
            Ok(Some(proto::WatchAnswer { kind: Some(watch_answer::Kind::Failed(error)), .. })) => Err(error.into()),
            Ok(Some(_)) => Err(incomplete("a watch event")),
            Ok(None) => Err(unavailable("the server ended the watch")),
            Err(status) => Err(lost(status)),
        };
        let rest = event.is_ok().then_some((answers, calls));
        Some((event, rest))
    });
    Ok(events.boxed())
}

/// Admission by bytes.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    limit: usize,
}

/// Room that a call takes until it is answered.
#[derive(Debug)]
pub(super) struct Taken(Arc<Room>, usize);

impl Room {
    /// What a call takes beyond its own bytes.
    const OVERHEAD: usize = 256;

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let bytes = bytes + Self::OVERHEAD;
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let taken = Taken(Arc::clone(self), bytes);
        (before == 0 || before + bytes <= self.limit).then_some(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.used.fetch_sub(self.1, Ordering::Relaxed);
    }
}

//! The answering side of a connection: decodes requests, starts them in the order they arrive, and answers each when it
//! is done.
//!
//! A request is *started* (its service method called) on the task that reads the stream, so that arrival order is call
//! order. What is in flight is bounded by bytes; at the limit the stream is no longer read. A frame that makes no sense
//! ends its connection and nothing else.

use super::{
    bookie, broker,
    budget::{Budget, Share},
    coordinator,
    envelope::{Method, PING, ReplyHeader, RequestHeader, pack, unpack},
    frame::{Frame, FrameReader, MAX_BODY, MAX_HEADER, Outbox, WireError, exchange_prefaces},
    metrics::Connected,
    peer,
    problem::Failure,
};
use crate::{
    runtime::{TaskKind, Tasks},
    service::{
        Answer, bookie::BookieService, broker::BrokerService, coordinator::CoordinatorService, peer::PeerService,
    },
    transport::{Duplex, Listen},
};
use bytes::{Buf, Bytes};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prost::Message;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Answers that may wait to be written.
const ANSWERS: usize = 256;
/// Bytes that are gathered into one write.
const BURST: usize = 256 * 1024;
/// How long the listener rests after an error, so that a lack of sockets does not become a busy loop.
const REST: Duration = Duration::from_millis(50);

/// What a node serves to others. What is `None` is answered as unavailable.
#[derive(Clone, Default)]
pub struct Services {
    /// Its bookie.
    pub bookie: Option<Arc<dyn BookieService>>,
    /// Its broker.
    pub broker: Option<Arc<dyn BrokerService>>,
    /// Its coordinators.
    pub coordinator: Option<Arc<dyn CoordinatorService>>,
    /// Its metadata node, for its peers.
    pub peer: Option<Arc<dyn PeerService>>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            ("bookie", self.bookie.is_some()),
            ("broker", self.broker.is_some()),
            ("coordinator", self.coordinator.is_some()),
            ("peer", self.peer.is_some()),
        ];
        let names = names.iter().filter(|(_, there)| *there).map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// What a server allows its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeSettings {
    /// Bytes in flight per connection: of requests, and of what they ask for. More than a caller allows itself, so that
    /// only a caller that asks for much is kept waiting, and its sign of life is always read.
    pub in_flight_bytes: usize,
    /// Bytes beyond `in_flight_bytes` that only requests up to 16 KiB may use.
    pub reserve_bytes: usize,
    /// Connections at a time; more wait to be accepted.
    pub max_connections: usize,
    /// How long a new peer may take to say who it is.
    pub greeting: Duration,
    /// How long a peer may take to read, and how long answers are still written after it stopped sending.
    pub patience: Duration,
    /// A peer that says nothing for this long is gone; callers say something every ten seconds.
    pub silence: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            in_flight_bytes: 96 * 1024 * 1024,
            reserve_bytes: 12 * 1024 * 1024,
            max_connections: 1024,
            greeting: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

/// Serves everyone who connects to `listener`, until `tasks` stop.
pub fn listen(mut listener: impl Listen, services: Services, settings: ServeSettings, tasks: &Tasks) {
    let (connections, stopping) = (tasks.clone(), tasks.stopping());
    let free = Arc::new(Semaphore::new(settings.max_connections));
    tasks.spawn(TaskKind::Vital, "wire listener", async move {
        loop {
            let accepting = async {
                let slot = Arc::clone(&free).acquire_owned().await;
                (listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                accepted = accepting => accepted,
                () = stopping.cancelled() => return Ok(()),
            };
            match accepted {
                Ok(stream) => {
                    let (services, peer) = (services.clone(), stream.peer.clone());
                    connections.spawn(TaskKind::Request, "wire connection", async move {
                        if let Err(problem) = serve(stream, services, settings).await {
                            tracing::warn!(%peer, %problem, "a connection ended");
                        }
                        drop(slot);
                        Ok(())
                    });
                }
                Err(problem) => {
                    tracing::warn!(%problem, "cannot accept a connection");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    });
}

/// Serves one connection to its end.
///
/// # Errors
/// What ended it, unless the peer closed it between two frames. Requests that were started run on.
pub async fn serve(mut stream: Duplex, services: Services, settings: ServeSettings) -> Result<(), WireError> {
    let greeting = exchange_prefaces(&mut stream.read, &mut stream.write);
    timeout(settings.greeting, greeting).await.unwrap_or(Err(WireError::Slow("introduce itself")))?;
    let _connected = Connected::new();
    // Bounded by the budget: every request holds a share until its answer is written.
    let (start, started) = mpsc::unbounded_channel();
    let (answer, answers) = mpsc::channel(ANSWERS);
    let reading = async {
        read_requests(FrameReader::new(stream.read), &services, settings, start).await?;
        tokio::time::sleep(settings.patience).await;
        Ok(())
    };
    let answering = async {
        tokio::join!(await_answers(started, answer), write_answers(stream.write, answers, settings.patience)).1
    };
    tokio::select! {
        ended = reading => ended,
        ended = answering => ended,
    }
}

/// An answer that is ready to be sent.
pub(super) struct Outgoing {
    header: ReplyHeader,
    body: Vec<Bytes>,
    _share: Share,
}

/// A request that was started.
type Started = BoxFuture<'static, Outgoing>;

async fn read_requests(
    mut reader: FrameReader<impl AsyncRead + Unpin>,
    services: &Services,
    settings: ServeSettings,
    start: mpsc::UnboundedSender<Started>,
) -> Result<(), WireError> {
    let budget = Budget::new(settings.in_flight_bytes, settings.reserve_bytes);
    loop {
        let next = timeout(settings.silence, reader.next()).await;
        let Some(Frame { header, body }) = next.unwrap_or(Err(WireError::Slow("say anything")))? else { return Ok(()) };
        let size = header.len() + body.len();
        let RequestHeader { call, method, message } = unpack(header)?;
        if method == PING.0 {
            // At the very limit a ping is dropped: then answers are on their way, and they are a sign of life too.
            if let Some(_share) = budget.try_admit(size) {
                let header = ReplyHeader { call, problem: None, message: Bytes::new() };
                let pong = std::future::ready(Outgoing { header, body: Vec::new(), _share });
                if start.send(pong.boxed()).is_err() {
                    return Ok(());
                }
            }
            continue;
        }
        let asked_for = bookie::answer_size(Method(method), &message);
        let Some(share) = budget.admit(size + asked_for).await else { return Ok(()) };
        let incoming = Incoming { call, method: Method(method), message, body, share };
        let started = match method >> 8 {
            bookie::SERVICE => bookie::start(services.bookie.as_ref(), incoming)?,
            broker::SERVICE => broker::start(services.broker.as_ref(), incoming)?,
            coordinator::SERVICE => coordinator::start(services.coordinator.as_ref(), incoming)?,
            peer::SERVICE => peer::start(services.peer.as_ref(), incoming)?,
            _ => return Err(unknown_method(method)),
        };
        if start.send(started).is_err() {
            return Ok(());
        }
    }
}

pub(super) fn unknown_method(method: u32) -> WireError {
    WireError::Malformed(format!("method {method:#x} is unknown"))
}

/// A request that has arrived.
pub(super) struct Incoming {
    pub(super) call: u64,
    pub(super) method: Method,
    pub(super) message: Bytes,
    pub(super) body: Bytes,
    share: Share,
}

/// The message and body of an answer.
pub(super) type Reply = (Bytes, Vec<Bytes>);

/// Nothing but "done".
pub(super) fn done((): ()) -> Reply {
    (Bytes::new(), Vec::new())
}

/// A message without a body.
pub(super) fn message(message: &impl Message) -> Reply {
    (pack(message), Vec::new())
}

impl Incoming {
    /// Answers with what the service will say.
    pub(super) fn answer<T, E>(self, answer: Answer<T, E>, encode: fn(T) -> Reply) -> Started
    where
        T: Send + 'static,
        E: Failure,
    {
        let Self { call, share, .. } = self;
        async move {
            let reply = answer.await.map(encode).and_then(|reply| check_size::<E>(reply));
            let (problem, (message, body)) = match reply {
                Ok(reply) => (None, reply),
                Err(problem) => (Some(problem.to_problem()), done(())),
            };
            Outgoing { header: ReplyHeader { call, problem, message }, body, _share: share }
        }
        .boxed()
    }

    /// Answers that the node has no such service.
    pub(super) fn absent<E: Failure>(self, what: &str) -> Started {
        let answer: Answer<(), E> = crate::service::ready(Err(E::unavailable(format!("this node runs no {what}"))));
        self.answer(answer, done)
    }
}

/// An answer that no frame can carry becomes an error; only reads have answers of any size.
fn check_size<E: Failure>(reply: Reply) -> Result<Reply, E> {
    let body: usize = reply.1.iter().map(Bytes::len).sum();
    if body > MAX_BODY || reply.0.len() > MAX_HEADER / 2 {
        return Err(E::unavailable(format!("the answer of {body} bytes exceeds what a frame can carry; ask for less")));
    }
    Ok(reply)
}

async fn await_answers(mut started: mpsc::UnboundedReceiver<Started>, answer: mpsc::Sender<Outgoing>) {
    let mut waiting = FuturesUnordered::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        tokio::select! {
            next = started.recv(), if open => match next {
                Some(next) => waiting.push(next),
                None => open = false,
            },
            Some(outgoing) = waiting.next(), if !waiting.is_empty() => {
                if answer.send(outgoing).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn write_answers(
    mut write: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Outgoing>,
    patience: Duration,
) -> Result<(), WireError> {
    while let Some(first) = answers.recv().await {
        let mut outbox = Outbox::default();
        let mut shares = Vec::new();
        let mut next = Some(first);
        while let Some(Outgoing { header, body, _share }) = next {
            outbox.push(&header, body);
            shares.push(_share);
            next = if outbox.remaining() < BURST { answers.try_recv().ok() } else { None };
        }
        while outbox.has_remaining() {
            let written = timeout(patience, write.write_buf(&mut outbox)).await;
            if written.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))? == 0 {
                return Err(WireError::CutShort);
            }
        }
        write.flush().await?;
    }
    write.shutdown().await?;
    Ok(())
}

//! The calling side of a connection: one link per peer, reconnected as needed, shared by everything that calls there.
//!
//! Calls go out in call order on one stream and are answered in any order. What became of a call is told apart: calls
//! that were never handed to a stream are *unavailable*, calls that were and got no answer are *unknown*. When a
//! connection is lost nothing is sent again, and nothing that waited behind it either, so that a caller sees every
//! failure before anything later of its own takes effect.

use super::{
    budget::{Budget, Share},
    envelope::{Method, ReplyHeader, RequestHeader, unpack, wait_ms, wait_of},
    frame::{Frame, FrameReader, MAX_FRAME, MAX_HEADER, Outbox, WireError, exchange_prefaces},
    problem::Failure,
};
use crate::{
    runtime::{TaskKind, Tasks},
    service::{Answer, ready},
    transport::{Connect, Duplex},
};
use bytes::{Buf, Bytes};
use prost::Message;
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

/// Bytes that are gathered into one write.
const BURST: usize = 256 * 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What a remote client allows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteSettings {
    /// How long an answer may take; for calls that wait on purpose, beyond that wait.
    pub deadline: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// Bytes of calls in flight; calls beyond it are refused as unavailable.
    pub in_flight_bytes: usize,
    /// Bytes beyond `in_flight_bytes` that only calls up to 16 KiB may use.
    pub reserve_bytes: usize,
    /// The first and the longest pause after a failed connection; during a pause calls are refused at once.
    pub pause: (Duration, Duration),
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            connect: Duration::from_secs(3),
            in_flight_bytes: 64 * 1024 * 1024,
            reserve_bytes: 8 * 1024 * 1024,
            pause: (Duration::from_millis(20), Duration::from_secs(2)),
        }
    }
}

/// A request that is ready to be sent.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) message: Bytes,
    pub(super) body: Vec<Bytes>,
    /// How long the peer waits on purpose.
    pub(super) wait: Duration,
}

impl Request {
    fn size(&self) -> usize {
        self.message.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Why a call got no answer.
#[derive(Debug)]
enum NoAnswer {
    NeverSent(String),
    Lost(String),
}

impl NoAnswer {
    fn into_failure<E: Failure>(self) -> E {
        match self {
            Self::NeverSent(reason) => E::unavailable(reason),
            Self::Lost(reason) => E::unknown(reason),
        }
    }
}

/// A call on its way.
struct Call {
    request: Request,
    until: Instant,
    answer: oneshot::Sender<Result<(ReplyHeader, Bytes), NoAnswer>>,
    _share: Share,
}

impl Call {
    fn refuse(self, reason: &str) {
        drop(self.answer.send(Err(NoAnswer::NeverSent(reason.into()))));
    }
}

/// The way to one peer. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    /// Bounded by the budget, every call's share of which is at least its overhead.
    calls: mpsc::UnboundedSender<Call>,
    budget: Budget,
    deadline: Duration,
    peer: Arc<str>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.peer)
    }
}

impl Link {
    /// A link that connects when the first call is made, and works until `tasks` stop or its last clone is dropped.
    pub(super) fn new(connector: Arc<dyn Connect>, settings: RemoteSettings, tasks: &Tasks) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        let peer: Arc<str> = connector.peer().into();
        let budget = Budget::new(settings.in_flight_bytes, settings.reserve_bytes);
        let link = Self { calls, budget, deadline: settings.deadline, peer: Arc::clone(&peer) };
        let (driver, stopping) = (Driver { connector, settings, queue, peer, failures: 0 }, tasks.stopping());
        tasks.spawn(TaskKind::Background, "link", async move {
            tokio::select! {
                () = driver.run() => {}
                () = stopping.cancelled() => {}
            }
            Ok(())
        });
        link
    }

    /// Makes a call. `finish` turns the reply's message and body into the answer.
    pub(super) fn call<R, T, E>(
        &self,
        request: Request,
        finish: impl FnOnce(R, Bytes) -> Result<T, E> + Send + 'static,
    ) -> Answer<T, E>
    where
        R: Message + Default,
        T: Send + 'static,
        E: Failure,
    {
        let size = request.size();
        if request.message.len() > MAX_HEADER / 2 || size > MAX_FRAME - MAX_HEADER / 2 {
            return ready(Err(E::unavailable(format!("a call of {size} bytes exceeds what a frame can carry"))));
        }
        let Some(share) = self.budget.try_admit(size) else {
            return ready(Err(E::unavailable(format!("too much is in flight to {}", self.peer))));
        };
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + self.deadline + wait_of(wait_ms(request.wait));
        let sent = self.calls.send(Call { request, until, answer, _share: share });
        if sent.is_err() {
            return ready(Err(E::unavailable(format!("the link to {} has stopped", self.peer))));
        }
        Box::pin(async move {
            match answered.await {
                Ok(Ok((ReplyHeader { problem: Some(problem), .. }, _))) => Err(E::of(&problem)),
                Ok(Ok((header, body))) => {
                    let message = unpack(header.message).map_err(|problem| E::unknown(problem.to_string()))?;
                    finish(message, body)
                }
                Ok(Err(no_answer)) => Err(no_answer.into_failure()),
                Err(_) => Err(E::unknown("the link has stopped".into())),
            }
        })
    }
}

/// The task behind a link.
struct Driver {
    connector: Arc<dyn Connect>,
    settings: RemoteSettings,
    queue: mpsc::UnboundedReceiver<Call>,
    peer: Arc<str>,
    /// Failed connections in a row.
    failures: u32,
}

impl Driver {
    async fn run(mut self) {
        // A connection is made for a call, never for its own sake.
        while let Some(first) = self.queue.recv().await {
            let problem = match self.connect().await {
                Ok(stream) => {
                    tracing::info!(peer = %self.peer, "the link to a peer is up");
                    let mut conversation = Conversation::new(first);
                    let ended = conversation.hold(stream, &mut self.queue).await;
                    if conversation.heard {
                        self.failures = 0;
                    }
                    match ended {
                        Ok(()) => return,
                        Err(problem) => problem,
                    }
                }
                Err(problem) => {
                    first.refuse(&problem.to_string());
                    problem
                }
            };
            tracing::warn!(peer = %self.peer, %problem, failures = self.failures, "the link to a peer is down");
            self.pause(&problem.to_string()).await;
        }
    }

    async fn connect(&self) -> Result<Duplex, WireError> {
        let connecting = async {
            let mut stream = self.connector.connect().await?;
            exchange_prefaces(&mut stream.read, &mut stream.write).await?;
            Ok(stream)
        };
        timeout(self.settings.connect, connecting).await.unwrap_or(Err(WireError::Slow("connect")))
    }

    /// Refuses what waits, and all that comes until the pause is over.
    async fn pause(&mut self, reason: &str) {
        let reason = format!("{} is not reachable: {reason}", self.peer);
        while let Ok(call) = self.queue.try_recv() {
            call.refuse(&reason);
        }
        let (first, longest) = self.settings.pause;
        let pause = (first * 2_u32.saturating_pow(self.failures.min(16))).min(longest);
        self.failures += 1;
        // Peers that lost the same node shall not come back at the same instant.
        let jitter = (uuid::Uuid::new_v4().as_u128() % 512) as u32;
        let over = tokio::time::sleep(pause * (768 + jitter) / 1024);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                call = self.queue.recv() => match call {
                    Some(call) => call.refuse(&reason),
                    None => return,
                },
            }
        }
    }
}

/// A call that was handed to the stream.
struct Sent {
    until: Instant,
    at: Instant,
    answer: oneshot::Sender<Result<(ReplyHeader, Bytes), NoAnswer>>,
    _share: Share,
}

/// Everything in flight on one connection.
struct Conversation {
    first: Option<Call>,
    next_id: u64,
    sent: HashMap<u64, Sent>,
    last_heard: Instant,
    /// Whether the peer ever answered; one that never does is as good as one that cannot be reached.
    heard: bool,
}

impl Conversation {
    fn new(first: Call) -> Self {
        Self { first: Some(first), next_id: 1, sent: HashMap::new(), last_heard: Instant::now(), heard: false }
    }

    /// Sends and receives until the link is dropped (`Ok`) or the connection fails. Calls in flight are then lost.
    async fn hold(&mut self, stream: Duplex, queue: &mut mpsc::UnboundedReceiver<Call>) -> Result<(), WireError> {
        let mut reader = FrameReader::new(stream.read);
        let ended = self.exchange(&mut reader, stream.write, queue).await;
        let reason = ended.as_ref().err().map_or_else(|| "the link was dropped".into(), ToString::to_string);
        for (_, sent) in self.sent.drain() {
            drop(sent.answer.send(Err(NoAnswer::Lost(reason.clone()))));
        }
        ended
    }

    async fn exchange(
        &mut self,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
        mut write: impl AsyncWrite + Unpin,
        queue: &mut mpsc::UnboundedReceiver<Call>,
    ) -> Result<(), WireError> {
        let mut outbox = Outbox::default();
        let (mut open, mut unflushed) = (true, false);
        let mut tick = tokio::time::interval(TICK);
        if let Some(first) = self.first.take() {
            self.send(first, &mut outbox);
        }
        while open || !self.sent.is_empty() || outbox.has_remaining() {
            tokio::select! {
                call = queue.recv(), if open && outbox.remaining() < BURST => match call {
                    Some(call) => self.send_all(call, queue, &mut outbox),
                    None => open = false,
                },
                due = advance(&mut write, &mut outbox), if unflushed || outbox.has_remaining() => unflushed = due?,
                frame = reader.next() => match frame? {
                    Some(frame) => self.receive(frame)?,
                    None => return Err(WireError::Io("the peer closed the connection".into())),
                },
                _ = tick.tick(), if !self.sent.is_empty() => self.expire()?,
            }
        }
        Ok(())
    }

    fn send_all(&mut self, call: Call, queue: &mut mpsc::UnboundedReceiver<Call>, outbox: &mut Outbox) {
        self.send(call, outbox);
        while outbox.remaining() < BURST
            && let Ok(call) = queue.try_recv()
        {
            self.send(call, outbox);
        }
    }

    fn send(&mut self, call: Call, outbox: &mut Outbox) {
        let now = Instant::now();
        if call.until <= now {
            return call.refuse("the deadline passed before the call could be sent");
        }
        let Call { request, until, answer, _share } = call;
        let header = RequestHeader { call: self.next_id, method: request.method.0, message: request.message };
        outbox.push(&header, request.body);
        self.sent.insert(self.next_id, Sent { until, at: now, answer, _share });
        self.next_id += 1;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), WireError> {
        self.last_heard = Instant::now();
        self.heard = true;
        let header: ReplyHeader = unpack(frame.header)?;
        if header.call >= self.next_id {
            return Err(WireError::Malformed(format!("an answer to call {}, which was not made", header.call)));
        }
        // Answers to calls whose deadline has passed are late and of no use.
        if let Some(sent) = self.sent.remove(&header.call) {
            drop(sent.answer.send(Ok((header, frame.body))));
        }
        Ok(())
    }

    /// Ends calls whose deadline has passed. If the peer has said nothing since such a call, the connection is dead.
    fn expire(&mut self) -> Result<(), WireError> {
        let now = Instant::now();
        let mut silent = false;
        for (_, sent) in self.sent.extract_if(|_, sent| sent.until <= now) {
            silent |= self.last_heard < sent.at;
            drop(sent.answer.send(Err(NoAnswer::Lost("no answer within the deadline".into()))));
        }
        if silent { Err(WireError::Slow("answer")) } else { Ok(()) }
    }
}

/// Writes some of the outbox, or flushes what was written; whether a flush is still due. Cancelling takes nothing back:
/// what was written has left the outbox.
async fn advance(write: &mut (impl AsyncWrite + Unpin), outbox: &mut Outbox) -> Result<bool, WireError> {
    if !outbox.has_remaining() {
        write.flush().await?;
        return Ok(false);
    }
    if write.write_buf(outbox).await? == 0 {
        return Err(WireError::CutShort);
    }
    Ok(true)
}

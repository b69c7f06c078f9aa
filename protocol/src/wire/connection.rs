//! The calling side of a connection: one link per peer, reconnected as needed, shared by everything that calls there.
//!
//! Calls go out in call order on one stream and are answered in any order. What became of a call is told apart: calls
//! that were never handed to a stream are *unavailable*, calls that were and got no answer are *unknown*. When a
//! connection is lost nothing is sent again, and nothing that waited behind it either, so that a caller sees every
//! failure before anything later of its own takes effect. A peer that hangs, or that a network without a word cuts off,
//! is noticed by its silence, long before deadlines and budgets run out.

use super::{
    budget::Budget,
    envelope::{Method, PING, PING_CALL, ReplyHeader, RequestHeader, unpack, wait_ms, wait_of},
    frame::{Frame, FrameReader, MAX_FRAME, MAX_HEADER, Outbox, WireError, exchange_prefaces},
    metrics::{InFlight, LinkMetrics},
    problem::Failure,
    pulse::{Beat, Pulse, TICK},
};
use crate::{
    runtime::{TaskKind, Tasks},
    service::{Answer, ready},
    transport::{Connect, Duplex},
};
use bytes::{Buf, Bytes};
use prost::Message;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, timeout},
};

/// Bytes that are gathered into one write.
const BURST: usize = 256 * 1024;
/// How often a peer of which nothing is wanted hears from us, so that it knows that we live.
const IDLE_PROBE: Duration = Duration::from_secs(10);
/// A tick that comes later than this was not late: this process was stopped, and its peers' answers wait in the socket.
const STALL: Duration = Duration::from_secs(1);

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
    /// A peer that owes an answer and says nothing is asked for a sign of life after the first of these times; after the
    /// second the connection is given up, and what was sent is of unknown outcome.
    pub silence: (Duration, Duration),
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            connect: Duration::from_secs(2),
            in_flight_bytes: 64 * 1024 * 1024,
            reserve_bytes: 8 * 1024 * 1024,
            pause: (Duration::from_millis(20), Duration::from_secs(2)),
            silence: (Duration::from_secs(1), Duration::from_secs(3)),
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
    in_flight: InFlight,
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
    metrics: Arc<LinkMetrics>,
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
        let metrics = Arc::new(LinkMetrics::default());
        let deadline = settings.deadline;
        let link = Self { calls, budget, deadline, peer: Arc::clone(&peer), metrics: Arc::clone(&metrics) };
        let driver = Driver { connector, settings, queue, peer, metrics, failures: 0, connected: false };
        let stopping = tasks.stopping();
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
        let until = Instant::now() + self.deadline + wait_of(wait_ms(request.wait));
        self.call_until(until, request, finish)
    }

    /// Makes a call that has a deadline of its own.
    pub(super) fn call_until<R, T, E>(
        &self,
        until: Instant,
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
        let in_flight = InFlight::new(share, &self.metrics, size);
        let sent = self.calls.send(Call { request, until, answer, in_flight });
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
    metrics: Arc<LinkMetrics>,
    /// Failed connections in a row.
    failures: u32,
    /// Whether there ever was a connection.
    connected: bool,
}

impl Driver {
    async fn run(mut self) {
        // A connection is made for a call, never for its own sake.
        while let Some(first) = self.queue.recv().await {
            let mut waiting = VecDeque::from([first]);
            let problem = match self.connect(&mut waiting).await {
                Ok(stream) => {
                    tracing::info!(peer = %self.peer, "the link to a peer is up");
                    let again = std::mem::replace(&mut self.connected, true);
                    if again { &self.metrics.reconnects } else { &self.metrics.connects }.increment(1);
                    let mut conversation = Conversation::new(waiting, self.settings, Arc::clone(&self.metrics));
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
                    self.metrics.failures.increment(1);
                    waiting.into_iter().for_each(|call| call.refuse(&problem.to_string()));
                    problem
                }
            };
            // Once per outage: a peer that stays away is asked again many times a second where pauses are short.
            if self.failures == 0 {
                tracing::warn!(peer = %self.peer, %problem, "the link to a peer is down");
            }
            self.pause(&problem.to_string()).await;
        }
    }

    /// Connects. What is called meanwhile waits, but no call longer than it may.
    async fn connect(&mut self, waiting: &mut VecDeque<Call>) -> Result<Duplex, WireError> {
        let connector = Arc::clone(&self.connector);
        let connecting = timeout(self.settings.connect, async move {
            let mut stream = connector.connect().await?;
            exchange_prefaces(&mut stream.read, &mut stream.write).await?;
            Ok(stream)
        });
        tokio::pin!(connecting);
        let mut tick = ticker(TICK);
        loop {
            tokio::select! {
                connected = &mut connecting => return connected.unwrap_or(Err(WireError::Slow("connect"))),
                Some(call) = self.queue.recv() => waiting.push_back(call),
                _ = tick.tick() => refuse_overdue(waiting),
            }
        }
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

/// Refuses the calls whose time is over before there is a connection.
fn refuse_overdue(waiting: &mut VecDeque<Call>) {
    let now = Instant::now();
    let (overdue, rest) = waiting.drain(..).partition(|call| call.until <= now);
    *waiting = rest;
    let refuse = |call: Call| call.refuse("there was no connection within the deadline");
    VecDeque::into_iter(overdue).for_each(refuse);
}

/// A call that was handed to the stream.
struct Sent {
    method: Method,
    until: Instant,
    at: Instant,
    answer: oneshot::Sender<Result<(ReplyHeader, Bytes), NoAnswer>>,
    _in_flight: InFlight,
}

/// Everything in flight on one connection.
struct Conversation {
    /// Calls from before there was a connection, in order.
    first: VecDeque<Call>,
    next_id: u64,
    sent: HashMap<u64, Sent>,
    pulse: Pulse,
    last_tick: Instant,
    /// Whether the peer ever answered; one that never does is as good as one that cannot be reached.
    heard: bool,
    metrics: Arc<LinkMetrics>,
}

impl Conversation {
    fn new(first: VecDeque<Call>, settings: RemoteSettings, metrics: Arc<LinkMetrics>) -> Self {
        let pulse = Pulse::new(settings.silence.0, settings.silence.1);
        let (sent, last_tick) = (HashMap::new(), Instant::now());
        Self { first, next_id: PING_CALL + 1, sent, pulse, last_tick, heard: false, metrics }
    }

    /// Sends and receives until the link is dropped (`Ok`) or the connection fails. Calls in flight are then lost.
    async fn hold(&mut self, stream: Duplex, queue: &mut mpsc::UnboundedReceiver<Call>) -> Result<(), WireError> {
        let mut reader = FrameReader::new(stream.read);
        let ended = self.exchange(&mut reader, stream.write, queue).await;
        let reason = ended.as_ref().err().map_or_else(|| "the link was dropped".into(), ToString::to_string);
        self.metrics.lost.increment(self.sent.len() as u64);
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
        let (mut tick, mut idle) = (ticker(TICK), ticker(IDLE_PROBE));
        for first in std::mem::take(&mut self.first) {
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
                _ = tick.tick(), if !self.sent.is_empty() || self.pulse.is_asked() => {
                    self.tick(reader.received(), &mut outbox)?;
                }
                _ = idle.tick(), if self.sent.is_empty() && !self.pulse.is_asked() => {
                    self.pulse.ask();
                    ping(&mut outbox);
                }
            }
        }
        Ok(())
    }

    /// Looks at deadlines and at the peer's pulse.
    fn tick(&mut self, received: u64, outbox: &mut Outbox) -> Result<(), WireError> {
        let now = Instant::now();
        let since = now.duration_since(std::mem::replace(&mut self.last_tick, now));
        // After a pause of our own the answers are read first.
        if since < STALL {
            self.expire(now);
        }
        match self.pulse.tick(received, !self.sent.is_empty()) {
            Beat::Fine => {}
            Beat::Ask => ping(outbox),
            Beat::Dead => return Err(WireError::Slow("give a sign of life")),
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
        let Call { request, until, answer, in_flight } = call;
        let header = RequestHeader { call: self.next_id, method: request.method.0, message: request.message };
        outbox.push(&header, request.body);
        let sent = Sent { method: request.method, until, at: now, answer, _in_flight: in_flight };
        self.sent.insert(self.next_id, sent);
        self.next_id += 1;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), WireError> {
        self.heard = true;
        let header: ReplyHeader = unpack(frame.header)?;
        if header.call >= self.next_id {
            return Err(WireError::Malformed(format!("an answer to call {}, which was not made", header.call)));
        }
        // Answers to calls whose deadline has passed are late and of no use.
        if let Some(sent) = self.sent.remove(&header.call) {
            self.metrics.answered(sent.method, sent.at.elapsed());
            drop(sent.answer.send(Ok((header, frame.body))));
        }
        Ok(())
    }

    /// Ends calls whose deadline has passed. The connection goes on: the peer lives, or its pulse will tell.
    fn expire(&mut self, now: Instant) {
        for (_, sent) in self.sent.extract_if(|_, sent| sent.until <= now) {
            self.metrics.lost.increment(1);
            drop(sent.answer.send(Err(NoAnswer::Lost("no answer within the deadline".into()))));
        }
    }
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = tokio::time::interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

fn ping(outbox: &mut Outbox) {
    outbox.push(&RequestHeader { call: PING_CALL, method: PING.0, message: Bytes::new() }, Vec::new());
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

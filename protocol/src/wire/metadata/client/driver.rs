//! The task behind a machine: one stream to one server at a time. Owns connecting, the pauses between servers and the
//! clock; decides nothing about calls or watches. A server is connected when somebody needs one. Of the servers that the
//! client knows, any will do; if the first one says that another of them leads, that one is taken, because everybody else
//! only passes calls on to it.

use super::{
    calls::Calls,
    dial::{Connection, Server, lost},
    machine::{Leave, Machine},
    route::Route,
    watches::Watches,
};
use crate::wire::metadata::{
    hello::Guest,
    proto::{self, call, call_answer, watch_answer, watch_call},
};
use futures::{FutureExt, future::BoxFuture};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

/// Calls that wait for the connection.
const CALLS: usize = 64;
/// How long the leader may take to say hello before its follower serves instead.
const LEADER: Duration = Duration::from_millis(300);

/// What a stream to a server answers when it is opened.
type Opening<A> = BoxFuture<'static, Result<Response<Streaming<A>>, Status>>;

/// A machine whose messages travel on a stream of the metadata protocol.
pub(super) trait Streamed: Machine<Call: Send + 'static> {
    /// Opens the stream.
    fn open(connection: Connection, calls: ReceiverStream<Self::Call>) -> Opening<Self::Answer>;
    /// The first message.
    fn hello(hello: proto::Hello) -> Self::Call;
    /// The answer to it, or why we are not welcome.
    fn greeted(answer: Self::Answer) -> Result<proto::Hello, String>;
}

impl Streamed for Calls {
    fn open(mut connection: Connection, calls: ReceiverStream<proto::Call>) -> Opening<proto::CallAnswer> {
        async move { connection.calls(calls).await }.boxed()
    }

    fn hello(hello: proto::Hello) -> proto::Call {
        proto::Call { id: 0, kind: Some(call::Kind::Hello(hello)) }
    }

    fn greeted(answer: proto::CallAnswer) -> Result<proto::Hello, String> {
        match answer.result {
            Some(call_answer::Result::Hello(hello)) => Ok(hello),
            Some(call_answer::Result::Failed(refused)) => Err(refusal(refused)),
            _ => Err("it did not say hello".into()),
        }
    }
}

impl Streamed for Watches {
    fn open(mut connection: Connection, calls: ReceiverStream<proto::WatchCall>) -> Opening<proto::WatchAnswer> {
        async move { connection.watches(calls).await }.boxed()
    }

    fn hello(hello: proto::Hello) -> proto::WatchCall {
        proto::WatchCall { kind: Some(watch_call::Kind::Hello(hello)) }
    }

    fn greeted(answer: proto::WatchAnswer) -> Result<proto::Hello, String> {
        match answer.kind {
            Some(watch_answer::Kind::Hello(hello)) => Ok(hello),
            Some(watch_answer::Kind::Failed(refused)) => Err(refusal(refused)),
            _ => Err("it did not say hello".into()),
        }
    }
}

fn refusal(error: proto::Error) -> String {
    crate::service::metadata::MetadataError::from(error).to_string()
}

/// An open stream. The connection lasts as long.
struct Link<M: Machine> {
    _connection: Connection,
    calls: mpsc::Sender<M::Call>,
    answers: Streaming<M::Answer>,
    /// Where the leader is reached, if the server said that it is another one.
    leader: String,
}

/// The task of one machine.
pub(super) struct Driver<M: Machine> {
    machine: M,
    requests: mpsc::UnboundedReceiver<M::Request>,
    /// Whether anybody can still ask.
    open: bool,
    servers: Arc<[Server]>,
    guest: Guest,
    route: Route,
    /// The server that was left last: others may still take it for the leader.
    left: Option<usize>,
    /// When the client began.
    start: Instant,
    stopping: CancellationToken,
}

impl<M: Streamed> Driver<M> {
    /// A task for the requests that come out of `requests`; the machine's times are since `start`.
    pub(super) fn new(
        machine: M,
        requests: mpsc::UnboundedReceiver<M::Request>,
        (servers, guest, route): (Arc<[Server]>, Guest, Route),
        start: Instant,
        stopping: CancellationToken,
    ) -> Self {
        Self { machine, requests, open: true, servers, guest, route, left: None, start, stopping }
    }

    /// Runs until told to stop, or until nobody is left who could ask or is owed anything.
    pub(super) async fn run(mut self) -> Result<(), String> {
        let stopping = self.stopping.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = self.work() => {}
        }
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            self.machine.request(request);
        }
        self.machine.stop("the client is shutting down");
        Ok(())
    }

    async fn work(&mut self) {
        loop {
            while self.machine.is_idle() {
                match self.requests.recv().await {
                    Some(request) => self.machine.request(request),
                    None => return,
                }
            }
            let reason = match self.connect().await {
                Ok(link) => {
                    tracing::debug!(server = self.server().name(), "connected to a metadata server");
                    self.route.reached(self.start.elapsed());
                    match self.follow(link).await {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                Err(reason) => reason,
            };
            let reason = format!("{}: {reason}", self.server().name());
            self.left = Some(self.route.at());
            let jitter = uuid::Uuid::new_v4().as_u128() as u32;
            let pause = self.route.left(self.start.elapsed(), jitter);
            // Once per outage, which may last for many attempts a second.
            if self.route.is_troubled() || self.machine.is_idle() {
                tracing::debug!(%reason, "left a metadata server");
            } else {
                tracing::warn!(%reason, "left a metadata server that was needed");
            }
            self.machine.lost(&reason);
            if !self.machine.is_idle() {
                self.meanwhile(tokio::time::sleep(pause)).await;
            }
        }
    }

    fn server(&self) -> &Server {
        &self.servers[self.route.at()]
    }

    /// Connects the server whose turn it is, or the leader that it names.
    async fn connect(&mut self) -> Result<Link<M>, String> {
        let linking = timeout(self.route.patience(), link(self.server().clone(), self.guest.clone()));
        let linked: Link<M> = self.meanwhile(linking).await.unwrap_or_else(|_| Err("it does not answer".into()))?;
        let leader = self.servers.iter().position(|server| server.name() == linked.leader);
        let Some(leader) = leader.filter(|leader| *leader != self.route.at() && Some(*leader) != self.left) else {
            return Ok(linked);
        };
        let linking = timeout(LEADER, link(self.servers[leader].clone(), self.guest.clone()));
        match self.meanwhile(linking).await {
            Ok(Ok(link)) => {
                self.route.turn_to(leader);
                Ok(link)
            }
            Ok(Err(_)) | Err(_) => Ok(linked),
        }
    }

    /// Does something that takes time; requests are taken and given up meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let due = self.due();
            tokio::select! {
                done = &mut work => return done,
                request = self.requests.recv(), if self.open => self.take(request),
                () = sleep_until(due.unwrap_or(self.start)), if due.is_some() => self.expire(),
            }
        }
    }

    /// Sends and receives until the server has to be left, and says why; `None` if nobody is left to serve.
    async fn follow(&mut self, mut link: Link<M>) -> Option<String> {
        loop {
            if !self.open && self.machine.is_idle() {
                return None;
            }
            let due = self.due();
            tokio::select! {
                answer = link.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        if let Err(Leave(reason)) = self.machine.answer(answer) {
                            self.read_the_rest(&mut link.answers);
                            return Some(reason);
                        }
                    }
                    Ok(None) => return Some("it ended the stream".into()),
                    Err(status) => return Some(lost(&status)),
                },
                permit = link.calls.reserve(), if self.machine.has_next() => match permit {
                    Ok(permit) => self.send(permit, &link.calls),
                    Err(_) => return Some("the connection was lost".into()),
                },
                request = self.requests.recv(), if self.open => self.take(request),
                () = sleep_until(due.unwrap_or(self.start)), if due.is_some() => self.expire(),
            }
        }
    }

    /// Takes the answers that are here already: what is answered is not in doubt.
    fn read_the_rest(&mut self, answers: &mut Streaming<M::Answer>) {
        while let Some(Ok(Some(answer))) = answers.message().now_or_never() {
            // That the server has to be left is known.
            let _ = self.machine.answer(answer);
        }
    }

    /// Sends what there is room for.
    fn send(&mut self, permit: mpsc::Permit<'_, M::Call>, calls: &mpsc::Sender<M::Call>) {
        let mut permit = Some(permit);
        while let Some(room) = permit
            && let Some(call) = self.machine.next()
        {
            room.send(call);
            permit = calls.try_reserve().ok();
        }
    }

    /// Takes a request, and those that wait behind it.
    fn take(&mut self, request: Option<M::Request>) {
        let Some(request) = request else {
            self.open = false;
            return;
        };
        self.machine.request(request);
        for _ in 0..CALLS {
            let Ok(request) = self.requests.try_recv() else { return };
            self.machine.request(request);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.machine.due().map(|due| self.start + due)
    }

    fn expire(&mut self) {
        self.machine.expire(self.start.elapsed());
    }
}

/// Connects, opens the stream, and says hello. Nothing else was sent when this fails.
async fn link<M: Streamed>(server: Server, guest: Guest) -> Result<Link<M>, String> {
    let connection = server.connect().await?;
    let (calls, sent) = mpsc::channel(CALLS);
    let unopened = |_| "the stream did not open".to_owned();
    calls.send(M::hello(guest.hello())).await.map_err(unopened)?;
    let answers = M::open(connection.clone(), ReceiverStream::new(sent)).await;
    let mut answers = answers.map_err(|status| lost(&status))?.into_inner();
    let first = answers.message().await.map_err(|status| lost(&status))?;
    let hello = M::greeted(first.ok_or("it did not say hello")?)?;
    guest.meet(&hello)?;
    Ok(Link { _connection: connection, calls, answers, leader: hello.leader })
}

/// How long a caller may wait, as a machine's time.
pub(super) fn deadline(start: Instant, patience: Duration) -> Duration {
    start.elapsed() + patience
}

//! The serving end: makes the calls of a stream in the order in which they arrive, and answers each when it is done.

use super::{
    MAX_MESSAGE, WIRE_VERSION,
    convert::{consistency, incomplete},
    proto::{self, call::Kind, call_answer::Result as Done, metadata_server, watch_answer},
};
use crate::{
    id::{Revision, SessionId},
    runtime::{TaskKind, Tasks},
    service::metadata::{MetadataError, MetadataService, WatchStream},
};
use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use prost::Message;
use std::{error::Error, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::server::{Connected, Server},
};

/// The most bytes, and the most calls, of one stream that are worked on at a time; then no more are read.
const IN_FLIGHT: (usize, usize) = (32 * 1024 * 1024, 4_096);
/// Answers that wait for the connection.
const ANSWERS: usize = 64;
/// How often a silent connection is probed, and how long the probe may take.
const PROBE: Duration = Duration::from_secs(5);

/// Serves a metadata service to other processes.
#[derive(Clone)]
pub struct MetadataServer {
    service: Arc<dyn MetadataService>,
    tasks: Tasks,
}

impl std::fmt::Debug for MetadataServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetadataServer")
    }
}

impl MetadataServer {
    /// Serves `service`; every connection ends with `tasks`.
    #[must_use]
    pub fn new(service: Arc<dyn MetadataService>, tasks: &Tasks) -> Self {
        Self { service, tasks: tasks.clone() }
    }

    /// Serves the connections of a listener until the tasks stop.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        self.serve_streams(TcpListenerStream::new(listener)).await
    }

    /// Serves any streams until the tasks stop.
    ///
    /// # Errors
    /// If the source of streams fails.
    pub async fn serve_streams<I, S, E>(self, streams: I) -> Result<(), tonic::transport::Error>
    where
        I: Stream<Item = Result<S, E>>,
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let stopping = self.tasks.stopping();
        let service = metadata_server::MetadataServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Server::builder()
            .http2_keepalive_interval(Some(PROBE))
            .http2_keepalive_timeout(Some(PROBE))
            .serve_with_incoming_shutdown(service, streams, stopping.cancelled_owned())
            .await
    }
}

#[tonic::async_trait]
impl metadata_server::Metadata for MetadataServer {
    type CallsStream = ReceiverStream<Result<proto::CallAnswer, Status>>;
    type WatchStream = BoxStream<'static, Result<proto::WatchAnswer, Status>>;

    async fn calls(&self, calls: Request<Streaming<proto::Call>>) -> Result<Response<Self::CallsStream>, Status> {
        let (tx, rx) = mpsc::channel(ANSWERS);
        let (service, stopping) = (Arc::clone(&self.service), self.tasks.stopping());
        let calls = calls.into_inner();
        self.tasks.spawn(TaskKind::Request, "metadata calls", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = work(service, calls, tx) => {}
            }
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn watch(&self, call: Request<proto::WatchCall>) -> Result<Response<Self::WatchStream>, Status> {
        let proto::WatchCall { version, prefix, after } = call.into_inner();
        let opened = match check_version(version) {
            Ok(()) => self.service.watch(prefix, Revision(after)).await,
            Err(refused) => Err(refused),
        };
        Ok(Response::new(match opened {
            Ok(events) => {
                let stopping = self.tasks.stopping().cancelled_owned();
                let hello = watch_answer::Kind::Opened(proto::Hello { version: WIRE_VERSION });
                stream::iter([Ok(watched(hello))]).chain(answers(events)).take_until(stopping).boxed()
            }
            Err(error) => stream::iter([Ok(watched(watch_answer::Kind::Failed(error.into())))]).boxed(),
        }))
    }
}

fn check_version(version: u32) -> Result<(), MetadataError> {
    if version == WIRE_VERSION {
        return Ok(());
    }
    let reason = format!("the caller speaks version {version} of the metadata protocol, this server {WIRE_VERSION}");
    Err(MetadataError::Invalid(reason))
}

const fn watched(kind: watch_answer::Kind) -> proto::WatchAnswer {
    proto::WatchAnswer { kind: Some(kind) }
}

fn answers(events: WatchStream) -> impl Stream<Item = Result<proto::WatchAnswer, Status>> + Send + 'static {
    events.map(|event| {
        Ok(watched(match event {
            Ok(event) => watch_answer::Kind::Event(event.into()),
            Err(error) => watch_answer::Kind::Failed(error.into()),
        }))
    })
}

/// The id of a call, its bytes, and its answer.
type Worked = (u64, usize, Result<Done, MetadataError>);

/// Works off the calls of one stream until either side ends it. Calls that were made run on without it.
async fn work(
    service: Arc<dyn MetadataService>,
    mut calls: Streaming<proto::Call>,
    answers: mpsc::Sender<Result<proto::CallAnswer, Status>>,
) {
    let mut greeted = false;
    let mut bytes = 0;
    let mut pending = FuturesUnordered::<BoxFuture<'static, Worked>>::new();
    loop {
        let room = bytes < IN_FLIGHT.0 && pending.len() < IN_FLIGHT.1;
        tokio::select! {
            call = calls.next(), if room => {
                let Some(Ok(call)) = call else { return };
                let (id, size) = (call.id, call.encoded_len());
                bytes += size;
                let answer = make(&*service, call.kind, &mut greeted);
                pending.push(answer.map(move |done| (id, size, done)).boxed());
            }
            Some((id, size, done)) = pending.next() => {
                bytes -= size;
                let result = done.unwrap_or_else(|error| Done::Failed(error.into()));
                if answers.send(Ok(proto::CallAnswer { id, result: Some(result) })).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Makes a call; the future only waits for its answer.
fn make(
    service: &dyn MetadataService,
    kind: Option<Kind>,
    greeted: &mut bool,
) -> BoxFuture<'static, Result<Done, MetadataError>> {
    let refuse = |error| std::future::ready(Err(error)).boxed();
    let Some(kind) = kind else { return refuse(incomplete("a call")) };
    if let Kind::Hello(hello) = kind {
        let checked = check_version(hello.version);
        *greeted = checked.is_ok();
        return std::future::ready(checked.map(|()| Done::Hello(proto::Hello { version: WIRE_VERSION }))).boxed();
    }
    if !*greeted {
        return refuse(MetadataError::Invalid("the first call of a stream says hello".into()));
    }
    match kind {
        Kind::Hello(_) => refuse(incomplete("a call")),
        Kind::Get(get) => {
            let value = service.get(get.key, consistency(get.stale));
            value.map(|v| v.map(|item| Done::Value(proto::Value { item: item.map(Into::into) }))).boxed()
        }
        Kind::Scan(scan) => service.scan(scan.into()).map(|page| page.map(|p| Done::Page(p.into()))).boxed(),
        Kind::Transact(transaction) => match transaction.try_into() {
            Ok(transaction) => service.transact(transaction).map(|outcome| outcome.map(Into::into)).boxed(),
            Err(incomplete) => refuse(incomplete),
        },
        Kind::OpenSession(open) => {
            let opened = service.open_session(Duration::from_micros(open.ttl_micros));
            opened.map(|session| session.map(|s| Done::Session(s.0))).boxed()
        }
        Kind::KeepAlive(call) => service.keep_alive(SessionId(call.session)).map(done).boxed(),
        Kind::CloseSession(call) => service.close_session(SessionId(call.session)).map(done).boxed(),
    }
}

fn done(result: Result<(), MetadataError>) -> Result<Done, MetadataError> {
    result.map(|()| Done::Done(proto::Done {}))
}

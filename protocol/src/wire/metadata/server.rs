//! The serving end: who may call, and which handle works on it. The streams belong to the files below.

mod calls;
mod quorum;
mod watches;

use super::{
    MAX_MESSAGE,
    hello::Host,
    proto::{self, metadata_server},
};
use crate::{
    runtime::{TaskKind, Tasks},
    service::{metadata::MetadataService, quorum::QuorumService},
};
use futures::{Stream, StreamExt, stream::BoxStream};
use std::{error::Error, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::server::{Connected, Server, TcpIncoming},
};
use uuid::Uuid;

/// Answers that wait for the connection.
const ANSWERS: usize = 64;
/// How long a stream may take to say hello.
const GREETING: Duration = Duration::from_secs(5);
/// How often a silent connection is probed, and how long the probe may take.
const PROBE: Duration = Duration::from_secs(5);

/// What works on the calls that arrive.
#[derive(Clone)]
pub struct Handles {
    /// The metadata service.
    pub service: Arc<dyn MetadataService>,
    /// The cluster as its operators see it; `None` is answered as unavailable.
    pub quorum: Option<Arc<dyn QuorumService>>,
}

/// What a node serves, and to whom.
#[derive(Clone)]
pub struct Serving {
    /// Works on calls of clients; what only the leader can do is passed on to it.
    pub front: Handles,
    /// Works on calls that another node passed on; never passes anything on.
    pub passed_on: Handles,
    /// The node's number.
    pub node: u64,
    /// The group the node belongs to; callers of another one are refused by name. Nil means "not checked".
    pub group: Uuid,
}

impl Serving {
    const fn host(&self) -> Host {
        Host { node: self.node, group: self.group }
    }

    const fn handles(&self, passed_on: bool) -> &Handles {
        if passed_on { &self.passed_on } else { &self.front }
    }

    /// Where the leader is reached, if it is another node and known.
    async fn leader(&self) -> Option<String> {
        let status = self.front.quorum.as_ref()?.status().await.ok()?;
        let leader = status.leader.filter(|leader| *leader != self.node)?;
        let member = status.members.into_iter().find(|one| one.member.id == leader)?.member;
        Some(member.address).filter(|address| !address.is_empty())
    }
}

/// Serves a metadata node to other processes.
#[derive(Clone)]
pub struct MetadataServer {
    serving: Arc<Serving>,
    tasks: Tasks,
}

impl std::fmt::Debug for MetadataServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetadataServer(node {} of group {})", self.serving.node, self.serving.group)
    }
}

impl MetadataServer {
    /// Serves a node; every connection ends with `tasks`.
    #[must_use]
    pub fn new(serving: Serving, tasks: &Tasks) -> Self {
        Self { serving: Arc::new(serving), tasks: tasks.clone() }
    }

    /// Serves one service to everybody, whatever group they belong to: for fakes and tests.
    #[must_use]
    pub fn of(service: Arc<dyn MetadataService>, tasks: &Tasks) -> Self {
        let handles = Handles { service, quorum: None };
        Self::new(Serving { front: handles.clone(), passed_on: handles, node: 0, group: Uuid::nil() }, tasks)
    }

    /// Serves the connections of a listener until the tasks stop.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        self.serve_streams(TcpIncoming::from(listener).with_nodelay(Some(true))).await
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

    /// Runs `work` on a stream until it ends or the tasks stop; what it sends is the answer.
    fn answering<T, F>(
        &self,
        name: &'static str,
        work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Response<ReceiverStream<Result<T, Status>>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (answers, sent) = mpsc::channel(ANSWERS);
        let (stopping, working) = (self.tasks.stopping(), work(answers));
        self.tasks.spawn(TaskKind::Request, name, async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = working => {}
            }
            Ok(())
        });
        Response::new(ReceiverStream::new(sent))
    }
}

#[tonic::async_trait]
impl metadata_server::Metadata for MetadataServer {
    type CallsStream = ReceiverStream<Result<proto::CallAnswer, Status>>;
    type WatchesStream = ReceiverStream<Result<proto::WatchAnswer, Status>>;
    type BackupStream = BoxStream<'static, Result<proto::BackupPiece, Status>>;

    async fn calls(&self, calls: Request<Streaming<proto::Call>>) -> Result<Response<Self::CallsStream>, Status> {
        let (serving, calls) = (Arc::clone(&self.serving), calls.into_inner());
        Ok(self.answering("metadata calls", move |answers| calls::work(serving, calls, answers)))
    }

    async fn watches(
        &self,
        calls: Request<Streaming<proto::WatchCall>>,
    ) -> Result<Response<Self::WatchesStream>, Status> {
        let (serving, calls) = (Arc::clone(&self.serving), calls.into_inner());
        Ok(self.answering("metadata watches", move |answers| watches::work(serving, calls, answers)))
    }

    async fn quorum(&self, call: Request<proto::QuorumCall>) -> Result<Response<proto::QuorumAnswer>, Status> {
        Ok(Response::new(quorum::ask(&self.serving, call.into_inner()).await))
    }

    async fn backup(&self, call: Request<proto::BackupCall>) -> Result<Response<Self::BackupStream>, Status> {
        let pieces = quorum::backup(&self.serving, call.into_inner()).await;
        Ok(Response::new(pieces.take_until(self.tasks.stopping().cancelled_owned()).map(Ok).boxed()))
    }
}

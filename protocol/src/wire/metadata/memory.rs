//! The same server and client over in-memory streams: what tests run on, with HTTP/2 and all, and without a socket.

use super::{MetadataServer, RemoteMetadata, RemoteOptions};
use crate::{
    runtime::{TaskKind, Tasks},
    service::metadata::MetadataService,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{codegen::Service, codegen::http::Uri, transport::Endpoint};

/// Bytes that one direction of a stream holds.
const BUFFER: usize = 64 * 1024;

/// Opens in-memory streams to a server.
struct Dialer {
    streams: mpsc::Sender<Result<DuplexStream, Infallible>>,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let refused = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the server is gone or too busy");
        ready(self.streams.try_send(Ok(theirs)).map(|()| TokioIo::new(ours)).map_err(refused))
    }
}

/// A remote client of `service`, over in-memory streams. The server ends with `server`, the client with `client`.
#[must_use]
pub fn over_memory(
    service: Arc<dyn MetadataService>,
    options: RemoteOptions,
    server: &Tasks,
    client: &Tasks,
) -> RemoteMetadata {
    let (streams, incoming) = mpsc::channel(16);
    let serving = MetadataServer::new(service, server).serve_streams(ReceiverStream::new(incoming));
    server.spawn(
        TaskKind::Request,
        "metadata server in memory",
        async move { serving.await.map_err(|e| e.to_string()) },
    );
    let channel = Endpoint::from_static("http://memory").connect_with_connector_lazy(Dialer { streams });
    RemoteMetadata::over(channel, options, client)
}

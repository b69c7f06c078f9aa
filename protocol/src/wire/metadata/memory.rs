//! The same server and client over in-memory streams: what tests run on, with HTTP/2 and all, and without a socket.
//!
//! A [`MemoryLine`] is the way to one server. It can be stopped in either direction, as a process that hangs would, cut,
//! and taken away. What was stopped is delivered when it goes on, also if the caller has long hung up: bytes in a
//! socket's buffer do the same.

use super::{
    MetadataServer, RemoteMetadata, RemoteOptions,
    client::dial::{Server, probed},
};
use crate::{
    runtime::{TaskKind, Tasks},
    service::metadata::MetadataService,
};
use futures::FutureExt;
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{codegen::Service, codegen::http::Uri, transport::Endpoint};

/// Bytes that one direction of a stream holds.
const BUFFER: usize = 64 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 64;

/// What a line does with bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Switches {
    calls_stopped: bool,
    answers_stopped: bool,
    refusing: bool,
    /// Connections made before the latest cut are gone.
    cuts: u64,
}

/// The way to one server, in memory. Clones are the same line.
#[derive(Clone)]
pub struct MemoryLine {
    name: Arc<str>,
    streams: mpsc::Sender<Result<DuplexStream, Infallible>>,
    switches: Arc<watch::Sender<Switches>>,
    tasks: Tasks,
}

impl fmt::Debug for MemoryLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryLine({})", self.name)
    }
}

impl MemoryLine {
    /// A line to `server`, which ends with `tasks`.
    #[must_use]
    pub fn to(name: &str, server: MetadataServer, tasks: &Tasks) -> Self {
        let (streams, incoming) = mpsc::channel(BACKLOG);
        let serving = server.serve_streams(ReceiverStream::new(incoming));
        tasks.spawn(
            TaskKind::Request,
            "metadata server in memory",
            async move { serving.await.map_err(|e| e.to_string()) },
        );
        let switches = Arc::new(watch::Sender::new(Switches::default()));
        Self { name: name.into(), streams, switches, tasks: tasks.clone() }
    }

    /// What callers send does not arrive, until it is let through again.
    pub fn stop_calls(&self, stopped: bool) {
        self.switches.send_modify(|s| s.calls_stopped = stopped);
    }

    /// What the server answers does not arrive, until it is let through again.
    pub fn stop_answers(&self, stopped: bool) {
        self.switches.send_modify(|s| s.answers_stopped = stopped);
    }

    /// Ends every connection. Bytes that are on their way are lost.
    pub fn cut(&self) {
        self.switches.send_modify(|s| s.cuts += 1);
    }

    /// Whether new connections are refused, as if no process listened.
    pub fn refuse(&self, refusing: bool) {
        self.switches.send_modify(|s| s.refusing = refusing);
    }

    /// How a client reaches the server.
    pub(super) fn server(&self) -> Server {
        let line = self.clone();
        Server::over(&self.name, move || {
            let (endpoint, line) = (probed(Endpoint::from_static("http://memory")), line.clone());
            async move { endpoint.connect_with_connector(line).await }.boxed()
        })
    }

    fn dial(&self) -> io::Result<DuplexStream> {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens");
        let switches = self.switches.subscribe();
        if switches.borrow().refusing {
            return Err(refused());
        }
        let ((ours, near), (far, theirs)) = (tokio::io::duplex(BUFFER), tokio::io::duplex(BUFFER));
        self.streams.try_send(Ok(theirs)).map_err(|_| refused())?;
        let ((from_us, to_us), (from_them, to_them)) = (tokio::io::split(near), tokio::io::split(far));
        let born = switches.borrow().cuts;
        let (calls, answers) = (switches.clone(), switches);
        self.tasks.spawn(TaskKind::Request, "calls on a line", async move {
            carry(from_us, to_them, calls, born, |s| s.calls_stopped).await;
            Ok(())
        });
        self.tasks.spawn(TaskKind::Request, "answers on a line", async move {
            carry(from_them, to_us, answers, born, |s| s.answers_stopped).await;
            Ok(())
        });
        Ok(ours)
    }
}

/// Carries one direction of a connection until either end closes it or the line is cut.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut switches: watch::Receiver<Switches>,
    born: u64,
    stopped: fn(&Switches) -> bool,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = switches.wait_for(|s| s.cuts != born) => return,
        };
        let bytes = match read {
            Ok(count) if count > 0 => &buffer[..count],
            _ => break,
        };
        let open = switches.wait_for(|s| s.cuts != born || !stopped(s)).await.is_ok_and(|s| s.cuts == born);
        if !open {
            return;
        }
        tokio::select! {
            written = to.write_all(bytes) => if written.is_err() { return },
            _ = switches.wait_for(|s| s.cuts != born) => return,
        }
    }
    drop(to.shutdown().await);
}

impl Service<Uri> for MemoryLine {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.dial().map(TokioIo::new))
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
    let line = MemoryLine::to("memory", MetadataServer::of(service, server), server);
    RemoteMetadata::across(&[line], options, client)
}

//! Streams inside the process, for standalone nodes and tests: the same bytes as on a network, without one.

use super::{Connect, Duplex, Listen};
use futures::{FutureExt, future::BoxFuture};
use std::io;
use tokio::{io::DuplexStream, sync::mpsc};

/// Bytes that one direction buffers before its writer waits.
const BUFFER: usize = 256 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 128;

/// A connector and the acceptor that its connections arrive at.
#[must_use]
pub fn network(name: &str) -> (MemoryConnector, MemoryAcceptor) {
    let (to, from) = mpsc::channel(BACKLOG);
    (MemoryConnector { to, name: name.into() }, MemoryAcceptor(from))
}

/// The two ends of one connection.
#[must_use]
pub fn pair(name: &str) -> (Duplex, Duplex) {
    let (here, there) = tokio::io::duplex(BUFFER);
    (duplex(here, name), duplex(there, name))
}

/// Connects within the process. Clones reach the same acceptor.
#[derive(Debug, Clone)]
pub struct MemoryConnector {
    to: mpsc::Sender<Duplex>,
    name: String,
}

impl Connect for MemoryConnector {
    fn connect(&self) -> BoxFuture<'static, io::Result<Duplex>> {
        let this = self.clone();
        async move {
            let (here, there) = pair(&this.name);
            this.to.send(there).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(here)
        }
        .boxed()
    }

    fn peer(&self) -> &str {
        &self.name
    }
}

/// Accepts what its connectors connect. Dropped, it refuses them.
#[derive(Debug)]
pub struct MemoryAcceptor(mpsc::Receiver<Duplex>);

impl Listen for MemoryAcceptor {
    async fn accept(&mut self) -> io::Result<Duplex> {
        // Without connectors nothing will ever come.
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

fn duplex(stream: DuplexStream, peer: &str) -> Duplex {
    let (read, write) = tokio::io::split(stream);
    Duplex { read: Box::new(read), write: Box::new(write), peer: peer.into() }
}

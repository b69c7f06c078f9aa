//! TCP, without Nagle's delay. For networks one trusts: nothing is encrypted and nobody is authenticated.

use super::{Connect, Duplex, Listen};
use futures::{FutureExt, future::BoxFuture};
use std::{io, net::SocketAddr};
use tokio::net::{TcpListener, TcpStream};

/// Connects to `host:port`.
#[derive(Debug, Clone)]
pub struct TcpConnector(String);

impl TcpConnector {
    /// A connector to `host:port`; the name is looked up anew for each connection.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self(address.into())
    }
}

impl Connect for TcpConnector {
    fn connect(&self) -> BoxFuture<'static, io::Result<Duplex>> {
        let address = self.0.clone();
        async move { duplex(TcpStream::connect(&address).await?, address) }.boxed()
    }

    fn peer(&self) -> &str {
        &self.0
    }
}

/// Listens on an address.
#[derive(Debug)]
pub struct TcpAcceptor(TcpListener);

impl TcpAcceptor {
    /// Listens on `host:port`; port 0 takes any free one.
    ///
    /// # Errors
    /// What the system says, for instance that the port is taken.
    pub async fn bind(address: &str) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl From<TcpListener> for TcpAcceptor {
    /// Accepts from a socket that listens already.
    fn from(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl Listen for TcpAcceptor {
    async fn accept(&mut self) -> io::Result<Duplex> {
        let (stream, peer) = self.0.accept().await?;
        duplex(stream, peer.to_string())
    }
}

fn duplex(stream: TcpStream, peer: String) -> io::Result<Duplex> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok(Duplex { read: Box::new(read), write: Box::new(write), peer })
}

//! Byte streams between nodes: what a [`crate::wire`] connection runs on.
//!
//! A transport gives ordered, reliable bytes in both directions and knows nothing of frames. [`tcp`] is for networks
//! one trusts, [`memory`] stays inside the process. An encrypted transport (QUIC with mutual TLS) will be a third file
//! beside these two: one stream per connection, its two halves put into a [`Duplex`]; nothing above changes for it.

pub mod memory;
pub mod tcp;

use futures::future::BoxFuture;
use std::{fmt, future::Future, io};
use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of one connection.
pub struct Duplex {
    /// What the peer sends.
    pub read: Box<dyn AsyncRead + Send + Unpin>,
    /// What the peer receives.
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
    /// Who the peer is, for logs.
    pub peer: String,
}

impl fmt::Debug for Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Duplex({})", self.peer)
    }
}

/// Opens connections to one peer. The caller sets the deadline.
pub trait Connect: Send + Sync + 'static {
    /// A new connection.
    fn connect(&self) -> BoxFuture<'static, io::Result<Duplex>>;
    /// Who the peer is, for logs and error messages.
    fn peer(&self) -> &str;
}

/// Accepts connections.
pub trait Listen: Send + 'static {
    /// The next connection; an error ends that connection only, unless it repeats.
    fn accept(&mut self) -> impl Future<Output = io::Result<Duplex>> + Send;
}

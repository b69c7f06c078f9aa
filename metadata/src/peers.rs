//! How a node is connected to its peers: over TCP, or not at all, or as a test wants it.

use crate::raft::courier::{Courier, Lane, TcpCourier};
use bytes::Bytes;
use protocol::{
    runtime::Tasks,
    service::{
        Answer,
        peer::{PeerCall, PeerError, PeerService},
        quorum::Member,
        ready,
    },
    transport::tcp::TcpAcceptor,
    wire::{ServeSettings, Services, listen},
};
use std::{io, sync::Arc};
use tokio::{net::TcpListener, runtime::Handle};

/// Makes the way to peers.
type MakeCourier = Box<dyn FnOnce(&Handle, &Tasks) -> Arc<dyn Courier> + Send>;
/// Opens a desk to peers.
type Serve = Box<dyn FnOnce(Arc<dyn PeerService>, &Handle, &Tasks) -> io::Result<()> + Send>;

/// The connections of one node to its peers; both ends live on raft's thread.
pub struct Peers {
    courier: MakeCourier,
    serve: Serve,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

impl Peers {
    /// Peers that connect to this socket, and are reached over TCP.
    #[must_use]
    pub fn tcp(listener: TcpListener) -> Self {
        Self {
            courier: Box::new(|runtime, tasks| Arc::new(TcpCourier::new(runtime.clone(), tasks))),
            serve: Box::new(|desk, runtime, tasks| {
                let listener = listener.into_std()?;
                let _on_the_thread_of_raft = runtime.enter();
                let acceptor = TcpAcceptor::from(TcpListener::from_std(listener)?);
                let services = Services { peer: Some(desk), ..Services::default() };
                listen(acceptor, services, ServeSettings::default(), tasks);
                Ok(())
            }),
        }
    }

    /// No peers: a cluster of one that nobody can join.
    #[must_use]
    pub fn none() -> Self {
        Self::of(Arc::new(Nobody), |_| {})
    }

    /// Peers that are reached by `courier`, and that reach this node by what is handed to `publish`.
    #[must_use]
    pub fn of(courier: Arc<dyn Courier>, publish: impl FnOnce(Arc<dyn PeerService>) + Send + 'static) -> Self {
        Self {
            courier: Box::new(move |_, _| courier),
            serve: Box::new(move |desk, _, _| {
                publish(desk);
                Ok(())
            }),
        }
    }

    /// Both ends, each to be used once.
    pub(crate) fn split(self) -> (MakeCourier, Serve) {
        (self.courier, self.serve)
    }
}

/// Reaches nobody.
struct Nobody;

impl Courier for Nobody {
    fn reach(&self, _member: &Member, _lane: Lane) -> Arc<dyn PeerService> {
        Arc::new(Self)
    }
}

impl PeerService for Nobody {
    fn call(&self, _call: PeerCall) -> Answer<Bytes, PeerError> {
        ready(Err(PeerError::Unreachable { reason: "this node has no connection to others".into() }))
    }
}

//! How messages reach a peer: from a member to a way there. Owns one way per member and address, so that votes,
//! entries, beats and snapshots of all users share a connection of their own kind; never looks into a message.

use parking_lot::Mutex;
use protocol::{
    runtime::Tasks,
    service::{peer::PeerService, quorum::Member},
    transport::tcp::TcpConnector,
    wire::{RemoteSettings, peer::RemotePeer},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::runtime::Handle;

/// What a message is urgent for: each kind has a connection of its own, so that a megabyte of entries or snapshot does
/// not make a beat or a vote wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Beats, votes and what else an election needs.
    Urgent,
    /// Entries of the log.
    Log,
    /// Snapshots.
    Bulk,
}

/// Finds the way to a peer.
pub trait Courier: Send + Sync + 'static {
    /// The way to this member. Does not connect before it is used.
    fn reach(&self, member: &Member, lane: Lane) -> Arc<dyn PeerService>;
}

/// How a connection between members behaves: a peer that is back is noticed at once, one that hangs within a second.
fn settings() -> RemoteSettings {
    RemoteSettings {
        connect: Duration::from_millis(500),
        pause: (Duration::from_millis(20), Duration::from_millis(200)),
        silence: (Duration::from_millis(300), Duration::from_millis(1_000)),
        ..RemoteSettings::default()
    }
}

/// A way, and the address that it leads to.
type Way = (String, Arc<dyn PeerService>);

/// Ways over TCP.
pub struct TcpCourier {
    ways: Mutex<HashMap<(u64, Lane), Way>>,
    tasks: Tasks,
    runtime: Handle,
}

impl std::fmt::Debug for TcpCourier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpCourier").field("ways", &self.ways.lock().len()).finish_non_exhaustive()
    }
}

impl TcpCourier {
    /// Ways whose connections live on `runtime` and end with `tasks`.
    #[must_use]
    pub fn new(runtime: Handle, tasks: &Tasks) -> Self {
        Self { ways: Mutex::default(), tasks: tasks.clone(), runtime }
    }
}

impl Courier for TcpCourier {
    fn reach(&self, member: &Member, lane: Lane) -> Arc<dyn PeerService> {
        let mut ways = self.ways.lock();
        if let Some((address, way)) = ways.get(&(member.id, lane))
            && *address == member.peer_address
        {
            return Arc::clone(way);
        }
        let _on_the_thread_of_raft = self.runtime.enter();
        let connector = Arc::new(TcpConnector::new(member.peer_address.clone()));
        let way: Arc<dyn PeerService> = Arc::new(RemotePeer::new(connector, settings(), &self.tasks));
        ways.insert((member.id, lane), (member.peer_address.clone(), Arc::clone(&way)));
        way
    }
}

//! What can be measured, and one connection to it: calls go out one after the other, up to as many as the caller likes,
//! and their answers come back each with the ticket of its call. Owns what all targets have in common.

use super::{etcd::Etcd, magnetar::Magnetar, zookeeper::ZooKeeper};
use protocol::runtime::Tasks;
use std::time::Duration;

/// How long any answer may take before the measurement is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Target {
    /// Ours
    Magnetar,
    /// Apache ZooKeeper, 3.5 or newer
    Zookeeper,
    /// etcd, 3.4 or newer
    Etcd,
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call<'a> {
    /// Makes a key if there is none, so that puts find it.
    Create(&'a str, &'a [u8]),
    /// Writes a key.
    Put(&'a str, &'a [u8]),
    /// Reads a key as its clients usually do: linearizable, but from the client's own server with ZooKeeper.
    Get(&'a str),
}

impl Call<'_> {
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::Get(_))
    }
}

/// What comes back with an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    /// When the call was made.
    pub(super) called: Duration,
    /// Whether it was a read.
    pub(super) is_read: bool,
}

/// An answer: whose, and what went wrong.
pub(super) type Answered = (Ticket, Result<(), String>);

/// One connection to one server. Clients of ours are told of all servers, as brokers and bookies are, and choose the leader;
/// those of the others stay with the server that they are given, as theirs do.
pub(super) enum Client {
    Magnetar(Magnetar),
    Zookeeper(ZooKeeper),
    Etcd(Etcd),
}

impl Client {
    /// Connects, and waits until the server serves.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn connect(target: Target, servers: &[String], tasks: &Tasks) -> anyhow::Result<Self> {
        let server = servers.first().map_or("", |first| first);
        Ok(match target {
            Target::Magnetar => Self::Magnetar(Magnetar::connect(servers, tasks).await?),
            Target::Zookeeper => Self::Zookeeper(ZooKeeper::connect(server).await?),
            Target::Etcd => Self::Etcd(Etcd::connect(server).await?),
        })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn call(&mut self, call: Call<'_>, ticket: Ticket) -> anyhow::Result<()> {
        match self {
            Self::Magnetar(client) => client.call(call, ticket),
            Self::Zookeeper(client) => client.call(call, ticket).await?,
            Self::Etcd(client) => client.call(call, ticket),
        }
        Ok(())
    }

    /// Waits for an answer; there must be a call without one.
    ///
    /// # Errors
    /// The connection is lost, or there was no answer in time.
    pub(super) async fn answer(&mut self) -> anyhow::Result<Answered> {
        match self {
            Self::Magnetar(client) => client.answer().await,
            Self::Zookeeper(client) => client.answer().await,
            Self::Etcd(client) => client.answer().await,
        }
    }

    /// Ends the connection in the way of its protocol.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Zookeeper(client) => client.close().await,
            Self::Magnetar(_) | Self::Etcd(_) => Ok(()),
        }
    }
}

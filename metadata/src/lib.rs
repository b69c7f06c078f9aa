//! The raft metadata service that replaces ZooKeeper: versioned keys, transactions, sessions, sequences and watches.
//!
//! * [`state`]: what a command means; pure, the same on every member.
//! * [`raft`]: how commands are made durable and agreed on. `election`: when there is an election. `handover`: leading
//!   no more, on purpose. [`role`]: what this node is. `snapshotting`: when a snapshot is written.
//! * [`applied`]: what reads and watches see. `queue`, `router`, `proposals`: the order in which calls take effect, and
//!   where. [`sessions`], `expiry`: heartbeats. [`limits`]: what is refused at the door.
//! * [`node`]: one member, start to stop. [`peers`]: its connections. `quorum`: the cluster as operators see it.
//! * [`controller`]: what the leader does with the cluster model: gives partitions to live nodes, gives up topics,
//!   finds ledgers that lack copies.
//!
//! The other roles meet this crate only through `protocol::service::metadata`.

pub mod applied;
pub mod controller;
mod election;
mod expiry;
mod gauges;
mod handover;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod peers;
mod proposals;
mod queue;
mod quorum;
pub mod raft;
mod restore;
pub mod role;
mod router;
mod service;
pub mod sessions;
mod snapshotting;
pub mod state;

pub use controller::{AuditConfig, Controller};
pub use node::{MetadataConfig, MetadataDeps, MetadataNode, StartError};
pub use peers::Peers;
pub use restore::{RestoreError, RestoreTo, Restored, restore};
pub use role::Role;

/// Whether this build checks the invariants of the state after every log entry, which takes longer the more it holds.
pub const CHECKS_INVARIANTS: bool = cfg!(feature = "invariants");

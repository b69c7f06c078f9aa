//! The raft metadata service that replaces ZooKeeper: versioned keys, transactions, sessions, sequences and watches.
//!
//! * [`state`]: what a command means; pure, the same on every voter.
//! * [`raft`]: how commands are made durable and agreed on.
//! * [`applied`]: what reads and watches see. `queue`, `proposer`: the order in which calls take effect.
//! * [`node`]: one voter, start to stop. [`limits`]: what is refused at the door. [`sessions`]: heartbeats.
//! * [`controller`]: what the leader does with the cluster model: gives partitions to live nodes, gives up topics,
//!   finds ledgers that lack copies.
//!
//! The other roles meet this crate only through `protocol::service::metadata`.

pub mod applied;
pub mod controller;
mod expiry;
mod gauges;
pub mod limits;
pub mod metrics;
pub mod node;
mod proposer;
mod queue;
pub mod raft;
mod service;
pub mod sessions;
pub mod state;

pub use controller::{AuditConfig, Controller};
pub use node::{MetadataConfig, MetadataNode, StartError};

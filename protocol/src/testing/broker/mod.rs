//! An in-memory cluster of brokers: logs per partition that outlive their owners, and a cluster view that follows.
//!
//! [`FakeCluster`] owns the topics, the logs and the view; a [`FakeBroker`] is one node's way in and serves what the
//! cluster says it owns. Appends take effect when they are made; nothing is ever lost.

mod admin;
mod cluster;
mod log;
mod service;

pub use cluster::FakeCluster;
pub use service::FakeBroker;

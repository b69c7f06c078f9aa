//! A shard: all groups of one partition of `__consumer_offsets`.
//!
//! [`state`] is what the shard knows and decides, without I/O ([`membership`], [`commits`] and [`admin`] are its
//! requests); [`load`] reads the log, [`snapshot`] decides when to rewrite it, [`task`] is the driver: the one task that owns the state, writes what the state
//! wants written, and reports back in log order.

mod admin;
mod commits;
mod load;
mod membership;
mod snapshot;
mod state;
mod task;

pub(super) use membership::Client;
pub use snapshot::SnapshotPolicy;
pub(super) use state::GroupReport;
pub(super) use task::{Call, Message, Seat, ShardConfig, run};

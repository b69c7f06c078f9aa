//! The cluster view: an always current, immutable copy of the cluster model, fed by one scan and one watch.
//!
//! Owns the snapshot and its order (revisions never go back); never writes metadata. Gateways answer Metadata from it,
//! brokers learn their assignments from it, coordinators learn which groups are theirs.

mod projection;
mod snapshot;
mod view;

pub use snapshot::{ClusterSnapshot, PartitionView, Topic};
pub use view::ClusterView;

//! Consumer groups: membership, assignments and committed offsets, as Kafka's classic protocol has them.
//!
//! * [`machine`]: one group, pure. [`offsets`]: its committed offsets, pure.
//! * [`records`]: how both are written to `__consumer_offsets`, in Kafka's own schemas.
//! * [`shard`]: the groups of one partition of that topic, and the task that owns them. [`request`], [`answer`]: their
//!   wire side.
//! * [`placement`]: which partition a group belongs to. [`coordinator`]: which shards this node runs, and the way of a call to its shard. [`lag`]: how far groups are
//!   behind.
//!
//! A group is coordinated where its partition of `__consumer_offsets` is owned; the shard loads the partition once,
//! writes with the epoch it loaded at, and gives up when that epoch is over. Nothing here is stored anywhere else.

mod answer;
mod coordinator;
mod error;
mod lag;
mod machine;
mod metrics;
mod offsets;
mod placement;
mod records;
mod request;
mod shard;

pub use coordinator::{Coordinators, CoordinatorsConfig, CoordinatorsDeps};
pub use lag::{GroupSize, LagReport, PartitionLag, PartitionRange, render_prometheus};
pub use placement::partition_of;
pub use shard::SnapshotPolicy;

//! The cluster model: every record that the metadata service holds, typed, with the one place that knows their keys.
//!
//! Values are MessagePack maps with field names behind one version byte, so that a field can be added without a
//! migration and a newer format is refused by name. Nothing outside this module builds a key or decodes a value.

mod codec;
mod keys;
mod ledger;
mod node;
mod partition;
mod queue;
mod repair;
mod topic;

pub use codec::{ModelError, Record, decode, encode};
pub use keys::{KeyKind, Sequence, key, prefix, successor};
pub use ledger::{BookieRecord, BookieState, Cookie, DeadLedger, DiskUsage};
pub use node::{ClusterRecord, NodeRecord};
pub use partition::{ClosedLedger, ClosedPage, HeadLedger, Owner, PAGE_LEDGERS, PartitionRecord};
pub use queue::{MAX_QUEUE_NAME, QueueKind, QueueName, QueueNameError, QueueTicket};
pub use repair::{Decommission, RepairClaim, RepairReason, RepairTask, ScrubRecord, StrayCopies};
pub use topic::{ConfigRecord, TopicRecord};

//! Clusters of metadata nodes within one process: real directories and real raft, over a network that can be cut.

mod members;
mod net;

mod commits;
mod elections;
mod histories;
mod membership;
mod snapshots;

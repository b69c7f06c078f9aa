//! The raft metadata service that replaces ZooKeeper.

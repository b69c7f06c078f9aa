//! Stateless topic serving: ownership, partitions, the managed ledger and the ledger quorum client.

pub mod ledger;

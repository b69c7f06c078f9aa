//! The broker: serves the partitions it owns, without keeping anything on a disk of its own.
//!
//! * [`service`] is the in-process [`protocol::service::broker::BrokerService`]: look up, pass on, start, drain.
//! * [`ownership`] decides what to open and close; [`registration`] keeps the node registered.
//! * [`partition`] runs one partition: offsets, producers, the head ledger, takeover, reads.
//! * [`managed_ledger`] makes an endless log out of ledgers that end: list, index, checkpoints, retention, caches.
//! * [`ledger`] is the quorum client: writes, recovers and reads one ledger on a quorum of bookies.
//! * [`fetch`] serves many partitions in one answer; [`topics`] administers topics and settings.
//!
//! Correctness rests on fencing and compare-and-swap, never on clocks.

mod budget;
mod config;
mod context;
mod fetch;
pub mod ledger;
pub mod managed_ledger;
mod metadata_client;
pub mod metrics;
pub mod ownership;
pub mod partition;
pub mod registration;
mod roster;
pub mod service;
mod topics;

pub use config::{BrokerConfig, BrokerDeps, Copies};
pub use registration::StartError;
pub use service::Broker;

//! What crosses a process boundary in Magnetar, and nothing else.
//!
//! The roles (`metadata`, `bookie`, `broker`, `gateway`) depend on this crate and on no other crate of ours; they meet
//! through the four traits of [`service`]. Everything that is stored or sent is laid out here, each format with a
//! version, so that one reader can find every byte of the platform:
//!
//! * [`id`], [`topic`]: names and numbers that must not be mixed up.
//! * [`ledger`]: ledger metadata, quorum arithmetic, sealed entries, the permanent entry header.
//! * [`record_batch`]: a zero-copy view of a Kafka v2 record batch.
//! * [`model`]: the typed cluster model and its key layout in the metadata service; nothing else writes keys.
//! * [`cluster`]: a watched, always current copy of that model.
//! * [`lock`], [`election`]: recipes over the metadata service.
//! * [`settings`]: broker and topic settings under Kafka's own names.
//! * [`service`]: the four contracts, with their errors. [`wire`] and [`transport`]: the same contracts over a stream.
//! * [`mutant`]: old bugs that tests can switch on, to prove that they would be found.
//! * [`runtime`]: clock, tasks, shutdown. [`testing`]: fakes and conformance suites (feature `testing`).

pub mod cluster;
pub mod election;
pub mod id;
pub mod ledger;
pub mod lock;
pub mod model;
pub mod mutant;
mod queue;
pub mod record_batch;
pub mod runtime;
pub mod service;
pub mod settings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topic;
pub mod transport;
pub mod wire;

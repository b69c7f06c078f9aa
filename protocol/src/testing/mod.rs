//! Fakes of the services, and the suites that say what every implementation of them must do.
//!
//! A fake is complete, in memory, and deterministic: a call takes effect when it is made. [`faults::Faults`] are the
//! switches that all fakes share. [`conformance`] runs on fakes, on the real services and on remote clients alike.
//! [`history`] lets concurrent clients of a metadata service loose and writes down what they saw; [`linearizability`] and
//! [`oracles`] judge it.
//! Nothing here is part of the product (feature `testing`).

pub mod batches;
pub mod bookie;
pub mod broker;
pub mod clock;
pub mod conformance;
pub mod coordinator;
pub mod directory;
pub mod faults;
pub mod history;
pub mod linearizability;
pub mod metadata;
pub mod oracles;
pub mod peer;
pub mod quorum;

pub use batches::BatchBuilder;
pub use bookie::FakeBookie;
pub use broker::{FakeBroker, FakeCluster};
pub use clock::ManualClock;
pub use coordinator::FakeCoordinator;
pub use directory::FakeDirectory;
pub use faults::{Fault, Faults};
pub use metadata::FakeMetadata;
pub use peer::FakePeer;
pub use quorum::FakeQuorum;

#[cfg(test)]
mod tests;

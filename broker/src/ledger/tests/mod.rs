//! The two machines against a small model of the world: bookies that keep what they synced, a network that delays,
//! reorders and loses, metadata with compare-and-swap. [`script`] plays the readable scenarios of `testscripts/`,
//! [`schedules`] plays random ones and checks the invariants after every step.

mod bookie;
pub(super) mod fixture;
pub(super) mod observed;
mod schedules;
mod script;
mod world;

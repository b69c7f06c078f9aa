//! The bookie: durable ledger entries in RocksDB.
//!
//! A call comes in through [`service`](BookieService), is judged against its ledger, and becomes durable together with
//! whatever else was called during the last sync; then it is answered. Read in this order:
//!
//! * `bookie`: start and stop. `config`, `error`: what an operator says and reads.
//! * `service`: every method of the contract. `committer`: group commit, the hot path. `readers`, `tail`: reads.
//! * [`ledger`]: what is known of a ledger, pure. [`store`]: where it is kept, and every key on one page.
//! * `detached`: a bookie without a cluster, for measurements.
//! * `cookie`, `registration`, `leaving`: identity, liveness, being taken out. `disk`, `gc`: space, deletion.
//! * `repair`: copies of closed ledgers that this bookie takes over.
//! * `limbo`, `heal`, `scrub`: state that was lost or damaged, and how it comes back. `inventory` is what metadata says
//!   that this bookie holds, `holdings` what it really does, `fetch` how the difference is closed.
//! * `copy`: the one way in which entries come from other bookies, for `repair`, `fetch` and the contract.
//!
//! This crate depends on `protocol` and on no other crate of ours.

mod bookie;
mod committer;
mod config;
mod confirmations;
mod cookie;
mod copy;
mod detached;
mod disk;
mod error;
mod fetch;
mod gc;
mod heal;
mod health;
mod holdings;
mod inventory;
mod leaving;
pub mod ledger;
mod limbo;
mod metrics;
mod pace;
mod readers;
mod registration;
mod repair;
#[cfg(test)]
mod rig;
mod scrub;
mod service;
pub mod store;
mod tail;
#[cfg(feature = "testing")]
pub mod testing;
mod watched;

pub use bookie::{Bookie, BookieDeps};
pub use config::{BookieConfig, OnEmptyDisk};
pub use cookie::CookieError;
pub use detached::DetachedBookie;
pub use error::StartError;
#[doc(no_inline)]
pub use protocol::service::bookie::BookieService;

//! The bookie: durable ledger entries in RocksDB.
//!
//! A call comes in through [`service`](BookieService), is judged against its ledger, and becomes durable together with
//! whatever else was called during the last sync; then it is answered. Read in this order:
//!
//! * `bookie`: start and stop. `config`, `error`: what an operator says and reads.
//! * `service`: every method of the contract. `committer`: group commit, the hot path. `readers`, `tail`: reads.
//! * [`ledger`]: what is known of a ledger, pure. [`store`]: where it is kept, and every key on one page.
//! * `cookie`, `registration`, `disk`, `gc`, `limbo`: identity, liveness, space, deletion, loss.
//!
//! This crate depends on `protocol` and on no other crate of ours.

mod bookie;
mod committer;
mod config;
mod confirmations;
mod cookie;
mod disk;
mod error;
mod gc;
mod health;
pub mod ledger;
mod limbo;
mod metrics;
mod readers;
mod registration;
#[cfg(test)]
mod rig;
mod service;
pub mod store;
mod tail;

pub use bookie::{Bookie, BookieDeps};
pub use config::BookieConfig;
pub use cookie::CookieError;
pub use error::StartError;
#[doc(no_inline)]
pub use protocol::service::bookie::BookieService;

//! Ledgers: what they are made of and how many copies are enough. Pure; knows no network and no disk.
//!
//! The protocol is BookKeeper's (its "BookKeeper protocol" page; rules W1-W13, R1-R14, B1-B13 of the project's storage
//! reference). A ledger has one writer, an ensemble of bookies per fragment, and ends CLOSED with a last entry that no
//! one ever disagrees about.

pub mod entry;
pub mod metadata;
pub mod quorum;
pub mod remnant;
pub mod repair;

//! What a bookie knows of its ledgers: the pure state machine of one ledger, the map of those in memory, and
//! which of those that are unknown count as new.
//!
//! Owns the decisions (accept, refuse, compare) and the facts behind them; never reads a clock, a disk or a network. The
//! committer is the only caller that changes anything, so checking a fence and accepting an add is one step.

mod floor;
mod machine;
mod map;

pub use floor::Floor;
pub use machine::{Add, KnownLedger, Ledger, LedgerRecord, Placement};
pub use map::LedgerMap;

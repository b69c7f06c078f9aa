//! The ledger quorum client: writes, recovers and reads ledgers on a quorum of bookies.
//!
//! The protocol lives in two pure state machines, [`machine`] (the one writer) and [`recovery_machine`] (whoever takes
//! the ledger over); they take events and give commands and know no clock, no network and no task. The drivers
//! [`writer`], [`recovery`] and [`reader`] carry the commands out. [`placement`] chooses bookies, [`create`] makes the
//! metadata of a new ledger; [`suspects`] remembers who failed, [`idle`] lets silent writers speak once. Rule numbers (W1-W13, R1-R14) are those of the project's storage reference.
//!
//! The scenarios in `testscripts/` show what the machines do, in words, without a line of code.
//!
//! Nothing here knows partitions, offsets or record batches, and nothing here writes metadata except through the
//! compare-and-swap its caller provides.

pub mod create;
pub mod idle;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
pub mod machine;
mod metrics;
pub mod placement;
pub mod reader;
pub mod recovery;
pub mod recovery_machine;
pub mod suspects;
pub mod writer;

use protocol::{runtime::Clock, service::directory::BookieDirectory};
use std::sync::Arc;

pub use create::{CreateError, NewLedger, new_ledger};
pub use idle::IdleWriters;
pub use metrics::describe_metrics;
pub use reader::{LedgerReader, ReadError};
pub use recovery::{Recovered, RecoveryError, recover};
pub use suspects::Suspects;
pub use writer::{LedgerAppender, LedgerEnd, LedgerEvent, LedgerEvents, LedgerMetadataStore, ReplaceError, WriteError};

/// What every driver needs: the bookies and the time. Cheap to clone; clones share what they learn.
#[derive(Clone)]
pub struct LedgerDeps {
    /// The bookies that can be used.
    pub bookies: Arc<dyn BookieDirectory>,
    /// The clock, for latencies and preferences only; no decision about data rests on it.
    pub clock: Arc<dyn Clock>,
    /// Bookies that failed a moment ago.
    pub suspects: Suspects,
    /// Writers whose bookies may not know what is confirmed; whoever owns the process runs it.
    pub idle: IdleWriters,
}

impl LedgerDeps {
    /// Nobody is suspect yet, and nobody idle.
    #[must_use]
    pub fn new(bookies: Arc<dyn BookieDirectory>, clock: Arc<dyn Clock>) -> Self {
        Self { bookies, clock, suspects: Suspects::default(), idle: IdleWriters::default() }
    }
}

#[cfg(test)]
mod tests;

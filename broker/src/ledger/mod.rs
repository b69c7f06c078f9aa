//! The ledger quorum client: writes, recovers and reads ledgers on a quorum of bookies.
//!
//! The protocol lives in two pure state machines, [`machine`] (the one writer) and [`recovery_machine`] (whoever takes
//! the ledger over); they take events and give commands and know no clock, no network and no task. The drivers
//! [`writer`], [`recovery`] and [`reader`] carry the commands out. [`placement`] chooses bookies, [`create`] makes the
//! metadata of a new ledger. Rule numbers (W1-W13, R1-R14) are those of the project's storage reference.
//!
//! The scenarios in `testscripts/` show what the machines do, in words, without a line of code.
//!
//! Nothing here knows partitions, offsets or record batches, and nothing here writes metadata except through the
//! compare-and-swap its caller provides.

pub mod create;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
pub mod machine;
mod metrics;
pub mod placement;
pub mod reader;
pub mod recovery;
pub mod recovery_machine;
pub mod writer;

use protocol::{runtime::Clock, service::directory::BookieDirectory};
use std::sync::Arc;

pub use create::{CreateError, NewLedger, new_ledger};
pub use metrics::describe_metrics;
pub use reader::{LedgerReader, ReadError};
pub use recovery::{Recovered, RecoveryError, recover};
pub use writer::{LedgerAppender, LedgerEnd, LedgerEvent, LedgerEvents, LedgerMetadataStore, ReplaceError, WriteError};

/// What every driver needs: the bookies and the time. Cheap to clone.
#[derive(Clone)]
pub struct LedgerDeps {
    /// The bookies that can be used.
    pub bookies: Arc<dyn BookieDirectory>,
    /// The clock, for latencies only; no decision about data rests on it.
    pub clock: Arc<dyn Clock>,
}

#[cfg(test)]
mod tests;

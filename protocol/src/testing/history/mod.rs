//! Concurrent clients of a metadata service, and what they saw: the history that [`super::linearizability`] judges.
//!
//! Owns the mix of calls, the common counter of positions, and what an error means: it did not happen, or nobody knows.
//! Never judges. A run in which too little succeeded is an error, because an idle history proves nothing.

mod client;
mod watcher;

#[cfg(test)]
mod tests;

pub use watcher::follow;

use super::{
    linearizability::{Call, Outcome},
    oracles::sequences::Taken,
};
use crate::service::metadata::MetadataService;
use client::Client;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// What clients do, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Every key and every sequence begins with this; nothing that does may exist before, nor be written by others.
    pub prefix: String,
    /// Clients that call at the same time, each one call at a time; 1 or more.
    pub clients: u32,
    /// Keys that they share; 2 or more. Few keys mean many conflicts.
    pub keys: u32,
    /// The most calls of all clients together; ends the run as `stop` does.
    pub calls: usize,
    /// How long a client waits for one answer.
    pub patience: Duration,
    /// The least share of calls that must have a known outcome other than "did not happen", 0 to 1.
    pub floor: f64,
    /// Equal seeds make equal choices, as far as the answers are equal.
    pub seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        let (clients, keys, calls, patience) = (10, 5, 1_000_000, Duration::from_secs(10));
        Self { prefix: "history/".into(), clients, keys, calls, patience, floor: 0.1, seed: 1 }
    }
}

/// What clients asked for and were told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Reads and writes of keys, client by client.
    pub calls: Vec<Call>,
    /// Numbers that were issued.
    pub taken: Vec<Taken>,
    /// Calls for numbers, also those that failed.
    pub asked_numbers: usize,
}

/// Too little succeeded for the history to prove anything.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("only {succeeded} of {made} calls succeeded; a share of {floor} was asked for")]
pub struct TooFew {
    /// Calls with a known outcome other than "did not happen".
    pub succeeded: usize,
    /// All calls.
    pub made: usize,
    /// The share that was asked for.
    pub floor: f64,
}

impl Load {
    /// Lets the clients call until `stop`, or until there were enough calls. Client `n` uses handle `n`, round robin,
    /// and tries again through the next one.
    ///
    /// # Errors
    /// Too few calls succeeded.
    ///
    /// # Panics
    /// If there is no handle.
    pub async fn run(&self, handles: &[Arc<dyn MetadataService>], stop: &CancellationToken) -> Result<History, TooFew> {
        let ground = Ground { load: self, handles, stop, position: AtomicU64::new(0), started: AtomicUsize::new(0) };
        let clients = (0..self.clients).map(|number| Client::new(&ground, number).run());
        let mut history = History::default();
        for part in futures::future::join_all(clients).await {
            history.calls.extend(part.calls);
            history.taken.extend(part.taken);
            history.asked_numbers += part.asked_numbers;
        }
        history.suffices(self.floor)
    }
}

impl History {
    #[expect(clippy::cast_precision_loss, reason = "a share of a few million")]
    fn suffices(self, floor: f64) -> Result<Self, TooFew> {
        let fine = |call: &&Call| !matches!(call.outcome, Outcome::Failed | Outcome::Unknown);
        let succeeded = self.calls.iter().filter(fine).count() + self.taken.len();
        let made = self.calls.len() + self.asked_numbers;
        let enough = succeeded > 0 && succeeded as f64 >= floor * made as f64;
        if enough { Ok(self) } else { Err(TooFew { succeeded, made, floor }) }
    }
}

/// What the clients of one run share.
struct Ground<'a> {
    load: &'a Load,
    handles: &'a [Arc<dyn MetadataService>],
    stop: &'a CancellationToken,
    position: AtomicU64,
    started: AtomicUsize,
}

impl Ground<'_> {
    /// The next position, for all clients.
    fn now(&self) -> u64 {
        self.position.fetch_add(1, Ordering::SeqCst)
    }

    fn goes_on(&self) -> bool {
        !self.stop.is_cancelled() && self.started.fetch_add(1, Ordering::Relaxed) < self.load.calls
    }

    fn key(&self, number: u64) -> String {
        format!("{}{number}", self.load.prefix)
    }
}

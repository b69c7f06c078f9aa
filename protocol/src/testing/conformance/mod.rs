//! What every implementation of a service must do, whatever it is made of.
//!
//! One function per service takes a handle and panics at the first broken promise. The suites run on the fakes, on the
//! real services, and on remote clients over a stream; each check brings its own keys, ledgers or topics, so that one
//! handle serves a whole suite. They hold the four promises of [`crate::service`] and every documented rule and error
//! that can be provoked from outside.

mod bookie;
mod broker;
mod coordinator;
mod metadata;
mod peer;

pub use bookie::{bookie, bookie_copies};
pub use broker::broker;
pub use coordinator::coordinator;
pub use metadata::{metadata, metadata_keeps_the_order_of_requests, metadata_sessions_expire};
pub use peer::peer;

use std::{future::Future, time::Duration};

/// How long any single answer of a suite may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The answer, or a panic if it takes too long.
async fn within<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let answered = tokio::time::timeout(PATIENCE, answer).await;
    answered.unwrap_or_else(|_| panic!("{what}: no answer within {PATIENCE:?}"))
}

/// Looks until `condition` gives something.
async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        let mut tick = tokio::time::interval(LOOK_AGAIN);
        loop {
            tick.tick().await;
            if let Some(found) = condition().await {
                return found;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests;

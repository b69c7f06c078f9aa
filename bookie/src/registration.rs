//! How the cluster knows that this bookie lives and what it takes: an ephemeral record on a session.
//!
//! Owns the session: heartbeats, a new one when it has expired, the record again whenever the bookie's state changes.
//! Never touches an entry; a bookie whose registration is lost goes on serving.

use protocol::{
    id::SessionId,
    model::{BookieRecord, BookieState, encode, key},
    service::metadata::{Condition, MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The pause before metadata is asked again after an error, as a part of the session's time.
const RETRY: u32 = 20;

/// Keeps the bookie registered.
pub(crate) struct Registration {
    pub(crate) metadata: Arc<dyn MetadataService>,
    /// The record, with whatever state.
    pub(crate) record: BookieRecord,
    pub(crate) ttl: Duration,
    pub(crate) states: watch::Receiver<BookieState>,
    /// Raised once the record stands for the first time.
    pub(crate) registered: watch::Sender<bool>,
}

impl Registration {
    /// Runs until the bookie stops, then takes the record away at once.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut session = None;
        loop {
            let outcome = tokio::select! {
                outcome = self.keep(&mut session) => outcome,
                () = stopping.cancelled() => break,
            };
            match outcome {
                MetadataError::SessionExpired(expired) => {
                    tracing::warn!(bookie = %self.record.member.id, session = %expired, "the session has expired; registering again");
                    session = None;
                }
                problem => {
                    tracing::warn!(bookie = %self.record.member.id, %problem, "metadata does not answer; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(self.ttl / RETRY) => {}
                        () = stopping.cancelled() => break,
                    }
                }
            }
        }
        if let Some(session) = session {
            // Without an answer the session ends by itself.
            drop(tokio::time::timeout(self.ttl / 3, self.metadata.close_session(session)).await);
        }
    }

    /// Registers and sends heartbeats until something goes wrong.
    async fn keep(&mut self, session: &mut Option<SessionId>) -> MetadataError {
        loop {
            if let Err(problem) = self.step(session).await {
                return problem;
            }
        }
    }

    /// One session, one record, and heartbeats until the state changes.
    async fn step(&mut self, session: &mut Option<SessionId>) -> Result<(), MetadataError> {
        let id = match *session {
            Some(id) => id,
            None => *session.insert(self.patiently(self.metadata.open_session(self.ttl)).await?),
        };
        let state = *self.states.borrow_and_update();
        self.record.state = state;
        let put = Transaction {
            conditions: vec![Condition::Session(id)],
            operations: vec![Operation::Put {
                key: key::bookie(self.record.member.id),
                value: encode(&self.record),
                session: Some(id),
            }],
            request: None,
        };
        if let Outcome::Conflict { .. } = self.patiently(self.metadata.transact(put)).await? {
            return Err(MetadataError::SessionExpired(id));
        }
        if !self.registered.send_replace(true) {
            tracing::info!(bookie = %self.record.member, ?state, "registered");
        } else {
            tracing::info!(bookie = %self.record.member, ?state, "registered again");
        }
        loop {
            tokio::select! {
                changed = self.states.changed() => match changed {
                    Ok(()) => return Ok(()),
                    // The bookie is gone; so is the reason to live.
                    Err(_) => std::future::pending().await,
                },
                () = tokio::time::sleep(self.ttl / 3) => {}
            }
            self.patiently(self.metadata.keep_alive(id)).await?;
        }
    }

    /// An answer, or "unknown" if it takes too long to be of use.
    async fn patiently<T>(&self, answer: impl Future<Output = Result<T, MetadataError>>) -> Result<T, MetadataError> {
        let silent = |_| Err(MetadataError::OutcomeUnknown { reason: "no answer in time".into() });
        tokio::time::timeout(self.ttl / 3, answer).await.unwrap_or_else(silent)
    }
}

#[cfg(test)]
mod tests;

//! How the cluster knows that this bookie lives and what it takes: an ephemeral record on a session.
//!
//! Owns the session: heartbeats, a new one when it has expired, the record again whenever the bookie's state changes or
//! its disk has filled noticeably. Never touches an entry; a bookie whose registration is lost goes on serving. Keeps one
//! invariant: the record is written only while the cookie in metadata is the one this life started with.

use protocol::{
    id::{Revision, SessionId},
    model::{BookieRecord, BookieState, DiskUsage, encode, key},
    runtime::Clock,
    service::metadata::{Condition, MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The pause before metadata is asked again after an error, as a part of the session's time.
const RETRY: u32 = 20;

/// A change of free space of this part of the disk is told with the next heartbeat ...
const NOTICEABLE_PART: u64 = 100;
/// ... and a smaller one after this long.
const USAGE_EVERY: Duration = Duration::from_secs(30);

/// Keeps the bookie registered.
pub(crate) struct Registration {
    pub(crate) metadata: Arc<dyn MetadataService>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The record, with whatever state and disk.
    pub(crate) record: BookieRecord,
    /// The revision that wrote this life's cookie.
    pub(crate) cookie: Revision,
    pub(crate) ttl: Duration,
    pub(crate) states: watch::Receiver<BookieState>,
    /// How full the disk is, as last looked.
    pub(crate) usage: watch::Receiver<Option<DiskUsage>>,
    /// Raised once the record stands for the first time.
    pub(crate) registered: watch::Sender<bool>,
}

/// Why the bookie is not registered at the moment.
#[derive(Debug)]
enum Problem {
    Metadata(MetadataError),
    /// The cookie is gone, or of another life.
    Outlived,
}

impl From<MetadataError> for Problem {
    fn from(problem: MetadataError) -> Self {
        Self::Metadata(problem)
    }
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
                Problem::Outlived => {
                    let bookie = self.record.member;
                    tracing::error!(%bookie, "not registered: the cluster has given up this life of the bookie");
                    self.registered.send_replace(false);
                    break stopping.cancelled().await;
                }
                Problem::Metadata(MetadataError::SessionExpired(expired)) => {
                    tracing::warn!(bookie = %self.record.member.id, session = %expired, "the session has expired; registering again");
                    session = None;
                }
                Problem::Metadata(problem) => {
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
    async fn keep(&mut self, session: &mut Option<SessionId>) -> Problem {
        loop {
            if let Err(problem) = self.step(session).await {
                return problem;
            }
        }
    }

    /// One session, one record, and heartbeats until the state changes.
    async fn step(&mut self, session: &mut Option<SessionId>) -> Result<(), Problem> {
        let id = match *session {
            Some(id) => id,
            None => *session.insert(self.patiently(self.metadata.open_session(self.ttl)).await?),
        };
        let state = *self.states.borrow_and_update();
        let is_new_state = self.record.state != state;
        (self.record.state, self.record.disk) = (state, *self.usage.borrow());
        let told_at = self.clock.monotonic();
        let put = Transaction {
            conditions: vec![
                Condition::Session(id),
                Condition::Version(key::cookie(self.record.member.id), self.cookie),
            ],
            operations: vec![Operation::Put {
                key: key::bookie(self.record.member.id),
                value: encode(&self.record),
                session: Some(id),
            }],
            request: None,
        };
        match self.patiently(self.metadata.transact(put)).await? {
            Outcome::Committed { .. } => {}
            Outcome::Conflict { condition: 0, .. } => return Err(MetadataError::SessionExpired(id).into()),
            Outcome::Conflict { .. } => return Err(Problem::Outlived),
        }
        if !self.registered.send_replace(true) || is_new_state {
            tracing::info!(bookie = %self.record.member, ?state, "registered");
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
            let since = self.clock.monotonic().saturating_sub(told_at);
            if is_news(self.record.disk, *self.usage.borrow(), since) {
                return Ok(());
            }
        }
    }

    /// An answer, or "unknown" if it takes too long to be of use.
    async fn patiently<T>(&self, answer: impl Future<Output = Result<T, MetadataError>>) -> Result<T, MetadataError> {
        let silent = |_| Err(MetadataError::OutcomeUnknown { reason: "no answer in time".into() });
        tokio::time::timeout(self.ttl / 3, answer).await.unwrap_or_else(silent)
    }
}

/// Whether the cluster should hear how full the disk is, `since` the last time.
fn is_news(told: Option<DiskUsage>, now: Option<DiskUsage>, since: Duration) -> bool {
    match (told, now) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(told), Some(now)) => {
            let noticeable = told.free.abs_diff(now.free) > now.capacity / NOTICEABLE_PART;
            noticeable || told.capacity != now.capacity || (told != now && since >= USAGE_EVERY)
        }
    }
}

#[cfg(test)]
mod tests;

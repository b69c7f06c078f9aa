//! Works the queue off: writes that wait together become one log entry (one disk sync for all of them), reads are
//! answered between the writes that were called before and after them.
//!
//! Never lets a later call overtake an earlier one. What was refused before it reached the log is "unavailable"; what
//! failed after that is "outcome unknown".

use crate::{
    applied::Applied,
    metrics::MetadataMetrics,
    queue::{Call, Exit, Queued, Write, WriteAnswer, unavailable},
    raft::Raft,
    sessions::Leases,
    state::{Batch, Command, Reply},
};
use openraft::error::{ClientWriteError, RaftError};
use parking_lot::Mutex;
use protocol::{id::SessionId, runtime::Clock, service::metadata::MetadataError};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The most bytes of calls that are worked off together.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The most calls that are worked off together.
const BATCH_CALLS: usize = 4_096;

/// The one task that proposes.
pub(crate) struct Proposer {
    pub raft: Raft,
    pub applied: Arc<Applied>,
    pub leases: Arc<Mutex<Leases>>,
    pub clock: Arc<dyn Clock>,
    pub metrics: MetadataMetrics,
    /// How long a proposal may take before its callers are told that its outcome is unknown.
    pub deadline: Duration,
}

impl Proposer {
    /// Runs until `stopping`, or until nobody can call any more. What is still queued then did not happen.
    pub(crate) async fn run(self, mut exit: Exit, stopping: CancellationToken) -> Result<(), String> {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(first) => first,
                None => tokio::select! {
                    biased;
                    () = stopping.cancelled() => break,
                    next = exit.next() => match next {
                        Some(first) => first,
                        None => break,
                    },
                },
            };
            match first {
                Queued { call: Call::Write(first), bytes } => {
                    let writes = gather(first, bytes, &mut exit, &mut held);
                    self.propose(writes).await;
                }
                Queued { call: first, .. } => {
                    let mut reads = vec![first];
                    while held.is_none() && reads.len() < BATCH_CALLS {
                        match exit.next_now() {
                            Some(queued) if matches!(queued.call, Call::Write(_)) => held = Some(queued),
                            Some(queued) => reads.push(queued.call),
                            None => break,
                        }
                    }
                    self.read(reads).await;
                }
            }
        }
        if let Some(queued) = held {
            queued.call.fail(unavailable("it is shutting down"));
        }
        exit.close();
        Ok(())
    }

    async fn propose(&self, writes: Vec<Write>) {
        let now = self.clock.monotonic();
        // A heartbeat may have come between the decision that a session is overdue and now.
        let still = |w: &Write| match w.answer {
            WriteAnswer::Expiry(session) => self.leases.lock().is_overdue(session, now),
            _ => true,
        };
        let mut commands = Vec::with_capacity(writes.len());
        let mut waiting = Vec::with_capacity(writes.len());
        for write in writes.into_iter().filter(still) {
            commands.push(write.command);
            waiting.push((write.answer, write.called));
        }
        if commands.is_empty() {
            return;
        }
        self.metrics.batch.record(commands.len() as f64);
        self.metrics.commands.increment(commands.len() as u64);
        match self.write(commands).await {
            Ok(replies) if replies.len() == waiting.len() => {
                let now = self.clock.monotonic();
                for ((answer, called), reply) in waiting.into_iter().zip(replies) {
                    self.metrics.proposal.record(now.saturating_sub(called).as_secs_f64());
                    self.note(&answer, &reply, now);
                    answer.send(reply);
                }
            }
            Ok(replies) => {
                let reason = format!("{} replies to {} commands", replies.len(), waiting.len());
                self.fail(waiting, &MetadataError::OutcomeUnknown { reason });
            }
            Err(error) => self.fail(waiting, &error),
        }
    }

    async fn write(&self, commands: Vec<Command>) -> Result<Vec<Reply>, MetadataError> {
        let unknown = |reason: String| MetadataError::OutcomeUnknown { reason };
        {
            let state = self.raft.metrics();
            let state = state.borrow();
            if state.running_state.is_err() {
                return Err(unavailable("raft has stopped"));
            }
            if state.current_leader != Some(state.id) {
                return Err(unavailable("this node is not the leader"));
            }
        }
        match tokio::time::timeout(self.deadline, self.raft.client_write(Batch::new(Duration::ZERO, &commands))).await {
            Ok(Ok(written)) => Ok(written.data.0),
            // The entry may be in the log of a leader that has just lost its place.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(unknown("the leader changed meanwhile".into()))
            }
            Ok(Err(error)) => Err(unknown(error.to_string())),
            Err(_) => Err(unknown(format!("no quorum answered within {:?}", self.deadline))),
        }
    }

    /// Keeps the leases in step with what was committed.
    fn note(&self, answer: &WriteAnswer, reply: &Reply, now: Duration) {
        match (answer, reply) {
            (WriteAnswer::Session(_, ttl), Reply::Session(session)) => {
                self.leases.lock().grant(*session, *ttl, now);
                tracing::info!(session = session.0, ttl_ms = ttl.as_millis() as u64, "metadata session opened");
            }
            (WriteAnswer::Closed(_, session), _) => {
                self.leases.lock().end(*session);
                tracing::info!(session = session.0, "metadata session closed");
            }
            (WriteAnswer::Expiry(session), _) => {
                self.leases.lock().end(*session);
                self.metrics.expired.increment(1);
                tracing::warn!(session = session.0, "metadata session expired");
            }
            _ => {}
        }
    }

    fn fail(&self, waiting: Vec<(WriteAnswer, Duration)>, error: &MetadataError) {
        tracing::warn!(problem = %error, commands = waiting.len(), "a metadata proposal failed");
        if matches!(error, MetadataError::OutcomeUnknown { .. }) {
            self.metrics.unknown.increment(waiting.len() as u64);
        }
        for (answer, _) in waiting {
            answer.fail(error.clone());
        }
    }

    async fn read(&self, reads: Vec<Call>) {
        if let Err(error) = self.confirm().await {
            for read in reads {
                read.fail(error.clone());
            }
            return;
        }
        for read in reads {
            match read {
                Call::Get(key, caller) => caller.send(Ok(self.applied.get(&key))),
                Call::Scan(scan, caller) => {
                    caller.send(Ok(self.applied.scan(&scan.prefix, scan.after.as_deref(), scan.limit)));
                }
                Call::KeepAlive(session, caller) => caller.send(self.heartbeat(session)),
                Call::Write(write) => write.answer.fail(unavailable("a write was queued as a read")),
            }
        }
    }

    /// Makes sure that the applied state is as new as the newest commit, and that this node still leads.
    async fn confirm(&self) -> Result<(), MetadataError> {
        match tokio::time::timeout(self.deadline, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(unavailable(&error.to_string())),
            Err(_) => Err(unavailable("no quorum confirmed the leader in time")),
        }
    }

    fn heartbeat(&self, session: SessionId) -> Result<(), MetadataError> {
        let ttl = self.applied.read(|state| state.session_ttl(session));
        let ttl = ttl.ok_or(MetadataError::SessionExpired(session))?;
        self.leases.lock().grant(session, Duration::from_millis(ttl), self.clock.monotonic());
        Ok(())
    }
}

/// The first write and those that wait directly behind it; a read ends the run and is kept for the next turn.
fn gather(first: Write, bytes: usize, exit: &mut Exit, held: &mut Option<Queued>) -> Vec<Write> {
    let mut writes = vec![first];
    let mut size = bytes;
    while writes.len() < BATCH_CALLS {
        match exit.next_now() {
            Some(Queued { call: Call::Write(write), bytes }) if size + bytes <= BATCH_BYTES => {
                size += bytes;
                writes.push(write);
            }
            Some(other) => {
                *held = Some(other);
                break;
            }
            None => break,
        }
    }
    writes
}

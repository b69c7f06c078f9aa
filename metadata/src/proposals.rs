//! Works calls off while this node leads: writes that wait together become one log entry (one disk sync for all of
//! them), reads are answered between the writes that were called before and after them.
//!
//! Two entries may be on their way at a time: while one is replicated, the next is written to this node's disk. Never
//! lets a later call overtake an earlier one. What was refused before it reached the log is "unavailable"; what failed
//! after that is "outcome unknown".

use crate::{
    applied::Applied,
    metrics::MetadataMetrics,
    queue::{Call, Exit, Queued, unavailable},
    raft::{Raft, log::LogStore},
    sessions::Leases,
    state::{Batch, Command, Reply},
};
use openraft::error::ClientWriteError;
use parking_lot::Mutex;
use protocol::{
    id::SessionId,
    runtime::Clock,
    service::metadata::{MetadataError, Outcome},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most bytes of calls that are worked off together.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The most calls that are worked off together.
const BATCH_CALLS: usize = 4_096;
/// Entries on their way at a time.
const FLIGHTS: u32 = 2;
/// How long a proposal may go on after this node has ceased to lead: what it handed over in order is done by then, and what
/// hangs is asked of the next leader.
const LEFT: Duration = Duration::from_secs(2);
/// The most time that one batch adds to the cluster's uptime; more than that nobody has worked.
const MOST_ELAPSED: Duration = Duration::from_secs(60);

/// What working off needs; shared by all terms that this node leads in.
pub(crate) struct Proposals {
    raft: Raft,
    applied: Arc<Applied>,
    leases: Arc<Mutex<Leases>>,
    clock: Arc<dyn Clock>,
    log: LogStore,
    metrics: MetadataMetrics,
    /// How long a proposal may take before its callers are told that its outcome is unknown.
    deadline: Duration,
    /// Those of the current term: entries of an earlier one may hang until their deadline.
    flights: Mutex<Arc<Semaphore>>,
    /// When the last batch was made.
    last_batch: Mutex<Duration>,
    /// The last position whose digest the others were asked to compare.
    audited: AtomicU64,
}

/// Who waits for a write.
#[derive(Debug)]
enum Caller {
    Transact(protocol::service::Reply<Outcome, MetadataError>),
    Open(protocol::service::Reply<SessionId, MetadataError>, Duration),
    Close(protocol::service::Reply<(), MetadataError>, SessionId),
    Expiry(SessionId),
    /// Nobody: the others compare their state with this node's.
    Audit,
}

impl Caller {
    fn answer(self, reply: Reply) {
        match self {
            Self::Transact(caller) => caller.send(reply.into_outcome()),
            Self::Open(caller, _) => caller.send(reply.into_session()),
            Self::Close(caller, _) => caller.send(reply.into_closed()),
            Self::Expiry(_) | Self::Audit => {}
        }
    }

    fn fail(self, error: MetadataError) {
        match self {
            Self::Transact(caller) => caller.send(Err(error)),
            Self::Open(caller, _) => caller.send(Err(error)),
            Self::Close(caller, _) => caller.send(Err(error)),
            Self::Expiry(_) | Self::Audit => {}
        }
    }
}

/// A write on its way: who waits, and since when.
type Waiting = Vec<(Caller, Duration)>;

impl Proposals {
    pub(crate) fn new(
        (raft, log): (Raft, LogStore),
        applied: Arc<Applied>,
        leases: Arc<Mutex<Leases>>,
        clock: Arc<dyn Clock>,
        metrics: MetadataMetrics,
        deadline: Duration,
    ) -> Self {
        let last_batch = Mutex::new(clock.monotonic());
        let flights = Mutex::new(Arc::new(Semaphore::new(FLIGHTS as usize)));
        Self { raft, applied, leases, clock, log, metrics, deadline, flights, last_batch, audited: AtomicU64::new(0) }
    }

    /// This node begins to lead: time before that was measured by others.
    pub(crate) fn begin(&self) {
        *self.last_batch.lock() = self.clock.monotonic();
        *self.flights.lock() = Arc::new(Semaphore::new(FLIGHTS as usize));
    }

    /// Room for one more entry on its way. While it is waited for, more writes gather.
    pub(crate) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        let flights = Arc::clone(&self.flights.lock());
        flights.acquire_owned().await.ok()
    }

    /// Proposes the write and those that wait directly behind it; a read ends the run and is kept for the next turn. `over`
    /// is the end of the term.
    pub(crate) async fn write(
        self: &Arc<Self>,
        first: Queued,
        exit: &mut Exit,
        held: &mut Option<Queued>,
        room: OwnedSemaphorePermit,
        over: impl Future<Output = ()> + Send + 'static,
    ) {
        let now = self.clock.monotonic();
        let (mut commands, mut waiting) = (Vec::new(), Waiting::new());
        for queued in gather(first, exit, held) {
            if let Some((command, caller)) = self.command(queued.call, now) {
                commands.push(command);
                waiting.push((caller, queued.made));
            }
        }
        if commands.is_empty() {
            return;
        }
        if let Some(audit) = self.audit() {
            commands.push(audit);
            waiting.push((Caller::Audit, now));
        }
        self.metrics.batch.record(commands.len() as f64);
        self.metrics.commands.increment(commands.len() as u64);
        let batch = Batch::new(self.elapsed(now), &commands);
        let truncated = self.log.truncated();
        // Handed over here, in order; only its end is waited for elsewhere.
        let sent = self.raft.client_write_ff(batch).await;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let late = async {
                tokio::select! {
                    () = tokio::time::sleep(this.deadline) => format!("no quorum answered within {:?}", this.deadline),
                    () = async { over.await; tokio::time::sleep(LEFT).await } => "this node has ceased to lead".into(),
                }
            };
            let written = match sent {
                Err(fatal) => Err(unavailable(&format!("raft has stopped: {fatal}"))),
                Ok(answer) => tokio::select! {
                    answer = answer => match answer {
                        Ok(Ok(written)) => Ok(written.data.0),
                        // It was never appended, or a leader that does not have it has cut it off again. In the second
                        // case a node that has it may yet be elected after that leader, and commit it.
                        Ok(Err(ClientWriteError::ForwardToLeader(_))) => match this.log.truncated() == truncated {
                            true => Err(unavailable("this node does not lead any more")),
                            false => Err(unknown("another leader was elected before a quorum had it".into())),
                        },
                        Ok(Err(error)) => Err(unknown(error.to_string())),
                        Err(_) => Err(unknown("raft has stopped".into())),
                    },
                    reason = late => Err(unknown(reason)),
                },
            };
            this.finish(waiting, written);
            drop(room);
        });
    }

    /// Asks the others to compare their state, once for every position whose digest is noted. Travels with writes:
    /// without any there is nothing new to compare.
    fn audit(&self) -> Option<Command> {
        let (index, digest) = self.applied.noted()?;
        (self.audited.swap(index, Ordering::Relaxed) < index).then_some(Command::Audit { index, digest })
    }

    fn elapsed(&self, now: Duration) -> Duration {
        let mut last = self.last_batch.lock();
        now.saturating_sub(std::mem::replace(&mut *last, now)).min(MOST_ELAPSED)
    }

    /// What is written to the log for a call; `None` if nothing is.
    fn command(&self, call: Call, now: Duration) -> Option<(Command, Caller)> {
        match call {
            Call::Transact(transaction, caller) => Some((transaction.into(), Caller::Transact(caller))),
            Call::OpenSession(ttl, caller) => {
                Some((Command::OpenSession { ttl_ms: ttl.as_millis() as u64 }, Caller::Open(caller, ttl)))
            }
            Call::CloseSession(session, caller) => {
                Some((Command::CloseSession { session }, Caller::Close(caller, session)))
            }
            // A heartbeat may have come between the decision that a session is overdue and now.
            Call::Expire(session) => {
                let is_overdue = self.leases.lock().is_overdue(session, now);
                is_overdue.then_some((Command::CloseSession { session }, Caller::Expiry(session)))
            }
            read @ (Call::Get(..) | Call::Scan(..) | Call::KeepAlive(..)) => {
                read.fail(unavailable("a read was queued as a write"));
                None
            }
        }
    }

    fn finish(&self, waiting: Waiting, written: Result<Vec<Reply>, MetadataError>) {
        match written {
            Ok(replies) if replies.len() == waiting.len() => {
                let now = self.clock.monotonic();
                for ((caller, made), reply) in waiting.into_iter().zip(replies) {
                    self.metrics.proposal.record(now.saturating_sub(made).as_secs_f64());
                    self.note(&caller, &reply, now);
                    caller.answer(reply);
                }
            }
            Ok(replies) => {
                let reason = format!("{} replies to {} commands", replies.len(), waiting.len());
                self.fail(waiting, &unknown(reason));
            }
            Err(error) => self.fail(waiting, &error),
        }
    }

    /// Keeps the leases in step with what was committed.
    fn note(&self, caller: &Caller, reply: &Reply, now: Duration) {
        match (caller, reply) {
            (Caller::Open(_, ttl), Reply::Session(session)) => self.leases.lock().grant(*session, *ttl, now),
            (Caller::Close(_, session), _) => self.leases.lock().end(*session),
            (Caller::Expiry(session), _) => {
                self.leases.lock().end(*session);
                self.metrics.expired.increment(1);
                tracing::warn!(session = session.0, "metadata session expired");
            }
            _ => {}
        }
    }

    fn fail(&self, waiting: Waiting, error: &MetadataError) {
        tracing::warn!(problem = %error, commands = waiting.len(), "a metadata proposal failed");
        if matches!(error, MetadataError::OutcomeUnknown { .. }) {
            self.metrics.unknown.increment(waiting.len() as u64);
        }
        for (caller, _) in waiting {
            caller.fail(error.clone());
        }
    }

    /// Answers the read and those that wait directly behind it, unless the term is `over` before. Everything written
    /// before it is seen: its entries are waited for first.
    pub(crate) async fn read(
        &self,
        first: Queued,
        exit: &mut Exit,
        held: &mut Option<Queued>,
        over: impl Future<Output = ()>,
    ) {
        let mut reads = vec![first.call];
        while held.is_none() && reads.len() < BATCH_CALLS {
            match exit.next_now() {
                Some(queued) if queued.call.is_write() => *held = Some(queued),
                Some(queued) => reads.push(queued.call),
                None => break,
            }
        }
        let confirmed = tokio::select! {
            confirmed = self.confirm() => confirmed,
            () = over => Err(unavailable("this node does not lead any more")),
        };
        if let Err(error) = confirmed {
            for read in reads {
                // It was heard, whoever leads: a session that lives longer harms nobody.
                if let Call::KeepAlive(session, _) = &read {
                    let _ = self.heartbeat(*session);
                }
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
                write => write.fail(unavailable("a write was queued as a read")),
            }
        }
    }

    /// Makes sure that the applied state is as new as the newest commit, and that this node still leads.
    async fn confirm(&self) -> Result<(), MetadataError> {
        let flights = Arc::clone(&self.flights.lock());
        let _landed = flights.acquire_many(FLIGHTS).await;
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

fn unknown(reason: String) -> MetadataError {
    MetadataError::OutcomeUnknown { reason }
}

/// The first write and those that wait directly behind it; a read ends the run and is kept for the next turn.
fn gather(first: Queued, exit: &mut Exit, held: &mut Option<Queued>) -> Vec<Queued> {
    let mut size = first.bytes;
    let mut writes = vec![first];
    while writes.len() < BATCH_CALLS {
        match exit.next_now() {
            Some(queued) if queued.call.is_write() && size + queued.bytes <= BATCH_BYTES => {
                size += queued.bytes;
                writes.push(queued);
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

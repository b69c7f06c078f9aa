//! The driver of repair on a bookie: one session, the tasks and claims followed by watches, a few ledgers at a time.
//!
//! Owns the session and the order of its end: claims go with it. Everything else it knows it reads again when it begins
//! anew; a bookie that repairs nothing for a while does no harm.

use super::{
    board::Board,
    job::{Job, JobError, Outcome, Throttle, Tools, in_time},
    metrics::Metrics,
    survey::Survey,
};
use crate::pace::Pace;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use protocol::{
    id::{LedgerId, Revision, SessionId},
    ledger::metadata::BookieMember,
    model::{BookieState, prefix},
    runtime::Clock,
    service::{
        bookie::BookieService,
        directory::BookieDirectory,
        metadata::{Consistency, MAX_SCAN, MetadataError, MetadataService, Scan, WatchStream},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often resting tasks are looked at again.
const LOOK: Duration = Duration::from_millis(500);
/// Records per page of a scan; values are small.
const PAGE: u32 = if MAX_SCAN < 2_000 { MAX_SCAN } else { 2_000 };

/// Where this bookie finds the others, as soon as the node has said so.
pub(crate) type Peers = Arc<dyn Fn() -> Option<Arc<dyn BookieDirectory>> + Send + Sync>;

/// Repairs ledgers.
pub(crate) struct Worker {
    pub(crate) metadata: Arc<dyn MetadataService>,
    /// This bookie.
    pub(crate) bookie: Arc<dyn BookieService>,
    pub(crate) member: BookieMember,
    pub(crate) peers: Peers,
    /// What this bookie takes; it repairs while that is everything.
    pub(crate) states: watch::Receiver<BookieState>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long its claims outlive it.
    pub(crate) ttl: Duration,
    /// Bytes per second that it copies at most, all ledgers together.
    pub(crate) bandwidth: u64,
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, (LedgerId, Outcome)>>;

impl Worker {
    /// Works until stopped, then lets go of what it has claimed.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let tools = self.tools();
        let mut session = None;
        loop {
            let problem = tokio::select! {
                problem = self.work(&tools, &mut session) => problem,
                () = stopping.cancelled() => break,
            };
            tracing::warn!(bookie = %self.member, %problem, "repair is interrupted; it goes on in a moment");
            Self::close(&tools, &mut session).await;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => break,
            }
        }
        Self::close(&tools, &mut session).await;
    }

    fn tools(&self) -> Tools {
        let (metadata, clock) = (Arc::clone(&self.metadata), Arc::clone(&self.clock));
        Tools {
            survey: Survey::new(Arc::clone(&metadata), Arc::clone(&clock)),
            throttle: Throttle(Mutex::new(Pace::new(self.bandwidth, Arc::clone(&clock)))),
            metadata,
            bookie: Arc::clone(&self.bookie),
            member: self.member,
            clock,
            metrics: Metrics::default(),
        }
    }

    async fn close(tools: &Tools, session: &mut Option<SessionId>) {
        tools.metrics.running.set(0.0);
        if let Some(session) = session.take() {
            // Without an answer it ends by itself.
            drop(in_time(tools.metadata.close_session(session)).await);
        }
    }

    /// Works on one session until something goes wrong.
    async fn work(&mut self, tools: &Tools, held: &mut Option<SessionId>) -> JobError {
        match in_time(self.metadata.open_session(self.ttl)).await {
            Ok(session) => {
                *held = Some(session);
                match self.follow(tools, session).await {
                    Ok(never) => match never {},
                    Err(problem) => problem,
                }
            }
            Err(problem) => problem,
        }
    }

    async fn follow(&mut self, tools: &Tools, session: SessionId) -> Result<std::convert::Infallible, JobError> {
        let mut board = Board::new(self.member);
        let mut tasks = self.list(prefix::REPAIRS, &mut board).await?;
        let mut claims = self.list(prefix::REPAIRING, &mut board).await?;
        let mut running: Running<'_> = FuturesUnordered::new();
        let mut heartbeat = tokio::time::interval(self.ttl / 3);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.fill(tools, session, &mut board, &mut running);
            tools.metrics.running.set(board.running() as f64);
            let event = tokio::select! {
                event = tasks.next() => Some(event),
                event = claims.next() => Some(event),
                Some((ledger, outcome)) = running.next(), if !running.is_empty() => {
                    board.end(ledger, outcome, self.clock.monotonic());
                    None
                }
                _ = heartbeat.tick() => {
                    in_time(self.metadata.keep_alive(session)).await?;
                    None
                }
                changed = self.states.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    None
                }
                _ = look.tick() => None,
            };
            if let Some(event) = event {
                let ended = || MetadataError::Unavailable { reason: "the watch ended".into() };
                event.ok_or_else(ended)??.changes.iter().for_each(|change| board.change(change));
            }
        }
    }

    /// Begins with as many ledgers as may be worked on.
    fn fill<'a>(&self, tools: &'a Tools, session: SessionId, board: &mut Board, running: &mut Running<'a>) {
        while *self.states.borrow() == BookieState::Writable
            && let Some(posted) = board.take(self.clock.monotonic())
        {
            let ledger = posted.task.ledger;
            let job = Job::new(tools, (self.peers)(), session, posted.task);
            running.push(job.run().map(move |outcome| (ledger, outcome)).boxed());
        }
    }

    /// What stands under a prefix, and the watch that goes on from there.
    async fn list(&self, prefix: &str, board: &mut Board) -> Result<WatchStream, JobError> {
        let (mut after, mut from): (_, Option<Revision>) = (None, None);
        loop {
            let consistency = Consistency::Linearizable;
            let scan = Scan { prefix: prefix.into(), after, limit: PAGE, consistency };
            let page = in_time(self.metadata.scan(scan)).await?;
            from.get_or_insert(page.revision);
            page.items.iter().for_each(|item| board.put(item));
            match page.items.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        in_time(self.metadata.watch(prefix.into(), from.unwrap_or_default())).await
    }
}

#[cfg(test)]
mod tests;

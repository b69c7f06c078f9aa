//! The auditor: finds the closed ledgers that lack copies, and asks for repair; carries out orders to take bookies out.
//!
//! * `absences`: who is there, and who has been gone for too long. Pure.
//! * `findings`: what a page of closed ledgers lacks. Pure; the rule itself is [`protocol::ledger::repair`].
//! * `audit`: one audit of everything, or of the pages that changed; writes and removes tasks.
//! * `decommission`, `strays`: how an order ends; copies that no metadata names.
//!
//! The driver here owns when to look: at once when a bookie comes, goes or changes what it takes, soon after a page
//! changes, and at everything every interval. It never touches a ledger, and never concludes anything from what a
//! listing lacks. Whatever it writes is conditional on what it has read, so that two auditors do no harm.

mod absences;
mod audit;
mod decommission;
mod desk;
mod findings;
mod strays;

use absences::Absences;
use audit::Audit;
use desk::{AuditError, Desk};
use futures::{FutureExt, StreamExt};
use protocol::{
    cluster::{ClusterSnapshot, ClusterView},
    ledger::repair::Roster,
    model::prefix,
    runtime::Clock,
    service::metadata::{MetadataService, WatchStream},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

use super::{PAUSE, pause};
use crate::metrics::AuditMetrics;

/// How often the auditor looks at the clock, and the least time between two rounds of work.
const TICK: Duration = Duration::from_millis(250);

/// Orders are attended at every so many looks, also when nothing seems to have changed.
const ATTEND_EVERY: u32 = 8;

/// What an operator can say about audits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditConfig {
    /// How long a bookie may be gone before its copies count as lost.
    pub grace: Duration,
    /// The longest time between two audits of everything.
    pub interval: Duration,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), interval: Duration::from_secs(600) }
    }
}

/// The driver.
pub(super) struct Auditor {
    desk: Desk,
    view: ClusterView,
    clock: Arc<dyn Clock>,
    config: AuditConfig,
    metrics: AuditMetrics,
}

/// What the auditor has come to know; made anew after every failure.
struct Known {
    absences: Absences,
    roster: Roster,
    audit: Audit,
    audited_at: Option<Duration>,
    attended: Option<Arc<ClusterSnapshot>>,
    looks: u32,
}

impl Auditor {
    pub(super) fn new(
        metadata: Arc<dyn MetadataService>,
        view: ClusterView,
        clock: Arc<dyn Clock>,
        config: AuditConfig,
    ) -> Self {
        Self { desk: Desk(metadata), view, clock, config, metrics: AuditMetrics::default() }
    }

    pub(super) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let metrics = self.metrics.clone();
        self.audit_until(stopping).await;
        metrics.clear();
        Ok(())
    }

    async fn audit_until(self, stopping: CancellationToken) {
        let mut wait = PAUSE.0;
        let mut absences = Absences::new(self.config.grace);
        loop {
            let audit = Audit::new(self.desk.clone(), self.metrics.clone());
            let mut known =
                Known { absences, roster: Roster::default(), audit, audited_at: None, attended: None, looks: 0 };
            let problem = tokio::select! {
                () = stopping.cancelled() => return,
                problem = self.follow(&mut known, &mut wait) => problem,
            };
            absences = known.absences;
            if stopping.is_cancelled() {
                return;
            }
            tracing::warn!(%problem, "the auditor is interrupted; it begins again in a moment");
            if !pause(&mut wait, &stopping).await {
                return;
            }
        }
    }

    /// Audits and watches until something fails.
    async fn follow(&self, known: &mut Known, wait: &mut Duration) -> AuditError {
        let mut watches = None;
        let mut changes = self.view.changes();
        loop {
            if let Err(problem) = self.look(known, &mut watches).await {
                return problem;
            }
            *wait = PAUSE.0;
            // One round of work per tick, however much changes.
            tokio::time::sleep(TICK).await;
            let noted = match &mut watches {
                Some(watches) => tokio::select! {
                    noted = watches.next(&mut known.audit) => noted,
                    _ = changes.changed() => Ok(()),
                    () = tokio::time::sleep(TICK) => Ok(()),
                }
                .and_then(|()| watches.drain(&mut known.audit)),
                None => Ok(()),
            };
            if let Err(problem) = noted {
                return problem;
            }
        }
    }

    /// Does what is due now.
    async fn look(&self, known: &mut Known, watches: &mut Option<Watches>) -> Result<(), AuditError> {
        let cluster = self.view.snapshot();
        // Nothing is concluded from a view that has not been filled yet.
        if cluster.cluster.is_none() && cluster.bookies.is_empty() && cluster.cookies.is_empty() {
            return Ok(());
        }
        let now = self.clock.monotonic();
        let roster = known.absences.roster(&cluster, &known.audit.facts().named(), now);
        let is_due = known.audited_at.is_none_or(|at| now.saturating_sub(at) >= self.config.interval);
        let is_changed = roster != known.roster;
        let mut has_news = known.audit.has_changed_pages();
        if is_due || is_changed || known.audit.wants_more() {
            if is_changed {
                report(&known.roster, &roster);
            }
            known.roster = roster;
            let from = known.audit.all(&known.roster, self.clock.wall()).await?;
            if watches.is_none() {
                let pages = self.desk.watch(prefix::CLOSED, from).await?;
                *watches = Some(Watches { pages, tasks: self.desk.watch(prefix::REPAIRS, from).await? });
            }
            if is_due {
                strays::sweep(&self.desk, &known.roster, self.clock.wall()).await?;
                known.audited_at = Some(now);
            }
            has_news = true;
        } else {
            known.audit.changed(&known.roster, self.clock.wall()).await?;
        }
        let is_seen = known.attended.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &cluster));
        known.looks += 1;
        let is_turn = known.looks.is_multiple_of(ATTEND_EVERY);
        if !cluster.decommissions.is_empty() && (has_news || !is_seen || is_turn) {
            decommission::attend(&self.desk, &cluster, known.audit.facts()).await?;
        }
        known.attended = Some(Arc::clone(&cluster));
        self.metrics.lost.set(known.roster.lost.len() as f64);
        self.metrics.leaving.set(known.roster.leaving.len() as f64);
        Ok(())
    }
}

/// What the auditor follows.
struct Watches {
    pages: WatchStream,
    tasks: WatchStream,
}

impl Watches {
    /// Waits for an event and takes note of it.
    async fn next(&mut self, audit: &mut Audit) -> Result<(), AuditError> {
        let event = tokio::select! {
            event = self.pages.next() => event,
            event = self.tasks.next() => event,
        };
        audit.note(&event.ok_or(AuditError::Ended)??);
        Ok(())
    }

    /// Takes note of the events that are there already.
    fn drain(&mut self, audit: &mut Audit) -> Result<(), AuditError> {
        for watch in [&mut self.pages, &mut self.tasks] {
            while let Some(event) = watch.next().now_or_never() {
                audit.note(&event.ok_or(AuditError::Ended)??);
            }
        }
        Ok(())
    }
}

/// Says which bookies came and went.
fn report(before: &Roster, now: &Roster) {
    for member in now.lost.difference(&before.lost) {
        tracing::warn!(bookie = %member, "the bookie has been gone for longer than the grace period: its copies are made anew elsewhere");
    }
    for member in before.lost.difference(&now.lost) {
        tracing::info!(bookie = %member, "the bookie does not count as lost any more");
    }
}

#[cfg(test)]
mod tests;

//! Audits: every page of closed ledgers is judged, or those that changed, and tasks are made to say what was found.
//!
//! Owns the tasks: one transaction per page writes those that are needed and removes those that are not, on condition
//! that the page is still the one that was judged. Owns their bound, too: more than [`MOST_TASKS`] are not written at a
//! time, except for ledgers at risk, and the audit is repeated when there is room.

use super::{
    desk::{AuditError, Desk, unchanged},
    findings::{Facts, Finding, PageId, judge},
};
use crate::metrics::AuditMetrics;
use protocol::{
    id::{LedgerId, Revision, Timestamp},
    ledger::repair::Roster,
    model::{ClosedPage, KeyKind, RepairReason, RepairTask, decode, encode, key, prefix},
    service::metadata::{Change, Operation, Versioned, WatchEvent},
};
use std::collections::{BTreeMap, BTreeSet};

/// The most tasks that stand at a time, those at risk not counted.
const MOST_TASKS: usize = 10_000;
/// Pages of closed ledgers per page of a listing; each may have 500 ledgers.
const PAGES: u32 = 8;
/// Tasks per page of a listing.
const TASKS: u32 = 2_000;
/// The most changed pages that are judged in one round.
const ROUND: usize = 32;

/// What is known of pages and tasks.
pub(super) struct Audit {
    desk: Desk,
    metrics: AuditMetrics,
    pages: BTreeMap<PageId, Facts>,
    sum: Facts,
    tasks: BTreeMap<LedgerId, RepairTask>,
    changed: BTreeSet<PageId>,
    /// Tasks were left out for want of room.
    is_cut: bool,
}

/// A page that was judged, and what is to be written for it.
struct Judged {
    id: PageId,
    item: Option<Versioned>,
    findings: Vec<Finding>,
    /// Tasks that are not needed any more.
    obsolete: Vec<LedgerId>,
}

impl Audit {
    pub(super) fn new(desk: Desk, metrics: AuditMetrics) -> Self {
        let (pages, tasks, changed) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { desk, metrics, pages, sum: Facts::default(), tasks, changed, is_cut: false }
    }

    /// What all pages say, as they were last judged.
    pub(super) const fn facts(&self) -> &Facts {
        &self.sum
    }

    /// Whether pages wait to be judged again.
    pub(super) fn has_changed_pages(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whether tasks were left out, and there is room for them now.
    pub(super) fn wants_more(&self) -> bool {
        self.is_cut && self.tasks.len() < MOST_TASKS / 2
    }

    /// Takes note of what has changed.
    pub(super) fn note(&mut self, event: &WatchEvent) {
        for change in &event.changes {
            let key = match change {
                Change::Put(item) => &item.key,
                Change::Deleted(key) => key,
            };
            match (KeyKind::parse(key), change) {
                (Some(KeyKind::ClosedPage(partition, page)), _) => drop(self.changed.insert((partition, page))),
                (Some(KeyKind::Repair(ledger)), Change::Put(item)) => {
                    if let Ok(task) = decode::<RepairTask>(&item.value) {
                        self.tasks.insert(ledger, task);
                    }
                }
                // Whoever removed it may have seen less than the auditor does.
                (Some(KeyKind::Repair(ledger)), Change::Deleted(_)) => {
                    if let Some(task) = self.tasks.remove(&ledger) {
                        self.changed.insert((task.partition, task.page));
                    }
                }
                _ => {}
            }
        }
        self.metrics.tasks.set(self.tasks.len() as f64);
    }

    /// Judges every page; from which revision on changes are to be noted.
    pub(super) async fn all(&mut self, roster: &Roster, now: Timestamp) -> Result<Revision, AuditError> {
        let mut tasks = BTreeMap::new();
        let from = self.desk.each(prefix::REPAIRS, TASKS, |item| {
            match (KeyKind::parse(&item.key), decode::<RepairTask>(&item.value)) {
                (Some(KeyKind::Repair(ledger)), Ok(task)) => drop(tasks.insert(ledger, task)),
                (_, outcome) => {
                    let problem = outcome.err();
                    tracing::error!(key = %item.key, ?problem, "a repair task cannot be read; it is left alone");
                }
            }
            Ok(())
        });
        let from = from.await?;
        self.tasks = tasks;
        self.pages.clear();
        self.is_cut = false;
        // Those at risk are written before any other.
        let mut later = Vec::new();
        let mut after = None;
        loop {
            let listed = self.desk.page(prefix::CLOSED, after, PAGES).await?;
            for item in &listed.items {
                let Some(KeyKind::ClosedPage(partition, page)) = KeyKind::parse(&item.key) else { continue };
                let judged = self.judge((partition, page), Some(item.clone()), roster);
                if judged.findings.iter().any(|f| f.reason == RepairReason::AtRisk) {
                    self.write(judged, now, true).await?;
                    later.push((partition, page));
                } else if !judged.findings.is_empty() || !judged.obsolete.is_empty() {
                    later.push((partition, page));
                }
            }
            match listed.items.last() {
                Some(last) if listed.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        // A listing proves nothing: pages that it does not show are asked for one by one.
        let hidden = self.tasks.values().map(|t| (t.partition, t.page)).filter(|id| !self.pages.contains_key(id));
        let hidden: BTreeSet<_> = hidden.collect();
        self.changed.extend(later.into_iter().chain(hidden));
        self.sum();
        self.metrics.audits.increment(1);
        while self.has_changed_pages() {
            self.changed(roster, now).await?;
        }
        Ok(from)
    }

    /// Judges pages that have changed, a bounded number of them.
    pub(super) async fn changed(&mut self, roster: &Roster, now: Timestamp) -> Result<(), AuditError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        for _ in 0..ROUND {
            let Some(id) = self.changed.pop_first() else { break };
            let item = self.desk.get(key::closed_page(id.0, id.1)).await?;
            let judged = self.judge(id, item, roster);
            self.write(judged, now, false).await?;
        }
        self.sum();
        Ok(())
    }

    fn judge(&mut self, id: PageId, item: Option<Versioned>, roster: &Roster) -> Judged {
        let page = item.as_ref().map(|item| decode::<ClosedPage>(&item.value)).transpose();
        let (facts, findings) = match page {
            Ok(Some(page)) => judge(&page, roster),
            Ok(None) => (Facts::default(), Vec::new()),
            Err(problem) => {
                let (partition, page) = id;
                tracing::error!(%partition, page, %problem, "a page of closed ledgers cannot be read; its ledgers are not repaired");
                self.pages.insert(id, Facts::unreadable());
                return Judged { id, item, findings: Vec::new(), obsolete: Vec::new() };
            }
        };
        match item {
            Some(_) => drop(self.pages.insert(id, facts)),
            None => drop(self.pages.remove(&id)),
        }
        let needed: BTreeSet<LedgerId> = findings.iter().map(|f| f.ledger).collect();
        let of_page = self.tasks.values().filter(|task| (task.partition, task.page) == id);
        let obsolete = of_page.map(|task| task.ledger).filter(|ledger| !needed.contains(ledger)).collect();
        Judged { id, item, findings, obsolete }
    }

    /// Makes the tasks say what was found; `urgent` writes those at risk only.
    async fn write(&mut self, judged: Judged, now: Timestamp, urgent: bool) -> Result<(), AuditError> {
        let Judged { id, item, findings, obsolete } = judged;
        let (mut operations, mut written) = (Vec::new(), Vec::new());
        for finding in findings {
            let is_at_risk = finding.reason == RepairReason::AtRisk;
            let standing = self.tasks.get(&finding.ledger);
            if standing.is_some_and(|task| finding.is_told_by(task, id)) || (urgent && !is_at_risk) {
                continue;
            }
            if standing.is_none() && !is_at_risk && self.tasks.len() + written.len() >= MOST_TASKS {
                self.is_cut = true;
                continue;
            }
            let task = finding.task(id, standing.map_or(now, |task| task.since));
            let (key, value) = (key::repair(finding.ledger), encode(&task));
            operations.push(Operation::Put { key, value, session: None });
            written.push(task);
        }
        let obsolete = if urgent { Vec::new() } else { obsolete };
        operations.extend(obsolete.iter().map(|ledger| Operation::Delete(key::repair(*ledger))));
        if operations.is_empty() {
            return Ok(());
        }
        let condition = unchanged(key::closed_page(id.0, id.1), item.as_ref());
        if !self.desk.write(vec![condition], operations).await? {
            self.changed.insert(id);
            return Ok(());
        }
        let (partition, page) = id;
        let (added, removed) = (written.len(), obsolete.len());
        tracing::debug!(%partition, page, added, removed, "repair tasks written");
        obsolete.iter().for_each(|ledger| drop(self.tasks.remove(ledger)));
        self.tasks.extend(written.into_iter().map(|task| (task.ledger, task)));
        Ok(())
    }

    fn sum(&mut self) {
        self.sum = Facts::sum(self.pages.values());
        let Self { metrics, sum, tasks, .. } = self;
        metrics.tasks.set(tasks.len() as f64);
        metrics.repairable.set(sum.repairable as f64);
        metrics.at_risk.set(sum.at_risk as f64);
        metrics.unavailable.set(sum.unavailable as f64);
        metrics.unplaced.set(sum.unplaced as f64);
        metrics.bytes.set(sum.bytes as f64);
    }
}

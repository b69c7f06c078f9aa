//! The tasks of repair as one bookie sees them, and which of them it takes next.
//!
//! Pure: records in, choices out. Owns the order: the most urgent first, of those the ones that name this bookie as the
//! best taker, of those another one for each bookie, so that workers do not fight for the same. Never judges a ledger.

use super::job::Outcome;
use protocol::{
    id::{LedgerId, Revision},
    ledger::{metadata::BookieMember, repair::weight},
    model::{KeyKind, RepairReason, RepairTask, decode},
    service::metadata::{Change, Versioned},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Ledgers that are repaired at a time.
const AT_ONCE: usize = 2;
/// One more if some of them are at risk.
const AT_RISK_AT_ONCE: usize = AT_ONCE + 1;
/// The first and the longest pause after a failure.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The pause after a task that this bookie could do nothing for.
const IDLE_REST: Duration = Duration::from_secs(5);

/// A task and the version it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) task: RepairTask,
    pub(super) version: Revision,
}

/// Why a task is not taken for a while.
#[derive(Debug, Clone)]
struct Rest {
    until: Duration,
    failures: u32,
}

/// The tasks, the claims, and what this bookie is at.
#[derive(Debug)]
pub(super) struct Board {
    bookie: BookieMember,
    tasks: BTreeMap<LedgerId, Posted>,
    claimed: BTreeSet<LedgerId>,
    running: BTreeMap<LedgerId, RepairReason>,
    resting: BTreeMap<LedgerId, Rest>,
}

impl Board {
    pub(super) fn new(bookie: BookieMember) -> Self {
        let (tasks, running, resting) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { bookie, tasks, claimed: BTreeSet::new(), running, resting }
    }

    /// Takes note of a changed record.
    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Put(item) => self.put(item),
            Change::Deleted(key) => match KeyKind::parse(key) {
                Some(KeyKind::Repair(ledger)) => {
                    self.tasks.remove(&ledger);
                    self.resting.remove(&ledger);
                }
                Some(KeyKind::Repairing(ledger)) => drop(self.claimed.remove(&ledger)),
                _ => {}
            },
        }
    }

    /// Takes note of a record.
    pub(super) fn put(&mut self, item: &Versioned) {
        match KeyKind::parse(&item.key) {
            Some(KeyKind::Repair(ledger)) => match decode::<RepairTask>(&item.value) {
                Ok(task) if task.ledger == ledger => {
                    if self.tasks.get(&ledger).is_none_or(|held| held.version < item.version) {
                        self.tasks.insert(ledger, Posted { task, version: item.version });
                        // Judged anew by the auditor: perhaps it can be done now.
                        self.resting.remove(&ledger);
                    }
                }
                Ok(_) => tracing::error!(%ledger, "a repair task stands under another key; it is left alone"),
                Err(problem) => tracing::error!(%ledger, %problem, "a repair task cannot be read; it is left alone"),
            },
            Some(KeyKind::Repairing(ledger)) => drop(self.claimed.insert(ledger)),
            _ => {}
        }
    }

    /// The task to begin with now; it counts as running from here on.
    pub(super) fn take(&mut self, now: Duration) -> Option<Posted> {
        let next = self.tasks.values().filter(|posted| self.may_take(&posted.task, now));
        let next = next.min_by_key(|posted| self.rank(&posted.task))?.clone();
        self.running.insert(next.task.ledger, next.task.reason);
        Some(next)
    }

    /// A task has come to its end.
    pub(super) fn end(&mut self, ledger: LedgerId, outcome: Outcome, now: Duration) {
        self.running.remove(&ledger);
        let failures = self.resting.get(&ledger).map_or(0, |rest| rest.failures);
        let rest = match outcome {
            Outcome::Done => {
                self.resting.remove(&ledger);
                return;
            }
            Outcome::Gone | Outcome::Taken | Outcome::Nothing => Rest { until: now + IDLE_REST, failures },
            Outcome::Failed => {
                let pause = REST.0.saturating_mul(1 << failures.min(10)).min(REST.1);
                Rest { until: now + pause, failures: failures + 1 }
            }
        };
        if self.tasks.contains_key(&ledger) {
            self.resting.insert(ledger, rest);
        }
    }

    /// How many ledgers are being repaired.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    fn may_take(&self, task: &RepairTask, now: Duration) -> bool {
        let room = if task.reason == RepairReason::AtRisk { AT_RISK_AT_ONCE } else { AT_ONCE };
        self.running.len() < room
            && (task.takers.is_empty() || task.takers.contains(&self.bookie))
            && !self.running.contains_key(&task.ledger)
            && !self.claimed.contains(&task.ledger)
            && self.resting.get(&task.ledger).is_none_or(|rest| rest.until <= now)
    }

    fn rank(&self, task: &RepairTask) -> (RepairReason, bool, Reverse<u64>) {
        let is_best = task.takers.first() == Some(&self.bookie);
        (task.reason, !is_best, Reverse(weight(task.ledger, self.bookie)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{BookieId, Incarnation, Timestamp},
        model::{RepairClaim, encode, key},
        topic::{PartitionId, TopicId},
    };
    use uuid::Uuid;

    const NOW: Duration = Duration::from_secs(100);

    fn member(id: u32) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
    }

    fn task(ledger: u64, reason: RepairReason, takers: &[u32]) -> RepairTask {
        RepairTask {
            partition: PartitionId { topic: TopicId(Uuid::nil()), index: 0 },
            page: 0,
            ledger: LedgerId(ledger),
            reason,
            bytes: 1,
            since: Timestamp(0),
            lost: Vec::new(),
            takers: takers.iter().map(|id| member(*id)).collect(),
        }
    }

    fn post(board: &mut Board, version: u64, task: &RepairTask) {
        let (key, value) = (key::repair(task.ledger), encode(task));
        board.change(&Change::Put(Versioned { key, value, version: Revision(version), session: None }));
    }

    fn claim(board: &mut Board, ledger: u64, by: u32) {
        let claim = RepairClaim { bookie: member(by), copied: 0, total: 1, since: Timestamp(0) };
        let (key, value) = (key::repairing(LedgerId(ledger)), encode(&claim));
        board.put(&Versioned { key, value, version: Revision(1), session: None });
    }

    fn take(board: &mut Board, now: Duration) -> Option<u64> {
        board.take(now).map(|posted| posted.task.ledger.0)
    }

    #[test]
    fn urgent_tasks_come_first_and_then_those_that_name_this_bookie_first() {
        let mut board = Board::new(member(1));
        post(&mut board, 1, &task(1, RepairReason::Copies, &[1]));
        post(&mut board, 1, &task(2, RepairReason::Lost, &[2, 1]));
        post(&mut board, 1, &task(3, RepairReason::Lost, &[1, 2]));
        post(&mut board, 1, &task(4, RepairReason::AtRisk, &[2]));
        post(&mut board, 1, &task(5, RepairReason::AtRisk, &[]));
        assert_eq!(take(&mut board, NOW), Some(5));
        assert_eq!(take(&mut board, NOW), Some(3));
        assert_eq!(take(&mut board, NOW), None, "two at a time");
        post(&mut board, 1, &task(6, RepairReason::AtRisk, &[1]));
        assert_eq!(take(&mut board, NOW), Some(6), "one more that is at risk");
        board.end(LedgerId(5), Outcome::Done, NOW);
        board.end(LedgerId(6), Outcome::Done, NOW);
        board.change(&Change::Deleted(key::repair(LedgerId(5))));
        board.change(&Change::Deleted(key::repair(LedgerId(6))));
        assert_eq!((take(&mut board, NOW), board.running()), (Some(2), 2));
    }

    #[test]
    fn claimed_tasks_are_left_to_those_who_claimed_them() {
        let mut board = Board::new(member(1));
        post(&mut board, 1, &task(1, RepairReason::Lost, &[1]));
        claim(&mut board, 1, 2);
        assert_eq!(take(&mut board, NOW), None);
        board.change(&Change::Deleted(key::repairing(LedgerId(1))));
        assert_eq!(take(&mut board, NOW), Some(1));
    }

    #[test]
    fn a_task_that_failed_rests_longer_each_time_unless_it_is_judged_anew() {
        let mut board = Board::new(member(1));
        post(&mut board, 1, &task(1, RepairReason::Lost, &[1]));
        let mut now = NOW;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(take(&mut board, now), Some(1));
            board.end(LedgerId(1), Outcome::Failed, now);
            let pause = Duration::from_secs(pause);
            assert_eq!(take(&mut board, now + pause - Duration::from_millis(1)), None);
            now += pause;
        }
        assert_eq!(take(&mut board, now), Some(1));
        board.end(LedgerId(1), Outcome::Nothing, now);
        assert_eq!(take(&mut board, now), None);
        post(&mut board, 1, &task(1, RepairReason::Lost, &[1]));
        assert_eq!(take(&mut board, now), None, "the same version again is no news");
        post(&mut board, 2, &task(1, RepairReason::Lost, &[1]));
        assert_eq!(take(&mut board, now), Some(1));
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let mut board = Board::new(member(1));
        let value = bytes::Bytes::from_static(&[200]);
        board.put(&Versioned { key: key::repair(LedgerId(1)), value, version: Revision(1), session: None });
        let value = encode(&task(1, RepairReason::Lost, &[1]));
        board.put(&Versioned { key: key::repair(LedgerId(2)), value, version: Revision(1), session: None });
        assert_eq!(take(&mut board, NOW), None);
    }
}

//! Ends the head for the sake of better bookies, when [`crate::managed_ledger::relocation`] says so.
//!
//! Owns how often a partition may do that. The head is ended as in any roll: at its last-add-confirmed, in one
//! transaction, with the next one begun only if someone waits to write. An empty one is given up.

use super::{Partition, Phase, Work};
use crate::managed_ledger::relocation::{Placed, Relocation};
use protocol::{
    ledger::{metadata::BookieMember, quorum::Quorum},
    service::directory::BookieDirectory,
};
use std::{sync::Arc, time::Duration};

/// Between two relocations of one partition at least; up to half as much is added, different for each partition.
const APART: Duration = Duration::from_secs(10);

impl Partition {
    /// How the head is placed; nothing if there is none, or if it is about to end anyway.
    pub(crate) fn placed(&self) -> Option<Placed> {
        let members = {
            let core = self.core.lock();
            let idle = core.phase.writes() && !core.paused && !core.rolling;
            core.head.as_ref().filter(|_| idle)?.appender().members()
        };
        let quorum = self.topic.quorum(&self.context).ok();
        let wanted = quorum.map_or(members.len(), Quorum::write);
        Some(Placed { wanted, required: quorum.map_or(wanted, Quorum::ack), members })
    }

    /// Begins to end the head, unless it was begun on better bookies only just now; whether it did.
    pub(crate) fn relocate(self: &Arc<Self>, why: Relocation) -> bool {
        let now = self.context.clock.monotonic();
        let begun = self.with(|core, out| {
            let may = core.phase == Phase::Serving && !core.paused && !core.rolling && now >= core.relocate_after;
            let ledger = core.head.as_ref().filter(|_| may && now >= core.roll_after)?.id();
            core.rolling = true;
            core.relocate_after = now + APART + APART.mul_f64(self.phase_of_debounce());
            out.work = Some(Work::Roll);
            Some(ledger)
        });
        if let Some(ledger) = begun {
            tracing::info!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %ledger, reason = why.label(), "the ledger ends for better bookies");
            self.context.metrics.count_roll(why.label());
        }
        begun.is_some()
    }

    /// Waits no longer for a member of the head that has gone.
    pub(crate) fn abandon(&self, member: BookieMember) {
        let appender = self.core.lock().head.as_ref().map(|head| head.appender().clone());
        if let Some(appender) = appender {
            appender.abandon(member);
        }
    }

    /// Reads the list again if it names bookies that are gone: repair has moved those ledgers, or soon will. Readers do so
    /// too when they fail; this spares them the failure.
    pub(crate) async fn follow_repairs(&self) {
        let Some(list) = self.list() else { return };
        let (seen, live) = (list.view(), self.context.roster.live());
        let is_gone = |member: &BookieMember| live.iter().all(|b| b.member != *member);
        let fragments = || seen.closed.iter().flat_map(|l| l.ledger.fragments.iter());
        if fragments().any(|f| f.ensemble.iter().any(is_gone))
            && let Err(problem) = list.refresh(&seen).await
        {
            tracing::debug!(partition = %self.id, %problem, "the list of ledgers is not read again");
        }
    }

    /// Between 0 and a half, by the partition's identity, so that thousands do not move at the same instant.
    fn phase_of_debounce(&self) -> f64 {
        let spread = self.id.topic.0.as_u128() as u64 ^ u64::from(self.id.index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (spread % 1_000) as f64 / 2_000.0
    }
}

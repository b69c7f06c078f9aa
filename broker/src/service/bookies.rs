//! Watches the bookies of all heads: has heads ended that stand on bad ones, and no longer waits for those that are gone.
//!
//! Owns the pace: it looks when bookies come or go and every second, and ends a bounded number of heads per look,
//! so that the loss of a bookie does not make every partition write metadata at the same instant.

use super::Broker;
use crate::{
    managed_ledger::relocation::{Bookies, Placed, Watch},
    partition::Partition,
};
use protocol::{cluster::ClusterSnapshot, ledger::metadata::BookieMember, service::directory::BookieDirectory};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Between two looks when nothing changes.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks in any case.
const PAUSE: Duration = Duration::from_millis(100);
/// Heads ended per look.
const AT_ONCE: usize = 50;

impl Broker {
    /// Looks after the bookies of heads for ever.
    pub(super) async fn watch_bookies(self: Arc<Self>, grace: Duration) {
        let mut watch = Watch::new(grace);
        let mut view = self.view.changes();
        loop {
            let more = self.look_after_heads(&mut watch);
            tokio::time::sleep(PAUSE).await;
            if !more {
                drop(tokio::time::timeout(PERIOD, bookies_change(&mut view)).await);
            }
        }
    }

    /// One look; whether heads are left that should be ended.
    fn look_after_heads(&self, watch: &mut Watch) -> bool {
        let (roster, now) = (&self.context.roster, self.context.clock.monotonic());
        let live = roster.live();
        let suspects = &self.context.ledgers.suspects;
        let suspect = live.iter().map(|b| b.member).filter(|m| suspects.has(*m, now)).collect();
        watch.look(Bookies { leaving: roster.leaving(), suspect, live }, now);
        let partitions: Vec<Arc<Partition>> = self.partitions.read().values().cloned().collect();
        let heads: Vec<(Arc<Partition>, Placed)> =
            partitions.into_iter().filter_map(|p| p.placed().map(|placed| (p, placed))).collect();
        let used: HashSet<BookieMember> = heads.iter().flat_map(|(_, h)| h.members.iter().map(|(m, _)| *m)).collect();
        watch.forget(|member| used.contains(&member));
        self.context.metrics.degraded_heads.set(heads.iter().filter(|(_, h)| h.is_degraded()).count() as f64);
        let mut ended = 0;
        for (partition, placed) in &heads {
            watch.gone(placed).for_each(|member| partition.abandon(member));
            // Judged in any case: a watch must see every member that is away.
            let why = watch.judge(placed);
            if ended < AT_ONCE && why.is_some_and(|why| partition.relocate(why)) {
                ended += 1;
            }
        }
        ended == AT_ONCE
    }
}

/// Waits until a bookie comes, goes, or is taken out. The view changes all the time: partitions roll.
async fn bookies_change(view: &mut watch::Receiver<Arc<ClusterSnapshot>>) {
    let before = Arc::clone(&view.borrow_and_update());
    while view.changed().await.is_ok() {
        let now = view.borrow_and_update();
        if now.bookies != before.bookies || now.decommissions != before.decommissions || now.cookies != before.cookies {
            return;
        }
    }
    std::future::pending().await
}

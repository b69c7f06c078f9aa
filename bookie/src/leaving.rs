//! Taking the bookie out: an order in metadata makes it read-only, and when no ledger needs it any more its cookie goes.
//!
//! Owns the judgement of order and cookie, and tells [`Health`]. Never gives anything up by itself: entries stay, and are
//! served for as long as the process runs. Keeps one invariant: a life that was taken out or given up never becomes
//! writable again.

use crate::{health::Health, watched::Watched};
use protocol::{
    ledger::metadata::BookieMember,
    model::{Cookie, Decommission, decode, key},
    service::metadata::{Consistency, MetadataError, MetadataService},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long metadata may take to answer, and the pause before it is asked again.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(500));

/// Where the bookie stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It belongs to the cluster.
    Stays,
    /// An order says that it shall leave.
    Leaves {
        /// A bookie with an empty disk will come back under its id.
        keeps_id: bool,
    },
    /// No ledger needs it, and its id waits for a bookie with an empty disk.
    Replaceable,
    /// Its cookie is gone: no ledger needs it, and it does not belong to the cluster any more.
    TakenOut,
    /// Another life of this bookie counts.
    GivenUp,
}

impl Stage {
    /// Where the bookie stands now. `cookie` must be read after the absence of an order was seen: both go at once.
    pub(crate) fn next(self, member: BookieMember, order: Option<&Decommission>, cookie: Option<&Cookie>) -> Self {
        let order = order.filter(|order| order.member == member);
        match (self, cookie, order) {
            (Self::TakenOut | Self::GivenUp, ..) => self,
            (_, None, _) => Self::TakenOut,
            (_, Some(cookie), _) if cookie.incarnation != member.incarnation => Self::GivenUp,
            (_, Some(_), Some(order)) => Self::Leaves { keeps_id: order.keeps_id },
            // Done or withdrawn cannot be told apart, and its operator is about to wipe the disk.
            (Self::Leaves { keeps_id: true } | Self::Replaceable, Some(_), None) => Self::Replaceable,
            (Self::Leaves { keeps_id: false } | Self::Stays, Some(_), None) => Self::Stays,
        }
    }

    /// Why the bookie takes no new ledgers; none if it does.
    pub(crate) const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Stays => None,
            Self::Leaves { .. } => Some("it is being taken out"),
            Self::Replaceable => Some("it was taken out and waits to be replaced"),
            Self::TakenOut => Some("it was taken out of the cluster"),
            Self::GivenUp => Some("another life of this bookie counts now"),
        }
    }

    fn announce(self, member: BookieMember) {
        match self {
            Self::Stays => tracing::info!(bookie = %member, "the order to leave was withdrawn"),
            Self::Leaves { keeps_id } => {
                tracing::info!(bookie = %member, keeps_id, "leaving: no new ledgers; what it holds is copied to others");
            }
            Self::Replaceable => tracing::warn!(
                bookie = %member,
                "no ledger needs this bookie any more: stop it, empty its directories or change the disk, and start it"
            ),
            Self::TakenOut => {
                tracing::warn!(bookie = %member, "taken out: no ledger needs this bookie any more; it may be switched off");
            }
            Self::GivenUp => tracing::error!(
                bookie = %member,
                "this life of the bookie was given up: it came back elsewhere with empty directories. Stop this process"
            ),
        }
    }
}

/// Follows the orders for one bookie.
pub(crate) struct Leaving {
    pub(crate) metadata: Arc<dyn MetadataService>,
    pub(crate) member: BookieMember,
    pub(crate) health: Arc<Health>,
}

impl Leaving {
    /// Runs until stopped.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        let id = self.member.id;
        let orders = Watched::<Decommission>::new(Arc::clone(&self.metadata), key::decommission(id));
        let cookies = Watched::<Cookie>::new(Arc::clone(&self.metadata), key::cookie(id));
        let (mut order, mut cookie) = (orders.changes(), cookies.changes());
        let judge = async {
            let mut stage = Stage::Stays;
            loop {
                let seen = order.borrow_and_update().clone();
                stage = self.judge(stage, seen.map(|seen| seen.map(|(order, _)| order))).await;
                tokio::select! {
                    changed = order.changed() => drop(changed),
                    changed = cookie.changed() => drop(changed),
                }
            }
        };
        tokio::select! {
            () = orders.run(stopping.clone()) => {}
            () = cookies.run(stopping.clone()) => {}
            () = judge => {}
        }
    }

    /// Judges an order that was seen, and tells who must know.
    async fn judge(&self, stage: Stage, order: Option<Option<Decommission>>) -> Stage {
        // Nothing is known yet.
        let Some(order) = order else { return stage };
        let next = stage.next(self.member, order.as_ref(), self.cookie().await.as_ref());
        if next != stage {
            next.announce(self.member);
            self.health.set_leaving(next.reason().map(Into::into));
        }
        next
    }

    async fn cookie(&self) -> Option<Cookie> {
        loop {
            let get = self.metadata.get(key::cookie(self.member.id), Consistency::Linearizable);
            let silent = |_| Err(MetadataError::OutcomeUnknown { reason: "no answer in time".into() });
            match tokio::time::timeout(PATIENCE.0, get).await.unwrap_or_else(silent) {
                Ok(None) => return None,
                Ok(Some(item)) => match decode(&item.value) {
                    Ok(cookie) => return Some(cookie),
                    Err(problem) => tracing::error!(bookie = %self.member, %problem, "the cookie cannot be read"),
                },
                Err(problem) => tracing::debug!(bookie = %self.member, %problem, "the cookie is asked for again"),
            }
            tokio::time::sleep(PATIENCE.1).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use protocol::{
        id::{BookieId, Incarnation, Timestamp},
        model::BookieState,
        testing::FakeMetadata,
    };
    use uuid::Uuid;

    const MEMBER: BookieMember = BookieMember { id: BookieId(1), incarnation: Incarnation(4) };

    fn order(incarnation: u64, keeps_id: bool) -> Decommission {
        let member = BookieMember { incarnation: Incarnation(incarnation), ..MEMBER };
        Decommission { member, keeps_id, since: Timestamp(0), total_bytes: None, obstacle: None }
    }

    fn cookie(incarnation: u64) -> Cookie {
        let (cluster_id, instance) = ("cluster".into(), Uuid::from_u128(1));
        Cookie { cluster_id, bookie: MEMBER.id, incarnation: Incarnation(incarnation), instance }
    }

    #[test]
    fn an_order_is_followed_and_only_a_plain_one_can_be_withdrawn() {
        let (ours, other) = (cookie(4), cookie(5));
        let next = |stage: Stage, order: Option<Decommission>, cookie| stage.next(MEMBER, order.as_ref(), cookie);
        let leaves = Stage::Leaves { keeps_id: false };
        assert_eq!(next(Stage::Stays, None, Some(&ours)), Stage::Stays);
        assert_eq!(next(Stage::Stays, Some(order(3, false)), Some(&ours)), Stage::Stays, "meant for another life");
        assert_eq!(next(Stage::Stays, Some(order(4, false)), Some(&ours)), leaves);
        assert_eq!(next(leaves, None, Some(&ours)), Stage::Stays, "withdrawn");
        assert_eq!(next(leaves, None, None), Stage::TakenOut);
        assert_eq!(next(Stage::Stays, None, None), Stage::TakenOut, "also if the order was never seen");
        let replaced = next(Stage::Stays, Some(order(4, true)), Some(&ours));
        assert_eq!(next(replaced, None, Some(&ours)), Stage::Replaceable);
        assert_eq!(next(Stage::Replaceable, None, Some(&ours)), Stage::Replaceable, "never writable again");
        assert_eq!(next(Stage::Stays, None, Some(&other)), Stage::GivenUp);
        for last in [Stage::TakenOut, Stage::GivenUp] {
            assert_eq!(next(last, Some(order(4, false)), Some(&ours)), last);
            assert!(last.reason().is_some());
        }
    }

    #[tokio::test]
    async fn the_bookie_is_read_only_while_it_leaves_and_after() {
        let metadata = FakeMetadata::new();
        metadata.put(key::cookie(MEMBER.id), &cookie(4));
        let health = Arc::new(Health::new(false, crate::ledger::Floor::NONE, Arc::new(Metrics::new())));
        let leaving = Leaving { metadata: metadata.service(), member: MEMBER, health: Arc::clone(&health) };
        let (stopping, mut states) = (CancellationToken::new(), health.changes());
        let task = tokio::spawn(leaving.run(stopping.clone()));
        for _ in 0..2 {
            metadata.put(key::decommission(MEMBER.id), &order(4, false));
            states.wait_for(|s| *s == BookieState::ReadOnly).await.expect("watched");
            metadata.delete(key::decommission(MEMBER.id));
            states.wait_for(|s| *s == BookieState::Writable).await.expect("withdrawn");
        }
        metadata.put(key::decommission(MEMBER.id), &order(4, false));
        states.wait_for(|s| *s == BookieState::ReadOnly).await.expect("watched");
        metadata.delete(key::cookie(MEMBER.id));
        metadata.delete(key::decommission(MEMBER.id));
        let said = || health.check_new_ledger().expect_err("it takes none").to_string();
        while !said().contains("was taken out") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(health.state(), BookieState::ReadOnly);
        stopping.cancel();
        task.await.expect("ends");
    }
}

//! The bookies as this broker may use them: those of its directory, and what the cluster has said about them.
//!
//! Owns one rule: a bookie that is being taken out holds no new ledger, whatever it says of itself. Never talks to a
//! bookie and keeps nothing.

use protocol::{
    cluster::ClusterView,
    ledger::metadata::BookieMember,
    model::{BookieRecord, BookieState},
    service::{bookie::BookieService, directory::BookieDirectory},
};
use std::sync::Arc;

/// A directory that respects orders to take bookies out.
#[derive(Clone)]
pub(crate) struct Roster {
    bookies: Arc<dyn BookieDirectory>,
    view: ClusterView,
}

impl Roster {
    pub(crate) const fn new(bookies: Arc<dyn BookieDirectory>, view: ClusterView) -> Self {
        Self { bookies, view }
    }

    /// How many bookies the cluster has to hold ledgers, live or not: those with a cookie that are not being taken out.
    pub(crate) fn size(&self) -> usize {
        let snapshot = self.view.snapshot();
        let is_leaving = |id| snapshot.decommissions.get(id).is_some_and(|order| !order.keeps_id);
        snapshot.cookies.keys().filter(|id| !is_leaving(id)).count()
    }

    /// Who is being taken out, in which life.
    pub(crate) fn leaving(&self) -> Vec<BookieMember> {
        self.view.snapshot().decommissions.values().map(|order| order.member).collect()
    }
}

impl BookieDirectory for Roster {
    fn bookie(&self, member: BookieMember) -> Arc<dyn BookieService> {
        self.bookies.bookie(member)
    }

    fn live(&self) -> Vec<BookieRecord> {
        let mut live = self.bookies.live();
        let leaving = self.leaving();
        for record in live.iter_mut().filter(|r| leaving.contains(&r.member) && r.state == BookieState::Writable) {
            record.state = BookieState::ReadOnly;
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{BookieId, Incarnation, Timestamp},
        model::{Cookie, Decommission, key},
        runtime::Tasks,
        testing::{FakeDirectory, FakeMetadata},
    };
    use std::time::Duration;
    use uuid::Uuid;

    #[tokio::test]
    async fn a_bookie_that_is_being_taken_out_takes_nothing_new_and_does_not_count() {
        let (metadata, tasks, bookies) = (FakeMetadata::new(), Tasks::default(), FakeDirectory::of(3));
        let view = ClusterView::start(metadata.service(), &tasks).await.expect("the fake answers");
        let member = |id| BookieMember { id: BookieId(id), incarnation: Incarnation(1) };
        for id in 0..3 {
            let cookie = Cookie {
                cluster_id: "c".into(),
                bookie: BookieId(id),
                incarnation: Incarnation(1),
                instance: Uuid::nil(),
            };
            metadata.put(key::cookie(BookieId(id)), &cookie);
        }
        let order = |member, keeps_id| Decommission {
            member,
            keeps_id,
            since: Timestamp(0),
            total_bytes: None,
            obstacle: None,
        };
        metadata.put(key::decommission(BookieId(0)), &order(member(0), false));
        // An older life of bookie 1 is given up: the one that lives is not meant.
        let older = BookieMember { incarnation: Incarnation(0), ..member(1) };
        let revision = metadata.put(key::decommission(BookieId(1)), &order(older, true));
        assert!(view.wait_for(revision, Duration::from_secs(20)).await, "the view follows");
        let roster = Roster::new(bookies, view);
        let states: Vec<_> = roster.live().iter().map(|b| b.state).collect();
        assert_eq!(states, [BookieState::ReadOnly, BookieState::Writable, BookieState::Writable]);
        assert_eq!((roster.size(), roster.leaving()), (2, vec![member(0), older]));
        assert!(tasks.stop(Duration::from_secs(20)).await, "the view stops");
    }
}

//! The rule of commitment with five voters, over every set of followers that can be reached.

use super::members::{Cluster, hold, put, read, write};
use futures::FutureExt;
use protocol::service::metadata::{MetadataError, Outcome};
use std::{collections::BTreeSet, time::Duration};

/// How far each running member's log goes, and what the leader says is committed.
///
/// Invariant: what a leader says is committed is in the logs of at least three of five. The commit index is read first,
/// and logs of a leader's term only grow.
fn assert_committed_is_held_by_a_majority(cluster: &Cluster) {
    let status = |id: u64| cluster.node(id).quorum().status().now_or_never().expect("at once").expect("a status");
    for leader in cluster.leaders() {
        let committed = status(leader).committed;
        let holders = (1..=5).filter(|id| status(*id).last_log >= committed).count();
        assert!(holders >= 3, "entry {committed} is said to be committed, and {holders} of five hold it");
    }
}

/// Every set of followers of this leader.
fn sets_of_followers(leader: u64) -> impl Iterator<Item = BTreeSet<u64>> {
    let followers: Vec<u64> = (1..=5).filter(|id| *id != leader).collect();
    (0..1_u32 << followers.len()).map(move |bits| {
        let chosen = followers.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
        chosen.map(|(_, id)| *id).collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_voters_three_decide_whichever_they_are() {
    let cluster = Cluster::of(5).await;
    let mut leader = cluster.leader().await;
    for (round, reached) in sets_of_followers(leader).enumerate() {
        leader = cluster.leader().await;
        let away: Vec<u64> = (1..=5).filter(|id| *id != leader && !reached.contains(id)).collect();
        // Those who are away do not hear each other either, so that none of them leads.
        away.iter().for_each(|id| cluster.net.isolate(*id, 1..=5));
        let written = cluster.service(leader).transact(put("k", &round.to_string()));
        if away.len() <= 2 {
            assert!(matches!(written.await, Ok(Outcome::Committed { .. })), "{away:?} are not needed");
            assert_committed_is_held_by_a_majority(&cluster);
            cluster.net.heal();
        } else {
            assert_committed_is_held_by_a_majority(&cluster);
            let before = cluster.node(leader).applied();
            hold(Duration::from_millis(300)).await;
            assert_eq!(cluster.node(leader).applied(), before, "nothing is committed without {away:?}");
            assert_committed_is_held_by_a_majority(&cluster);
            cluster.net.heal();
            let answer = written.await;
            let is_honest = matches!(
                answer,
                Ok(Outcome::Committed { .. })
                    | Err(MetadataError::OutcomeUnknown { .. } | MetadataError::Unavailable { .. })
            );
            assert!(is_honest, "{answer:?}");
        }
        cluster.until_equal().await;
    }
    write(&cluster.service(1), "k", "last").await;
    assert_eq!(read(&cluster.service(5), "k").await.as_deref(), Some("last"));
    cluster.end().await;
}

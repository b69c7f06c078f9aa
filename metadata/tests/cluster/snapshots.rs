//! Followers whose entries are gone from the leader's log.

use super::members::{Cluster, patiently, read, write};

/// Entries that stay in a log beside its snapshot, and some.
const MORE_THAN_IS_KEPT: usize = 1_200;

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_log_gets_a_snapshot_and_can_lead_afterwards() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.crash(away).await;
    let service = cluster.service(leader);
    for n in 0..MORE_THAN_IS_KEPT {
        write(&service, &format!("k/{n:04}"), "v").await;
    }
    let quorum = cluster.node(leader).quorum();
    let written = patiently(async || quorum.snapshot().await).await.expect("written");
    assert!(written.index > MORE_THAN_IS_KEPT as u64 && written.bytes > 0, "{written:?}");
    cluster.start(away).await.expect("comes back");
    cluster.until_equal().await;
    let quorum = cluster.node(away).quorum();
    let next = patiently(async || quorum.transfer(Some(away)).await).await.expect("it can lead");
    // Whoever holds the service of a node keeps its directory open.
    drop(quorum);
    assert_eq!(next, away);
    assert_eq!(read(&cluster.service(away), "k/0007").await.as_deref(), Some("v"));
    write(&cluster.service(away), "k", "v").await;
    cluster.until_equal().await;
    // And what it holds now survives its own restart.
    cluster.crash(away).await;
    cluster.start(away).await.expect("comes back");
    cluster.until_equal().await;
    cluster.end().await;
}

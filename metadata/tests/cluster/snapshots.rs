//! Followers whose entries are gone from the leader's log.

use super::members::{Cluster, hold, patiently, read, write};
use std::time::Duration;

/// Entries that stay in a log beside its snapshot, and some.
const MORE_THAN_IS_KEPT: usize = 1_200;

/// Takes a follower away and lets the leader forget the entries that it lacks.
async fn leave_behind(cluster: &mut Cluster) -> (u64, u64) {
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    let lacks_from = cluster.node(away).applied();
    cluster.crash(away).await;
    let service = cluster.service(leader);
    for n in 0..MORE_THAN_IS_KEPT {
        write(&service, &format!("k/{n:04}"), "v").await;
    }
    let quorum = cluster.node(leader).quorum();
    let written = patiently(async || quorum.snapshot().await).await.expect("written");
    assert!(written.index > MORE_THAN_IS_KEPT as u64 && written.bytes > 0, "{written:?}");
    // It is forgotten when something is replicated next.
    write(&service, "k", "v").await;
    cluster.until("the entries are gone", |cluster| cluster.node(leader).purged() > lacks_from).await;
    (leader, away)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_log_gets_a_snapshot_and_can_lead_afterwards() {
    let mut cluster = Cluster::of(3).await;
    let (leader, away) = leave_behind(&mut cluster).await;
    cluster.start(away).await.expect("comes back");
    cluster.until_equal().await;
    cluster
        .until("the leader hears it", |cluster| {
            let status = cluster.running[&leader].status();
            let member = status.members.iter().find(|m| m.member.id == away);
            member.and_then(|m| m.heard).is_some_and(|heard| heard < Duration::from_millis(500))
        })
        .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_of_the_leader_stops_nobody_who_needs_it() {
    let mut cluster = Cluster::of(3).await;
    let (leader, away) = leave_behind(&mut cluster).await;
    let (service, quorum) = (cluster.service(leader), cluster.node(leader).quorum());
    let folder = cluster.dir(leader).join("snapshots");
    let file = std::fs::read_dir(folder).expect("a folder").next().expect("a snapshot").expect("reads").path();
    let mut bytes = std::fs::read(&file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("writes");
    cluster.start(away).await.expect("comes back");
    hold(Duration::from_secs(1)).await;
    assert!(cluster.node(away).applied() < MORE_THAN_IS_KEPT as u64, "it has taken nothing of that");
    // It still runs, and takes the next one.
    write(&service, "next", "v").await;
    patiently(async || quorum.snapshot().await).await.expect("written");
    cluster.until_equal().await;
    cluster.end().await;
}

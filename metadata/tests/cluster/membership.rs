//! Who belongs to a cluster: growing, shrinking, moving, and members that lost their disk.

use super::members::{Cluster, patiently, read, write};
use metadata::StartError;
use protocol::service::quorum::{Joining, MemberRole, QuorumError};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_single_voter_grows_into_five_and_shrinks_again_while_it_serves() {
    let mut cluster = Cluster::of(1).await;
    write(&cluster.service(1), "before", "v").await;
    for id in 2..=5 {
        cluster.start(id).await.expect("joins");
        write(&cluster.service(id), &format!("k/{id}"), "v").await;
    }
    cluster.until("five vote", |cluster| cluster.voters() == [1, 2, 3, 4, 5]).await;
    assert_eq!(read(&cluster.service(5), "before").await.as_deref(), Some("v"), "the data came along");
    cluster.until_equal().await;
    for id in [1, 2] {
        let quorum = cluster.node(5).quorum();
        patiently(async || quorum.remove(id).await).await.expect("taken out");
        cluster.crash(id).await;
        write(&cluster.service(5), "after", &id.to_string()).await;
    }
    cluster.until("three vote", |cluster| cluster.voters() == [3, 4, 5]).await;
    cluster.until_equal().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_lost_its_disk_is_refused_until_it_joins_as_a_new_member() {
    let mut cluster = Cluster::of(3).await;
    write(&cluster.service(1), "k", "v").await;
    let lost = cluster.follower().await;
    cluster.crash(lost).await;
    cluster.wipe(lost);
    let refused = cluster.start(lost).await;
    let Err(StartError::NotTaken(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains(&format!("magnetar metadata remove {lost}")), "{reason}");
    assert_eq!(cluster.voters().len(), 3, "nothing has changed");

    let leader = cluster.leader().await;
    let quorum = cluster.node(leader).quorum();
    patiently(async || quorum.remove(lost).await).await.expect("taken out");
    cluster.start(lost).await.expect("joins as a new member");
    cluster.until("three vote again", |cluster| cluster.voters().len() == 3).await;
    assert_eq!(read(&cluster.service(lost), "k").await.as_deref(), Some("v"));
    cluster.until_equal().await;
    cluster.end().await;
}

/// Loses a member's disk, takes it out, and lets it join again.
async fn replace(cluster: &mut Cluster, lost: u64) {
    cluster.crash(lost).await;
    cluster.wipe(lost);
    let leader = cluster.leader().await;
    let quorum = cluster.node(leader).quorum();
    patiently(async || quorum.remove(lost).await).await.expect("taken out");
    cluster.start(lost).await.expect("joins as a new member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_listens_to_a_leader_that_was_replaced_after_what_it_has_read_so_far() {
    let mut cluster = Cluster::of(3).await;
    // More entries than one message holds lie between what says that member 3 is here, and what says that it is another.
    for n in 0..400 {
        write(&cluster.service(1), "k", &n.to_string()).await;
    }
    replace(&mut cluster, 3).await;
    cluster.until("three vote again", |cluster| cluster.running.values().all(|member| member.settled(3))).await;
    let quorum = cluster.node(3).quorum();
    assert_eq!(patiently(async || quorum.transfer(Some(3)).await).await, Ok(3));
    drop(quorum);
    replace(&mut cluster, 2).await;
    cluster.until("three vote once more", |cluster| cluster.running.values().all(|member| member.settled(3))).await;
    cluster.until_equal().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_leader_is_lost_half_way_is_ended_by_the_next() {
    let mut cluster = Cluster::of(3).await;
    cluster.learners = true;
    cluster.start(4).await.expect("joins without a vote");
    cluster.until_equal().await;
    let leader = cluster.leader().await;
    let next = leader % 3 + 1;
    let log = |cluster: &Cluster, id: u64| cluster.running[&id].status().last_log;
    let has_caught_up = |cluster: &Cluster| {
        let status = cluster.running[&leader].status();
        status.members.iter().any(|one| one.member.id == 4 && one.matched == Some(status.last_log))
    };
    cluster.until("the leader knows that the learner has everything", has_caught_up).await;
    let before = log(&cluster, next);
    // The first step reaches one of the four, which is enough for the next leader and not for this one.
    for away in (1..=4).filter(|id| *id != leader && *id != next) {
        cluster.net.cut(leader, away);
    }
    let quorum = cluster.node(leader).quorum();
    let changing = tokio::spawn(async move { quorum.promote(4).await });
    cluster.until("it has come half the way", |cluster| log(cluster, next) > before).await;
    cluster.crash(leader).await;
    assert!(changing.await.expect("answered").is_err(), "nobody may say that it is done");
    cluster.net.heal();
    let ended = |cluster: &Cluster| cluster.running.values().all(|member| member.settled(4));
    cluster.until("the change has ended", ended).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_twice_is_joining_once_and_moving_is_told() {
    let cluster = Cluster::of(1).await;
    let quorum = cluster.node(1).quorum();
    let joining = Joining { id: None, life: Uuid::new_v4(), address: "a:1".into(), peer_address: "a:2".into() };
    let first = patiently(async || quorum.join(joining.clone()).await).await.expect("joins");
    assert_eq!(quorum.join(joining.clone()).await, Ok(first), "the same disk gets the same place");
    let moved = Joining { peer_address: "b:2".into(), ..joining.clone() };
    assert_eq!(quorum.join(moved).await, Ok(first));
    let status = quorum.status().await.expect("a status");
    let member = status.members.iter().find(|m| m.member.id == first.id).expect("a member");
    assert_eq!((member.member.peer_address.as_str(), member.role), ("b:2", MemberRole::Learner));

    let other = quorum.join(Joining { life: Uuid::new_v4(), ..joining.clone() }).await.expect("joins");
    assert_ne!(other.id, first.id, "a number is given out once");
    let nowhere = Joining { life: Uuid::new_v4(), peer_address: String::new(), ..joining };
    assert!(matches!(quorum.join(nowhere).await, Err(QuorumError::Refused(_))));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_do_harm_is_refused() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let quorum = cluster.node(leader).quorum();
    let refusal = |answer: Result<(), QuorumError>| match answer {
        Err(QuorumError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(refusal(patiently(async || quorum.promote(9).await).await).contains("no member 9"));
    assert!(refusal(patiently(async || quorum.transfer(Some(9)).await.map(drop)).await).contains("has no vote"));
    let gone = cluster.follower().await;
    cluster.crash(gone).await;
    let left = *cluster.running.keys().find(|id| **id != leader).expect("two are left");
    cluster
        .until("the loss is noticed", |cluster| {
            use futures::FutureExt;
            let status = cluster.node(leader).quorum().status().now_or_never().expect("at once").expect("a status");
            let heard = status.members.iter().find(|m| m.member.id == gone).and_then(|m| m.heard);
            heard.is_none_or(|heard| heard.as_secs() >= 1)
        })
        .await;
    assert!(
        refusal(patiently(async || quorum.remove(left).await).await).contains("no majority"),
        "one of two would be left"
    );
    assert!(refusal(patiently(async || quorum.transfer(Some(gone)).await.map(drop)).await).contains("does not answer"));
    patiently(async || quorum.remove(gone).await).await.expect("the lost one can go");
    cluster.until("two vote", |cluster| cluster.voters().len() == 2).await;
    cluster.end().await;

    let alone = Cluster::of(1).await;
    assert!(refusal(patiently(async || alone.node(1).quorum().remove(1).await).await).contains("last voter"));
    alone.end().await;
}

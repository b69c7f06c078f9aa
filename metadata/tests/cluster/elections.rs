//! Who leads, who stops to, and what clients notice of it.

use super::members::{Cluster, PATIENCE, hold, patiently, put, read, write};
use metadata::Role;
use protocol::{
    id::SessionId,
    service::{
        metadata::{
            Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, RequestId, Transaction,
        },
        peer::PeerVerb,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn every_member_answers_and_all_hold_the_same() {
    let cluster = Cluster::of(3).await;
    for id in 1..=3 {
        let service = cluster.service(id);
        let written = service.transact(put(&format!("k/{id}"), "v")).await;
        assert!(matches!(written, Ok(Outcome::Committed { .. })), "{written:?}");
        // Seen at once by whoever reads at another member.
        let other = cluster.service(id % 3 + 1);
        assert_eq!(read(&other, &format!("k/{id}")).await.as_deref(), Some("v"));
    }
    cluster.until_equal().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_handle_stay_in_order_at_a_follower() {
    let cluster = Cluster::of(3).await;
    let service = cluster.service(cluster.follower().await);
    let mut answers = Vec::new();
    for n in 0..200 {
        let written = service.transact(put("k", &n.to_string()));
        answers.push((n, written, service.get("k".into(), Consistency::Linearizable)));
    }
    for (n, written, read) in answers {
        assert!(matches!(written.await, Ok(Outcome::Committed { .. })));
        assert_eq!(read.await.expect("reads").expect("is there").value, n.to_string());
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_go_on_when_the_leader_is_gone() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..3 {
        let gone = cluster.leader().await;
        write(&cluster.service(gone), "before", &round.to_string()).await;
        cluster.crash(gone).await;
        let survivor = *cluster.running.keys().next().expect("two are left");
        let since = Instant::now();
        write(&cluster.service(survivor), "after", &round.to_string()).await;
        println!("round {round}: writes went on after {:?}", since.elapsed());
        assert_eq!(
            read(&cluster.service(survivor), "before").await,
            Some(round.to_string()),
            "what was committed stays"
        );
        cluster.start(gone).await.expect("comes back");
        cluster.until_equal().await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_and_every_write_is_done() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != leader).collect();
    let writer = {
        let service = cluster.service(others[0]);
        tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for n in 0..400 {
                let since = Instant::now();
                write(&service, "k", &n.to_string()).await;
                longest = longest.max(since.elapsed());
                hold(Duration::from_millis(5)).await;
            }
            longest
        })
    };
    let quorum = cluster.node(others[0]).quorum();
    let next = patiently(async || quorum.transfer(Some(others[1])).await).await.expect("handed over");
    assert_eq!(next, others[1]);
    assert_eq!(cluster.leader().await, others[1]);
    // And at a planned stop.
    cluster.stop(others[1]).await;
    let after = cluster.leader().await;
    assert_ne!(after, others[1]);
    let longest = writer.await.expect("every write is done");
    println!("the longest write took {longest:?}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_reads_nothing_stale_and_follows_again() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    write(&cluster.service(old), "k", "old").await;
    cluster.net.isolate(old, 1..=3);
    let other = *cluster.running.keys().find(|id| **id != old).expect("three");
    write(&cluster.service(other), "k", "new").await;
    // Whatever it still believes, it answers no linearizable read, and writes nothing.
    let stale = cluster.service(old).get("k".into(), Consistency::Linearizable).await;
    assert!(matches!(stale, Err(MetadataError::Unavailable { .. })), "{stale:?}");
    let refused = cluster.service(old).transact(put("k", "lost")).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable { .. })), "{refused:?}");
    let seen = cluster.service(old).get("k".into(), Consistency::Stale).await.expect("stale reads say so");
    assert_eq!(seen.expect("there").value, "old");
    cluster.net.heal();
    cluster.until("it follows", |cluster| matches!(cluster.role(old), Role::Follows { .. })).await;
    cluster.until_equal().await;
    assert_eq!(read(&cluster.service(old), "k").await.as_deref(), Some("new"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_cut_off_does_not_depose_the_leader() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let Role::Leads { term } = cluster.role(leader) else { panic!("it leads") };
    let away = cluster.follower().await;
    cluster.net.isolate(away, 1..=3);
    cluster.until("it notices", |cluster| cluster.role(away) == Role::Nobody).await;
    // Long enough for it to have stood several times, if it could.
    hold(Duration::from_secs(3)).await;
    cluster.net.heal();
    cluster.until("it follows", |cluster| matches!(cluster.role(away), Role::Follows { .. })).await;
    assert_eq!(cluster.role(leader), Role::Leads { term }, "nobody was elected meanwhile");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_heard_and_hears_nobody_deposes_nobody() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let before = cluster.role(leader);
    let away = cluster.follower().await;
    // Nobody writes, so its log is as good as anybody's. It asks all for their votes, the leader as well.
    for other in (1..=3).filter(|id| *id != away) {
        cluster.net.cut(other, away);
    }
    cluster.until("it notices", |cluster| cluster.role(away) == Role::Nobody).await;
    hold(Duration::from_secs(2)).await;
    cluster.net.heal();
    cluster.until("it follows", |cluster| matches!(cluster.role(away), Role::Follows { .. })).await;
    assert_eq!(cluster.role(leader), before, "one leader in one term throughout");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_leader_cut_off_is_not_said_to_have_failed() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    cluster.net.isolate(old, 1..=3);
    // Before it notices: it writes this to its own log, and nobody else does. In a larger cluster somebody may have.
    let lost = cluster.service(old).transact(put("k", "lost"));
    let other = *cluster.running.keys().find(|id| **id != old).expect("three");
    write(&cluster.service(other), "k", "kept").await;
    cluster.net.heal();
    let answer = lost.await;
    assert!(matches!(answer, Err(MetadataError::OutcomeUnknown { .. })), "{answer:?}");
    cluster.until_equal().await;
    assert_eq!(read(&cluster.service(old), "k").await.as_deref(), Some("kept"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_heard_lives_although_nothing_can_be_confirmed() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let service = cluster.service(leader);
    let session = service.open_session(Duration::from_secs(1)).await.expect("opened");
    // As if the disks of all others were slow: signs of life come and go, and nothing is confirmed.
    cluster.net.mute(PeerVerb::Append);
    let (since, mut refused) = (Instant::now(), 0);
    while since.elapsed() < Duration::from_secs(3) {
        refused += usize::from(service.keep_alive(session).await.is_err());
    }
    assert!(refused > 0, "otherwise nothing was shown");
    cluster.net.heal();
    write(&service, "k", "v").await;
    let kept = patiently_alive(&service, session).await;
    assert!(kept.is_ok(), "{kept:?}");
    cluster.end().await;
}

async fn patiently_alive(service: &Arc<dyn MetadataService>, session: SessionId) -> Result<(), MetadataError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match service.keep_alive(session).await {
            Err(MetadataError::Unavailable { .. }) if Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer_from_the_next_leader() {
    let mut cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    let request = Some(RequestId { client: 7, sequence: 1 });
    let operations = vec![
        Operation::Sequence { name: "numbers".into(), count: 3 },
        Operation::Put { key: "k".into(), value: "first".into(), session: None },
    ];
    let asked = Transaction { conditions: vec![Condition::Absent("k".into())], operations, request };
    let first = cluster.service(old).transact(asked.clone()).await.expect("committed");
    assert!(matches!(first, Outcome::Committed { .. }), "{first:?}");
    cluster.crash(old).await;
    let next = cluster.leader().await;
    let again = cluster.service(next).transact(asked).await;
    assert_eq!(again, Ok(first), "although the key is there by now");
    write(&cluster.service(next), "k", "later").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_not_answered_makes_room_for_one_that_is() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    // It is heard, and hears nobody: without its falling silent, nobody would ever stand.
    for other in (1..=3).filter(|id| *id != old) {
        cluster.net.cut(other, old);
    }
    let other = *cluster.running.keys().find(|id| **id != old).expect("three");
    write(&cluster.service(other), "k", "v").await;
    assert!(!cluster.role(old).leads());
    cluster.net.heal();
    cluster.until_equal().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_lossy_messages_elect_nobody_new() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let before = cluster.role(leader);
    cluster.net.disturb(50, Duration::from_millis(60), 7);
    let until = Instant::now() + Duration::from_secs(5);
    let service = cluster.service(leader);
    let mut written = 0;
    while Instant::now() < until {
        write(&service, "k", &written.to_string()).await;
        written += 1;
    }
    assert!(written > 10, "{written} writes");
    assert_eq!(cluster.role(leader), before, "one leader in one term throughout");
    cluster.net.heal();
    cluster.until_equal().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_take_long_to_cross_are_committed() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let before = cluster.role(leader);
    // Longer than openraft waits for an answer; more is written meanwhile, so that it never asks twice for the same.
    cluster.net.slow(PeerVerb::Append, Duration::from_millis(500));
    let service = cluster.service(leader);
    let mut written = Vec::new();
    for n in 0..10 {
        written.push(service.transact(put("k", &n.to_string())));
        hold(Duration::from_millis(100)).await;
    }
    for answer in written {
        let answer = answer.await;
        assert!(matches!(answer, Ok(Outcome::Committed { .. })), "{answer:?}");
    }
    assert_eq!(cluster.role(leader), before, "one leader in one term throughout");
    cluster.net.heal();
    cluster.until_equal().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_on_waits_for_the_election_and_is_done_by_the_winner_alone() {
    let cluster = Cluster::of(3).await;
    write(&cluster.service(1), "k", "v").await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        (1..=3).for_each(|id| cluster.net.isolate(id, 1..=3));
        cluster.until("nobody leads", |c| (1..=3).all(|id| c.role(id) == Role::Nobody)).await;
        let ask = |id| cluster.node(id).service_passed_on().get("k".into(), Consistency::Linearizable);
        let asked: Vec<_> = (1..=3).map(ask).collect();
        // Long enough for all three to be refused, if they were.
        hold(Duration::from_millis(50)).await;
        cluster.net.heal();
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await);
        }
        let refused = |answer: &&Result<_, MetadataError>| match answer {
            Ok(_) => false,
            Err(problem) => problem.to_string().contains("this node does not lead"),
        };
        let (done, elsewhere) = (answers.iter().filter(|a| a.is_ok()).count(), answers.iter().filter(refused).count());
        assert!(done <= 1, "{answers:?}");
        if (done, elsewhere) == (1, 2) {
            break;
        }
        // An election may take longer than calls wait.
        assert!(Instant::now() < deadline, "{answers:?}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_written_and_what_was_asked_fails_in_time() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    write(&cluster.service(leader), "k", "v").await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != leader).collect();
    for id in &others {
        cluster.crash(*id).await;
    }
    cluster.until("it leads no more", |cluster| !cluster.role(leader).leads()).await;
    let service = cluster.service(leader);
    let refused = tokio::time::timeout(PATIENCE, service.transact(put("k", "lost"))).await.expect("in time");
    assert!(matches!(refused, Err(MetadataError::Unavailable { .. })), "{refused:?}");
    cluster.start(others[0]).await.expect("comes back");
    write(&cluster.service(leader), "k", "again").await;
    cluster.until_equal().await;
    cluster.end().await;
}

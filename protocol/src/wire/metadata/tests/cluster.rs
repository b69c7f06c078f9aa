//! Several servers over one service, and every way to lose one: calls go on, happen once, and in their order.

use super::super::{
    server::{Handles, Serving},
    *,
};
use super::{PATIENCE, put};
use crate::{
    id::{Revision, SessionId},
    runtime::Tasks,
    service::{
        Answer,
        metadata::{Consistency, MetadataError, MetadataService, Operation, Outcome, RequestId, Transaction},
        quorum::{Member, MemberRole, MemberStatus},
    },
    testing::{FakeMetadata, FakeQuorum, Fault},
};
use futures::future::join_all;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// So long that a test which waits for it fails first.
const FOREVER: Duration = Duration::from_secs(3600);

/// Servers of one service.
pub(super) struct Cluster {
    pub(super) fake: FakeMetadata,
    pub(super) lines: Vec<MemoryLine>,
    servers: Vec<Tasks>,
    pub(super) client: Tasks,
}

impl Cluster {
    pub(super) fn of(count: usize) -> Self {
        let fake = FakeMetadata::new();
        Self::serving(vec![fake.clone(); count], fake)
    }

    /// A server for each of these; `fake` is the one with the data.
    fn serving(services: Vec<FakeMetadata>, fake: FakeMetadata) -> Self {
        let servers: Vec<Tasks> = services.iter().map(|_| Tasks::default()).collect();
        let lines = services.iter().zip(&servers).enumerate();
        let lines = lines.map(|(n, (service, tasks))| {
            MemoryLine::to(&format!("n{}", n + 1), MetadataServer::of(service.service(), tasks), tasks)
        });
        Self { fake, lines: lines.collect(), servers, client: Tasks::default() }
    }

    /// A client that begins with the first server.
    pub(super) fn client(&self, deadline: Duration) -> RemoteMetadata {
        let options = RemoteOptions { deadline, ..RemoteOptions::default() };
        RemoteMetadata::across(&self.lines, options, &self.client)
    }

    pub(super) async fn stop(self) {
        assert!(self.client.stop(PATIENCE).await);
        for server in self.servers {
            assert!(server.stop(PATIENCE).await);
        }
    }
}

pub(super) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

/// Waits until the service has come to a revision.
async fn reached(fake: &FakeMetadata, revision: u64) {
    in_time(async {
        while fake.revision() < Revision(revision) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn committed(outcome: Result<Outcome, MetadataError>) -> Revision {
    match outcome {
        Ok(Outcome::Committed { revision, .. }) => revision,
        other => panic!("{other:?}"),
    }
}

fn unavailable() -> MetadataError {
    MetadataError::Unavailable { reason: "no leader".into() }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() {
    let cluster = Cluster::of(3);
    cluster.lines[0].refuse(true);
    cluster.lines[1].refuse(true);
    let client = cluster.client(FOREVER);
    assert_eq!(committed(in_time(client.transact(put("a"))).await), Revision(1));
    cluster.stop().await;
}

#[tokio::test]
async fn a_call_that_never_arrived_is_made_on_another_server() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    in_time(client.transact(put("a"))).await.expect("commits");
    cluster.lines[0].stop_calls(true);
    let write = client.transact(put("b"));
    let read = client.get("a".into(), Consistency::Linearizable);
    tokio::task::yield_now().await;
    cluster.lines[0].cut();
    assert_eq!(committed(in_time(write).await), Revision(2));
    assert_eq!(in_time(read).await.map(|item| item.map(|item| item.version)), Ok(Some(Revision(1))));
    cluster.stop().await;
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_gets_its_first_answer() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    in_time(client.transact(put("a"))).await.expect("commits");
    cluster.lines[0].stop_answers(true);
    let take = Operation::Sequence { name: "s".into(), count: 5 };
    let write = client.transact(Transaction { operations: vec![take], ..Transaction::default() });
    reached(&cluster.fake, 2).await;
    cluster.lines[0].cut();
    let first = Outcome::Committed { revision: Revision(2), sequences: vec![1] };
    assert_eq!(in_time(write).await, Ok(first));
    assert_eq!(cluster.fake.revision(), Revision(2), "it happened once");
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_left_although_its_connection_stands() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    in_time(client.transact(put("a"))).await.expect("commits");
    let session = in_time(client.open_session(FOREVER)).await.expect("opens");
    // The kernel takes our bytes and nobody reads them: a process that was stopped.
    cluster.lines[0].stop_calls(true);
    cluster.lines[0].stop_answers(true);
    let write = client.transact(put("b"));
    assert_eq!(in_time(client.keep_alive(session)).await, Ok(()));
    assert_eq!(committed(in_time(write).await), Revision(2));
    // It goes on, and finds in its socket what was carried out elsewhere long ago.
    cluster.lines[0].stop_calls(false);
    assert_eq!(committed(in_time(client.transact(put("c"))).await), Revision(3));
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_before_it_says_hello_is_passed_over() {
    let cluster = Cluster::of(2);
    cluster.lines[0].stop_calls(true);
    let client = cluster.client(FOREVER);
    assert_eq!(committed(in_time(client.transact(put("a"))).await), Revision(1));
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_hands_over_what_it_did_not_answer() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    cluster.fake.faults().hold_answers();
    let session = client.open_session(FOREVER);
    let writes: Vec<_> = (0..10).map(|n| client.transact(put(&n.to_string()))).collect();
    in_time(cluster.fake.faults().wait_held(11)).await;
    cluster.fake.faults().release_answers();
    cluster.fake.faults().hold_answers();
    assert!(cluster.servers[0].stop(PATIENCE).await);
    cluster.fake.faults().release_answers();
    for (n, write) in writes.into_iter().enumerate() {
        assert_eq!(committed(in_time(write).await), Revision(n as u64 + 1));
    }
    assert!(in_time(session).await.is_ok());
    assert_eq!(cluster.fake.revision(), Revision(10), "each happened once");
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_without_a_leader_is_left_and_one_with_a_leader_is_found() {
    let (fake, leaderless) = (FakeMetadata::new(), FakeMetadata::new());
    leaderless.faults().always(Some(Fault::Refuse(unavailable())));
    let cluster = Cluster::serving(vec![leaderless.clone(), leaderless.clone(), fake.clone()], fake);
    let client = cluster.client(FOREVER);
    let writes: Vec<_> = (0..50).map(|n| client.transact(put(&n.to_string()))).collect();
    for (n, write) in writes.into_iter().enumerate() {
        assert_eq!(committed(in_time(write).await), Revision(n as u64 + 1));
    }
    assert_eq!(leaderless.revision(), Revision(0));
    cluster.stop().await;
}

#[tokio::test]
async fn an_outcome_that_a_server_does_not_know_is_found_out() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    cluster.fake.faults().lose_next_answer();
    assert_eq!(committed(in_time(client.transact(put("happened"))).await), Revision(1));
    cluster.fake.faults().lose_next_call();
    assert_eq!(committed(in_time(client.transact(put("did not"))).await), Revision(2));
    let session = in_time(client.open_session(FOREVER)).await.expect("opens");
    cluster.fake.faults().lose_next_answer();
    assert_eq!(in_time(client.close_session(session)).await, Ok(()), "it was closed by the first attempt");
    let unknown = SessionId(99);
    assert_eq!(in_time(client.close_session(unknown)).await, Err(MetadataError::SessionExpired(unknown)));
    cluster.stop().await;
}

#[tokio::test]
async fn without_a_quorum_calls_are_unavailable_when_their_time_is_up() {
    let cluster = Cluster::of(3);
    cluster.fake.faults().always(Some(Fault::Refuse(unavailable())));
    let client = cluster.client(Duration::from_millis(300));
    let (write, read) = (client.transact(put("a")), client.get("a".into(), Consistency::Linearizable));
    for answer in [in_time(write).await.map(drop), in_time(read).await.map(drop)] {
        assert!(matches!(answer, Err(MetadataError::Unavailable { reason }) if reason.contains("no leader")));
    }
    cluster.fake.faults().always(None);
    assert_eq!(committed(in_time(client.transact(put("b"))).await), Revision(1));
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_why() {
    let cluster = Cluster::of(2);
    cluster.lines.iter().for_each(|line| line.refuse(true));
    let client = cluster.client(Duration::from_millis(100));
    let refused = in_time(client.transact(put("a"))).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable { reason }) if reason.contains("nobody listens")));
    cluster.stop().await;
}

#[tokio::test]
async fn servers_of_another_group_are_never_used() {
    let (tasks, client) = (Tasks::default(), Tasks::default());
    let groups = [Uuid::from_u128(0xa), Uuid::from_u128(0xb), Uuid::from_u128(0xa)];
    let (ours, theirs) = (FakeMetadata::new(), FakeMetadata::new());
    let lines = [&ours, &theirs, &ours].into_iter().zip(groups).zip(1..).map(|((fake, group), node)| {
        let handles = Handles { service: fake.service(), quorum: None };
        let serving = Serving { front: handles.clone(), passed_on: handles, node, group };
        MemoryLine::to(&format!("n{node}"), MetadataServer::new(serving, &tasks), &tasks)
    });
    let lines: Vec<MemoryLine> = lines.collect();
    let options = RemoteOptions { deadline: PATIENCE / 2, ..RemoteOptions::default() };
    let remote = RemoteMetadata::across(&lines, options, &client);
    in_time(remote.transact(put("a"))).await.expect("commits");
    lines[0].refuse(true);
    lines[0].cut();
    assert_eq!(committed(in_time(remote.transact(put("b"))).await), Revision(2), "the third has it");
    lines[2].refuse(true);
    lines[2].cut();
    let hasty = RemoteOptions { deadline: Duration::from_millis(300), group: Some(groups[0]), ..options };
    let knowing = RemoteMetadata::across(&lines[1..2], hasty, &client);
    match in_time(knowing.transact(put("c"))).await {
        Err(MetadataError::Unavailable { reason }) => {
            let name = format!("this is node 2 of group {}, the caller belongs to group {}", groups[1], groups[0]);
            assert!(reason.contains(&name), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(theirs.revision(), Revision(0));
    assert!(client.stop(PATIENCE).await && tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn calls_keep_their_order_while_connections_are_cut_all_the_time() {
    const CALLS: usize = 2_000;
    let cluster = Cluster::of(3);
    let client = cluster.client(FOREVER);
    let cutting = async {
        let mut lines = cluster.lines.iter().cycle();
        for next in (0..).step_by(7) {
            while cluster.fake.revision() < Revision(next) {
                tokio::task::yield_now().await;
            }
            lines.next().expect("there are some").cut();
        }
    };
    let calling = async {
        let mut written = Vec::new();
        for burst in 0..CALLS / 50 {
            let call = |n| client.transact(put(&format!("{n:05}")));
            let calls: Vec<Answer<_, _>> = (burst * 50..(burst + 1) * 50).map(call).collect();
            written.extend(join_all(calls).await.into_iter().map(committed));
        }
        written
    };
    let written = tokio::select! {
        written = in_time(calling) => written,
        () = cutting => panic!("it never ends"),
    };
    assert_eq!(written, (1..=CALLS as u64).map(Revision).collect::<Vec<_>>(), "each once, in call order");
    cluster.stop().await;
}

#[tokio::test]
async fn a_transaction_that_comes_too_late_is_refused_for_good() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    let numbered = |sequence| {
        let request = Some(RequestId { client: 9, sequence });
        Transaction { request, ..put(&sequence.to_string()) }
    };
    in_time(client.transact(numbered(2))).await.expect("commits");
    let late = in_time(client.transact(numbered(1))).await;
    assert_eq!(late, Err(MetadataError::overtaken()), "at once, not when its time is up");
    assert_eq!(committed(in_time(client.transact(numbered(2))).await), Revision(1), "the first answer");
    cluster.stop().await;
}

#[tokio::test]
async fn no_more_transactions_are_in_flight_than_the_service_remembers() {
    const CALLS: usize = 300;
    let cluster = Cluster::of(1);
    let client = cluster.client(FOREVER);
    cluster.fake.faults().hold_answers();
    let writes: Vec<_> = (0..CALLS).map(|n| client.transact(put(&n.to_string()))).collect();
    in_time(cluster.fake.faults().wait_held(256)).await;
    // Somebody else gets through, which takes longer than another call of the first one would.
    let other = cluster.client(FOREVER);
    drop(other.get("x".into(), Consistency::Stale));
    in_time(cluster.fake.faults().wait_held(257)).await;
    assert_eq!(cluster.fake.revision(), Revision(256), "the others wait");
    cluster.fake.faults().release_answers();
    for (n, write) in writes.into_iter().enumerate() {
        assert_eq!(committed(in_time(write).await), Revision(n as u64 + 1));
    }
    cluster.stop().await;
}

#[tokio::test]
async fn what_waits_is_bounded_by_bytes() {
    let cluster = Cluster::of(1);
    cluster.fake.faults().hold_answers();
    let options = RemoteOptions { in_flight_bytes: 10_000, ..RemoteOptions::default() };
    let client = Arc::new(RemoteMetadata::across(&cluster.lines, options, &cluster.client));
    let large = |n: usize| {
        let operations = vec![Operation::Put { key: n.to_string(), value: vec![0; 4_000].into(), session: None }];
        client.transact(Transaction { operations, ..Transaction::default() })
    };
    let admitted = [large(1), large(2)];
    let refused = in_time(large(3)).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable { reason }) if reason.contains("too many calls")));
    in_time(cluster.fake.faults().wait_held(2)).await;
    cluster.fake.faults().release_answers();
    for write in admitted {
        committed(in_time(write).await);
    }
    assert_eq!(committed(in_time(large(4)).await), Revision(3), "room is given back");
    cluster.stop().await;
}

#[tokio::test]
async fn of_the_servers_that_it_knows_a_client_uses_the_one_that_leads() {
    let (servers, client, group) = (Tasks::default(), Tasks::default(), Uuid::from_u128(7));
    let fakes = [FakeMetadata::new(), FakeMetadata::new(), FakeMetadata::new()];
    let quorum = FakeQuorum::new(1, group);
    quorum.set_status(|status| {
        let member = |id: u64| Member { id, life: Uuid::nil(), address: format!("n{id}"), peer_address: String::new() };
        let member = |id| MemberStatus { member: member(id), role: MemberRole::Voter, matched: None, heard: None };
        (status.leader, status.members) = (Some(2), (1..=3).map(member).collect());
    });
    let lines: Vec<_> = (1..)
        .zip(&fakes)
        .map(|(node, fake)| {
            let front = Handles { service: fake.service(), quorum: Some(quorum.service()) };
            let serving = Serving { front: front.clone(), passed_on: front, node, group };
            MemoryLine::to(&format!("n{node}"), MetadataServer::new(serving, &servers), &servers)
        })
        .collect();
    let revisions = || fakes.each_ref().map(|fake| fake.revision().0);
    let options = RemoteOptions { deadline: FOREVER, ..RemoteOptions::default() };
    let remote = RemoteMetadata::across(&lines, options, &client);
    committed(in_time(remote.transact(put("a"))).await);
    assert_eq!(revisions(), [0, 1, 0], "the first server named the leader");
    // Whoever still takes a lost leader for one is used itself.
    lines[1].refuse(true);
    lines[1].cut();
    committed(in_time(remote.transact(put("b"))).await);
    assert_eq!(revisions(), [0, 1, 1]);
    // A leader that does not answer keeps nobody from being served.
    lines[1].refuse(false);
    lines[1].stop_answers(true);
    lines[2].cut();
    committed(in_time(remote.transact(put("c"))).await);
    assert_eq!(revisions(), [1, 1, 1]);
    // What another node passes on stays where it was sent.
    let passed_on = RemoteMetadata::passing_across(&lines[2], options, &client);
    committed(in_time(passed_on.transact(put("d"))).await);
    assert_eq!(revisions(), [1, 1, 2]);
    assert!(client.stop(PATIENCE).await && servers.stop(PATIENCE).await);
}

//! Operators' calls over a stream: every answer and error whole, servers in turn, and nothing twice.

use super::super::{
    client::dial::Server,
    server::{Handles, MetadataServer, Serving},
    *,
};
use super::PATIENCE;
use crate::{
    runtime::Tasks,
    service::quorum::{Joined, Joining, QuorumError, QuorumService, SnapshotStatus},
    testing::{FakeMetadata, FakeQuorum, quorum::QuorumAsk},
};
use bytes::Bytes;
use futures::TryStreamExt;
use std::time::Duration;
use uuid::Uuid;

const GROUP: Uuid = Uuid::from_u128(0xa);

/// A node of a cluster: what its clients ask, and what other nodes pass on.
struct Node {
    front: FakeQuorum,
    passed_on: FakeQuorum,
    line: MemoryLine,
}

impl Node {
    fn start(number: u64, group: Uuid, tasks: &Tasks) -> Self {
        let (front, passed_on) = (FakeQuorum::new(number, group), FakeQuorum::new(number, group));
        let handles =
            |fake: &FakeQuorum| Handles { service: FakeMetadata::new().service(), quorum: Some(fake.service()) };
        let serving = Serving { front: handles(&front), passed_on: handles(&passed_on), node: number, group };
        let line = MemoryLine::to(&format!("node {number}"), MetadataServer::new(serving, tasks), tasks);
        Self { front, passed_on, line }
    }
}

fn remote(nodes: &[&Node], deadline: Duration, tasks: &Tasks) -> RemoteQuorum {
    let servers: Vec<Server> = nodes.iter().map(|node| node.line.server()).collect();
    RemoteQuorum::across(servers, deadline, tasks)
}

fn unavailable(reason: &str) -> QuorumError {
    QuorumError::Unavailable { reason: reason.into() }
}

#[tokio::test]
async fn every_call_and_answer_crosses_whole() {
    let tasks = Tasks::default();
    let node = Node::start(2, GROUP, &tasks);
    node.front.set_status(|status| (status.term, status.keys) = (7, 11));
    let remote = remote(&[&node], PATIENCE, &tasks);
    let status = remote.status().await.expect("answers");
    assert_eq!((status.node, status.group, status.term, status.keys), (2, GROUP, 7, 11));
    let joining = Joining { id: None, life: Uuid::from_u128(5), address: "a:1".into(), peer_address: "b:2".into() };
    assert_eq!(remote.join(joining.clone()).await, Ok(Joined { id: 4, group: GROUP }));
    assert_eq!(remote.promote(4).await, Ok(()));
    assert_eq!(remote.transfer(None).await, Ok(2));
    assert_eq!(remote.transfer(Some(4)).await, Ok(4));
    assert_eq!(remote.snapshot().await, Ok(SnapshotStatus { index: 1, bytes: 2, age: None }));
    assert_eq!(remote.remove(4).await, Ok(()));
    let asked = [
        QuorumAsk::Status,
        QuorumAsk::Join(joining),
        QuorumAsk::Promote(4),
        QuorumAsk::Transfer(None),
        QuorumAsk::Transfer(Some(4)),
        QuorumAsk::Snapshot,
        QuorumAsk::Remove(4),
    ];
    assert_eq!(node.front.asked(), asked);
    assert!(node.passed_on.asked().is_empty());
    let harm = QuorumError::Refused("two of three must stay".into());
    node.front.faults().fail_next(harm.clone());
    assert_eq!(remote.remove(3).await, Err(harm));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn servers_are_asked_in_turn_and_only_what_did_not_happen_is_asked_again() {
    let tasks = Tasks::default();
    let nodes = [1, 2, 3].map(|number| Node::start(number, GROUP, &tasks));
    let [gone, leaderless, good] = &nodes;
    gone.line.refuse(true);
    leaderless.front.faults().fail_next(unavailable("no leader"));
    let remote = remote(&[gone, leaderless, good], PATIENCE, &tasks);
    assert_eq!(remote.promote(9).await, Ok(()));
    assert_eq!(good.front.asked(), [QuorumAsk::Promote(9)]);
    // It may have happened: nobody else is asked.
    leaderless.front.faults().lose_next_answer();
    let unknown = remote.promote(9).await;
    assert!(matches!(unknown, Err(QuorumError::OutcomeUnknown { .. })), "{unknown:?}");
    // Nor if the connection is lost on the way.
    leaderless.front.faults().hold_answers();
    let cut = async {
        leaderless.front.faults().wait_held(1).await;
        leaderless.line.cut();
    };
    let (lost, ()) = tokio::join!(remote.promote(9), cut);
    assert!(matches!(lost, Err(QuorumError::OutcomeUnknown { .. })), "{lost:?}");
    assert_eq!(good.front.asked().len(), 1, "nobody else was asked");
    // What changes nothing is asked elsewhere.
    let cut = async {
        leaderless.front.faults().wait_held(2).await;
        leaderless.line.cut();
    };
    assert_eq!(tokio::join!(remote.status(), cut).0.map(|status| status.node), Ok(3));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn when_nobody_can_each_says_why() {
    let tasks = Tasks::default();
    let nodes = [1, 2].map(|number| Node::start(number, GROUP, &tasks));
    nodes[0].line.refuse(true);
    nodes[1].front.faults().fail_next(unavailable("no leader"));
    let remote = remote(&[&nodes[0], &nodes[1]], PATIENCE, &tasks);
    match remote.remove(3).await {
        Err(QuorumError::Unavailable { reason }) => {
            assert!(reason.contains("node 1: nobody listens") && reason.contains("node 2:"), "{reason}");
            assert!(reason.contains("no leader"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_server_that_hangs_is_passed_over_before_and_given_up_after_the_call() {
    let tasks = Tasks::default();
    let nodes = [1, 2].map(|number| Node::start(number, GROUP, &tasks));
    let [hangs, good] = &nodes;
    hangs.line.stop_calls(true);
    let patient = remote(&[hangs, good], Duration::from_secs(3600), &tasks);
    assert_eq!(tokio::time::timeout(PATIENCE, patient.promote(9)).await.expect("in time"), Ok(()));
    assert!(hangs.front.asked().is_empty());
    hangs.line.stop_calls(false);
    hangs.front.faults().hang_next();
    let hasty = remote(&[hangs], Duration::from_millis(500), &tasks);
    let unknown = tokio::time::timeout(PATIENCE, hasty.promote(9)).await.expect("in time");
    assert!(matches!(unknown, Err(QuorumError::OutcomeUnknown { .. })), "{unknown:?}");
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn strangers_are_refused_by_name_and_passed_on_calls_have_their_own_handle() {
    let tasks = Tasks::default();
    let node = Node::start(2, GROUP, &tasks);
    let other = Uuid::from_u128(0xb);
    let stranger = remote(&[&node], PATIENCE, &tasks).of_group(other);
    let refused = format!("this is node 2 of group {GROUP}, the caller belongs to group {other}");
    assert_eq!(stranger.promote(1).await, Err(QuorumError::Refused(refused)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    let handles = |fake: &FakeQuorum| Handles { service: FakeMetadata::new().service(), quorum: Some(fake.service()) };
    let (front, passed_on) = (handles(&node.front), handles(&node.passed_on));
    let serving = MetadataServer::new(Serving { front, passed_on, node: 2, group: GROUP }, &tasks).serve(listener);
    tasks.spawn(
        crate::runtime::TaskKind::Background,
        "server",
        async move { serving.await.map_err(|e| e.to_string()) },
    );
    let passing = RemoteQuorum::passing_on(&address, PATIENCE, &tasks).expect("an address");
    assert_eq!(passing.promote(5).await, Ok(()));
    let client = RemoteQuorum::connect(&[address], PATIENCE, &tasks).expect("an address");
    assert_eq!(client.promote(6).await, Ok(()));
    assert_eq!(node.passed_on.asked(), [QuorumAsk::Promote(5)]);
    assert_eq!(node.front.asked(), [QuorumAsk::Promote(6)]);
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_server_without_a_cluster_and_an_address_that_is_none_are_named() {
    let tasks = Tasks::default();
    let line = MemoryLine::to("fake", MetadataServer::of(FakeMetadata::new().service(), &tasks), &tasks);
    let remote = RemoteQuorum::across(vec![line.server()], PATIENCE, &tasks);
    let refused = remote.status().await.map(drop);
    assert_eq!(refused, Err(unavailable("fake: this server looks after no cluster")));
    let nowhere = RemoteQuorum::connect(&[], PATIENCE, &tasks).map(drop);
    assert!(matches!(nowhere, Err(QuorumError::Refused(_))));
    let nonsense = RemoteQuorum::connect(&["not an address".into()], PATIENCE, &tasks).map(drop);
    assert!(matches!(nonsense, Err(QuorumError::Refused(text)) if text.contains("not an address")));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_backup_arrives_whole_or_says_that_it_does_not() {
    let tasks = Tasks::default();
    let nodes = [1, 2].map(|number| Node::start(number, GROUP, &tasks));
    let [first, second] = &nodes;
    // Larger than a message may be.
    let large: Bytes = (0..40_u32 << 20).map(|n| (n >> 16) as u8).collect::<Vec<_>>().into();
    second.front.set_backup(vec![Ok("head ".into()), Ok(Bytes::new()), Ok(large.clone()), Ok(" tail".into())]);
    first.front.faults().fail_next(unavailable("no snapshot yet"));
    let remote = remote(&[first, second], PATIENCE, &tasks);
    let pieces: Vec<Bytes> = remote.backup().await.expect("the second has one").try_collect().await.expect("whole");
    assert!(pieces.iter().all(|piece| piece.len() <= 1 << 20));
    assert_eq!(pieces.concat(), [b"head ", &large[..], b" tail"].concat());
    // An error in the middle is the last thing that is said.
    first.front.set_backup(vec![Ok("head".into()), Err(unavailable("lost the lead")), Ok("never".into())]);
    let cut: Result<Vec<Bytes>, _> = remote.backup().await.expect("begins").try_collect().await;
    assert_eq!(cut, Err(unavailable("lost the lead")));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_backup_without_its_end_is_an_error() {
    let (client, server) = (Tasks::default(), Tasks::default());
    let node = Node::start(1, GROUP, &server);
    // More than the connection holds, so that it is still on its way when the server stops.
    let pieces = (0..64).map(|_| Ok(Bytes::from(vec![7; 1 << 20]))).collect();
    node.front.set_backup(pieces);
    let remote = remote(&[&node], PATIENCE, &client);
    let backup = remote.backup().await.expect("begins");
    assert!(server.stop(PATIENCE).await);
    let cut: Result<Vec<Bytes>, _> = backup.try_collect().await;
    assert!(matches!(cut, Err(QuorumError::Unavailable { .. })), "pieces are missing");
    assert!(client.stop(PATIENCE).await);
}

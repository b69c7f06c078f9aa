//! The suite over a stream, errors, and the patience of the caller.

use super::*;
use crate::{
    testing::{FakePeer, conformance},
    transport::{
        Listen, memory,
        tcp::{TcpAcceptor, TcpConnector},
    },
    wire::{ServeSettings, Services, listen},
};
use std::{future::pending, io};

/// Nothing of these tests takes that long.
const PATIENCE: Duration = Duration::from_secs(20);
/// The settings of a link between voters: short pauses, and a deadline that never ends a call first.
const SETTINGS: RemoteSettings = RemoteSettings {
    deadline: Duration::from_secs(300),
    connect: PATIENCE,
    in_flight_bytes: 64 << 20,
    reserve_bytes: 8 << 20,
    pause: (Duration::from_millis(1), Duration::from_millis(20)),
    silence: (Duration::from_secs(5), PATIENCE),
};

fn call(patience: Duration) -> PeerCall {
    let name = |id| PeerName { group: Uuid::from_u128(1), id, life: Uuid::from_u128(2) };
    PeerCall { verb: PeerVerb::Beat, from: name(1), to: name(2), patience, body: Bytes::from_static(b"beat") }
}

fn served(fake: &FakePeer) -> Services {
    Services { peer: Some(fake.service()), ..Services::default() }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_peers_conform() {
    let (tasks, fake) = (Tasks::default(), FakePeer::new());
    let (memory, in_memory) = memory::network("memory");
    listen(in_memory, served(&fake), ServeSettings::default(), &tasks);
    let over_tcp = TcpAcceptor::bind("127.0.0.1:0").await.expect("binds");
    let tcp = TcpConnector::new(over_tcp.address().expect("bound").to_string());
    listen(over_tcp, served(&fake), ServeSettings::default(), &tasks);
    for connector in [Arc::new(memory) as Arc<dyn Connect>, Arc::new(tcp)] {
        conformance::peer(Arc::new(RemotePeer::new(connector, SETTINGS, &tasks)), &fake).await;
    }
    assert!(tasks.stop(PATIENCE).await);
}

#[test]
fn errors_of_a_newer_peer_are_unknown_outcomes() {
    let newer = Problem::new(99, "from the future", &[]);
    assert!(matches!(PeerError::of(&newer), PeerError::Lost { reason } if reason.contains("from the future")));
}

#[tokio::test]
async fn a_call_ends_with_the_patience_of_its_caller_on_both_sides() {
    let (tasks, fake) = (Tasks::default(), FakePeer::new());
    let (connector, acceptor) = memory::network("slow");
    // A server that can work on one message at a time: the next one gets in when the first is given up.
    let narrow = ServeSettings { in_flight_bytes: 1, reserve_bytes: 0, ..ServeSettings::default() };
    listen(acceptor, served(&fake), narrow, &tasks);
    let remote = RemotePeer::new(Arc::new(connector), SETTINGS, &tasks);
    fake.faults().hang_next();
    let lost = in_time(remote.call(call(Duration::from_millis(100)))).await;
    assert!(matches!(lost, Err(PeerError::Lost { .. })), "{lost:?}");
    assert_eq!(in_time(remote.call(call(PATIENCE))).await, Ok(Bytes::from_static(b"beat")));
    assert!(tasks.stop(PATIENCE).await);
}

/// A network that takes connections and never makes them.
struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self) -> BoxFuture<'static, io::Result<crate::transport::Duplex>> {
        Box::pin(pending())
    }

    fn peer(&self) -> &str {
        "nowhere"
    }
}

#[tokio::test]
async fn a_call_does_not_wait_for_a_connection_longer_than_its_patience() {
    let tasks = Tasks::default();
    let settings = RemoteSettings { connect: Duration::from_secs(3600), ..SETTINGS };
    let remote = RemotePeer::new(Arc::new(Nowhere), settings, &tasks);
    let (patient, hasty) = (remote.call(call(Duration::from_secs(600))), remote.call(call(Duration::from_millis(10))));
    let refused = in_time(hasty).await;
    assert!(matches!(refused, Err(PeerError::Unreachable { .. })), "nothing happened: {refused:?}");
    assert!(futures::FutureExt::now_or_never(patient).is_none(), "who has more patience still waits");
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_node_without_a_voter_says_so() {
    let tasks = Tasks::default();
    let (connector, acceptor) = memory::network("bare");
    listen(acceptor, Services::default(), ServeSettings::default(), &tasks);
    let remote = RemotePeer::new(Arc::new(connector), SETTINGS, &tasks);
    let refused = in_time(remote.call(call(PATIENCE))).await;
    let reason = "this node runs no metadata peer".into();
    assert_eq!(refused, Err(PeerError::Unreachable { reason }));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_peer_that_was_long_away_is_met_again_at_once_where_pauses_are_short() {
    let (tasks, fake) = (Tasks::default(), FakePeer::new());
    let (connector, mut acceptor) = memory::network("flapping");
    let remote = RemotePeer::new(Arc::new(connector), SETTINGS, &tasks);
    // Ten connections in a row end before a word is said: doubled each time, an unbounded pause would now be a second.
    for _ in 0..10 {
        let mut asked = Box::pin(async { while remote.call(call(PATIENCE)).await.is_err() {} });
        tokio::select! {
            () = &mut asked => panic!("nobody serves"),
            stream = acceptor.accept() => drop(stream),
        }
    }
    listen(acceptor, served(&fake), ServeSettings::default(), &tasks);
    in_time(async { while remote.call(call(PATIENCE)).await.is_err() {} }).await;
    assert!(!fake.calls().is_empty());
    assert!(tasks.stop(PATIENCE).await);
}

#[test]
fn nonsense_between_peers_is_an_error_by_name() {
    let name = || Some(NameMessage::from(call(PATIENCE).from));
    let refused = |verb, to| CallMessage { verb, from: name(), to, patience_ms: 1 }.with(Bytes::new());
    assert!(matches!(refused(1, None), Err(WireError::Malformed(reason)) if reason.contains("names")));
    assert!(matches!(refused(9, name()), Err(WireError::Malformed(reason)) if reason.contains("verb 9")));
    assert!(refused(6, name()).is_ok());
}

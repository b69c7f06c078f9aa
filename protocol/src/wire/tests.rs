//! The suites and the promises on remote clients, over memory and TCP; hostile peers.

use super::{
    RemoteSettings, ServeSettings, Services,
    bookie::RemoteBookie,
    broker::RemoteBroker,
    coordinator::RemoteCoordinator,
    frame::{FrameReader, Outbox, WireError, exchange_prefaces},
    listen,
    problem::{Failure, Problem},
    serve,
};
use crate::{
    id::{BookieId, EntryId, Incarnation, LeaderEpoch, LedgerId, LedgerKey, NodeId, Offset},
    ledger::metadata::BookieMember,
    runtime::Tasks,
    service::{
        Abandoned,
        bookie::{BookieError, BookieService, DeleteLedger, FenceLedger, WaitLac},
        broker::{
            AdminError, AppendError, BrokerService, DeleteRecordsError, Fetch, FetchError, FetchPartition, Isolation,
            ListOffsetsError, NotServed,
        },
        coordinator::{CoordinatorCall, CoordinatorError, CoordinatorKey, CoordinatorService},
    },
    testing::{FakeBookie, FakeCluster, FakeCoordinator, FakeDirectory, FakePeer, conformance},
    topic::{PartitionId, TopicId},
    transport::{
        Connect, Duplex, Listen, memory,
        tcp::{TcpAcceptor, TcpConnector},
    },
};
use bytes::{Buf, Bytes};
use proptest::prelude::*;
use std::{fmt::Debug, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

mod silence;

/// Bigger than what the suites put in flight at once, so that admission is tested by its own test.
const AMPLE: RemoteSettings = RemoteSettings {
    deadline: Duration::from_secs(30),
    connect: Duration::from_secs(3),
    in_flight_bytes: 256 << 20,
    reserve_bytes: 8 << 20,
    pause: (Duration::from_millis(5), Duration::from_millis(50)),
    silence: (Duration::from_secs(5), Duration::from_secs(20)),
};

async fn over_tcp(services: Services, tasks: &Tasks) -> Arc<dyn Connect> {
    let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.expect("binds");
    let address = acceptor.address().expect("bound").to_string();
    listen(acceptor, services, ServeSettings::default(), tasks);
    Arc::new(TcpConnector::new(address))
}

fn over_memory(services: Services, tasks: &Tasks) -> Arc<dyn Connect> {
    let (connector, acceptor) = memory::network("memory");
    listen(acceptor, services, ServeSettings::default(), tasks);
    Arc::new(connector)
}

async fn both(services: Services, tasks: &Tasks) -> [Arc<dyn Connect>; 2] {
    [over_memory(services.clone(), tasks), over_tcp(services, tasks).await]
}

fn of_bookie(fake: &FakeBookie) -> Services {
    Services { bookie: Some(fake.service()), ..Services::default() }
}

fn of_coordinator(fake: &FakeCoordinator) -> Services {
    Services { coordinator: Some(fake.service()), ..Services::default() }
}

async fn stop(tasks: Tasks) {
    assert!(tasks.stop(Duration::from_secs(10)).await, "everything stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_bookies_conform() {
    let tasks = Tasks::default();
    for tcp in [false, true] {
        let directory = FakeDirectory::of(2);
        let (a, b) = (directory.fake(0), directory.fake(1));
        let [to_a, to_b] = [both(of_bookie(&a), &tasks).await, both(of_bookie(&b), &tasks).await]
            .map(|ways| Arc::new(RemoteBookie::new(Arc::clone(&ways[usize::from(tcp)]), AMPLE, &tasks)));
        conformance::bookie(Arc::<RemoteBookie>::clone(&to_a), a.member()).await;
        conformance::bookie_copies((to_a, a.member()), (to_b, b.member())).await;
    }
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_brokers_conform() {
    let tasks = Tasks::default();
    for tcp in [false, true] {
        let services = Services { broker: Some(FakeCluster::new(1).broker(0).service()), ..Services::default() };
        let ways = both(services, &tasks).await;
        let remote = RemoteBroker::new(Arc::clone(&ways[usize::from(tcp)]), AMPLE, &tasks);
        conformance::broker(Arc::new(remote)).await;
    }
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_coordinators_conform() {
    let tasks = Tasks::default();
    let fake = FakeCoordinator::new();
    for connector in both(of_coordinator(&fake), &tasks).await {
        conformance::coordinator(Arc::new(RemoteCoordinator::new(connector, AMPLE, &tasks)), &fake).await;
    }
    stop(tasks).await;
}

/// Every variant with telling fields survives the message.
fn survive<E: Failure + Clone + PartialEq + Debug>(errors: Vec<E>) {
    let mut kinds = std::collections::BTreeMap::new();
    for error in errors {
        let problem = error.to_problem();
        assert_eq!(E::of(&problem), error);
        // Two variants never share a number; a variant in several shapes has one.
        let seen = kinds.entry(problem.kind).or_insert_with(|| std::mem::discriminant(&error));
        assert!(*seen == std::mem::discriminant(&error), "{error:?}");
    }
    let newer = Problem::new(99, "from the future", &[]);
    assert_eq!(E::from_problem(&newer), None);
    assert!(format!("{:?}", E::of(&newer)).contains("from the future"), "the text is passed on");
}

fn reason() -> String {
    "because".into()
}

fn all_not_served() -> Vec<NotServed> {
    let topic = TopicId(Uuid::from_u128(u128::MAX - 5));
    vec![
        NotServed::NotOwner { owner: None, epoch: LeaderEpoch(i32::MAX) },
        NotServed::NotOwner { owner: Some(NodeId(0)), epoch: LeaderEpoch(0) },
        NotServed::FencedEpoch { current: LeaderEpoch(3) },
        NotServed::UnknownEpoch { current: LeaderEpoch(-1) },
        NotServed::NoSuchPartition(PartitionId { topic, index: u32::MAX }),
        NotServed::Opening,
    ]
}

#[test]
fn every_bookie_error_survives() {
    let (ledger, entry) = (LedgerId(u64::MAX), EntryId(u64::MAX - 1));
    let member = |id, incarnation| BookieMember { id: BookieId(id), incarnation: Incarnation(incarnation) };
    survive(vec![
        BookieError::Fenced(ledger),
        BookieError::Deleted(ledger),
        BookieError::NoSuchEntry(ledger, entry),
        BookieError::NoSuchLedger(ledger),
        BookieError::Unknown { reason: reason() },
        BookieError::WrongMember { actual: member(1, 2), named: member(u32::MAX, u64::MAX) },
        BookieError::WrongKey(ledger),
        BookieError::Different(ledger, entry),
        BookieError::BadEntry { reason: reason() },
        BookieError::ReadOnly { reason: reason() },
        BookieError::Storage { reason: reason() },
        BookieError::Unavailable { reason: reason() },
        BookieError::OutcomeUnknown { reason: reason() },
    ]);
}

#[test]
fn every_append_and_fetch_error_survives() {
    let records = vec![(0, "no key".into()), (7, String::new())];
    let mut append = vec![
        AppendError::Corrupt { reason: reason() },
        AppendError::UnsupportedFormat { magic: -1 },
        AppendError::InvalidRecord { reason: reason(), records },
        AppendError::InvalidTimestamp { reason: reason() },
        AppendError::TooLarge { size: u64::MAX, limit: 1 },
        AppendError::InternalTopic,
        AppendError::OutOfOrderSequence { producer: i64::MAX, sequence: i32::MAX, expected: 0 },
        AppendError::FencedProducer { producer: 1, epoch: i16::MIN, current: i16::MAX },
        AppendError::TransactionsUnsupported,
        AppendError::NotEnoughReplicas { available: 1, required: 2 },
        AppendError::Unavailable { reason: reason() },
        AppendError::OutcomeUnknown { reason: reason() },
        AppendError::Storage { reason: reason() },
    ];
    append.extend(all_not_served().into_iter().map(AppendError::NotServed));
    survive(append);
    let mut fetch = vec![
        FetchError::OutOfRange { asked: Offset(i64::MAX), log_start: Offset(0), end: Offset(-1) },
        FetchError::Storage { reason: reason() },
        FetchError::Unavailable { reason: reason() },
    ];
    fetch.extend(all_not_served().into_iter().map(FetchError::NotServed));
    survive(fetch);
}

#[test]
fn every_other_error_survives() {
    let mut list =
        vec![ListOffsetsError::Storage { reason: reason() }, ListOffsetsError::Unavailable { reason: reason() }];
    list.extend(all_not_served().into_iter().map(ListOffsetsError::NotServed));
    survive(list);
    let mut delete = vec![
        DeleteRecordsError::OutOfRange { asked: Offset(9), high_watermark: Offset(8) },
        DeleteRecordsError::Policy,
        DeleteRecordsError::Unavailable { reason: reason() },
    ];
    delete.extend(all_not_served().into_iter().map(DeleteRecordsError::NotServed));
    survive(delete);
    survive(vec![
        AdminError::TopicExists(reason()),
        AdminError::NoSuchTopic(reason()),
        AdminError::NoSuchTopicId(TopicId(Uuid::from_u128(u128::MAX))),
        AdminError::BadName(reason()),
        AdminError::BadPartitions(reason()),
        AdminError::BadReplicationFactor(reason()),
        AdminError::BadConfig(reason()),
        AdminError::Invalid(reason()),
        AdminError::Policy(reason()),
        AdminError::Unavailable(reason()),
        AdminError::OutcomeUnknown(reason()),
    ]);
    survive(vec![
        CoordinatorError::NotCoordinator(reason()),
        CoordinatorError::Loading,
        CoordinatorError::Unavailable { reason: reason() },
        CoordinatorError::OutcomeUnknown { reason: reason() },
        CoordinatorError::Malformed { reason: reason() },
    ]);
}

/// A connector whose connections the test holds in its own hands.
fn by_hand() -> (Arc<dyn Connect>, memory::MemoryAcceptor) {
    let (connector, acceptor) = memory::network("by hand");
    (Arc::new(connector), acceptor)
}

fn echo(body: impl Into<Bytes>) -> CoordinatorCall {
    let (api_key, api_version, client_id) = (1, 1, None);
    CoordinatorCall {
        key: CoordinatorKey::Node,
        api_key,
        api_version,
        client_id,
        client_host: String::new(),
        body: body.into(),
    }
}

/// Takes the next connection, says who we are, and reads the first request.
async fn greet(acceptor: &mut memory::MemoryAcceptor) -> (FrameReader<impl tokio::io::AsyncRead + Unpin>, Duplex) {
    let mut stream = acceptor.accept().await.expect("connects");
    exchange_prefaces(&mut stream.read, &mut stream.write).await.expect("greets");
    let read = std::mem::replace(&mut stream.read, Box::new(tokio::io::empty()));
    let mut reader = FrameReader::new(read);
    reader.next().await.expect("reads").expect("a request");
    (reader, stream)
}

#[tokio::test]
async fn what_was_sent_is_unknown_and_what_was_not_is_unavailable() {
    let tasks = Tasks::default();
    let (connector, mut acceptor) = by_hand();
    let remote = RemoteCoordinator::new(connector, AMPLE, &tasks);
    let sent = remote.call(echo("sent"));
    let (reader, stream) = greet(&mut acceptor).await;
    drop((reader, stream));
    assert!(matches!(sent.await, Err(CoordinatorError::OutcomeUnknown { .. })));
    drop(acceptor);
    let refused = remote.call(echo("nobody listens")).await;
    assert!(matches!(refused, Err(CoordinatorError::Unavailable { .. })), "{refused:?}");
    stop(tasks).await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let tasks = Tasks::default();
    let (connector, mut acceptor) = by_hand();
    let remote = RemoteCoordinator::new(connector, AMPLE, &tasks);
    let lost = remote.call(echo("lost"));
    drop(greet(&mut acceptor).await);
    assert!(lost.await.is_err());
    listen(acceptor, of_coordinator(&FakeCoordinator::new()), ServeSettings::default(), &tasks);
    let again = async {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        while remote.call(echo("again")).await.is_err() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("reconnects");
    stop(tasks).await;
}

#[tokio::test]
async fn a_dropped_handle_still_finishes_its_calls() {
    let tasks = Tasks::default();
    let fake = FakeCoordinator::new();
    fake.faults().hold_answers();
    let remote = RemoteCoordinator::new(over_memory(of_coordinator(&fake), &tasks), AMPLE, &tasks);
    let answers: Vec<_> = (0..10).map(|n| remote.call(echo(format!("{n}")))).collect();
    drop(remote);
    fake.faults().wait_held(10).await;
    fake.faults().release_answers();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await, Ok(format!("{n}").into()));
    }
    stop(tasks).await;
}

#[tokio::test]
async fn every_call_has_a_deadline() {
    let tasks = Tasks::default();
    let fake = FakeCoordinator::new();
    let settings = RemoteSettings { deadline: Duration::from_millis(100), ..AMPLE };
    let bookie = FakeBookie::numbered(1);
    let services = Services { bookie: Some(bookie.service()), ..of_coordinator(&fake) };
    let remote = RemoteBookie::new(over_memory(services, &tasks), settings, &tasks);
    let (member, ledger, key) = (bookie.member(), LedgerId(1), LedgerKey(1));
    bookie.faults().hang_next();
    let hung = remote.fence_ledger(FenceLedger { member, ledger, key });
    assert!(matches!(hung.await, Err(BookieError::OutcomeUnknown { .. })));
    let wait = WaitLac { member, ledger, beyond: Default::default(), timeout: Duration::from_millis(300) };
    let again = async {
        while remote.fence_ledger(FenceLedger { member, ledger, key }).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("the link recovers");
    let waited = remote.wait_lac(wait.clone()).await.map(|lac| lac.count());
    assert_eq!(waited, Ok(0), "a wait on purpose extends the deadline");
    drop(remote.wait_lac(WaitLac { timeout: Duration::MAX, ..wait }));
    stop(tasks).await;
}

#[tokio::test]
async fn admission_is_by_bytes_with_a_reserve() {
    let tasks = Tasks::default();
    let fake = FakeCoordinator::new();
    fake.faults().hold_answers();
    let settings = RemoteSettings { in_flight_bytes: 1 << 20, reserve_bytes: 64 << 10, ..AMPLE };
    let remote = RemoteCoordinator::new(over_memory(of_coordinator(&fake), &tasks), settings, &tasks);
    let bulk = vec![0; 300 << 10];
    let admitted: Vec<_> = (0..3).map(|_| remote.call(echo(bulk.clone()))).collect();
    let refused = remote.call(echo(bulk.clone())).await;
    assert!(matches!(refused, Err(CoordinatorError::Unavailable { .. })), "{refused:?}");
    let small = remote.call(echo("heartbeat"));
    fake.faults().wait_held(4).await;
    fake.faults().release_answers();
    assert_eq!(small.await, Ok("heartbeat".into()));
    for answer in admitted {
        assert_eq!(answer.await.map(|body| body.len()), Ok(bulk.len()));
    }
    assert!(remote.call(echo(bulk)).await.is_ok(), "shares are given back");
    stop(tasks).await;
}

#[tokio::test]
async fn a_server_at_its_limit_reads_no_further_but_loses_nothing() {
    let tasks = Tasks::default();
    let fake = FakeCoordinator::new();
    let (connector, acceptor) = memory::network("narrow");
    let settings = ServeSettings { in_flight_bytes: 100 << 10, reserve_bytes: 0, ..ServeSettings::default() };
    listen(acceptor, of_coordinator(&fake), settings, &tasks);
    fake.faults().hold_answers();
    let remote = RemoteCoordinator::new(Arc::new(connector), AMPLE, &tasks);
    let calls: Vec<_> = (0..10).map(|_| remote.call(echo(vec![0; 60 << 10]))).collect();
    fake.faults().wait_held(1).await;
    assert_eq!(fake.calls().len(), 1, "a second one does not fit");
    fake.faults().release_answers();
    for call in calls {
        assert!(call.await.is_ok());
    }
    stop(tasks).await;
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unavailable() {
    let tasks = Tasks::default();
    let connector = over_memory(Services::default(), &tasks);
    let bookie = RemoteBookie::new(Arc::clone(&connector), AMPLE, &tasks);
    let member = FakeBookie::numbered(1).member();
    let answer = bookie.delete_ledger(DeleteLedger { member, ledger: LedgerId(1) }).await;
    assert_eq!(answer, Err(BookieError::Unavailable { reason: "this node runs no bookie".into() }));
    let broker = RemoteBroker::new(connector, AMPLE, &tasks);
    let answer = broker.partition_status(Vec::new()).await;
    assert_eq!(answer, Err(AdminError::Unavailable("this node runs no broker".into())));
    stop(tasks).await;
}

#[tokio::test]
async fn a_dropped_answer_of_the_service_is_its_own_error() {
    let tasks = Tasks::default();
    let cluster = FakeCluster::new(1);
    let broker = cluster.broker(0);
    let services = Services { broker: Some(broker.service()), ..Services::default() };
    let remote = RemoteBroker::new(over_memory(services, &tasks), AMPLE, &tasks);
    broker.fetch_faults().lose_next_answer();
    let (max_wait, isolation) = (Duration::ZERO, Isolation::ReadCommitted);
    let partitions: Vec<FetchPartition> = Vec::new();
    let lost = remote.fetch(Fetch { partitions, max_wait, min_bytes: 0, max_bytes: u32::MAX, isolation }).await;
    assert_eq!(lost.map(|_| ()), Err(FetchError::abandoned()));
    stop(tasks).await;
}

/// What the server makes of raw bytes behind a good preface.
async fn served(bytes: &[u8]) -> Result<(), WireError> {
    let (mut client, server) = memory::pair("hostile");
    let settings = ServeSettings { patience: Duration::from_millis(200), ..ServeSettings::default() };
    let services = Services {
        bookie: Some(FakeBookie::numbered(1).service()),
        broker: Some(FakeCluster::new(1).broker(0).service()),
        coordinator: Some(FakeCoordinator::new().service()),
        peer: Some(FakePeer::new().service()),
    };
    let serving = tokio::spawn(serve(server, services, settings));
    exchange_prefaces(&mut client.read, &mut client.write).await.expect("greets");
    // The server may close before it has read everything.
    drop(client.write.write_all(bytes).await);
    drop(client.write.shutdown().await);
    let mut answers = Vec::new();
    drop(client.read.read_to_end(&mut answers).await);
    serving.await.expect("the server never panics")
}

fn request(method: u32, message: &'static [u8], body: &'static [u8]) -> Vec<u8> {
    let header = super::envelope::RequestHeader { call: 1, method, message: Bytes::from_static(message) };
    let mut outbox = Outbox::default();
    outbox.push(&header, vec![Bytes::from_static(body)]);
    outbox.copy_to_bytes(outbox.remaining()).into()
}

#[tokio::test]
async fn hostile_frames_end_their_connection() {
    let too_long = [u32::MAX.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    assert!(matches!(served(&too_long).await, Err(WireError::TooLong { .. })));
    assert_eq!(served(&request(0x104, b"", b"")[..9]).await, Err(WireError::CutShort));
    assert!(matches!(served(&request(0x1ff, b"", b"")).await, Err(WireError::Malformed(_))));
    assert!(matches!(served(&request(0x7701, b"", b"")).await, Err(WireError::Malformed(_))));
    assert!(matches!(served(&request(0x104, b"\xff\xff\xff", b"")).await, Err(WireError::Malformed(_))));
    assert!(matches!(served(&request(0x203, b"", b"")).await, Err(WireError::Malformed(_))), "no such look-up");
    assert_eq!(served(&request(0x104, b"", b"")).await, Ok(()), "empty messages have defaults");
    assert_eq!(served(&request(0x101, b"", b"not an entry")).await, Ok(()), "refused by an answer");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_let_go() {
    let (client, server) = memory::pair("silent");
    let settings = ServeSettings { greeting: Duration::from_millis(20), ..ServeSettings::default() };
    let ended = serve(server, Services::default(), settings).await;
    assert_eq!(ended, Err(WireError::Slow("introduce itself")));
    drop(client);
}

#[tokio::test]
async fn a_newer_peer_is_refused_on_both_sides() {
    let (mut client, server) = memory::pair("newer");
    client.write.write_all(b"MGNTR\x09\0\0").await.expect("writes");
    let ended = serve(server, Services::default(), ServeSettings::default()).await;
    assert_eq!(ended, Err(WireError::Version { found: 9 }));
    let mut ours = [0; 8];
    client.read.read_exact(&mut ours).await.expect("the server says who it is all the same");
    let tasks = Tasks::default();
    let (connector, mut acceptor) = by_hand();
    let remote = RemoteCoordinator::new(connector, AMPLE, &tasks);
    let answer = remote.call(echo("x"));
    let mut stream = acceptor.accept().await.expect("connects");
    stream.write.write_all(b"MGNTR\x09\0\0").await.expect("writes");
    match answer.await {
        Err(CoordinatorError::Unavailable { reason }) => assert!(reason.contains("version 9"), "{reason}"),
        other => panic!("{other:?}"),
    }
    stop(tasks).await;
}

#[tokio::test]
async fn nonsense_from_a_server_is_of_unknown_outcome() {
    let tasks = Tasks::default();
    let (connector, mut acceptor) = by_hand();
    let remote = RemoteCoordinator::new(connector, AMPLE, &tasks);
    let answer = remote.call(echo("x"));
    let (_reader, mut stream) = greet(&mut acceptor).await;
    stream.write.write_all(&[0xff; 64]).await.expect("writes");
    assert!(matches!(answer.await, Err(CoordinatorError::OutcomeUnknown { .. })));
    stop(tasks).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_requests_never_panic(method in prop_oneof![0x101..0x109_u32, 0x201..0x20c_u32, Just(0x301_u32), Just(0x401_u32)], message in proptest::collection::vec(any::<u8>(), 0..60), cut in 0..4_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
        let mut bytes = request(method, message.leak(), b"body");
        bytes.truncate(bytes.len() - cut);
        let _ = runtime.block_on(served(&bytes));
    }
}

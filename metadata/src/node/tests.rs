//! A real voter on a real directory: order, durability, sessions, limits, and what a stop means.

use super::*;
use crate::raft::LogId;
use crate::raft::directory::OpenError;
use bytes::Bytes;
use futures::StreamExt;
use openraft::storage::RaftLogStorage;
use protocol::{
    id::{Revision, SessionId},
    runtime::SystemClock,
    service::metadata::{
        Change, Condition, Consistency, MetadataError, Operation, Outcome, RequestId, Scan, Transaction,
    },
    testing::{ManualClock, conformance},
    wire::metadata::{RemoteOptions, over_memory},
};
use std::sync::atomic::Ordering;
use tempfile::TempDir;

struct Voter {
    dir: TempDir,
    clock: ManualClock,
    node: MetadataNode,
    tasks: Tasks,
}

fn config(dir: &TempDir) -> MetadataConfig {
    MetadataConfig { data_dir: dir.path().join("metadata"), ..MetadataConfig::default() }
}

fn deps(clock: impl Clock, tasks: &Tasks) -> MetadataDeps {
    MetadataDeps { clock: Arc::new(clock), tasks: tasks.clone(), peers: Peers::none(), cluster: None }
}

impl Voter {
    async fn new() -> Self {
        let (dir, clock, tasks) = (tempfile::tempdir().expect("a directory"), ManualClock::default(), Tasks::default());
        let node = MetadataNode::start(config(&dir), deps(clock.clone(), &tasks)).await.expect("starts");
        Self { dir, clock, node, tasks }
    }

    async fn restart(self) -> Self {
        let Self { dir, clock, node, tasks } = self;
        node.stop().await;
        let node = MetadataNode::start(config(&dir), deps(clock.clone(), &tasks)).await.expect("starts again");
        Self { dir, clock, node, tasks }
    }
}

fn put(key: &str, value: &str, session: Option<SessionId>) -> Transaction {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let operations = vec![Operation::Put { key: key.into(), value, session }];
    Transaction { operations, ..Transaction::default() }
}

async fn value(service: &Arc<dyn MetadataService>, key: &str) -> Option<Bytes> {
    service.get(key.into(), Consistency::Linearizable).await.expect("reads").map(|item| item.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_take_effect_in_call_order() {
    let voter = Voter::new().await;
    let service = voter.node.service();
    let mut answers = Vec::new();
    for n in 0..200 {
        let written = service.transact(put("k", &n.to_string(), None));
        answers.push((n, written, service.get("k".into(), Consistency::Linearizable)));
    }
    for (n, written, read) in answers {
        assert!(matches!(written.await, Ok(Outcome::Committed { revision, .. }) if revision == Revision(n + 1)));
        let read = read.await.expect("reads").expect("is there");
        assert_eq!((read.value, read.version), (Bytes::from(n.to_string()), Revision(n + 1)));
    }
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_survives_a_restart_and_a_snapshot() {
    let mut voter = Voter::new().await;
    let once = Transaction {
        operations: vec![Operation::Sequence { name: "ledger".into(), count: 5 }],
        request: Some(RequestId { client: 7 << 100, sequence: 1 }),
        ..Transaction::default()
    };
    let service = voter.node.service();
    let first = service.transact(once.clone()).await.expect("commits");
    for n in 0..50 {
        service.transact(put(&format!("k/{n:02}"), "v", None)).await.expect("commits");
    }
    let digest = voter.node.digest();
    voter = voter.restart().await;
    assert_eq!(voter.node.digest(), digest);
    voter.node.snapshot().await.expect("asks for a snapshot");
    let applied = Arc::clone(&voter.node.applied);
    tokio::time::timeout(Duration::from_secs(20), async {
        while applied.snapshots() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("writes a snapshot");
    drop(applied);
    voter.node.service().transact(put("after", "snapshot", None)).await.expect("commits");
    let digest = voter.node.digest();
    voter = voter.restart().await;
    assert_eq!(voter.node.digest(), digest);
    let service = voter.node.service();
    assert_eq!(value(&service, "after").await, Some(Bytes::from("snapshot")));
    assert_eq!(service.transact(once).await, Ok(first));
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_voter_leads_at_once() {
    let mut voter = Voter::new().await;
    voter.node.service().transact(put("k", "v", None)).await.expect("commits");
    let clock = SystemClock::default();
    let Voter { dir, clock: manual, node, tasks } = voter;
    node.stop().await;
    let before = clock.monotonic();
    let node = MetadataNode::start(config(&dir), deps(manual.clone(), &tasks)).await.expect("starts");
    let took = clock.monotonic() - before;
    assert!(node.is_ready());
    // Far below the election timeout, which would be over a second; and generous on a busy machine.
    assert!(took < Duration::from_millis(900), "{took:?}");
    voter = Voter { dir, clock: manual, node, tasks };
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_heartbeats_ends_and_takes_its_keys_along() {
    let voter = Voter::new().await;
    let service = voter.node.service();
    let ttl = Duration::from_secs(10);
    let session = service.open_session(ttl).await.expect("opens");
    service.transact(put("nodes/1", "alive", Some(session))).await.expect("commits");
    let mut watch = service.watch("nodes/".into(), Revision(0)).await.expect("watches");
    assert!(matches!(&watch.next().await.expect("an event").expect("ok").changes[..], [Change::Put(_)]));
    voter.clock.advance(ttl / 2);
    service.keep_alive(session).await.expect("lives");
    voter.clock.advance(ttl * 3 / 4);
    service.keep_alive(session).await.expect("lives because of the heartbeat");
    voter.clock.advance(ttl);
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("expires");
    assert_eq!(event.expect("an event").expect("ok").changes, [Change::Deleted("nodes/1".into())]);
    assert_eq!(service.keep_alive(session).await, Err(MetadataError::SessionExpired(session)));
    assert_eq!(service.close_session(session).await, Err(MetadataError::SessionExpired(session)));
    let late = service.transact(put("nodes/1", "zombie", Some(session))).await;
    assert_eq!(late, Err(MetadataError::SessionExpired(session)));
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_grants_every_session_its_full_time() {
    let mut voter = Voter::new().await;
    let ttl = Duration::from_secs(10);
    let session = voter.node.service().open_session(ttl).await.expect("opens");
    voter.node.service().transact(put("e", "", Some(session))).await.expect("commits");
    let Voter { dir, clock, node, tasks } = voter;
    node.stop().await;
    clock.advance(ttl * 5);
    let node = MetadataNode::start(config(&dir), deps(clock.clone(), &tasks)).await.expect("starts");
    voter = Voter { dir, clock, node, tasks };
    voter.clock.advance(ttl / 2);
    voter.node.service().keep_alive(session).await.expect("lives");
    assert_eq!(value(&voter.node.service(), "e").await, Some(Bytes::new()));
    voter.node.service().close_session(session).await.expect("closes");
    assert_eq!(value(&voter.node.service(), "e").await, None);
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_voter_says_that_nothing_happened() {
    let voter = Voter::new().await;
    let service = voter.node.service();
    let mut watch = service.watch(String::new(), Revision(0)).await.expect("watches");
    voter.node.stop().await;
    let refused = service.transact(put("k", "v", None)).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable { .. })), "{refused:?}");
    let read = service.get("k".into(), Consistency::Linearizable).await;
    assert!(matches!(read, Err(MetadataError::Unavailable { .. })), "{read:?}");
    assert!(matches!(watch.next().await, Some(Err(MetadataError::Unavailable { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_share_disk_syncs_and_get_their_own_answers() {
    let voter = Voter::new().await;
    let service = voter.node.service();
    let before = voter.node.applied.index();
    let answers: Vec<_> = (0..1_000)
        .map(|n| {
            let mut t = put(&format!("k/{n}"), "v", None);
            t.conditions.push(Condition::Absent(format!("k/{n}")));
            service.transact(t)
        })
        .collect();
    for answer in answers {
        assert!(matches!(answer.await, Ok(Outcome::Committed { .. })));
    }
    let entries = voter.node.applied.index() - before;
    assert!(entries < 500, "{entries} log entries for 1000 transactions");
    let scan = Scan { prefix: "k/".into(), after: None, limit: 10_000, consistency: Consistency::Stale };
    assert_eq!(service.scan(scan).await.expect("scans").items.len(), 1_000);
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_in_plain_words() {
    let voter = Voter::new().await;
    let second = MetadataNode::start(config(&voter.dir), deps(voter.clock.clone(), &voter.tasks)).await;
    let Err(StartError::Directory(OpenError::Locked { .. })) = second else { panic!("{second:?}") };
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_in_process() {
    let (dir, tasks) = (tempfile::tempdir().expect("a directory"), Tasks::default());
    let node = MetadataNode::start(config(&dir), deps(SystemClock::default(), &tasks)).await.expect("starts");
    conformance::metadata(node.service()).await;
    conformance::metadata_sessions_expire(node.service(), Duration::from_secs(1)).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_over_a_stream() {
    let (dir, tasks) = (tempfile::tempdir().expect("a directory"), Tasks::default());
    let node = MetadataNode::start(config(&dir), deps(SystemClock::default(), &tasks)).await.expect("starts");
    let (server, client) = (Tasks::default(), Tasks::default());
    let remote: Arc<dyn MetadataService> =
        Arc::new(over_memory(node.service(), RemoteOptions::default(), &server, &client));
    conformance::metadata(Arc::clone(&remote)).await;
    conformance::metadata_sessions_expire(remote, Duration::from_secs(1)).await;
    assert!(client.stop(STOP_PATIENCE).await && server.stop(STOP_PATIENCE).await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_in_the_directory_already() {
    let voter = Voter::new().await;
    let service = voter.node.service();
    for n in 0..20 {
        service.transact(put(&format!("k/{n:02}"), "v", None)).await.expect("commits");
    }
    // As after a power cut: the files as they are now, without a clean end.
    let copy = tempfile::tempdir().expect("a directory");
    let (from, to) = (voter.dir.path().join("metadata"), copy.path().join("metadata"));
    std::fs::create_dir(&to).expect("creates");
    for file in std::fs::read_dir(&from).expect("lists") {
        let file = file.expect("an entry");
        // The folder of snapshots is empty so far, and is made again.
        if file.path().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copies");
        }
    }
    let again = MetadataNode::start(config(&copy), deps(voter.clock.clone(), &voter.tasks)).await.expect("starts");
    assert_eq!(again.digest(), voter.node.digest());
    again.stop().await;
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_disk_stops_the_node_and_nothing_is_acknowledged() {
    let voter = Voter::new().await;
    let service = voter.node.service();
    service.transact(put("before", "v", None)).await.expect("commits");
    let store = voter.node.store.upgrade().expect("is open");
    store.broken.store(true, Ordering::Relaxed);
    drop(store);
    let written = service.transact(put("after", "v", None)).await;
    assert!(matches!(written, Err(MetadataError::OutcomeUnknown { .. })), "{written:?}");
    let failure = tokio::time::timeout(Duration::from_secs(20), voter.tasks.failure()).await.expect("stops the node");
    assert!(failure.contains("the disk is broken"), "{failure}");
    assert!(!voter.node.is_ready());
    let later = service.transact(put("later", "v", None)).await;
    assert!(matches!(later, Err(MetadataError::Unavailable { .. })), "{later:?}");
    voter.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_disk_stops_the_node_although_raft_has_not_noticed() {
    let voter = Voter::new().await;
    let mut log = voter.node.quorum.log();
    voter.node.store.upgrade().expect("is open").broken.store(true, Ordering::Relaxed);
    let beyond =
        log.last().expect("reads").map(|last| LogId { index: last.index + 1_000, ..last }).expect("it has begun");
    log.truncate(beyond).await.expect_err("the disk is broken");
    drop(log);
    let failure = tokio::time::timeout(Duration::from_secs(20), voter.tasks.failure()).await.expect("stops the node");
    assert!(failure.contains("the disk is broken"), "{failure}");
    voter.node.stop().await;
}

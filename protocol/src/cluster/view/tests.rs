//! The view on a metadata service that is interrupted in every way.

use super::*;
use crate::{
    id::{NodeId, Registration, Timestamp},
    model::{NodeRecord, TopicRecord},
    testing::FakeMetadata,
    topic::{TopicId, TopicName},
    wire::metadata::{MemoryLine, MetadataServer, RemoteMetadata, RemoteOptions},
};
use std::collections::BTreeMap;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

fn topic(n: u32) -> TopicRecord {
    TopicRecord {
        id: TopicId(Uuid::from_u128(u128::from(n) + 1)),
        name: TopicName::new(&format!("t{n}")).expect("legal"),
        partitions: 1,
        replication_factor: 1,
        config: BTreeMap::new(),
        created_at: Timestamp(0),
    }
}

fn put_topic(fake: &FakeMetadata, n: u32) -> Revision {
    fake.put(key::topic(&topic(n).name), &topic(n))
}

async fn started(fake: &FakeMetadata) -> (ClusterView, Tasks) {
    let tasks = Tasks::default();
    (ClusterView::start(fake.service(), &tasks).await.expect("starts"), tasks)
}

#[tokio::test]
async fn it_shows_what_there_is_and_follows() {
    let fake = FakeMetadata::new();
    let node = NodeRecord {
        node: NodeId(1),
        registration: Registration(4),
        instance: Uuid::from_u128(1),
        host: "localhost".into(),
        port: 9092,
        internal_address: None,
        rack: None,
        started_at: Timestamp(0),
    };
    fake.put(key::node(NodeId(1)), &node);
    let before = put_topic(&fake, 0);
    let (view, tasks) = started(&fake).await;
    let first = view.snapshot();
    assert_eq!((first.revision, first.nodes.len(), first.topics.len()), (before, 1, 1));
    let after = put_topic(&fake, 1);
    assert!(view.wait_for(after, PATIENCE).await);
    assert!(view.snapshot().topic("t1").is_some());
    let gone = fake.delete(key::node(NodeId(1)));
    assert!(view.wait_for(gone, PATIENCE).await);
    assert!(view.snapshot().nodes.is_empty());
    assert!(!view.wait_for(Revision(gone.0 + 1), Duration::from_millis(1)).await);
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_scan_of_many_pages_is_complete() {
    let fake = FakeMetadata::new();
    for n in 0..PAGE * 2 + 3 {
        put_topic(&fake, n);
    }
    let (view, tasks) = started(&fake).await;
    assert_eq!(view.snapshot().topics.len(), PAGE as usize * 2 + 3);
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn it_resumes_a_lost_watch_and_lists_again_when_the_past_is_gone() {
    let fake = FakeMetadata::new();
    put_topic(&fake, 0);
    let (view, tasks) = started(&fake).await;
    fake.end_watches();
    let resumed = put_topic(&fake, 1);
    assert!(view.wait_for(resumed, PATIENCE).await);
    // The topic is deleted while nobody watches, and the history that says so is compacted away.
    fake.fail_next(MetadataError::Unavailable { reason: "no quorum".into() });
    fake.end_watches();
    fake.delete(key::topic(&topic(0).name));
    fake.compact();
    let last = put_topic(&fake, 2);
    assert!(view.wait_for(last, PATIENCE).await);
    let seen = view.snapshot();
    let names: Vec<_> = seen.topics.keys().map(TopicName::as_str).collect();
    assert_eq!(names, ["t1", "t2"]);
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_burst_is_published_whole_and_revisions_never_go_back() {
    let fake = FakeMetadata::new();
    let (view, tasks) = started(&fake).await;
    let mut changes = view.changes();
    let mut last = Revision(0);
    for n in 0..500 {
        last = put_topic(&fake, n);
    }
    let mut seen = Revision(0);
    while seen < last {
        let next = tokio::time::timeout(PATIENCE, changes.changed()).await;
        next.expect("in time").expect("the view lives");
        let snapshot = Arc::clone(&changes.borrow_and_update());
        assert!(snapshot.revision > seen && snapshot.topics.len() as u64 == snapshot.revision.0);
        seen = snapshot.revision;
    }
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_an_error_of_the_start() {
    let fake = FakeMetadata::new();
    let problem = MetadataError::Unavailable { reason: "no quorum".into() };
    fake.fail_next(problem.clone());
    let started = ClusterView::start(fake.service(), &Tasks::default()).await;
    assert_eq!(started.map(|_| ()), Err(problem));
}

#[tokio::test]
async fn it_follows_through_servers_that_come_and_go_and_a_past_that_is_gone() {
    let (fake, servers, tasks) = (FakeMetadata::new(), Tasks::default(), Tasks::default());
    let line = |name| MemoryLine::to(name, MetadataServer::of(fake.service(), &servers), &servers);
    let lines = [line("n1"), line("n2")];
    let remote = RemoteMetadata::across(&lines, RemoteOptions::default(), &tasks);
    put_topic(&fake, 0);
    let view = ClusterView::start(Arc::new(remote), &tasks).await.expect("starts");
    for n in 1..10_u32 {
        let last = put_topic(&fake, n);
        lines[n as usize % 2].cut();
        assert!(view.wait_for(last, PATIENCE).await);
        assert_eq!(view.snapshot().topics.len() as u64, last.0);
    }
    // While no server is there a topic goes, and the history that says so.
    lines.iter().for_each(|line| {
        line.refuse(true);
        line.cut();
    });
    fake.delete(key::topic(&topic(0).name));
    fake.compact();
    let last = put_topic(&fake, 10);
    lines[0].refuse(false);
    assert!(view.wait_for(last, PATIENCE).await);
    assert!(view.snapshot().topic("t0").is_none() && view.snapshot().topic("t10").is_some());
    assert!(tasks.stop(PATIENCE).await && servers.stop(PATIENCE).await);
}

//! What the server promises to any client, also to one that breaks the rules.

use super::super::{
    client::dial::Connection,
    proto::{self, call_answer, watch_answer, watch_call},
    server::{Handles, Serving},
    *,
};
use super::{PATIENCE, put};
use crate::{runtime::Tasks, service::metadata::MetadataService, testing::FakeMetadata};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

const GROUP: Uuid = Uuid::from_u128(0xa);

fn hello() -> proto::Hello {
    hello::Guest::default().hello()
}

/// A stream of watches by hand. The connection lasts as long.
struct Watching {
    _connection: Connection,
    calls: mpsc::Sender<proto::WatchCall>,
    answers: Streaming<proto::WatchAnswer>,
}

impl Watching {
    async fn begin(mut connection: Connection, hello: proto::Hello) -> Self {
        let (calls, sent) = mpsc::channel(16);
        let answers = connection.watches(ReceiverStream::new(sent));
        calls.send(proto::WatchCall { kind: Some(watch_call::Kind::Hello(hello)) }).await.expect("sends");
        let answers = answers.await.expect("opens").into_inner();
        Self { _connection: connection, calls, answers }
    }

    async fn say(&self, kind: watch_call::Kind) {
        self.calls.send(proto::WatchCall { kind: Some(kind) }).await.expect("sends");
    }

    async fn open(&self, id: u64, prefix: &str, after: u64) {
        self.say(watch_call::Kind::Open(proto::OpenWatch { id, prefix: prefix.into(), after })).await;
    }

    async fn hear(&mut self) -> (u64, watch_answer::Kind) {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time");
        let answer = next.expect("the stream lives").expect("it goes on");
        (answer.id, answer.kind.expect("a kind"))
    }

    async fn is_over(&mut self) -> bool {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time");
        matches!(next, Ok(None) | Err(_))
    }
}

fn is_event(told: &(u64, watch_answer::Kind), id: u64, revision: u64) -> bool {
    matches!(told, (at, watch_answer::Kind::Event(event)) if *at == id && event.revision == revision)
}

async fn served(fake: &FakeMetadata, tasks: &Tasks) -> Connection {
    let line = MemoryLine::to("one", MetadataServer::of(fake.service(), tasks), tasks);
    line.server().connect().await.expect("connects")
}

#[tokio::test]
async fn watches_share_a_stream_and_nothing_else() {
    let (tasks, fake) = (Tasks::default(), FakeMetadata::new());
    fake.transact(put("past")).await.expect("commits");
    fake.compact();
    let mut watching = Watching::begin(served(&fake, &tasks).await, hello()).await;
    assert!(matches!(watching.hear().await, (0, watch_answer::Kind::Hello(_))));
    for (id, prefix) in [(7, "a"), (8, "b")] {
        watching.open(id, prefix, 1).await;
        assert!(matches!(watching.hear().await, (at, watch_answer::Kind::Opened(_)) if at == id));
    }
    fake.transact(put("a")).await.expect("commits");
    assert!(is_event(&watching.hear().await, 7, 2));
    fake.transact(put("b")).await.expect("commits");
    assert!(is_event(&watching.hear().await, 8, 3));
    // The end of one, by an error of its own or by its owner, is nobody else's.
    watching.open(9, "c", 0).await;
    match watching.hear().await {
        (9, watch_answer::Kind::Failed(proto::Error { kind: Some(proto::error::Kind::Compacted(c)) })) => {
            assert_eq!((c.asked, c.oldest), (0, 1));
        }
        other => panic!("{other:?}"),
    }
    watching.say(watch_call::Kind::Close(7)).await;
    watching.say(watch_call::Kind::Close(1000)).await;
    watching.open(10, "a", 3).await;
    assert!(matches!(watching.hear().await, (10, watch_answer::Kind::Opened(_))));
    fake.transact(put("a")).await.expect("commits");
    assert!(is_event(&watching.hear().await, 10, 4), "the closed one says nothing any more");
    fake.transact(put("b")).await.expect("commits");
    assert!(is_event(&watching.hear().await, 8, 5));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends() {
    let (tasks, fake) = (Tasks::default(), FakeMetadata::new());
    let connection = served(&fake, &tasks).await;
    let begin = async || {
        let mut watching = Watching::begin(connection.clone(), hello()).await;
        assert!(matches!(watching.hear().await, (0, watch_answer::Kind::Hello(_))));
        watching
    };
    let mut twice = begin().await;
    twice.say(watch_call::Kind::Hello(hello())).await;
    assert!(twice.is_over().await);
    let mut same = begin().await;
    same.open(1, "a", 0).await;
    assert!(matches!(same.hear().await, (1, watch_answer::Kind::Opened(_))));
    same.open(1, "b", 0).await;
    assert!(same.is_over().await);
    let mut zero = begin().await;
    zero.open(0, "a", 0).await;
    assert!(zero.is_over().await);
    let newer = proto::Hello { version: WIRE_VERSION + 1, ..hello() };
    let mut newer = Watching::begin(connection.clone(), newer).await;
    assert!(matches!(newer.hear().await, (0, watch_answer::Kind::Failed(_))));
    assert!(newer.is_over().await);
    assert!(tasks.stop(PATIENCE).await);
}

/// Sends calls by hand, one after the other; the answers' results.
async fn asked(mut connection: Connection, kinds: Vec<proto::call::Kind>) -> Vec<call_answer::Result> {
    let (calls, sent) = mpsc::channel(16);
    let answers = connection.calls(ReceiverStream::new(sent));
    let count = kinds.len();
    for (id, kind) in kinds.into_iter().enumerate() {
        calls.send(proto::Call { id: id as u64, kind: Some(kind) }).await.expect("sends");
    }
    let mut answers = answers.await.expect("opens").into_inner();
    let mut results = Vec::new();
    while results.len() < count
        && let Ok(Some(answer)) = answers.message().await
    {
        results.push(answer.result.expect("a result"));
    }
    results
}

fn text(result: &call_answer::Result) -> String {
    match result {
        call_answer::Result::Failed(error) => format!("{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_calls_is_checked_before_anything_happens() {
    let tasks = Tasks::default();
    let (front, passed_on) = (FakeMetadata::new(), FakeMetadata::new());
    let handles = |fake: &FakeMetadata| Handles { service: fake.service(), quorum: None };
    let serving = Serving { front: handles(&front), passed_on: handles(&passed_on), node: 3, group: GROUP };
    let line = MemoryLine::to("three", MetadataServer::new(serving, &tasks), &tasks);
    let connection = line.server().connect().await.expect("connects");
    let hello = |hello| proto::call::Kind::Hello(hello);
    let write = || proto::call::Kind::Transact(put("a").into());
    let unasked = asked(connection.clone(), vec![write(), write()]).await;
    assert_eq!(unasked.len(), 1, "the stream is over");
    assert!(text(&unasked[0]).contains("says hello"));
    let theirs = Uuid::from_u128(0xb);
    let stranger = hello::Guest::new(Some(theirs), false).hello();
    let refused = asked(connection.clone(), vec![hello(stranger), write()]).await;
    assert_eq!(refused.len(), 1, "the stream is over");
    assert!(text(&refused[0]).contains(&format!("node 3 of group {GROUP}, the caller belongs to group {theirs}")));
    assert_eq!((front.revision().0, passed_on.revision().0), (0, 0));
    let ours = hello::Guest::new(Some(GROUP), false).hello();
    let welcome = asked(connection.clone(), vec![hello(ours.clone()), write(), hello(ours)]).await;
    match &welcome[0] {
        call_answer::Result::Hello(hello) => assert_eq!((hello.node, &hello.group[..]), (3, &GROUP.as_bytes()[..])),
        other => panic!("{other:?}"),
    }
    assert!(welcome[1..].iter().any(|result| matches!(result, call_answer::Result::Committed(_))));
    assert_eq!((front.revision().0, passed_on.revision().0), (1, 0));
    let node = hello::Guest::new(Some(GROUP), true).hello();
    asked(connection, vec![hello(node), write()]).await;
    assert_eq!((front.revision().0, passed_on.revision().0), (1, 1));
    assert!(tasks.stop(PATIENCE).await);
}

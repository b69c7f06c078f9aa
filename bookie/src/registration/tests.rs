//! The record over a session's life.

use super::*;
use protocol::{
    id::{BookieId, Incarnation},
    ledger::metadata::BookieMember,
    model::decode,
    testing::FakeMetadata,
};

const MEMBER: BookieMember = BookieMember { id: BookieId(1), incarnation: Incarnation(4) };

struct World {
    metadata: FakeMetadata,
    states: watch::Sender<BookieState>,
    stopping: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(ttl: Duration) -> World {
    let (metadata, states) = (FakeMetadata::new(), watch::Sender::new(BookieState::Writable));
    let stopping = CancellationToken::new();
    let registration = Registration {
        metadata: metadata.service(),
        record: BookieRecord { address: Some("here:1".into()), ..BookieRecord::new(MEMBER, BookieState::Writable) },
        ttl,
        states: states.subscribe(),
        registered: watch::Sender::new(false),
    };
    let task = tokio::spawn(registration.run(stopping.clone()));
    World { metadata, states, stopping, task }
}

impl World {
    fn record(&self) -> Option<(BookieRecord, Option<SessionId>)> {
        let item = self.metadata.peek(&key::bookie(MEMBER.id))?;
        Some((decode(&item.value).expect("a record"), item.session))
    }

    /// Waits until the record is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(Option<&(BookieRecord, Option<SessionId>)>) -> bool) {
        let look = async {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            while !wanted(self.record().as_ref()) {
                tick.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

#[tokio::test]
async fn the_record_follows_the_state_and_ends_with_the_bookie() {
    let world = start(Duration::from_secs(9));
    world.until("registered", |r| r.is_some_and(|(r, session)| r.member == MEMBER && session.is_some())).await;
    world.states.send_replace(BookieState::ReadOnly);
    world.until("read-only", |r| r.is_some_and(|(r, _)| r.state == BookieState::ReadOnly)).await;
    world.stopping.cancel();
    world.task.await.expect("ends");
    assert_eq!(world.metadata.peek(&key::bookie(MEMBER.id)), None, "it does not wait for the session to expire");
}

#[tokio::test]
async fn an_expired_session_is_replaced() {
    let world = start(Duration::from_millis(60));
    world.until("registered", |r| r.is_some()).await;
    let first = world.record().and_then(|(_, session)| session).expect("ephemeral");
    world.metadata.expire(first);
    world.until("again", |r| r.is_some_and(|(_, session)| session.is_some_and(|s| s != first))).await;
    world.stopping.cancel();
    world.task.await.expect("ends");
}

#[tokio::test]
async fn silence_of_metadata_is_survived() {
    let world = start(Duration::from_millis(60));
    world.until("registered", |r| r.is_some()).await;
    world.metadata.faults().hang_next();
    world.metadata.fail_next(MetadataError::Unavailable { reason: "no leader".into() });
    world.states.send_replace(BookieState::ReadOnly);
    world.until("in the end", |r| r.is_some_and(|(r, _)| r.state == BookieState::ReadOnly)).await;
    world.stopping.cancel();
    world.task.await.expect("ends");
}

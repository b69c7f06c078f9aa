//! The record over a session's life.

use super::*;
use protocol::{
    id::{BookieId, Incarnation},
    ledger::metadata::BookieMember,
    model::{Cookie, decode},
    runtime::SystemClock,
    testing::FakeMetadata,
};
use uuid::Uuid;

const MEMBER: BookieMember = BookieMember { id: BookieId(1), incarnation: Incarnation(4) };

struct World {
    metadata: FakeMetadata,
    states: watch::Sender<BookieState>,
    usage: watch::Sender<Option<DiskUsage>>,
    registered: watch::Receiver<bool>,
    stopping: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn cookie_of(member: BookieMember) -> Cookie {
    let (cluster_id, instance) = ("cluster".into(), Uuid::from_u128(1));
    Cookie { cluster_id, bookie: member.id, incarnation: member.incarnation, instance }
}

fn start(ttl: Duration) -> World {
    let (metadata, states) = (FakeMetadata::new(), watch::Sender::new(BookieState::Writable));
    let (usage, registered) = (watch::Sender::new(None), watch::Sender::new(false));
    let seen = registered.subscribe();
    let cookie = metadata.put(key::cookie(MEMBER.id), &cookie_of(MEMBER));
    let stopping = CancellationToken::new();
    let registration = Registration {
        metadata: metadata.service(),
        clock: Arc::new(SystemClock::default()),
        cookie,
        usage: usage.subscribe(),
        record: BookieRecord { address: Some("here:1".into()), ..BookieRecord::new(MEMBER, BookieState::Writable) },
        ttl,
        states: states.subscribe(),
        registered,
    };
    let task = tokio::spawn(registration.run(stopping.clone()));
    World { metadata, states, usage, registered: seen, stopping, task }
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
        tokio::time::timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("{what}"));
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

#[tokio::test]
async fn a_disk_that_fills_is_told() {
    let world = start(Duration::from_millis(60));
    world.until("registered", |r| r.is_some()).await;
    for free in [900, 500] {
        let usage = DiskUsage { capacity: 1000, free };
        world.usage.send_replace(Some(usage));
        world.until("told", |r| r.is_some_and(|(r, _)| r.disk == Some(usage))).await;
    }
    world.stopping.cancel();
    world.task.await.expect("ends");
}

#[test]
fn small_changes_of_the_disk_wait() {
    let usage = |free| Some(DiskUsage { capacity: 1000, free });
    let (at_once, later) = (Duration::ZERO, USAGE_EVERY);
    assert!(is_news(None, usage(1), at_once) && !is_news(usage(1), None, later));
    assert!(!is_news(usage(500), usage(510), at_once) && is_news(usage(500), usage(511), at_once));
    assert!(is_news(usage(500), usage(489), at_once));
    assert!(is_news(usage(500), usage(499), later) && !is_news(usage(500), usage(500), later));
    assert!(is_news(usage(5), Some(DiskUsage { capacity: 2000, free: 5 }), at_once));
}

#[tokio::test]
async fn a_life_that_was_given_up_is_not_registered_again() {
    let world = start(Duration::from_millis(60));
    world.until("registered", |r| r.is_some()).await;
    let next = BookieMember { incarnation: Incarnation(5), ..MEMBER };
    world.metadata.put(key::cookie(MEMBER.id), &cookie_of(next));
    let session = world.record().and_then(|(_, session)| session).expect("ephemeral");
    world.metadata.expire(session);
    world.registered.clone().wait_for(|registered| !registered).await.expect("it notices");
    assert_eq!(world.record(), None, "the new life may register, the old one never again");
    world.stopping.cancel();
    world.task.await.expect("ends");
}

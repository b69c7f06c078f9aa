//! Locks and elections on a service that is interrupted in every way, directly and through clients that move between
//! servers.

use super::*;
use crate::{
    election::{Election, Leader},
    lock::{HeldLock, Lock},
    testing::{FakeMetadata, Fault},
    wire::metadata::{MemoryLine, MetadataServer, RemoteMetadata, RemoteOptions},
};
use futures::{FutureExt, future::join_all};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough that no session of these tests ends by itself.
const TTL: Duration = Duration::from_secs(600);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

async fn until(what: impl Fn() -> bool) {
    in_time(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn lock(fake: &FakeMetadata, ttl: Duration, tasks: &Tasks) -> Lock {
    Lock::new(fake.service(), "l", ttl, tasks).expect("a name")
}

/// Who stands in the queue, in order.
fn standing(fake: &FakeMetadata) -> Vec<String> {
    let mut items = fake.peek_all("locks/l/");
    items.sort_by_key(|item| item.version);
    items.iter().map(|item| decode::<QueueTicket>(&item.value).expect("whole").who).collect()
}

/// Lets somebody queue up; returns when they stand in line.
async fn queued(
    lock: &Lock,
    fake: &FakeMetadata,
    who: &str,
) -> tokio::task::JoinHandle<Result<HeldLock, MetadataError>> {
    let (lock, name) = (lock.clone(), who.to_owned());
    let waiting = tokio::spawn(async move { lock.acquire(&name).await });
    until(|| standing(fake).last().is_some_and(|last| last == who)).await;
    waiting
}

async fn won(waiting: tokio::task::JoinHandle<Result<HeldLock, MetadataError>>) -> HeldLock {
    in_time(waiting).await.expect("no panic").expect("it is its turn")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holds_the_lock_at_a_time_and_tokens_ascend() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, TTL, &tasks);
    let (taken, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let contend = |n: usize| {
        let (lock, taken, last) = (lock.clone(), Arc::clone(&taken), Arc::clone(&last));
        async move {
            for _ in 0..20 {
                let held = lock.acquire(&format!("c{n}")).await.expect("takes it");
                assert!(!taken.swap(true, Ordering::SeqCst), "two hold it");
                tokio::task::yield_now().await;
                let before = last.swap(held.token().0, Ordering::SeqCst);
                assert!(held.token().0 > before, "a token that does not ascend");
                assert!(taken.swap(false, Ordering::SeqCst) && !held.is_lost());
                held.release().await;
            }
        }
    };
    let contenders: Vec<_> = (0..8).map(|n| tokio::spawn(contend(n))).collect();
    for ended in in_time(join_all(contenders)).await {
        ended.expect("nobody panics");
    }
    assert!(standing(&fake).is_empty() && fake.sessions().is_empty(), "nothing is left behind");
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn the_queue_is_fair() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, TTL, &tasks);
    let mut held = won(queued(&lock, &fake, "w0").await).await;
    let mut waiting = Vec::new();
    for n in 1..6 {
        waiting.push(queued(&lock, &fake, &format!("w{n}")).await);
    }
    for (n, next) in waiting.into_iter().enumerate() {
        let holder = lock.holder().await.expect("answers").expect("somebody");
        assert_eq!((holder.who, holder.token), (format!("w{n}"), held.token()));
        let before = held.token();
        held.release().await;
        held = won(next).await;
        assert!(held.token() > before);
    }
    held.release().await;
    assert_eq!(lock.holder().await, Ok(None));
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn who_dies_in_the_queue_or_at_its_front_is_passed_over() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, TTL, &tasks);
    let first = won(queued(&lock, &fake, "first").await).await;
    let dies = queued(&lock, &fake, "dies").await;
    let last = queued(&lock, &fake, "last").await;
    let sessions = fake.sessions();
    fake.expire(sessions[1]);
    assert_eq!(standing(&fake), ["first", "last"]);
    fake.expire(sessions[0]);
    let last = won(last).await;
    assert!(last.token() > first.token() && !last.is_lost());
    // Who died in the queue learns of it when it looks again.
    let died = in_time(dies).await.expect("no panic").map(drop);
    assert_eq!(died, Err(MetadataError::SessionExpired(sessions[1])));
    last.release().await;
    assert!(standing(&fake).is_empty());
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_holder_whose_session_expires_is_told() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    // Heartbeats come often, so that one of them finds out.
    let lock = lock(&fake, Duration::from_millis(200), &tasks);
    let held = in_time(lock.acquire("me")).await.expect("takes it");
    assert!(held.lost().now_or_never().is_none());
    fake.expire(fake.sessions()[0]);
    in_time(held.lost()).await;
    assert!(held.is_lost());
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_waiter_whose_session_expires_is_told() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let holder = won(queued(&lock(&fake, TTL, &tasks), &fake, "holder").await).await;
    let waiting = queued(&lock(&fake, Duration::from_millis(200), &tasks), &fake, "waits").await;
    let session = fake.sessions()[1];
    fake.expire(session);
    let told = in_time(waiting).await.expect("no panic").map(drop);
    assert_eq!(told, Err(MetadataError::SessionExpired(session)));
    assert!(!holder.is_lost());
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_holder_that_nobody_can_vouch_for_is_told_and_gives_up() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, Duration::from_millis(200), &tasks);
    let held = in_time(lock.acquire("me")).await.expect("takes it");
    fake.faults().always(Some(Fault::Hang));
    in_time(held.lost()).await;
    assert_eq!(standing(&fake), ["me"], "the service has not ended it, but it might have");
    fake.faults().always(None);
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn heartbeats_that_get_through_keep_a_lock_for_longer_than_its_time() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, Duration::from_secs(1), &tasks);
    let held = in_time(lock.acquire("me")).await.expect("takes it");
    // Every second heartbeat fails.
    for _ in 0..100 {
        fake.fail_next(MetadataError::Unavailable { reason: "no leader".into() });
        fake.faults().push(Fault::Pass);
    }
    let before = fake.heartbeats();
    until(|| held.is_lost() || fake.heartbeats() > before + u64::from(BEATS)).await;
    assert!(!held.is_lost(), "it has held for about two of its times");
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn who_stops_waiting_leaves_nothing_behind() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, TTL, &tasks);
    let holder = won(queued(&lock, &fake, "holder").await).await;
    let cancelled = queued(&lock, &fake, "cancelled").await;
    cancelled.abort();
    until(|| standing(&fake) == ["holder"] && fake.sessions().len() == 1).await;
    // Whenever that is.
    for steps in 0..30 {
        let mut waiting = Box::pin(lock.acquire("hasty"));
        for _ in 0..steps {
            assert!((&mut waiting).now_or_never().is_none(), "somebody else holds it");
            tokio::task::yield_now().await;
        }
        drop(waiting);
        until(|| standing(&fake) == ["holder"] && fake.sessions().len() == 1).await;
    }
    drop(holder);
    until(|| standing(&fake).is_empty() && fake.sessions().is_empty()).await;
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_lock_is_taken_although_calls_fail_and_answers_are_lost() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, TTL, &tasks);
    let unavailable = || MetadataError::Unavailable { reason: "no leader".into() };
    fake.fail_next(unavailable());
    // The session; then its first heartbeat and the ticket, in either order; then the listing.
    fake.faults().push(Fault::Pass);
    fake.faults().lose_next_answer();
    fake.faults().lose_next_answer();
    fake.fail_next(unavailable());
    let held = in_time(lock.acquire("me")).await.expect("takes it");
    assert_eq!(standing(&fake), ["me"], "once");
    assert_eq!(fake.peek_all("locks/l/")[0].version, held.token());
    // A watch that ends is opened again.
    let waiting = queued(&lock, &fake, "next").await;
    fake.end_watches();
    fake.compact();
    held.release().await;
    won(waiting).await.release().await;
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn the_end_of_the_tasks_gives_everything_up() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let lock = lock(&fake, TTL, &tasks);
    let held = in_time(lock.acquire("me")).await.expect("takes it");
    assert!(tasks.stop(PATIENCE).await);
    assert!(held.is_lost());
    in_time(held.lost()).await;
    assert!(fake.sessions().is_empty());
}

#[tokio::test]
async fn names_are_checked_and_queues_are_apart() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let refused = Lock::new(fake.service(), "a/b", TTL, &tasks).map(drop);
    assert!(matches!(refused, Err(MetadataError::Invalid(_))));
    let other = Lock::new(fake.service(), "l2", TTL, &tasks).expect("a name");
    let election = Election::new(fake.service(), "l", TTL, &tasks).expect("a name");
    let held = in_time(lock(&fake, TTL, &tasks).acquire("a")).await.expect("takes it");
    let besides = in_time(other.acquire("b")).await.expect("another lock");
    let lead = in_time(election.campaign("c")).await.expect("not a lock");
    assert!(held.token() < besides.token() && besides.token() < lead.token());
    assert!(tasks.stop(PATIENCE).await);
}

async fn observed(leaders: &mut futures::stream::BoxStream<'static, Result<Option<Leader>, MetadataError>>) -> String {
    let next = in_time(leaders.next()).await.expect("it goes on").expect("without an error");
    next.map_or_else(|| "nobody".into(), |leader| leader.who)
}

#[tokio::test]
async fn observers_see_who_leads() {
    let (fake, tasks) = (FakeMetadata::new(), Tasks::default());
    let election = Election::new(fake.service(), "e", TTL, &tasks).expect("a name");
    let mut leaders = election.observe();
    assert_eq!(observed(&mut leaders).await, "nobody");
    let first = in_time(election.campaign("a")).await.expect("wins");
    assert_eq!(observed(&mut leaders).await, "a");
    let candidate = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("b").await }
    });
    until(|| fake.peek_all("elections/e/").len() == 2).await;
    fake.end_watches();
    let token = first.token();
    assert!(!first.is_lost());
    first.resign().await;
    assert_eq!(observed(&mut leaders).await, "b");
    let second = in_time(candidate).await.expect("no panic").expect("wins");
    let leader = election.leader().await.expect("answers").expect("somebody");
    assert_eq!((leader.who.as_str(), leader.token), ("b", second.token()));
    assert!(second.token() > token);
    fake.expire(fake.sessions()[0]);
    assert_eq!(observed(&mut leaders).await, "nobody");
    fake.fail_next(MetadataError::Invalid("no such thing".into()));
    let mut refused = election.observe();
    assert!(matches!(in_time(refused.next()).await, Some(Err(MetadataError::Invalid(_)))));
    assert!(in_time(refused.next()).await.is_none());
    assert!(tasks.stop(PATIENCE).await);
}

#[tokio::test]
async fn locks_survive_servers_that_come_and_go() {
    let (fake, tasks, servers) = (FakeMetadata::new(), Tasks::default(), Tasks::default());
    let line = |name| MemoryLine::to(name, MetadataServer::of(fake.service(), &servers), &servers);
    let lines = [line("n1"), line("n2")];
    let remote = RemoteMetadata::across(&lines, RemoteOptions::default(), &tasks);
    let lock = Lock::new(Arc::new(remote), "l", TTL, &tasks).expect("a name");
    let first = won(queued(&lock, &fake, "w0").await).await;
    let mut held = first;
    for n in 1..10_usize {
        let waiting = queued(&lock, &fake, &format!("w{n}")).await;
        lines[n % 2].cut();
        let before = held.token();
        let (next, ()) = tokio::join!(won(waiting), held.release());
        assert!(next.token() > before && !next.is_lost());
        held = next;
    }
    held.release().await;
    assert!(fake.sessions().is_empty());
    assert!(tasks.stop(PATIENCE).await && servers.stop(PATIENCE).await);
}

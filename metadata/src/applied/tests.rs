//! Watches see everything once, idle ones cost nothing, and voters that differ are found.

use super::{interest::PROGRESS_EVERY, *};
use crate::state::Agreement;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use protocol::{
    runtime::{Clock, SystemClock},
    service::metadata::{Change, Operation, Transaction, WatchEvent},
};
use std::time::Duration;

fn put(key: &str) -> Command {
    let operations = vec![Operation::Put { key: key.into(), value: Bytes::from_static(b"v"), session: None }];
    Transaction { operations, ..Transaction::default() }.into()
}

fn apply(applied: &Applied, commands: &[Command]) -> Replies {
    applied.apply(&Batch::new(Duration::ZERO, commands), 1).expect("decodes")
}

fn write(applied: &Applied, key: &str) {
    apply(applied, &[put(key)]);
}

/// Transactions that concern nobody.
fn foreign(applied: &Applied, count: u64) {
    let commands: Vec<_> = (0..count).map(|_| put("foreign")).collect();
    for batch in commands.chunks(1_000) {
        apply(applied, batch);
    }
}

/// What the watch has to say now; `None` if nothing.
fn now(watch: &mut WatchStream) -> Option<Result<WatchEvent, MetadataError>> {
    watch.next().now_or_never().map(|event| event.expect("not ended"))
}

fn revision(watch: &mut WatchStream) -> Option<u64> {
    now(watch).map(|event| event.expect("no error").revision.0)
}

/// The next event with changes.
fn change(watch: &mut WatchStream) -> Option<u64> {
    loop {
        let event = now(watch)?.expect("no error");
        if !event.changes.is_empty() {
            return Some(event.revision.0);
        }
    }
}

fn fresh() -> Arc<Applied> {
    Arc::new(Applied::new(State::default()))
}

fn watch(applied: &Arc<Applied>, prefix: &str, after: u64) -> WatchStream {
    applied.watch(prefix.into(), Revision(after)).expect("that past is kept")
}

#[test]
fn a_watch_goes_from_past_to_present_without_a_gap() {
    let applied = fresh();
    ["a/1", "b/1", "a/2"].iter().for_each(|key| write(&applied, key));
    let mut watch = watch(&applied, "a/", 0);
    assert_eq!(revision(&mut watch), Some(1));
    write(&applied, "a/3");
    assert_eq!((revision(&mut watch), revision(&mut watch), revision(&mut watch)), (Some(3), Some(4), None));
    write(&applied, "a/4");
    assert_eq!(revision(&mut watch), Some(5));
    assert_eq!(applied.watches(), 1);
    drop(watch);
    assert_eq!(applied.watches(), 0);
}

#[tokio::test]
async fn a_waiting_watch_is_woken() {
    let applied = fresh();
    let mut watches: Vec<_> = ["", "a", "a/1", "b"].iter().map(|prefix| watch(&applied, prefix, 0)).collect();
    let mut b = watches.pop().expect("four");
    let waiting = tokio::spawn(async move {
        let mut seen = Vec::new();
        for watch in &mut watches {
            seen.push(watch.next().await.expect("not ended").expect("no error").revision.0);
        }
        seen
    });
    tokio::task::yield_now().await;
    write(&applied, "a/1");
    let seen = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("woken").expect("runs");
    assert_eq!((seen, revision(&mut b)), (vec![1, 1, 1], None));
}

#[test]
fn an_event_shows_what_lies_under_the_prefix_and_everything_sees_all_transactions() {
    let applied = fresh();
    let (mut a, mut all) = (watch(&applied, "a", 0), watch(&applied, "", 0));
    let operations =
        ["b", "a1", "a2"].map(|key| Operation::Put { key: key.into(), value: Bytes::new(), session: None });
    let transaction = Transaction { operations: operations.into(), ..Transaction::default() };
    apply(&applied, &[transaction.into(), Transaction::default().into()]);
    let keys = |event: Option<Result<WatchEvent, _>>| -> Vec<String> {
        let changes = event.expect("there is one").expect("no error").changes;
        changes.into_iter().map(|c| if let Change::Put(item) = c { item.key } else { panic!("a put") }).collect()
    };
    assert_eq!(keys(now(&mut a)), ["a1", "a2"]);
    assert_eq!(keys(now(&mut all)), ["b", "a1", "a2"]);
    assert_eq!((revision(&mut all), revision(&mut all), revision(&mut a)), (Some(2), None, None));
}

#[test]
fn a_silent_watch_reports_progress() {
    let applied = fresh();
    let mut watches: Vec<_> = (0..300).map(|n| watch(&applied, &format!("a/{n}"), 0)).collect();
    let mut told = vec![0; watches.len()];
    let mut at_once = 0;
    for at in 1..=3 * PROGRESS_EVERY {
        write(&applied, "b");
        let mut told_now = 0;
        for (watch, told) in watches.iter_mut().zip(&mut told) {
            if let Some(event) = now(watch) {
                assert_eq!(event, Ok(WatchEvent { revision: Revision(at), changes: vec![] }));
                *told = at;
                told_now += 1;
            }
            assert!(at - *told <= PROGRESS_EVERY, "told at {told}, now at {at}");
        }
        at_once = at_once.max(told_now);
    }
    assert!(at_once <= 3, "{at_once} of 300 were asked at once; they should be spread");
}

#[test]
fn an_idle_watch_follows_along_and_only_one_that_missed_its_own_is_ended() {
    let applied = fresh();
    write(&applied, "a/1");
    let mut idle = watch(&applied, "a/", 1);
    let mut early = watch(&applied, "a/", 0);
    let mut slow = watch(&applied, "a/", 1);
    foreign(&applied, 80_000);
    write(&applied, "a/2");
    assert_eq!(change(&mut idle), Some(80_002), "others' writes compact nobody");
    assert_eq!((change(&mut early), change(&mut early)), (Some(1), Some(80_002)), "taken when it was opened");
    foreign(&applied, 80_000);
    let ended = now(&mut slow);
    let Some(Err(MetadataError::Compacted { asked, oldest })) = ended else { panic!("{ended:?}") };
    assert!(asked == Revision(80_001) && oldest > Revision(80_002), "{asked} {oldest}");
    assert!(slow.next().now_or_never().expect("ended").is_none());
    assert!(matches!(applied.watch("a/".into(), Revision(1)), Err(MetadataError::Compacted { .. })));
    assert_eq!(applied.watches(), 2, "one that has ended and one that could not be opened do not count");
}

#[test]
fn a_watch_that_is_not_read_holds_little_and_loses_nothing_of_others() {
    let applied = fresh();
    write(&applied, "a/1");
    foreign(&applied, 5_000);
    let mut early = watch(&applied, "a/", 0);
    foreign(&applied, 80_000);
    assert_eq!((change(&mut early), change(&mut early)), (Some(1), None), "all of the past was looked through");
    // More of its own than it takes at once: the rest stays in the history, as long as that keeps it.
    let mut slow = watch(&applied, "a/", 85_001);
    (0..1_000).for_each(|_| write(&applied, "a/2"));
    assert_eq!(change(&mut slow), Some(85_002));
    foreign(&applied, 80_000);
    let mut seen = 1;
    while let Some(Ok(event)) = now(&mut slow) {
        seen += usize::from(!event.changes.is_empty());
    }
    assert_eq!(seen, 256, "and then it is told what it missed");
    assert!(slow.next().now_or_never().expect("ended").is_none());
}

#[test]
fn a_watch_that_is_ahead_waits_and_reports_nothing_that_was_seen() {
    let applied = fresh();
    write(&applied, "a");
    let mut ahead = watch(&applied, "a", 3);
    foreign(&applied, 1);
    write(&applied, "a");
    assert_eq!(now(&mut ahead), None, "revision 3 was seen elsewhere");
    write(&applied, "a");
    assert_eq!((revision(&mut ahead), now(&mut ahead)), (Some(4), None));
    let mut far = watch(&applied, "a", 3 * PROGRESS_EVERY);
    foreign(&applied, 2 * PROGRESS_EVERY);
    assert_eq!(now(&mut far), None, "no progress before its own position");
    foreign(&applied, 2 * PROGRESS_EVERY);
    assert!(revision(&mut far) > Some(3 * PROGRESS_EVERY));
    assert_eq!(watch(&applied, "a", u64::MAX).next().now_or_never(), None);
}

#[test]
fn a_snapshot_ends_the_watches_that_are_not_as_far() {
    let (ours, theirs) = (fresh(), fresh());
    ["a", "b"].iter().for_each(|key| write(&ours, key));
    (0..10).for_each(|_| write(&theirs, "a"));
    let mut here = watch(&ours, "a", 2);
    let mut reading = watch(&ours, "a", 0);
    let mut there = watch(&ours, "a", 10);
    let mut ahead = watch(&ours, "a", 11);
    ours.replace(theirs.image());
    let compacted = |asked| Some(Err(MetadataError::Compacted { asked: Revision(asked), oldest: Revision(10) }));
    assert_eq!(now(&mut here), compacted(2));
    assert_eq!((revision(&mut reading), now(&mut reading)), (Some(1), compacted(2)), "what it had taken is shown");
    (0..2).for_each(|_| write(&ours, "a"));
    assert_eq!((revision(&mut there), revision(&mut ahead)), (Some(11), Some(12)));
    // One that comes as the same state ends nobody who has seen all of it.
    ours.replace(ours.image());
    assert_eq!(revision(&mut there), Some(12));
    assert_eq!((now(&mut ahead), ours.watches()), (None, 4));
}

#[test]
fn a_batch_of_more_than_the_history_ends_watches_instead_of_leaving_out() {
    let applied = fresh();
    let (mut all, mut other) = (watch(&applied, "", 0), watch(&applied, "x", 0));
    let commands: Vec<_> = (0..70_000).map(|_| put("a")).collect();
    apply(&applied, &commands);
    assert!(matches!(now(&mut all), Some(Err(MetadataError::Compacted { .. }))));
    assert!(matches!(now(&mut other), Some(Err(MetadataError::Compacted { .. }))));
}

#[tokio::test]
async fn watches_end_at_shutdown() {
    let applied = fresh();
    let mut waiting = watch(&applied, "", 0);
    let waiting = tokio::spawn(async move { waiting.next().await });
    tokio::task::yield_now().await;
    applied.close();
    let end = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("woken").expect("runs");
    assert!(matches!(end, Some(Err(MetadataError::Unavailable { .. }))), "{end:?}");
    let mut late = watch(&applied, "", 0);
    assert!(matches!(late.next().await, Some(Err(MetadataError::Unavailable { .. }))));
}

#[test]
fn a_hundred_thousand_idle_watches_cost_a_write_nothing() {
    const WATCHES: u64 = 100_000;
    const WRITES: u64 = 10_000;
    let clock = SystemClock::default();
    let applied = fresh();
    let mut watches: Vec<_> = (0..WATCHES).map(|n| watch(&applied, &format!("idle/{n:06}/"), 0)).collect();
    let opened = clock.monotonic();
    for _ in 0..WRITES {
        write(&applied, "busy/1");
    }
    let took = clock.monotonic() - opened;
    println!("{WATCHES} watches opened in {opened:?}; a write beside them takes {:?}", took / WRITES as u32);
    // No write concerned anybody. All that woke a watch is its turn to report progress, once in a cycle.
    let cycles = WRITES as f64 / PROGRESS_EVERY as f64;
    let turns = applied.wakes() as f64 / WATCHES as f64;
    assert!(turns <= cycles + 0.01, "{turns} wakes per watch in {cycles} cycles");
    let before = applied.wakes();
    write(&applied, "idle/012345/key");
    assert_eq!(applied.wakes() - before, 1, "only the one that is concerned");
    assert_eq!(change(&mut watches[12_345]), Some(WRITES + 1));
    assert_eq!(change(&mut watches[12_346]), None);
    drop(watches);
    assert_eq!(applied.watches(), 0);
}

#[test]
fn a_watch_that_is_awake_is_not_woken_again() {
    let applied = fresh();
    let mut watch = watch(&applied, "a", 0);
    for _ in 0..50 {
        write(&applied, "a");
    }
    assert_eq!(applied.wakes(), 1);
    assert_eq!((0..50).filter_map(|_| revision(&mut watch)).collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    write(&applied, "a");
    assert_eq!(applied.wakes(), 2);
}

#[test]
fn voters_that_differ_are_found() {
    let (leader, follower, broken) = (fresh(), fresh(), fresh());
    let wrong = put("wrong");
    for index in 1..=512 {
        let good = put(&index.to_string());
        apply_at(&leader, index, &good);
        apply_at(&follower, index, &good);
        apply_at(&broken, index, if index == 300 { &wrong } else { &good });
    }
    let Some((index, digest)) = leader.noted() else { panic!("has noted") };
    assert_eq!((index, digest), (512, leader.read(State::digest)));
    let audit = Command::Audit { index, digest };
    let before = follower.read(State::digest);
    assert_eq!(apply_at(&follower, 513, &audit), Reply::Audited(Agreement::Agrees));
    assert_eq!((follower.read(State::digest), follower.divergence()), (before, None), "an audit changes nothing");
    assert_eq!(follower.audited(), Some((512, digest)));
    assert_eq!(apply_at(&broken, 513, &audit), Reply::Audited(Agreement::Differs));
    let ours = broken.read(State::digest);
    assert_eq!(broken.divergence(), Some(Divergence { index: 512, ours, leaders: digest }));
    // Who came by a snapshot cannot tell.
    let late = fresh();
    late.replace(leader.image());
    assert_eq!(apply_at(&late, 513, &audit), Reply::Audited(Agreement::Unknown));
}

fn apply_at(applied: &Applied, index: u64, command: &Command) -> Reply {
    let batch = Batch::new(Duration::ZERO, std::slice::from_ref(command));
    applied.apply(&batch, index).expect("decodes").0.remove(0)
}

#[test]
fn commands_that_cannot_be_read_change_nothing() {
    let applied = fresh();
    write(&applied, "a");
    let before = applied.read(State::digest);
    assert_eq!(applied.apply(&Batch::of(1_000, &[9, 9]), 7), Err(BatchError::Version { found: 9 }));
    assert_eq!((applied.read(State::digest), applied.index()), (before, 1));
}

const PREFIXES: [&str; 6] = ["", "k", "k/1", "k/12", "k/2", "other"];

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<u8>),
    Open(u8, u8),
    Poll(u8, u8),
    Close(u8),
    Burst(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => proptest::collection::vec(0..25u8, 0..4).prop_map(Step::Write),
        2 => (0..6u8, 0..40u8).prop_map(|(prefix, back)| Step::Open(prefix, back)),
        4 => (0..8u8, 1..5u8).prop_map(|(watch, times)| Step::Poll(watch, times)),
        1 => (0..8u8).prop_map(Step::Close),
        1 => (0..800u16).prop_map(Step::Burst),
    ];
    proptest::collection::vec(step, 0..80)
}

/// A watch and the changes that it must still show, by revision.
struct Watched {
    stream: WatchStream,
    prefix: &'static str,
    owed: std::collections::VecDeque<u64>,
    told: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_watch_sees_its_own_changes_once_and_in_order(steps in steps()) {
        let applied = fresh();
        let mut past: Vec<(u64, Vec<String>)> = Vec::new();
        let mut watches: Vec<Watched> = Vec::new();
        let concerns = |prefix: &str, keys: &[String]| prefix.is_empty() || keys.iter().any(|k| k.starts_with(prefix));
        for step in steps {
            let at = applied.read(State::revision).0;
            match step {
                Step::Write(keys) => {
                    let keys: Vec<String> = keys.iter().map(|k| format!("k/{k}")).collect();
                    let put = |key: &String| Operation::Put { key: key.clone(), value: Bytes::new(), session: None };
                    let operations = keys.iter().map(put).collect();
                    apply(&applied, &[Transaction { operations, ..Transaction::default() }.into()]);
                    for watched in &mut watches {
                        if concerns(watched.prefix, &keys) && at + 1 > watched.told {
                            watched.owed.push_back(at + 1);
                        }
                    }
                    past.push((at + 1, keys));
                }
                Step::Burst(count) => {
                    foreign(&applied, u64::from(count));
                    for revision in at + 1..=at + u64::from(count) {
                        past.push((revision, vec!["foreign".into()]));
                        for watched in watches.iter_mut().filter(|w| w.prefix.is_empty() && revision > w.told) {
                            watched.owed.push_back(revision);
                        }
                    }
                }
                Step::Open(prefix, back) => {
                    // Also from the future.
                    let after = (at + 5).saturating_sub(u64::from(back));
                    let prefix = PREFIXES[prefix as usize];
                    let stream = watch(&applied, prefix, after);
                    let owed = past.iter().filter(|(r, keys)| *r > after && concerns(prefix, keys)).map(|(r, _)| *r);
                    watches.push(Watched { stream, prefix, owed: owed.collect(), told: after });
                }
                Step::Poll(which, times) => {
                    let Some(watched) = watches.get_mut(which as usize) else { continue };
                    for _ in 0..times {
                        match now(&mut watched.stream) {
                            None => prop_assert!(watched.owed.is_empty(), "{:?} was left out", watched.owed),
                            Some(Err(problem)) => panic!("{problem}"),
                            Some(Ok(event)) => {
                                prop_assert!(event.revision.0 > watched.told);
                                watched.told = event.revision.0;
                                if watched.owed.front() == Some(&event.revision.0) {
                                    watched.owed.pop_front();
                                } else {
                                    prop_assert_eq!((event.changes.len(), watched.owed.len()), (0, 0));
                                }
                            }
                        }
                    }
                }
                Step::Close(which) => if (which as usize) < watches.len() {
                    watches.remove(which as usize);
                }
            }
        }
        prop_assert_eq!(applied.watches(), watches.len());
    }
}

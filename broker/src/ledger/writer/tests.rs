//! The appender on fake bookies: order, confirmation, failure, ensemble change, end.

use super::*;
use crate::ledger::{
    LedgerReader,
    tests::{
        fixture::{Ledger, payload},
        observed::Observed,
    },
};
use parking_lot::Mutex as PlainMutex;
use protocol::{
    id::Incarnation,
    ledger::metadata::LedgerState,
    service::answer::Reply,
    testing::{clock::ManualClock, faults::Fault},
};
use std::time::Duration;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(30);

/// What the caller has heard.
#[derive(Clone)]
struct Heard(watch::Sender<Vec<LedgerEvent>>);

impl Heard {
    fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    fn callback(&self) -> LedgerEvents {
        let heard = self.0.clone();
        Arc::new(move |event| heard.send_modify(|all| all.push(event)))
    }

    fn lac(&self) -> Lac {
        let last = |all: &Vec<LedgerEvent>| {
            all.iter().rev().find_map(|e| match e {
                LedgerEvent::Confirmed { lac } => Some(*lac),
                LedgerEvent::Failed(_) => None,
            })
        };
        last(&self.0.borrow()).unwrap_or_default()
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let mut changes = self.0.subscribe();
        let waiting = async {
            while !what(self) {
                changes.changed().await.expect("the sender lives");
            }
        };
        let heard = || format!("heard only {:?}", self.0.borrow());
        assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "{}", heard());
    }

    async fn until_confirmed(&self, count: u64) {
        self.until(|h| h.lac().count() >= count).await;
    }

    async fn until_failed(&self) -> WriteError {
        let failure = |h: &Self| match h.0.borrow().last() {
            Some(LedgerEvent::Failed(error)) => Some(error.clone()),
            _ => None,
        };
        self.until(|h| failure(h).is_some()).await;
        failure(self).expect("it has failed")
    }
}

fn open(ledger: &Ledger, heard: &Heard) -> LedgerAppender {
    LedgerAppender::open(ledger.deps(), ledger.metadata.clone(), ledger.store.clone(), heard.callback())
}

#[tokio::test]
async fn an_entry_is_with_its_bookies_when_append_returns() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let appender = open(&ledger, &heard);
    let entry = appender.append(payload(b"hello")).expect("open");
    for id in 0..3 {
        assert_eq!(ledger.directory.fake(id).entry(ledger.id(), EntryId(0)), Some(entry.clone()));
    }
    heard.until_confirmed(1).await;
    let second = appender.append(payload(b"again!")).expect("open");
    assert_eq!((second.entry(), second.lac(), second.length()), (EntryId(1), Lac::at(EntryId(0)), 11));
    assert_eq!(&second.payload()[..], b"again!");
    let end = appender.finish().await.expect("all is well");
    assert_eq!((end.last_entry, end.length, end.fragments), (Some(EntryId(1)), 11, ledger.metadata.fragments.clone()));
    assert_eq!(heard.lac().count(), 2, "the caller heard of everything before finish returned");
    assert_eq!(appender.append(payload(b"late")), Err(WriteError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmations_come_in_order_whatever_the_order_of_answers() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let appender = open(&ledger, &heard);
    let payloads = 500;
    for n in 0..payloads {
        appender.append(payload(format!("{n}").as_bytes())).expect("open");
    }
    let end = appender.finish().await.expect("all is well");
    assert_eq!(end.last_entry, Some(EntryId(payloads - 1)));
    let lacs: Vec<u64> = heard
        .0
        .borrow()
        .iter()
        .map(|e| match e {
            LedgerEvent::Confirmed { lac } => lac.count(),
            LedgerEvent::Failed(error) => panic!("{error}"),
        })
        .collect();
    assert!(lacs.is_sorted_by(|a, b| a < b), "{lacs:?}");
    assert_eq!((lacs.last(), appender.in_flight()), (Some(&payloads), 0));
}

#[tokio::test]
async fn the_callback_may_append() {
    let (ledger, heard) = (Ledger::new(1, 1, 1), Heard::new());
    let slot: Arc<PlainMutex<Option<LedgerAppender>>> = Arc::default();
    let (inner, hear) = (slot.clone(), heard.callback());
    let events: LedgerEvents = Arc::new(move |event: LedgerEvent| {
        if let LedgerEvent::Confirmed { lac } = event
            && lac.count() < 20
        {
            let appender = inner.lock().clone().expect("set before the first append");
            appender.append(payload(b"from the callback")).expect("open");
        }
        hear(event);
    });
    let appender = LedgerAppender::open(ledger.deps(), ledger.metadata.clone(), ledger.store.clone(), events);
    *slot.lock() = Some(appender.clone());
    appender.append(payload(b"first")).expect("open");
    heard.until_confirmed(20).await;
}

#[tokio::test]
async fn a_failed_add_of_a_single_copy_stops_the_writer_with_unknown_outcome() {
    let (ledger, heard) = (Ledger::new(1, 1, 1), Heard::new());
    let appender = open(&ledger, &heard);
    appender.append(payload(b"kept")).expect("open");
    heard.until_confirmed(1).await;
    ledger.directory.fake(0).faults().lose_next_answer();
    appender.append(payload(b"in doubt")).expect("open");
    let error = heard.until_failed().await;
    assert!(matches!(error, WriteError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(appender.append(payload(b"refused")), Err(error.clone()));
    assert_eq!(appender.finish().await, Err(error), "a failed writer names no end");
    assert_eq!(ledger.directory.fake(0).entries(ledger.id()).len(), 2, "nothing was sent after the failure");
}

#[tokio::test]
async fn a_fenced_writer_stops_and_changes_no_ensemble() {
    let (ledger, heard) = (Ledger::new(3, 2, 4), Heard::new());
    let appender = open(&ledger, &heard);
    for member in ledger.ensemble().into_iter().take(2) {
        ledger.fence(member).await;
    }
    appender.append(payload(b"zombie")).expect("not known yet");
    assert_eq!(heard.until_failed().await, WriteError::Fenced(ledger.id()));
    assert_eq!(ledger.store.calls(), 0);
}

#[tokio::test]
async fn a_failed_bookie_is_replaced_and_metadata_comes_first() {
    let (ledger, heard) = (Ledger::new(3, 2, 4), Heard::new());
    let appender = open(&ledger, &heard);
    appender.append(payload(b"zero")).expect("open");
    heard.until_confirmed(1).await;
    let (failed, spare) = (ledger.ensemble()[0], ledger.spare());
    let reason = "taken down".to_string();
    ledger.bookie(failed).faults().fail_next(BookieError::Unavailable { reason });
    let held = ledger.store.hold();
    let others: Vec<_> = ledger.ensemble()[1..].iter().map(|m| ledger.bookie(*m)).collect();
    others.iter().for_each(|b| b.faults().hold_answers());
    appender.append(payload(b"one")).expect("open");
    let reply: Reply<(), ReplaceError> = held.await.expect("the change is asked for");
    others.iter().for_each(|b| b.faults().release_answers());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(heard.lac().count(), 1, "nothing is confirmed while the change is under way");
    assert!(ledger.bookie(spare).entries(ledger.id()).is_empty());
    reply.send(Ok(()));
    heard.until_confirmed(2).await;
    let end = appender.finish().await.expect("all is well");
    assert_eq!(end.fragments.len(), 2);
    assert_eq!((end.fragments[1].first_entry, end.fragments[1].ensemble[0]), (EntryId(1), spare));
    assert_eq!(appender.metadata().fragments, end.fragments);
    assert_eq!(ledger.bookie(spare).entries(ledger.id()), [EntryId(1)]);
}

#[tokio::test]
async fn a_lost_ensemble_change_is_a_lost_ledger() {
    let (ledger, heard) = (Ledger::new(3, 2, 4), Heard::new());
    let appender = open(&ledger, &heard);
    ledger.store.answer_next(Err(ReplaceError::Lost));
    let reason = "disk full".to_string();
    ledger.bookie(ledger.ensemble()[1]).faults().fail_next(BookieError::ReadOnly { reason });
    appender.append(payload(b"x")).expect("open");
    assert_eq!(heard.until_failed().await, WriteError::Fenced(ledger.id()));
}

#[tokio::test]
async fn a_bookie_that_hangs_holds_nothing_up_and_is_reported() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let appender = open(&ledger, &heard);
    let hung = ledger.ensemble()[2];
    ledger.bookie(hung).faults().hang_next();
    appender.append(payload(b"a")).expect("open");
    appender.append(payload(b"b")).expect("open");
    let end = appender.finish().await.expect("two of three are enough");
    assert_eq!(end.last_entry, Some(EntryId(1)));
    assert!(end.holes.contains(&Hole { member: hung, entries: 0..=1 }), "{:?}", end.holes);
}

#[tokio::test]
async fn another_life_of_a_bookie_is_not_the_member_and_may_only_follow_it() {
    let (mut ledger, heard) = (Ledger::new(1, 1, 1), Heard::new());
    let live = ledger.ensemble()[0];
    ledger.metadata.fragments[0].ensemble[0].incarnation = Incarnation(0);
    let appender = open(&ledger, &heard);
    ledger.store.answer_next(Err(ReplaceError::Unavailable { reason: "no leader".into() }));
    appender.append(payload(b"x")).expect("open");
    let error = heard.until_failed().await;
    assert!(matches!(error, WriteError::OutcomeUnknown { .. }), "{error:?}");
    assert!(ledger.directory.fake(0).entries(ledger.id()).is_empty(), "it took nothing for its old life");

    let heard = Heard::new();
    let appender = open(&ledger, &heard);
    appender.append(payload(b"x")).expect("open");
    heard.until_confirmed(1).await;
    assert_eq!(appender.metadata().fragments[0].ensemble, [live], "metadata names the new life before it counts");
}

#[tokio::test]
async fn an_unavailable_store_leaves_the_ledger_degraded_but_written() {
    let (ledger, heard) = (Ledger::new(3, 2, 4), Heard::new());
    let appender = open(&ledger, &heard);
    ledger.store.answer_next(Err(ReplaceError::Unavailable { reason: "no leader".into() }));
    let failed = ledger.ensemble()[0];
    ledger.bookie(failed).faults().fail_next(BookieError::Unavailable { reason: "down".into() });
    appender.append(payload(b"a")).expect("open");
    heard.until_confirmed(1).await;
    assert_eq!(appender.holes().iter().filter(|h| h.member == failed).count(), 1);
    assert_eq!(appender.metadata(), ledger.metadata);
}

#[tokio::test]
async fn a_ledger_that_the_others_can_close_does_not_wait_for_a_dead_bookie() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let appender = open(&ledger, &heard);
    let unavailable = || BookieError::Unavailable { reason: "gone".into() };
    let [first, second, _] = ledger.ensemble()[..] else { panic!("three members") };
    ledger.bookie(first).faults().fail_next(unavailable());
    appender.append(payload(b"a")).expect("open");
    heard.until_confirmed(1).await;
    // The first is left behind, though it lives again. After the twelfth attempt the second would take the entry: two
    // seconds during which producers wait, while a new ledger on the first and the third is there at once.
    (0..12).for_each(|_| ledger.bookie(second).faults().fail_next(unavailable()));
    appender.append(payload(b"b")).expect("open");
    assert!(matches!(heard.until_failed().await, WriteError::OutcomeUnknown { .. }));
}

#[tokio::test]
async fn a_single_bookie_that_takes_nothing_for_a_moment_is_tried_again() {
    let (ledger, heard) = (Ledger::new(1, 1, 1), Heard::new());
    let appender = open(&ledger, &heard);
    for _ in 0..5 {
        ledger.directory.fake(0).faults().fail_next(BookieError::Unavailable { reason: "queue full".into() });
    }
    for _ in 0..20 {
        appender.append(payload(b"x")).expect("open");
    }
    heard.until_confirmed(20).await;
    assert_eq!(ledger.directory.fake(0).entries(ledger.id()).len(), 20);
    // Out of reach and back: the handle is asked for again.
    ledger.directory.set_reachable(0, false);
    appender.append(payload(b"y")).expect("open");
    tokio::task::yield_now().await;
    ledger.directory.set_reachable(0, true);
    let end = appender.finish().await.expect("nothing has failed");
    assert_eq!((end.last_entry, end.holes), (Some(EntryId(20)), Vec::new()));
}

#[tokio::test]
async fn a_bookie_that_is_not_needed_is_left_behind_at_once() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let appender = open(&ledger, &heard);
    let failed = ledger.ensemble()[1];
    ledger.bookie(failed).faults().fail_next(BookieError::Unavailable { reason: "queue full".into() });
    appender.append(payload(b"a")).expect("open");
    heard.until_confirmed(1).await;
    while appender.members().iter().all(|(_, written)| *written) {
        tokio::task::yield_now().await;
    }
    assert!(appender.members().contains(&(failed, false)));
    appender.append(payload(b"b")).expect("open");
    let end = appender.finish().await.expect("two of three are enough");
    assert_eq!(end.holes, [Hole { member: failed, entries: 0..=1 }]);
}

#[tokio::test]
async fn a_hung_bookie_costs_bounded_memory_and_becomes_a_hole() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let hung = ledger.ensemble()[0];
    ledger.bookie(hung).faults().always(Some(Fault::Hang));
    let limits = Limits { owed_bytes: 10_000, ..Limits::default() };
    let (deps, metadata, store) = (ledger.deps(), ledger.metadata.clone(), ledger.store.clone());
    let appender = LedgerAppender::open_with(deps, metadata, store, heard.callback(), limits);
    for n in 0..200 {
        appender.append(payload(&[0; 1_000])).expect("open");
        heard.until_confirmed(n + 1).await;
    }
    assert!(appender.members().contains(&(hung, false)), "left behind at the bound");
    assert_eq!(appender.0.state.lock().unconfirmed.len(), 0);
    let end = appender.finish().await.expect("two of three are enough");
    assert_eq!(end.holes, [Hole { member: hung, entries: 0..=199 }]);
    assert_eq!(ledger.store.calls(), 0, "there was no spare");
}

#[tokio::test]
async fn a_late_bookie_delays_nothing_and_ends_without_a_hole_if_it_is_a_little_late_only() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let observed = Observed::of(ledger.directory.clone());
    let late = Duration::from_secs(40);
    observed.delay(ledger.ensemble()[2].id, late);
    let deps = LedgerDeps::new(observed.clone(), Arc::new(ManualClock::default()));
    let (metadata, store) = (ledger.metadata.clone(), ledger.store.clone());
    let appender = LedgerAppender::open(deps, metadata, store, heard.callback());
    let written = async {
        for n in 0..50 {
            appender.append(payload(b"x")).expect("open");
            heard.until_confirmed(n + 1).await;
        }
    };
    tokio::time::timeout(late, written).await.expect("no add waits for the late one");
    let end = tokio::time::timeout(late, appender.finish()).await.expect("nor the end").expect("all is well");
    assert_eq!(end.holes, [Hole { member: ledger.ensemble()[2], entries: 0..=49 }]);

    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let appender = open(&ledger, &heard);
    let third = ledger.bookie(ledger.ensemble()[2]);
    third.faults().hold_answers();
    appender.append(payload(b"x")).expect("open");
    heard.until_confirmed(1).await;
    third.faults().release_answers();
    assert_eq!(appender.finish().await.expect("all is well").holes, [], "its answer was under way");
}

#[tokio::test]
async fn an_idle_writer_tells_its_bookies_once_what_is_confirmed() {
    let (ledger, heard) = (Ledger::new(3, 2, 3), Heard::new());
    let observed = Observed::of(ledger.directory.clone());
    let deps = LedgerDeps::new(observed.clone(), Arc::new(ManualClock::default()));
    let idle = deps.idle.clone();
    let ticker = tokio::spawn(async move { idle.run().await });
    let hung = ledger.ensemble()[1];
    ledger.bookie(hung).faults().always(Some(Fault::Hang));
    let (metadata, store) = (ledger.metadata.clone(), ledger.store.clone());
    let appender = LedgerAppender::open(deps.clone(), metadata, store, heard.callback());
    let reader = LedgerReader::new(deps);
    for round in 1..=3 {
        appender.append(payload(b"a")).expect("open");
        appender.append(payload(b"b")).expect("open");
        heard.until_confirmed(round * 2).await;
        let waiting = async {
            while observed.confirms().len() < round as usize * 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("the bookies are told");
        ledger.bookie(hung).faults().always(None);
        let lac = reader.last_confirmed(&ledger.metadata).await.expect("a bookie answers");
        assert_eq!(lac, Lac::from_count(round * 2), "a reader in another process sees the last entry");
        ledger.bookie(hung).faults().always(Some(Fault::Hang));
    }
    assert!(observed.confirms().iter().all(|(member, _)| *member != hung), "it does not hold everything");
    assert_eq!(observed.confirms().len(), 6, "over all these ticks nothing was said twice");
    ticker.abort();
}

#[tokio::test]
async fn hung_bookies_that_are_gone_are_replaced_before_their_calls_end() {
    let (ledger, heard) = (Ledger::new(3, 2, 4), Heard::new());
    let appender = open(&ledger, &heard);
    let [first, second, third] = ledger.ensemble()[..] else { panic!("three members") };
    for hung in [first, second] {
        ledger.bookie(hung).faults().always(Some(Fault::Hang));
    }
    appender.append(payload(b"x")).expect("open");
    while appender.0.state.lock().machine.first_unanswered(third).is_some() {
        tokio::task::yield_now().await;
    }
    appender.abandon(third);
    appender.abandon(first);
    heard.until_confirmed(1).await;
    assert!(appender.members().contains(&(ledger.spare(), true)), "{:?}", appender.members());
    appender.abandon(second);
    assert!(appender.members().contains(&(second, false)), "not needed any more");
    ledger.directory.set_reachable(first.id.0, false);
    for needed in [ledger.spare(), third] {
        ledger.bookie(needed).faults().always(Some(Fault::Hang));
    }
    appender.append(payload(b"y")).expect("open");
    appender.abandon(third);
    assert!(appender.members().contains(&(third, true)), "the ack quorum cannot do without it, so it is waited for");
    assert_eq!(appender.in_flight(), 1);
}

#[tokio::test]
async fn what_a_replaced_bookie_lacks_is_in_metadata_before_the_ledger_ends() {
    let (ledger, heard) = (Ledger::new(3, 2, 4), Heard::new());
    let appender = open(&ledger, &heard);
    let failed = ledger.ensemble()[0];
    ledger.bookie(failed).faults().hang_next();
    appender.append(payload(b"a")).expect("open");
    heard.until_confirmed(1).await;
    ledger.bookie(failed).faults().fail_next(BookieError::Storage { reason: "disk".into() });
    appender.append(payload(b"b")).expect("open");
    heard.until_confirmed(2).await;
    while appender.metadata().fragments.len() < 2 && appender.metadata().holes.is_empty() {
        tokio::task::yield_now().await;
    }
    let holes = appender.metadata().holes;
    assert!(matches!(&holes[..], [hole] if hole.member == failed && *hole.entries.start() == 0), "{holes:?}");
    // Its broker may die now: whoever recovers the ledger knows.
    let in_recovery = LedgerMetadata { state: LedgerState::InRecovery, ..appender.metadata() };
    drop(appender);
    let recovered = crate::ledger::recover(&ledger.deps(), &in_recovery).await.expect("recovered");
    assert_eq!(recovered.holes, holes);
}

//! Clients over a stream against the fake with random faults, and against services with a bug each of which must be found.

use super::*;
use crate::{
    id::{Revision, SessionId},
    model::ConfigRecord,
    runtime::Tasks,
    service::{
        Answer,
        metadata::{self, Consistency, MetadataError, Operation, Scan, ScanPage, Transaction, Versioned, WatchStream},
        ready,
    },
    testing::{
        FakeMetadata, Fault,
        linearizability::{self, Action, CONFIGURATIONS, Effect, NotProven, When},
        oracles::{
            sequences::{self, Repeated},
            watches::{Commits, Told},
        },
    },
    wire::metadata::{MemoryLine, MetadataServer, RemoteMetadata, RemoteOptions},
};
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::HashMap;

const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// Nothing.
    None,
    /// Most reads come from a copy that is behind.
    StaleReads,
    /// Some conditions are not looked at.
    IgnoredConditions,
    /// A retry happens again.
    RetriesHappenAgain,
    /// The operations of a transaction happen one after the other.
    TornTransactions,
    /// Some writes are acknowledged and do not happen.
    LostWrites,
    /// Some writes are refused and happen.
    RefusedWritesHappen,
    /// Some numbers are issued twice.
    RepeatedNumbers,
}

/// The fake with a bug.
struct Broken {
    fake: FakeMetadata,
    bug: Bug,
    calls: AtomicUsize,
    copy: Mutex<HashMap<String, Option<Versioned>>>,
    numbers: Mutex<Vec<u64>>,
}

impl Broken {
    fn new(fake: FakeMetadata, bug: Bug) -> Self {
        Self { fake, bug, calls: AtomicUsize::new(0), copy: Mutex::default(), numbers: Mutex::default() }
    }

    /// Whether it is this bug's turn, each `every`th time.
    fn strikes(&self, bug: Bug, every: usize) -> bool {
        self.bug == bug && self.calls.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }

    fn torn(&self, transaction: Transaction) -> Answer<metadata::Outcome, MetadataError> {
        let Transaction { conditions, operations, request } = transaction;
        let mut answers = Vec::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let conditions = if number == 0 { conditions.clone() } else { Vec::new() };
            let request = request.filter(|_| number == 0);
            let part = Transaction { conditions, operations: vec![operation], request };
            let answer = self.fake.transact(part).now_or_never().expect("the fake answers at once");
            let goes_on = matches!(answer, Ok(metadata::Outcome::Committed { .. }));
            answers.push(answer);
            if !goes_on {
                break;
            }
        }
        ready(answers.pop().expect("at least one operation"))
    }
}

impl MetadataService for Broken {
    fn get(&self, key: String, consistency: Consistency) -> Answer<Option<Versioned>, MetadataError> {
        let fresh = self.fake.peek(&key);
        if self.bug != Bug::StaleReads {
            return self.fake.get(key, consistency);
        }
        let refresh = self.strikes(Bug::StaleReads, 5);
        let mut copy = self.copy.lock();
        let seen = copy.entry(key).or_insert_with(|| fresh.clone());
        if refresh {
            *seen = fresh;
        }
        ready(Ok(seen.clone()))
    }

    fn scan(&self, scan: Scan) -> Answer<ScanPage, MetadataError> {
        self.fake.scan(scan)
    }

    fn transact(&self, mut transaction: Transaction) -> Answer<metadata::Outcome, MetadataError> {
        let takes = matches!(transaction.operations[..], [Operation::Sequence { .. }]);
        if self.strikes(Bug::IgnoredConditions, 5) {
            transaction.conditions.clear();
        }
        if self.bug == Bug::RetriesHappenAgain {
            transaction.request = None;
        }
        if self.bug == Bug::TornTransactions {
            return self.torn(transaction);
        }
        if !takes && transaction.conditions.is_empty() && self.strikes(Bug::LostWrites, 20) {
            let revision = Revision(self.fake.revision().0 + 1);
            return ready(Ok(metadata::Outcome::Committed { revision, sequences: Vec::new() }));
        }
        let refuses = self.strikes(Bug::RefusedWritesHappen, 20);
        let repeats = takes && self.strikes(Bug::RepeatedNumbers, 5);
        let answer =
            self.fake.transact(transaction).now_or_never().unwrap_or_else(|| {
                Err(MetadataError::OutcomeUnknown { reason: "a fault of the fake would hang".into() })
            });
        if refuses {
            return ready(Err(MetadataError::Unavailable { reason: "so it says".into() }));
        }
        ready(answer.map(|outcome| match outcome {
            metadata::Outcome::Committed { revision, sequences } if takes => {
                let mut numbers = self.numbers.lock();
                let sequences = if repeats { numbers.clone() } else { sequences };
                numbers.clone_from(&sequences);
                metadata::Outcome::Committed { revision, sequences }
            }
            other => other,
        }))
    }

    fn watch(&self, prefix: String, after: Revision) -> Answer<WatchStream, MetadataError> {
        self.fake.watch(prefix, after)
    }

    fn open_session(&self, ttl: Duration) -> Answer<SessionId, MetadataError> {
        self.fake.open_session(ttl)
    }

    fn keep_alive(&self, session: SessionId) -> Answer<(), MetadataError> {
        self.fake.keep_alive(session)
    }

    fn close_session(&self, session: SessionId) -> Answer<(), MetadataError> {
        self.fake.close_session(session)
    }
}

/// Faults for so many calls, by a fixed pattern: refused, lost before or after they happened; every `hangs`th never
/// answers.
fn trouble(fake: &FakeMetadata, calls: u64, hangs: Option<u64>) {
    let unavailable = || MetadataError::Unavailable { reason: "trouble".into() };
    let unknown = || MetadataError::OutcomeUnknown { reason: "trouble".into() };
    for n in 0..calls {
        fake.faults().push(match n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59 {
            0 => Fault::Refuse(unavailable()),
            1 => Fault::Refuse(unknown()),
            2..=4 => Fault::LoseAnswer(unknown()),
            _ if hangs.is_some_and(|hangs| n % hangs == 0) => Fault::Hang,
            _ => Fault::Pass,
        });
    }
}

/// Two remote handles of a service: a retry travels on another connection, and may overtake. They make no call again by
/// themselves: a run has to see what fails.
fn handles_of(
    service: &Arc<dyn MetadataService>,
    deadline: Duration,
    tasks: [&Tasks; 2],
) -> Vec<Arc<dyn MetadataService>> {
    let [server, client] = tasks;
    let options = RemoteOptions { deadline, ..RemoteOptions::default() };
    let handle = || {
        let line = MemoryLine::to("memory", MetadataServer::of(Arc::clone(service), server), server);
        Arc::new(RemoteMetadata::passing_across(&line, options, client))
    };
    vec![handle(), handle()]
}

async fn history_of(service: Arc<dyn MetadataService>, load: &Load, deadline: Duration) -> Result<History, TooFew> {
    let (server, client) = (Tasks::default(), Tasks::default());
    let handles = handles_of(&service, deadline, [&server, &client]);
    let history = load.run(&handles, &CancellationToken::new()).await;
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
    history
}

#[tokio::test]
async fn a_service_that_is_right_is_proven_right_whatever_gets_lost() {
    let fake = FakeMetadata::new();
    trouble(&fake, 6_000, Some(499));
    let load = Load { calls: 5_000, clients: 8, floor: 0.5, ..Load::default() };
    let history = history_of(fake.service(), &load, Duration::from_millis(200)).await.expect("most succeeds");
    linearizability::check(&history.calls, CONFIGURATIONS).unwrap_or_else(|problem| panic!("{problem}"));
    sequences::check(&history.taken).expect("no number twice");
    let count = |wanted: fn(&Outcome) -> bool| history.calls.iter().filter(|call| wanted(&call.outcome)).count();
    assert!(count(|outcome| matches!(outcome, Outcome::Conflict(_))) > 0, "conditions fail");
    assert!(count(|outcome| matches!(outcome, Outcome::Unknown)) > 0, "answers get lost");
    assert!(count(|outcome| matches!(outcome, Outcome::Failed)) > 0, "calls are refused");
    assert!(!history.taken.is_empty(), "numbers are taken");
    let overlaps = |a: &Call, b: &Call| a.client != b.client && a.invoked < b.returned && b.invoked < a.returned;
    assert!(history.calls.iter().any(|a| history.calls.iter().any(|b| overlaps(a, b))), "calls are concurrent");
}

#[tokio::test]
async fn every_bug_is_found() {
    use Bug::{
        IgnoredConditions, LostWrites, RefusedWritesHappen, RepeatedNumbers, RetriesHappenAgain, StaleReads,
        TornTransactions,
    };
    let bugs = [
        Bug::None,
        StaleReads,
        IgnoredConditions,
        RetriesHappenAgain,
        TornTransactions,
        LostWrites,
        RefusedWritesHappen,
        RepeatedNumbers,
    ];
    for bug in bugs {
        let fake = FakeMetadata::new();
        trouble(&fake, 4_000, None);
        let load = Load { calls: 3_000, clients: 4, ..Load::default() };
        let history = history_of(Arc::new(Broken::new(fake, bug)), &load, PATIENCE).await.expect("most succeeds");
        let numbers: Result<(), Repeated> = sequences::check(&history.taken);
        let keys: Result<(), NotProven> = linearizability::check(&history.calls, CONFIGURATIONS);
        assert!(!matches!(keys, Err(NotProven::Undecided { .. } | NotProven::Unfit(_))), "{bug:?}: {keys:?}");
        let (expected_numbers, expected_keys) = (bug != RepeatedNumbers, matches!(bug, Bug::None | RepeatedNumbers));
        assert_eq!((numbers.is_ok(), keys.is_ok()), (expected_numbers, expected_keys), "{bug:?}: {keys:?}");
    }
}

#[tokio::test]
async fn a_watcher_loses_and_repeats_nothing_although_its_watches_end_and_the_past_is_forgotten() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    trouble(&fake, 6_000, None);
    let handles = handles_of(&fake.service(), PATIENCE, [&server, &client]);
    let load = Load { calls: 5_000, clients: 4, ..Load::default() };
    let (target, reached) = tokio::sync::watch::channel(None);
    let nuisance = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        for n in 0_u64.. {
            tick.tick().await;
            fake.end_watches();
            if n % 4 == 3 {
                fake.compact();
            }
        }
    };
    let calling = async {
        let stop = CancellationToken::new();
        let history = tokio::select! {
            history = load.run(&handles, &stop) => history.expect("most succeeds"),
            () = nuisance => unreachable!("it goes on"),
        };
        let last = fake.put("history/last".into(), &ConfigRecord::default());
        target.send_replace(Some(last));
        (history, last)
    };
    let ((history, last), (told, resumed)) = tokio::join!(calling, follow(&handles, "history/", reached));
    let mut calls = history.calls;
    let effect = Effect { key: "history/last".into(), value: fake.peek("history/last").map(|item| item.value) };
    let action = Action::Write { when: When::Always, effects: vec![effect] };
    calls.push(Call { client: 99, invoked: 100_000, returned: 100_001, action, outcome: Outcome::Written(last) });
    linearizability::check(&calls, CONFIGURATIONS).unwrap_or_else(|problem| panic!("{problem}"));
    let commits = Commits::of(&calls, "history/").expect("whole transactions");
    commits.check(&told, last).unwrap_or_else(|problem| panic!("{problem}"));
    let lists = told.iter().filter(|told| matches!(told, Told::Listed { .. })).count();
    let events = told.len() - lists;
    assert!(events > 100 && lists > 1 && resumed > lists, "{events} events, {lists} lists, {resumed} resumed");
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_run_in_which_too_little_succeeds_proves_nothing() {
    let fake = FakeMetadata::new();
    fake.faults().always(Some(Fault::Refuse(MetadataError::Unavailable { reason: "down".into() })));
    let load = Load { calls: 50, floor: 0.0, ..Load::default() };
    let nothing = history_of(fake.service(), &load, PATIENCE).await;
    assert!(matches!(nothing, Err(TooFew { succeeded: 0, made: 50, .. })), "{nothing:?}");
    fake.faults().always(None);
    trouble(&fake, 50, None);
    let strict = Load { floor: 1.0, ..load };
    assert!(matches!(history_of(fake.service(), &strict, PATIENCE).await, Err(TooFew { made: 50, .. })));
}

#[tokio::test]
async fn a_run_ends_when_it_is_told_to() {
    let stop = CancellationToken::new();
    stop.cancel();
    let handles = [FakeMetadata::new().service()];
    let ended = Load::default().run(&handles, &stop).await;
    assert_eq!(ended, Err(TooFew { succeeded: 0, made: 0, floor: 0.1 }));
}

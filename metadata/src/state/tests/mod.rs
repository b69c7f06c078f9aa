//! The state machine against a naive model, and its rules one by one.

mod scale;

use super::*;
use crate::applied::Applied;
use bytes::Bytes;
use proptest::prelude::*;
use protocol::service::metadata::{
    Change, Condition, MAX_SESSION_BYTES, MAX_SESSION_KEYS, MetadataError, Operation, Outcome, RequestId, Transaction,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

fn put(key: &str, value: &str, session: Option<SessionId>) -> Operation {
    Operation::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), session }
}

fn run(state: &mut State, conditions: Vec<Condition>, operations: Vec<Operation>) -> Result<Outcome, MetadataError> {
    let reply = state.apply(Transaction { conditions, operations, request: None }.into());
    state.check();
    reply.into_outcome()
}

fn open(state: &mut State) -> SessionId {
    state.apply(Command::OpenSession { ttl_ms: 1000 }).into_session().expect("opens")
}

#[test]
fn all_or_nothing() {
    let mut s = State::default();
    run(&mut s, vec![], vec![put("a", "1", None)]).expect("commits");
    let conditions = vec![Condition::Present("a".into()), Condition::Absent("a".into())];
    let outcome = run(&mut s, conditions, vec![put("b", "1", None), Operation::Delete("a".into())]);
    let current = s.get("a");
    assert_eq!(outcome, Ok(Outcome::Conflict { condition: 1, current }));
    assert_eq!((s.get("b"), s.revision()), (None, Revision(1)));
}

#[test]
fn versions_compare_and_swap() {
    let mut s = State::default();
    run(&mut s, vec![], vec![put("a", "1", None)]).expect("commits");
    let swap = |s: &mut State, version| {
        run(s, vec![Condition::Version("a".into(), Revision(version))], vec![put("a", "2", None)])
    };
    assert_eq!(swap(&mut s, 1), Ok(Outcome::Committed { revision: Revision(2), sequences: vec![] }));
    assert!(matches!(swap(&mut s, 1), Ok(Outcome::Conflict { condition: 0, current: Some(_) })));
}

#[test]
fn sequences_never_repeat_and_refuse_to_wrap() {
    let mut s = State::default();
    let take = |count| Operation::Sequence { name: "ledger".into(), count };
    let first = run(&mut s, vec![], vec![take(3), take(1)]);
    assert_eq!(first, Ok(Outcome::Committed { revision: Revision(1), sequences: vec![1, 4] }));
    let wrap = run(&mut s, vec![], vec![put("a", "1", None), take(u64::MAX)]);
    assert!(matches!(wrap, Err(MetadataError::Invalid(_))));
    assert_eq!(s.get("a"), None);
    let next = run(&mut s, vec![], vec![take(1)]);
    assert_eq!(next, Ok(Outcome::Committed { revision: Revision(2), sequences: vec![5] }));
}

#[test]
fn ephemeral_keys_die_with_their_session() {
    let mut s = State::default();
    let (one, two) = (open(&mut s), open(&mut s));
    assert_ne!(one, two);
    run(&mut s, vec![], vec![put("a", "", Some(one)), put("b", "", Some(two)), put("c", "", Some(one))]).expect("ok");
    // A key that is written again without the session no longer dies with it; one written by another changes hands.
    run(&mut s, vec![], vec![put("c", "kept", None)]).expect("ok");
    assert_eq!(s.apply(Command::CloseSession { session: one }), Reply::Closed);
    assert_eq!((s.get("a"), s.get("b").is_some(), s.get("c").is_some()), (None, true, true));
    assert_eq!(s.apply(Command::CloseSession { session: one }), Reply::SessionExpired(one));
    let late = run(&mut s, vec![], vec![put("d", "", None), put("a", "", Some(one))]);
    assert_eq!(late, Err(MetadataError::SessionExpired(one)));
    assert_eq!(s.get("d"), None);
    let guarded = run(&mut s, vec![Condition::Session(one)], vec![]);
    assert_eq!(guarded, Ok(Outcome::Conflict { condition: 0, current: None }));
}

#[test]
fn a_retry_gets_the_first_answer() {
    let mut s = State::default();
    let once = |sequence| Transaction {
        conditions: vec![],
        operations: vec![Operation::Sequence { name: "x".into(), count: 1 }],
        request: Some(RequestId { client: u128::MAX - 5, sequence }),
    };
    let first = s.apply(once(1).into());
    assert_eq!(s.apply(once(1).into()), first);
    assert_ne!(s.apply(once(2).into()), first);
    // The answer survives a snapshot.
    let mut again = State::decode(&s.encode()).expect("decodes");
    assert_eq!(again.apply(once(1).into()), first);
}

#[test]
fn scans_page_in_key_order() {
    let mut s = State::default();
    for key in ["t/c", "t/a", "u/a", "t/b", "s"] {
        run(&mut s, vec![], vec![put(key, "12345", None)]).expect("ok");
    }
    let keys = |(items, more): (Vec<Versioned>, bool)| (items.into_iter().map(|i| i.key).collect::<Vec<_>>(), more);
    assert_eq!(keys(s.scan("t/", None, 2, 1000)), (vec!["t/a".into(), "t/b".into()], true));
    assert_eq!(keys(s.scan("t/", Some("t/b"), 2, 1000)), (vec!["t/c".into()], false));
    assert!(!s.scan("t/", None, 3, 1000).1);
    assert_eq!(keys(s.scan("t/", None, 9, 1)), (vec!["t/a".into()], true));
    assert_eq!(keys(s.scan("t/", Some("a"), 1, 9)), (vec!["t/a".into()], true));
    assert_eq!(keys(s.scan("t/", Some("z"), 9, 1000)), (vec![], false));
}

#[test]
fn history_tells_what_changed() {
    let mut s = State::default();
    let session = open(&mut s);
    run(&mut s, vec![], vec![put("a", "1", Some(session)), Operation::Delete("nothing".into())]).expect("ok");
    s.apply(Command::CloseSession { session });
    let Since::Events(events) = s.history().since(Revision(0), 10) else { panic!("kept") };
    assert!(matches!(&events[0].changes[..], [Change::Put(item)] if item.key == "a"));
    assert_eq!(events[1].changes, [Change::Deleted("a".into())]);
}

#[test]
fn a_session_holds_so_many_keys_and_bytes_and_no_more() {
    let mut s = State::default();
    let (one, two) = (open(&mut s), open(&mut s));
    let many = |from: u64, to: u64| (from..to).map(|n| put(&format!("e/{n:05}"), "", Some(one))).collect();
    run(&mut s, vec![], many(0, MAX_SESSION_KEYS)).expect("fits exactly");
    let full = run(&mut s, vec![], vec![put("one more", "", Some(one)), put("beside", "", None)]);
    let Err(MetadataError::Invalid(reason)) = full else { panic!("{full:?}") };
    assert!(reason.contains("10001 keys") && reason.contains("10000"), "{reason}");
    assert_eq!(s.get("beside"), None, "nothing happened");
    // What is there in the end counts: one goes, one is written again, one comes.
    let swap =
        vec![put("one more", "", Some(one)), put("e/00001", "x", Some(one)), Operation::Delete("e/00000".into())];
    run(&mut s, vec![], swap).expect("fits");
    run(&mut s, vec![], vec![put("e/00002", "", Some(two)), put("e/00000", "", Some(one))]).expect("one changed hands");
    run(&mut s, vec![], many(3, 100)).expect("written again");

    let value = "v".repeat(MAX_SESSION_BYTES as usize / 4 - 2);
    let three = open(&mut s);
    let large = |name: &str| put(name, &value, Some(three));
    run(&mut s, vec![], ["b1", "b2", "b3", "b4"].map(large).into()).expect("fits exactly");
    let full = run(&mut s, vec![], vec![put("c", "", Some(three))]);
    let size = MAX_SESSION_BYTES + 1;
    assert_eq!(full, Err(MetadataError::TooLarge { what: "session", size, limit: MAX_SESSION_BYTES }));
    run(&mut s, vec![], vec![put("c", "", None), put("b1", "", None), large("b5")]).expect("fits");
}

#[test]
fn time_is_what_the_batches_say_and_nothing_else() {
    let applied = Applied::new(State::default());
    let batch = |elapsed| Batch::new(Duration::from_millis(elapsed), &[Command::OpenSession { ttl_ms: 1 }]);
    let seen = || applied.read(|s| (s.uptime_ms(), s.digest()));
    assert_eq!(applied.apply(&batch(1_500), 1), Ok(Replies(vec![Reply::Session(SessionId(1))])));
    assert_eq!(applied.apply(&batch(700), 2), Ok(Replies(vec![Reply::Session(SessionId(2))])));
    let before = seen();
    assert_eq!(before.0, 2_200);
    assert!(applied.apply(&Batch::of(9, &[1, 7]), 3).is_err());
    assert_eq!(seen(), before, "an unreadable batch changes nothing");
    applied.apply(&batch(u64::MAX), 4).expect("decodes");
    assert_eq!(seen().0, u64::MAX);
    // And it is part of what voters agree on.
    let (mut a, mut b) = (State::default(), State::default());
    a.advance(1);
    assert_ne!(a.digest(), b.digest());
    b.advance(1);
    assert_eq!(a.digest(), b.digest());
}

#[test]
fn a_day_of_silence_ends_a_client_however_many_batches_it_takes() {
    let mut s = State::default();
    let once = |n| Transaction { request: Some(RequestId { client: 7, sequence: n }), ..Transaction::default() };
    let first = s.apply(once(1).into());
    s.advance(600_000);
    assert_eq!(s.apply(once(1).into()), first);
    s.advance(601_000);
    assert_eq!(s.apply(once(1).into()), Reply::Forgotten);
    for _ in 0..25 {
        s.advance(3_600_000);
        s.check();
    }
    assert_eq!(s.apply(once(1).into()), Reply::Committed { revision: Revision(2), sequences: vec![] });
}

#[test]
fn every_part_of_the_state_has_its_place_in_the_digest() {
    let base = || {
        let mut s = State::default();
        let session = open(&mut s);
        run(&mut s, vec![], vec![put("a", "1", Some(session)), put("b", "1", None)]).expect("ok");
        s
    };
    let request = |sequence| Transaction {
        request: Some(RequestId { client: 1, sequence }),
        conditions: vec![Condition::Present("none".into())],
        ..Transaction::default()
    };
    let operate = |s: &mut State, operation| drop(run(s, vec![], vec![operation]));
    let changes: [&dyn Fn(&mut State); 10] = [
        &|_| {},
        &|s| operate(s, put("a", "2", Some(SessionId(1)))),
        &|s| operate(s, put("a", "1", None)),
        &|s| operate(s, put("c", "1", None)),
        &|s| operate(s, Operation::Delete("a".into())),
        &|s| operate(s, Operation::Sequence { name: "n".into(), count: 1 }),
        &|s| operate(s, Operation::Sequence { name: "n".into(), count: 2 }),
        &|s| s.last_session = open(s).0,
        &|s| drop(s.apply(request(1).into())),
        &|s| drop(s.apply(request(2).into())),
    ];
    let digests: BTreeSet<u64> = changes
        .iter()
        .map(|change| {
            let mut s = base();
            change(&mut s);
            s.digest()
        })
        .collect();
    assert_eq!(digests.len(), changes.len());
    // Voters of different versions compare digests: if this number changes, they see a divergence that is none.
    assert_eq!(base().digest(), 6_877_052_036_948_144_533);
}

#[test]
fn an_image_stays_as_it_was() {
    let mut s = State::default();
    let session = open(&mut s);
    for n in 0..1_000 {
        run(&mut s, vec![], vec![put(&format!("k/{n:04}"), "old", (n % 3 == 0).then_some(session))]).expect("ok");
    }
    let (image, bytes) = (s.image(), s.encode());
    s.apply(Command::CloseSession { session });
    run(&mut s, vec![], vec![put("k/0001", "new", None), Operation::Delete("k/0002".into())]).expect("ok");
    image.check();
    assert_eq!((image.encode(), image.history().after(image.revision()).map(Iterator::count)), (bytes, Ok(0)));
}

#[test]
fn a_restored_state_issues_no_number_again() {
    let mut s = State::default();
    let session = open(&mut s);
    let take =
        |s: &mut State, name: &str| match run(s, vec![], vec![Operation::Sequence { name: name.into(), count: 1 }]) {
            Ok(Outcome::Committed { sequences, revision }) => (sequences[0], revision.0),
            other => panic!("{other:?}"),
        };
    take(&mut s, "ledger");
    run(&mut s, vec![], vec![put("e", "", Some(session)), put("k", "v", None)]).expect("ok");
    let backup = s.encode();
    // Issued after the backup was made, and gone with the cluster.
    let lost: Vec<_> = (0..100).map(|_| take(&mut s, "ledger")).collect();
    let lost_session = open(&mut s);
    let mut restored = State::decode(&backup).expect("decodes").restored();
    restored.check();
    assert_eq!(restored.get("k"), State::decode(&backup).expect("decodes").get("k"), "keys keep their versions");
    assert_eq!(restored.session_ttl(session), Some(1_000));
    assert_eq!(take(&mut restored, "ledger"), (2 + RESTORE_JUMP, 3 + RESTORE_JUMP));
    assert!(lost.iter().all(|(number, revision)| *number < RESTORE_JUMP && *revision < RESTORE_JUMP));
    assert_eq!(open(&mut restored), SessionId(2 + RESTORE_JUMP));
    assert_eq!(restored.session_ttl(lost_session), None);
    assert_eq!(restored.apply(Command::CloseSession { session }), Reply::Closed);
    assert_eq!(restored.get("e"), None);
    assert!(matches!(restored.history().since(Revision(3), 1), Since::Compacted { .. }), "the past is another one");
    restored.check();
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Transact { conditions: Vec<(u8, u8, u8)>, operations: Vec<(u8, u8, u8)>, request: Option<(u8, u8)> },
    Open,
    Close(u8),
    Elapse(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let triple = || (0..5u8, 0..6u8, 0..5u8);
    let step = prop_oneof![
        6 => (
            proptest::collection::vec(triple(), 0..2),
            proptest::collection::vec(triple(), 0..4),
            proptest::option::of((0..2u8, 0..8u8)),
        )
            .prop_map(|(conditions, operations, request)| Step::Transact { conditions, operations, request }),
        1 => Just(Step::Open),
        1 => (0..5u8).prop_map(Step::Close),
        1 => prop_oneof![0..3_000u64, 0..900_000u64, Just(86_400_000u64)].prop_map(Step::Elapse),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A value of which a session may hold four.
static LARGE: [u8; 1_000_000] = [7; 1_000_000];

fn command(step: &Step, revision: Revision) -> Command {
    let key = |k: u8| format!("k{k}");
    match step {
        Step::Open => Command::OpenSession { ttl_ms: 5 },
        Step::Close(n) => Command::CloseSession { session: SessionId(u64::from(*n)) },
        Step::Elapse(_) => Command::Audit { index: 0, digest: 0 },
        Step::Transact { conditions, operations, request } => Transaction {
            conditions: conditions
                .iter()
                .map(|&(kind, k, back)| match kind {
                    0 => Condition::Absent(key(k)),
                    1 => Condition::Present(key(k)),
                    2 => Condition::Session(SessionId(u64::from(back))),
                    _ => Condition::Version(key(k), Revision(revision.0.saturating_sub(u64::from(back)))),
                })
                .collect(),
            operations: operations
                .iter()
                .map(|&(kind, k, session)| match kind {
                    0 => Operation::Delete(key(k)),
                    1 => Operation::Sequence { name: key(k), count: u64::from(session) + 1 },
                    2 => put(&key(k), "eph", Some(SessionId(u64::from(session)))),
                    // Five of them are more than a session may hold.
                    3 => {
                        let (value, session) = (Bytes::from_static(&LARGE), Some(SessionId(u64::from(session) / 2)));
                        Operation::Put { key: key(k), value, session }
                    }
                    _ => put(&key(k), "val", None),
                })
                .collect(),
            request: request.map(|(c, n)| RequestId { client: u128::from(c), sequence: u64::from(n) }),
        }
        .into(),
    }
}

/// Does a step to a state, and answers what it replied.
fn step_on(state: &mut State, step: &Step) -> Reply {
    if let Step::Elapse(ms) = step {
        state.advance(*ms);
    }
    let reply = state.apply(command(step, state.revision()));
    state.check();
    reply
}

/// What a naive client table remembers; times in milliseconds.
#[derive(Default, Clone)]
struct Asker {
    answers: BTreeMap<u64, Reply>,
    highest: u64,
    given_up: Option<u64>,
    heard: u64,
}

/// The rules again, as plainly as possible: copies of whole maps, no indexes.
#[derive(Default, Clone)]
struct Naive {
    revision: u64,
    uptime: u64,
    keys: BTreeMap<String, (Bytes, u64, Option<u64>)>,
    sequences: HashMap<String, u64>,
    sessions: BTreeSet<u64>,
    opened: u64,
    askers: HashMap<(u64, u64), Asker>,
}

impl Naive {
    fn step(&mut self, step: &Step) -> Reply {
        if let Step::Elapse(ms) = step {
            self.uptime += ms;
        }
        let now = self.uptime / 1_000;
        self.askers.retain(|_, asker| now - asker.heard <= 86_400);
        for asker in self.askers.values_mut().filter(|asker| now - asker.heard > 600) {
            asker.answers.clear();
            asker.given_up = Some(asker.highest);
        }
        match command(step, Revision(self.revision)) {
            Command::OpenSession { .. } => {
                self.opened += 1;
                self.sessions.insert(self.opened);
                Reply::Session(SessionId(self.opened))
            }
            Command::CloseSession { session } => {
                if !self.sessions.remove(&session.0) {
                    return Reply::SessionExpired(session);
                }
                self.revision += 1;
                self.keys.retain(|_, item| item.2 != Some(session.0));
                Reply::Closed
            }
            Command::Audit { .. } => Reply::Audited(Agreement::Unknown),
            Command::Transact { conditions, operations, request: None } => self.transact(&conditions, &operations),
            Command::Transact { conditions, operations, request: Some(r) } => {
                if let Some(asker) = self.askers.get_mut(&r.client) {
                    asker.heard = now;
                    match asker.answers.get(&r.sequence) {
                        Some(first) => return first.clone(),
                        None if asker.given_up.is_some_and(|up_to| r.sequence <= up_to) => return Reply::Forgotten,
                        None if r.sequence < asker.highest => return Reply::Superseded,
                        None => {}
                    }
                }
                let reply = self.transact(&conditions, &operations);
                let asker = self.askers.entry(r.client).or_default();
                asker.answers.insert(r.sequence, reply.clone());
                (asker.highest, asker.heard) = (r.sequence, now);
                reply
            }
        }
    }

    fn transact(&mut self, conditions: &[StoredCondition], operations: &[StoredOperation]) -> Reply {
        use StoredCondition as C;
        let failed = conditions.iter().position(|c| match c {
            C::Absent(k) => self.keys.contains_key(k),
            C::Present(k) => !self.keys.contains_key(k),
            C::Version(k, v) => self.keys.get(k).map(|i| i.1) != Some(v.0),
            C::Session(s) => !self.sessions.contains(&s.0),
        });
        let Some(at) = failed else { return self.effects(operations) };
        let key = match &conditions[at] {
            C::Absent(k) | C::Present(k) | C::Version(k, _) => k.clone(),
            C::Session(_) => String::new(),
        };
        let current = self.keys.get(&key).map(|(value, version, session)| StoredVersioned {
            key: key.clone(),
            value: value.clone(),
            version: Revision(*version),
            session: session.map(SessionId),
        });
        Reply::Conflict { condition: at as u64, current }
    }

    fn effects(&mut self, operations: &[StoredOperation]) -> Reply {
        use StoredOperation as O;
        let mut next = self.clone();
        next.revision += 1;
        let (mut sequences, mut written_to) = (vec![], BTreeSet::new());
        for operation in operations {
            match operation {
                O::Put { session: Some(s), .. } if !next.sessions.contains(&s.0) => return Reply::SessionExpired(*s),
                O::Put { key, value, session } => {
                    next.keys.insert(key.clone(), (value.clone(), next.revision, session.map(|s| s.0)));
                }
                O::Delete(key) => drop(next.keys.remove(key)),
                O::Sequence { name, count } => {
                    let at = next.sequences.entry(name.clone()).or_insert(1);
                    sequences.push(*at);
                    *at += count;
                }
            }
        }
        written_to.extend(next.keys.values().filter(|item| item.1 == next.revision).filter_map(|item| item.2));
        for session in written_to {
            let held = next.keys.iter().filter(|(_, item)| item.2 == Some(session));
            let (keys, bytes) = held.fold((0, 0), |(n, sum), (key, item)| (n + 1, sum + key.len() + item.0.len()));
            if keys > MAX_SESSION_KEYS || bytes as u64 > MAX_SESSION_BYTES {
                return Reply::SessionFull { session: SessionId(session), keys, bytes: bytes as u64 };
            }
        }
        *self = next;
        Reply::Committed { revision: Revision(self.revision), sequences }
    }
}

proptest! {
    #[test]
    fn it_behaves_like_the_naive_model(steps in steps()) {
        let (mut state, mut naive) = (State::default(), Naive::default());
        for step in &steps {
            prop_assert_eq!(step_on(&mut state, step), naive.step(step));
        }
        let held: Vec<_> = state.scan("", None, usize::MAX, usize::MAX).0;
        let expected: Vec<_> = naive.keys.iter().map(|(key, (value, version, session))| Versioned {
            key: key.clone(), value: value.clone(), version: Revision(*version), session: session.map(SessionId),
        }).collect();
        prop_assert_eq!(held, expected);
        prop_assert_eq!((state.revision().0, state.uptime_ms()), (naive.revision, naive.uptime));
    }

    #[test]
    fn the_same_commands_make_the_same_state(steps in steps(), cuts in proptest::collection::btree_set(0..60usize, 3)) {
        let (mut whole, mut resumed) = (State::default(), State::default());
        for (n, step) in steps.iter().enumerate() {
            if cuts.contains(&n) {
                resumed = State::decode(&resumed.encode()).expect("decodes");
            }
            prop_assert_eq!(step_on(&mut whole, step), step_on(&mut resumed, step));
            prop_assert_eq!(whole.digest(), resumed.digest());
        }
        prop_assert_eq!(whole.encode(), resumed.encode());
    }

    #[test]
    fn a_restored_state_differs_only_in_its_numbers(steps in steps(), more in steps()) {
        let mut state = State::default();
        for step in &steps {
            step_on(&mut state, step);
        }
        let mut restored = state.image().restored();
        prop_assert_eq!(restored.scan("", None, usize::MAX, usize::MAX), state.scan("", None, usize::MAX, usize::MAX));
        prop_assert!(restored.sessions().eq(state.sessions()));
        prop_assert_ne!(restored.digest(), state.digest());
        for (name, next) in state.sequences.iter() {
            prop_assert_eq!(restored.sequences.get(name), Some(&(next + RESTORE_JUMP)));
        }
        for step in &more {
            match (step, step_on(&mut restored, step)) {
                // A retry from before the backup still gets its first answer.
                (Step::Transact { request: Some(_), .. }, _) => {}
                (_, Reply::Committed { revision, .. }) => prop_assert!(revision.0 > RESTORE_JUMP),
                (_, Reply::Session(session)) => prop_assert!(session.0 > RESTORE_JUMP),
                _ => {}
            }
        }
    }

    #[test]
    fn replaying_the_history_gives_the_keys(steps in steps()) {
        let mut state = State::default();
        for step in &steps {
            step_on(&mut state, step);
        }
        let Since::Events(events) = state.history().since(Revision(0), usize::MAX) else { panic!("kept") };
        let mut keys = BTreeMap::new();
        for event in events {
            for change in &event.changes {
                match change {
                    Change::Put(item) => drop(keys.insert(item.key.clone(), item.clone())),
                    Change::Deleted(key) => drop(keys.remove(key)),
                }
            }
        }
        prop_assert_eq!(keys.into_values().collect::<Vec<_>>(), state.scan("", None, usize::MAX, usize::MAX).0);
    }
}

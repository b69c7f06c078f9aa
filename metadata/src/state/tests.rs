//! The state machine against a naive model, and its rules one by one.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use protocol::service::metadata::{Change, Condition, MetadataError, Operation, Outcome, RequestId, Transaction};
use std::collections::HashMap;

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
fn damaged_and_newer_snapshots_are_refused() {
    let mut s = State::default();
    run(&mut s, vec![], vec![put("a", "1", None)]).expect("ok");
    let good = s.encode();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(State::decode(&bad).is_err(), "byte {at}");
    }
    assert!(State::decode(&good[..5]).is_err());
    let mut newer = good[..good.len() - 8].to_vec();
    newer[0] = 2;
    let sum = newer.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    newer.extend(sum.to_be_bytes());
    assert_eq!(State::decode(&newer).map(|_| ()), Err(SnapshotError::Version { found: 2 }));
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Transact { conditions: Vec<(u8, u8, u8)>, operations: Vec<(u8, u8, u8)>, request: Option<u8> },
    Open,
    Close(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let triple = || (0..4u8, 0..6u8, 0..5u8);
    let step = prop_oneof![
        6 => (
            proptest::collection::vec(triple(), 0..2),
            proptest::collection::vec(triple(), 0..4),
            proptest::option::of(0..8u8),
        )
            .prop_map(|(conditions, operations, request)| Step::Transact { conditions, operations, request }),
        1 => Just(Step::Open),
        1 => (0..5u8).prop_map(Step::Close),
    ];
    proptest::collection::vec(step, 0..60)
}

fn command(step: &Step, revision: Revision) -> Command {
    let key = |k: u8| format!("k{k}");
    match step {
        Step::Open => Command::OpenSession { ttl_ms: 5 },
        Step::Close(n) => Command::CloseSession { session: SessionId(u64::from(*n)) },
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
                    _ => put(&key(k), "val", None),
                })
                .collect(),
            request: request.map(|r| RequestId { client: 1, sequence: u64::from(r) }),
        }
        .into(),
    }
}

/// The rules again, as plainly as possible: copies of whole maps, no indexes.
#[derive(Default, Clone)]
struct Naive {
    revision: u64,
    keys: BTreeMap<String, (Bytes, u64, Option<u64>)>,
    sequences: HashMap<String, u64>,
    sessions: BTreeSet<u64>,
    opened: u64,
    answers: HashMap<u64, Reply>,
}

impl Naive {
    fn apply(&mut self, command: &Command) -> Reply {
        use super::command::StoredCondition as C;
        match command {
            Command::OpenSession { .. } => {
                self.opened += 1;
                self.sessions.insert(self.opened);
                Reply::Session(SessionId(self.opened))
            }
            Command::CloseSession { session } => {
                if !self.sessions.remove(&session.0) {
                    return Reply::SessionExpired(*session);
                }
                self.revision += 1;
                self.keys.retain(|_, item| item.2 != Some(session.0));
                Reply::Closed
            }
            Command::Transact { conditions, operations, request } => {
                if let Some(first) = request.and_then(|r| self.answers.get(&r.sequence)) {
                    return first.clone();
                }
                let failed = conditions.iter().position(|c| match c {
                    C::Absent(k) => self.keys.contains_key(k),
                    C::Present(k) => !self.keys.contains_key(k),
                    C::Version(k, v) => self.keys.get(k).map(|i| i.1) != Some(v.0),
                    C::Session(s) => !self.sessions.contains(&s.0),
                });
                let reply = match failed {
                    Some(at) => {
                        let key = match &conditions[at] {
                            C::Absent(k) | C::Present(k) | C::Version(k, _) => k.clone(),
                            C::Session(_) => String::new(),
                        };
                        let current = self.keys.get(&key).map(|(value, version, session)| Versioned {
                            key: key.clone(),
                            value: value.clone(),
                            version: Revision(*version),
                            session: session.map(SessionId),
                        });
                        Reply::Conflict { condition: at as u64, current: current.map(Into::into) }
                    }
                    None => self.effects(operations),
                };
                if let Some(r) = request {
                    self.answers.insert(r.sequence, reply.clone());
                }
                reply
            }
        }
    }

    fn effects(&mut self, operations: &[super::command::StoredOperation]) -> Reply {
        use super::command::StoredOperation as O;
        let mut next = self.clone();
        next.revision += 1;
        let mut sequences = vec![];
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
        *self = next;
        Reply::Committed { revision: Revision(self.revision), sequences }
    }
}

proptest! {
    #[test]
    fn it_behaves_like_the_naive_model(steps in steps()) {
        let (mut state, mut naive) = (State::default(), Naive::default());
        for step in &steps {
            let command = command(step, state.revision());
            let expected = naive.apply(&command);
            prop_assert_eq!(state.apply(command), expected);
            state.check();
        }
        let held: Vec<_> = state.scan("", None, usize::MAX, usize::MAX).0;
        let expected: Vec<_> = naive.keys.iter().map(|(key, (value, version, session))| Versioned {
            key: key.clone(), value: value.clone(), version: Revision(*version), session: session.map(SessionId),
        }).collect();
        prop_assert_eq!(held, expected);
        prop_assert_eq!(state.revision().0, naive.revision);
    }

    #[test]
    fn the_same_commands_make_the_same_state(steps in steps(), cut in 0..60usize) {
        let mut whole = State::default();
        let mut resumed = State::default();
        for (n, step) in steps.iter().enumerate() {
            if n == cut {
                resumed = State::decode(&resumed.encode()).expect("decodes");
            }
            let command = command(step, whole.revision());
            prop_assert_eq!(whole.apply(command.clone()), resumed.apply(command));
        }
        prop_assert_eq!(whole.digest(), resumed.digest());
    }

    #[test]
    fn replaying_the_history_gives_the_keys(steps in steps()) {
        let mut state = State::default();
        for step in &steps {
            let command = command(step, state.revision());
            state.apply(command);
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

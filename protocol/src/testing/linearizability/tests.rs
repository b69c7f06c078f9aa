//! Histories made by hand, fine and not, and what is said about those that are not.

mod brute;

use super::*;

const KEY: &str = "k";

fn value(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

fn held(text: &str, version: u64) -> Option<Held> {
    Some(Held { value: value(text), version: Revision(version) })
}

fn effect(key: &str, text: &str) -> Effect {
    Effect { key: key.into(), value: Some(value(text)) }
}

/// A call of a client from one position to another.
fn call(client: u32, times: (u64, u64), action: Action, outcome: Outcome) -> Call {
    Call { client, invoked: times.0, returned: times.1, action, outcome }
}

fn write(client: u32, times: (u64, u64), when: When, effects: Vec<Effect>, outcome: Outcome) -> Call {
    call(client, times, Action::Write { when, effects }, outcome)
}

fn put(client: u32, times: (u64, u64), text: &str, outcome: Outcome) -> Call {
    write(client, times, When::Always, vec![effect(KEY, text)], outcome)
}

fn put_if(client: u32, times: (u64, u64), version: u64, text: &str, outcome: Outcome) -> Call {
    let when = if version == 0 { When::Absent } else { When::Version(Revision(version)) };
    write(client, times, when, vec![effect(KEY, text)], outcome)
}

fn delete(client: u32, times: (u64, u64), outcome: Outcome) -> Call {
    write(client, times, When::Always, vec![Effect { key: KEY.into(), value: None }], outcome)
}

fn get(client: u32, times: (u64, u64), seen: Option<Held>) -> Call {
    call(client, times, Action::Get(KEY.into()), Outcome::Read(seen))
}

fn get_of(key: &str, client: u32, times: (u64, u64), seen: Option<Held>) -> Call {
    call(client, times, Action::Get(key.into()), Outcome::Read(seen))
}

fn written(revision: u64) -> Outcome {
    Outcome::Written(Revision(revision))
}

fn verdict(history: &[Call]) -> Result<(), NotProven> {
    check(history, CONFIGURATIONS)
}

/// Where the impossible call returned, if a key is the problem.
fn impossible_at(history: &[Call]) -> Option<u64> {
    match verdict(history) {
        Err(NotProven::Impossible(impossible)) => Some(impossible.position),
        Ok(()) => None,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn one_call_after_the_other_is_fine() {
    let history = [
        get(1, (1, 2), None),
        put(1, (3, 4), "a", written(5)),
        get(2, (5, 6), held("a", 5)),
        put_if(2, (7, 8), 5, "b", written(6)),
        put_if(1, (9, 10), 5, "c", Outcome::Conflict(held("b", 6))),
        delete(1, (11, 12), written(9)),
        put_if(2, (13, 14), 0, "d", written(10)),
        put_if(1, (15, 16), 0, "e", Outcome::Conflict(held("d", 10))),
    ];
    assert_eq!(verdict(&history), Ok(()));
}

#[test]
fn concurrent_calls_take_effect_in_any_order() {
    let history = [
        put(1, (1, 10), "a", written(1)),
        put(2, (2, 9), "b", written(2)),
        get(3, (3, 4), held("a", 1)),
        get(3, (5, 6), held("b", 2)),
        get(4, (3, 8), None),
    ];
    assert_eq!(verdict(&history), Ok(()));
}

#[test]
fn a_stale_read_is_found() {
    let history = [
        put(1, (1, 2), "a", written(1)),
        put(1, (3, 4), "b", written(2)),
        get(2, (5, 6), held("a", 1)),
        get(2, (7, 8), held("b", 2)),
    ];
    assert_eq!(impossible_at(&history), Some(6));
    let never_written = [put(1, (1, 2), "a", written(1)), get(2, (3, 4), None)];
    assert_eq!(impossible_at(&never_written), Some(4));
}

#[test]
fn reads_do_not_go_back_while_a_write_is_under_way() {
    let history = [put(1, (1, 20), "a", written(1)), get(2, (2, 3), held("a", 1)), get(3, (4, 5), None)];
    assert_eq!(impossible_at(&history), Some(5));
}

#[test]
fn a_lost_update_is_found() {
    let history =
        [put(1, (1, 2), "a", written(1)), put_if(1, (3, 6), 1, "b", written(2)), put_if(2, (4, 5), 1, "c", written(3))];
    assert_eq!(impossible_at(&history), Some(5));
}

#[test]
fn a_value_that_was_never_written_is_found() {
    let invented = [put(1, (1, 2), "a", written(1)), get(2, (3, 4), held("x", 2))];
    assert_eq!(impossible_at(&invented), Some(4));
    let failed = [put(1, (1, 2), "a", Outcome::Failed), get(2, (3, 4), held("a", 1))];
    assert_eq!(impossible_at(&failed), Some(4), "what certainly did not happen is not seen");
}

#[test]
fn an_unknown_write_happens_late_or_never_but_not_twice() {
    let unknown = put(1, (1, 2), "a", Outcome::Unknown);
    let never = [unknown.clone(), get(2, (3, 4), None)];
    assert_eq!(verdict(&never), Ok(()));
    let late = [unknown.clone(), get(2, (3, 4), None), put(2, (5, 6), "b", written(1)), get(2, (7, 8), held("a", 2))];
    assert_eq!(verdict(&late), Ok(()));
    let undone = [unknown.clone(), get(2, (3, 4), held("a", 1)), get(2, (5, 6), None)];
    assert_eq!(impossible_at(&undone), Some(6));
    let twice = [
        unknown,
        get(2, (3, 4), held("a", 1)),
        put(2, (5, 6), "b", written(2)),
        get(2, (7, 8), held("b", 2)),
        get(2, (9, 10), held("a", 3)),
    ];
    assert_eq!(impossible_at(&twice), Some(10));
}

#[test]
fn unknown_deletes_explain_only_as_many_gaps_as_there_are() {
    let puts = |n: u64| (0..n).map(|n| put(1, (10 * n + 1, 10 * n + 2), &n.to_string(), written(10 * (n + 1))));
    let gaps = |n: u64| (0..n).map(|n| get(2, (10 * n + 3, 10 * n + 4), None));
    let deletes = |n: u32| (0..n).map(|n| delete(3 + n, (0, 1), Outcome::Unknown));
    let history = |count: u64, unknown: u32| puts(count).chain(gaps(count)).chain(deletes(unknown)).collect::<Vec<_>>();
    assert_eq!(verdict(&history(3, 3)), Ok(()));
    assert_eq!(verdict(&history(3, 30)), Ok(()));
    assert_eq!(impossible_at(&history(3, 2)), Some(24));
}

#[test]
fn an_unknown_conditional_write_needs_its_condition() {
    let conditional = put_if(1, (3, 4), 1, "b", Outcome::Unknown);
    let fine = [put(1, (1, 2), "a", written(1)), conditional.clone(), get(2, (5, 6), held("b", 2))];
    assert_eq!(verdict(&fine), Ok(()));
    let broken = [
        put(1, (1, 2), "a", written(1)),
        put(2, (2, 3), "c", written(2)),
        get(2, (4, 5), held("c", 2)),
        conditional,
        get(2, (6, 7), held("b", 3)),
    ];
    assert_eq!(impossible_at(&broken), Some(7));
}

#[test]
fn a_conflict_needs_a_condition_that_does_not_hold() {
    let held_after_all = [put(1, (1, 2), "a", written(1)), put_if(2, (3, 4), 1, "b", Outcome::Conflict(held("a", 1)))];
    assert_eq!(impossible_at(&held_after_all), Some(4));
    let absent = [put_if(2, (3, 4), 0, "b", Outcome::Conflict(None))];
    assert_eq!(impossible_at(&absent), Some(4));
    let always = [put(2, (3, 4), "b", Outcome::Conflict(None))];
    assert_eq!(impossible_at(&always), Some(4));
}

#[test]
fn versions_do_not_go_back() {
    let history = [put(1, (1, 2), "a", written(7)), put(1, (3, 4), "b", written(6)), get(2, (5, 6), held("b", 6))];
    assert_eq!(impossible_at(&history), Some(4));
    let after_delete = [
        put(1, (1, 2), "a", written(7)),
        delete(1, (3, 4), written(8)),
        put(2, (5, 6), "b", Outcome::Unknown),
        get(2, (7, 8), held("b", 8)),
    ];
    assert_eq!(impossible_at(&after_delete), Some(8), "also where nobody was told of the version");
    let two_versions =
        [put(1, (1, 2), "a", Outcome::Unknown), get(2, (3, 4), held("a", 5)), get(2, (5, 6), held("a", 6))];
    assert_eq!(impossible_at(&two_versions), Some(6), "a value has one version");
}

#[test]
fn writes_to_different_keys_have_revisions_in_real_time_order() {
    let other = |times, revision| write(2, times, When::Always, vec![effect("other", "x")], written(revision));
    assert_eq!(verdict(&[put(1, (1, 2), "a", written(5)), other((3, 4), 6)]), Ok(()));
    assert_eq!(verdict(&[put(1, (1, 3), "a", written(5)), other((2, 4), 4)]), Ok(()), "they are concurrent");
    let back = verdict(&[put(1, (1, 2), "a", written(5)), other((3, 4), 4)]).expect_err("goes back");
    assert!(matches!(&back, NotProven::Backwards { floor: Revision(5), most: Revision(4), .. }), "{back}");
    let same = verdict(&[put(1, (1, 3), "a", written(5)), other((2, 4), 5)]).expect_err("one revision twice");
    assert!(matches!(same, NotProven::OneRevisionTwice { revision: Revision(5), .. }), "{same}");
}

#[test]
fn a_replica_that_is_behind_is_found_across_keys() {
    let other = |times, seen| get_of("other", 2, times, seen);
    let both = write(1, (3, 4), When::Always, vec![effect(KEY, "b"), effect("other", "y")], written(2));
    let start = write(1, (1, 2), When::Always, vec![effect(KEY, "a"), effect("other", "x")], written(1));
    let fine = [start.clone(), both.clone(), get(2, (5, 6), held("b", 2)), other((7, 8), held("y", 2))];
    assert_eq!(verdict(&fine), Ok(()));
    // Each key alone allows this while the transaction is under way; together they tear it.
    let slow = Call { returned: 20, ..both };
    let torn = [start, slow, get(2, (5, 6), held("b", 2)), other((7, 8), held("x", 1))];
    let torn = verdict(&torn).expect_err("a half of a transaction");
    assert!(matches!(&torn, NotProven::Backwards { floor: Revision(2), most: Revision(1), .. }), "{torn}");
}

#[test]
fn absence_has_its_place_too() {
    let other = |times, revision| write(3, times, When::Always, vec![effect("other", "x")], written(revision));
    let history = |gone: u64| {
        vec![
            put(1, (1, 2), "a", written(1)),
            delete(1, (3, 30), written(gone)),
            other((4, 5), 9),
            get(2, (6, 7), None),
            get(2, (8, 9), None),
        ]
    };
    assert_eq!(verdict(&history(5)), Ok(()));
    assert_eq!(verdict(&history(12)), Ok(()));
    let mut behind = history(12);
    behind.push(write(2, (10, 11), When::Always, vec![effect("third", "z")], written(10)));
    let behind = verdict(&behind).expect_err("the key was absent only from 12 on");
    assert!(matches!(&behind, NotProven::Backwards { floor: Revision(12), .. }), "{behind}");
}

#[test]
fn the_effects_of_a_transaction_have_one_revision() {
    let both = write(1, (1, 2), When::Always, vec![effect(KEY, "b"), effect("other", "y")], Outcome::Unknown);
    let history = [both, get(2, (5, 6), held("b", 2)), get_of("other", 2, (7, 8), held("y", 3))];
    let torn = verdict(&history).expect_err("two revisions");
    assert!(matches!(torn, NotProven::Torn { first: Revision(2), second: Revision(3), .. }), "{torn}");
}

#[test]
fn a_search_that_gives_up_says_so() {
    // Any of these unknown writes may have had the version that the last call names.
    let unknown = (0..12).map(|n| put(n, (u64::from(n), 50), &n.to_string(), Outcome::Unknown));
    let others = [put(30, (100, 101), "x", written(50)), put_if(30, (102, 103), 77, "y", written(100))];
    let history: Vec<_> = unknown.chain(others).collect();
    assert_eq!(verdict(&history), Ok(()));
    let gave_up = check(&history, 1_000).expect_err("too many configurations");
    assert!(matches!(gave_up, NotProven::Undecided { bound: 1_000, position: 101, .. }), "{gave_up}");
}

#[test]
fn what_is_not_a_history_is_refused() {
    let twice = [put(1, (1, 2), "a", written(1)), put(2, (3, 4), "a", written(2))];
    let backwards = [put(1, (2, 2), "a", written(1))];
    let other_answer = [call(1, (1, 2), Action::Get(KEY.into()), written(1))];
    let nothing = [write(1, (1, 2), When::Always, Vec::new(), written(1))];
    for history in [&twice[..], &backwards, &other_answer, &nothing] {
        assert!(matches!(verdict(history), Err(NotProven::Unfit(_))), "{history:?}");
    }
}

#[test]
fn a_long_history_with_much_at_a_time_takes_little() {
    let mut history = Vec::new();
    for n in 0..20_000_u64 {
        let times = (10 * n + 2, 10 * n + 30);
        let outcome = if n % 10 == 3 { Outcome::Unknown } else { written(3 * n + 3) };
        history.push(put(1, times, &n.to_string(), outcome));
        history.push(get(2, (10 * n + 35, 10 * n + 36), held(&n.to_string(), 3 * n + 3)));
    }
    assert_eq!(check(&history, 1_000), Ok(()));
}

#[test]
fn many_unknown_deletes_take_little_too() {
    let mut history = Vec::new();
    for n in 0..3_000_u64 {
        history.push(put(1, (10 * n + 1, 10 * n + 2), &n.to_string(), written(3 * n + 3)));
        history.push(delete(2, (10 * n + 3, 10 * n + 4), Outcome::Unknown));
        if n % 100 == 7 {
            history.push(get(3, (10 * n + 5, 10 * n + 6), None));
        }
    }
    assert_eq!(check(&history, 1_000), Ok(()));
}

#[test]
fn a_refutation_shows_the_calls_and_what_was_possible() {
    let history = [
        put(9, (0, 1), "of no matter", Outcome::Failed),
        put(1, (1, 2), "a", written(1)),
        put_if(1, (3, 9), 1, "b", written(2)),
        put(4, (4, 5), "z", Outcome::Unknown),
        get(2, (5, 6), held("b", 2)),
        get(3, (7, 8), held("a", 1)),
        get(3, (10, 11), held("z", 3)),
    ];
    let shown = verdict(&history).expect_err("a stale read").to_string();
    let expected = "\
key \"k\" is not linearizable up to position 8
              CLIENT  POSITIONS  ASKED          ANSWERED
  over        1       1..2       put k a        written @1
  open        1       3..9       put k b if @1  written @2
  open        4       4..never   put k z        unknown
  over        2       5..6       get k          b@2
  IMPOSSIBLE  3       7..8       get k          a@1
  before the impossible answer the key may have held: b@2";
    assert_eq!(shown, expected);
}

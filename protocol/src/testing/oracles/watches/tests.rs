//! Watchers that were told everything once, and watchers that were not.

use super::*;
use crate::testing::linearizability::When;

fn value(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

fn write(number: u64, effects: &[(&str, Option<&str>)], outcome: Outcome) -> Call {
    let effect = |(key, text): &(&str, Option<&str>)| Effect { key: (*key).into(), value: text.map(value) };
    let action = Action::Write { when: When::Always, effects: effects.iter().map(effect).collect() };
    Call { client: 1, invoked: 2 * number, returned: 2 * number + 1, action, outcome }
}

fn item(key: &str, text: &str, version: u64) -> Versioned {
    Versioned { key: key.into(), value: value(text), version: Revision(version), session: None }
}

fn put(key: &str, text: &str, version: u64) -> Change {
    Change::Put(item(key, text, version))
}

fn deleted(key: &str) -> Change {
    Change::Deleted(key.into())
}

fn event(revision: u64, changes: Vec<Change>) -> Told {
    Told::Event(WatchEvent { revision: Revision(revision), changes })
}

fn listed(revision: u64, items: Vec<Versioned>) -> Told {
    Told::Listed { items, revision: Revision(revision) }
}

/// Revisions 1 to 6 with everything that matters: two keys at once, another prefix, a delete of nothing, one of
/// something, and two writes whose outcome is unknown.
fn history() -> Vec<Call> {
    let at = |revision| Outcome::Written(Revision(revision));
    vec![
        write(1, &[("w/a", Some("1")), ("w/b", Some("1"))], at(1)),
        write(2, &[("elsewhere", Some("1"))], at(2)),
        write(3, &[("w/c", None)], at(3)),
        write(4, &[("w/a", None)], at(4)),
        write(5, &[("w/a", Some("5")), ("x", Some("5"))], at(6)),
        write(6, &[("w/b", Some("6")), ("w/c", Some("6"))], Outcome::Unknown),
        write(7, &[("w/b", None)], Outcome::Unknown),
    ]
}

fn verdict(told: &[Told], until: u64) -> Result<(), BrokenWatch> {
    let history = history();
    let commits = Commits::of(&history, "w/").expect("whole transactions");
    commits.check(told, Revision(until))
}

fn everything() -> Vec<Told> {
    vec![
        listed(0, Vec::new()),
        event(1, vec![put("w/a", "1", 1), put("w/b", "1", 1)]),
        event(4, vec![deleted("w/a")]),
        event(6, vec![put("w/a", "5", 6)]),
    ]
}

#[test]
fn everything_once_is_fine() {
    assert_eq!(verdict(&everything(), 6), Ok(()));
    let mut progress = everything();
    progress.insert(2, event(3, Vec::new()));
    progress.push(event(6, Vec::new()));
    progress.push(event(9, Vec::new()));
    assert_eq!(verdict(&progress, 9), Ok(()));
    assert_eq!(verdict(&everything()[..3], 5), Ok(()), "nothing more was committed up to there");
}

#[test]
fn a_lost_change_is_found_at_the_next_one_and_at_the_end() {
    for at in 1..4 {
        let mut told = everything();
        told.remove(at);
        let lost = Revision([1, 4, 6][at - 1]);
        assert!(matches!(verdict(&told, 6), Err(BrokenWatch::Lost { revision, .. }) if revision == lost), "{told:?}");
    }
    let mut hidden_by_progress = everything();
    hidden_by_progress[2] = event(5, Vec::new());
    let lost = BrokenWatch::Lost { revision: Revision(4), at: Revision(1), next: Revision(6) };
    assert_eq!(verdict(&hidden_by_progress, 6), Err(lost));
}

#[test]
fn a_repeated_change_is_found() {
    for (at, repeated) in [(2, 1), (4, 6), (4, 1)] {
        let mut told = everything();
        let again = everything()[if repeated == 1 { 1 } else { 3 }].clone();
        told.insert(at, again);
        let found = verdict(&told, 6);
        assert!(
            matches!(found, Err(BrokenWatch::Repeated { revision, .. }) if revision == Revision(repeated)),
            "{found:?}"
        );
    }
    let mut back = everything();
    back.push(event(5, Vec::new()));
    assert!(matches!(verdict(&back, 6), Err(BrokenWatch::Repeated { .. })), "progress does not go back");
}

#[test]
fn half_a_transaction_and_other_changes_are_found() {
    let mut half = everything();
    half[1] = event(1, vec![put("w/a", "1", 1)]);
    assert!(matches!(verdict(&half, 6), Err(BrokenWatch::Wrong { revision: Revision(1), .. })));
    let mut other = everything();
    other.insert(2, event(2, vec![put("w/a", "never", 2)]));
    assert!(matches!(verdict(&other, 6), Err(BrokenWatch::Wrong { .. } | BrokenWatch::Invented { .. })));
    let mut invented = everything();
    invented.insert(3, event(5, vec![put("w/a", "never", 5)]));
    assert!(matches!(verdict(&invented, 6), Err(BrokenWatch::Invented { revision: Revision(5), .. })));
}

#[test]
fn unknown_writes_show_whole_or_not_at_all() {
    let with = |changes: Vec<Change>| {
        let mut told = everything();
        told.push(event(7, changes));
        verdict(&told, 7)
    };
    assert_eq!(with(vec![put("w/b", "6", 7), put("w/c", "6", 7)]), Ok(()));
    assert_eq!(with(vec![deleted("w/b")]), Ok(()));
    for wrong in [vec![put("w/b", "6", 7)], vec![put("w/b", "6", 6), put("w/c", "6", 7)], vec![deleted("w/a")]] {
        assert!(matches!(with(wrong.clone()), Err(BrokenWatch::Invented { .. })), "{wrong:?}");
    }
}

#[test]
fn a_write_that_somebody_saw_is_not_unknown_to_a_watch() {
    let mut history = history();
    let seen = Outcome::Read(Some(crate::testing::linearizability::Held { value: value("6"), version: Revision(7) }));
    history.push(Call { client: 2, invoked: 50, returned: 51, action: Action::Get("w/c".into()), outcome: seen });
    let commits = Commits::of(&history, "w/").expect("whole transactions");
    assert!(matches!(commits.check(&everything(), Revision(7)), Err(BrokenWatch::Lost { revision: Revision(7), .. })));
}

#[test]
fn a_new_list_bridges_a_gap_and_is_checked_itself() {
    let again = |revision, items| {
        let told = vec![everything()[0].clone(), everything()[1].clone(), listed(revision, items)];
        verdict(&told, revision)
    };
    let (a, b) = (item("w/a", "5", 6), item("w/b", "1", 1));
    assert_eq!(again(6, vec![a.clone(), b.clone()]), Ok(()));
    assert_eq!(again(6, vec![a.clone()]), Ok(()), "the delete without an outcome happened");
    assert_eq!(again(4, vec![b.clone()]), Ok(()));
    assert!(matches!(again(6, vec![b.clone()]), Err(BrokenWatch::WrongList { found: None, .. })), "a write is missing");
    let stale = again(5, vec![item("w/a", "1", 1), b.clone()]);
    assert!(matches!(stale, Err(BrokenWatch::WrongList { written: Revision(4), .. })), "{stale:?}");
    assert!(matches!(again(5, vec![a, b]), Err(BrokenWatch::WrongList { .. })), "newer than the list");
    assert!(matches!(again(0, Vec::new()), Err(BrokenWatch::Repeated { .. })), "a list does not go back");
    assert_eq!(verdict(&everything()[1..], 6), Err(BrokenWatch::NoList));
}

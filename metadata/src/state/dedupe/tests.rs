//! The rules of retries, one by one, and against a model that forgets nothing.

use super::*;
use proptest::prelude::*;
use protocol::{id::Revision, service::metadata::MetadataError};
use std::collections::{BTreeMap, BTreeSet};

fn request(client: u64, sequence: u64) -> StoredRequest {
    StoredRequest { client: (0, client), sequence }
}

fn reply(revision: u64) -> Reply {
    Reply::Committed { revision: Revision(revision), sequences: vec![] }
}

/// An answer that takes a MiB.
fn large() -> Reply {
    Reply::Refused("x".repeat(1024 * 1024 - ANSWER as usize))
}

/// Carries a request out, unless it is decided already.
fn ask(dedupe: &mut Dedupe, request: StoredRequest, now: u64) -> Reply {
    dedupe.answer(request, now).unwrap_or_else(|| {
        let first = reply(request.sequence);
        dedupe.keep(request, first.clone(), now);
        first
    })
}

#[test]
fn a_clients_requests_take_effect_in_order_or_not_at_all() {
    let mut dedupe = Dedupe::default();
    assert_eq!(ask(&mut dedupe, request(1, 5), 0), reply(5));
    assert_eq!(ask(&mut dedupe, request(1, 3), 0), Reply::Superseded);
    assert_eq!(ask(&mut dedupe, request(1, 5), 0), reply(5), "the first answer");
    assert_eq!(ask(&mut dedupe, request(2, 3), 0), reply(3), "clients do not disturb each other");
    assert_eq!(ask(&mut dedupe, request(1, 9), 0), reply(9));
    assert_eq!(ask(&mut dedupe, request(1, 7), 0), Reply::Superseded);
    let error = Reply::Superseded.into_outcome();
    assert!(matches!(error, Err(MetadataError::Unavailable { .. })), "nothing happened: {error:?}");
    dedupe.check();
}

#[test]
fn as_many_answers_are_kept_as_a_client_may_have_requests_under_way() {
    let mut dedupe = Dedupe::default();
    for n in 0..=MAX_KEPT {
        ask(&mut dedupe, request(1, 10 * n), 0);
    }
    assert_eq!(ask(&mut dedupe, request(1, 10), 0), reply(10));
    assert_eq!(ask(&mut dedupe, request(1, 15), 0), Reply::Superseded, "above all that was given up");
    // Up to the highest answer that was given up, nobody knows what was carried out.
    assert_eq!(ask(&mut dedupe, request(1, 0), 0), Reply::Forgotten);
    ask(&mut dedupe, request(1, 10 * MAX_KEPT + 1), 0);
    assert_eq!(ask(&mut dedupe, request(1, 5), 0), Reply::Forgotten);
    assert_eq!(ask(&mut dedupe, request(1, 10), 0), Reply::Forgotten);
    assert!(matches!(Reply::Forgotten.into_outcome(), Err(MetadataError::OutcomeUnknown { .. })));
    dedupe.check();
}

#[test]
fn other_clients_push_nobody_out() {
    let mut dedupe = Dedupe::default();
    ask(&mut dedupe, request(1, 1), 0);
    for client in 2..200 {
        for sequence in 0..MAX_KEPT {
            ask(&mut dedupe, request(client, sequence), 0);
        }
    }
    assert_eq!(dedupe.answer(request(1, 1), 0), Some(reply(1)));
}

#[test]
fn a_silent_clients_answers_go_first_and_the_client_a_day_later() {
    let mut dedupe = Dedupe::default();
    ask(&mut dedupe, request(1, 5), 100);
    ask(&mut dedupe, request(2, 5), 100);
    dedupe.sweep(100 + KEEP_ANSWERS);
    assert_eq!(ask(&mut dedupe, request(1, 5), 100 + KEEP_ANSWERS), reply(5), "kept for all of ten minutes");
    dedupe.sweep(101 + KEEP_ANSWERS);
    assert_eq!((dedupe.answers().len(), dedupe.clients().len()), (1, 2), "a retry is a sign of life");
    dedupe.sweep(100 + KEEP_CLIENTS);
    assert_eq!((dedupe.answers().len(), dedupe.clients().len()), (0, 2));
    // Still never carried out again, and nothing older either.
    let mut later = dedupe.clone();
    assert_eq!(ask(&mut later, request(2, 5), 100 + KEEP_CLIENTS), Reply::Forgotten);
    assert_eq!(ask(&mut later, request(2, 6), 100 + KEEP_CLIENTS), reply(6));
    dedupe.sweep(101 + KEEP_CLIENTS);
    assert_eq!(dedupe.clients().iter().map(|(id, _)| id.1).collect::<Vec<_>>(), [1]);
    dedupe.check();
    later.check();
}

#[test]
fn bytes_are_bounded_at_the_expense_of_whoever_is_silent() {
    let mut dedupe = Dedupe::default();
    for client in 0..64 {
        dedupe.keep(request(client, 1), large(), client);
    }
    assert_eq!(dedupe.answers().len(), 64, "the limit is not yet passed");
    dedupe.answer(request(0, 1), 64);
    dedupe.keep(request(99, 1), reply(1), 64);
    assert_eq!(dedupe.answer(request(0, 1), 64), Some(large()), "it was heard meanwhile");
    assert_eq!(dedupe.answer(request(1, 1), 64), Some(Reply::Forgotten));
    assert_eq!(dedupe.answer(request(2, 1), 64), Some(large()));
    dedupe.check();
}

#[test]
fn clients_are_bounded_too() {
    let mut dedupe = Dedupe::default();
    // The first ones are silent without answers, then come those with one.
    for client in 0..10 {
        ask(&mut dedupe, request(client, 1), 0);
    }
    dedupe.sweep(KEEP_ANSWERS + 1);
    let answers_fit = MAX_BYTES / ANSWER;
    for client in 10..MAX_CLIENTS as u64 + 10 {
        ask(&mut dedupe, request(client, 1), KEEP_ANSWERS + 2);
    }
    assert_eq!((dedupe.clients().len(), dedupe.answers().len() as u64), (MAX_CLIENTS, answers_fit));
    assert_eq!(ask(&mut dedupe, request(3, 1), KEEP_ANSWERS + 2), reply(1), "forgotten altogether");
    dedupe.check();
}

#[test]
fn a_step_of_time_drops_a_bounded_number() {
    let mut dedupe = Dedupe::default();
    for client in 0..3 * SWEEP as u64 {
        ask(&mut dedupe, request(client, 1), 0);
    }
    for left in [2 * SWEEP, SWEEP, 0] {
        dedupe.sweep(KEEP_ANSWERS + 1);
        assert_eq!(dedupe.answers().len(), left);
    }
    dedupe.check();
}

#[derive(Debug, Clone)]
enum Step {
    /// So much above the highest of the client.
    Ahead(u64, u64),
    /// So much below or at it.
    Behind(u64, u64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => (0..3u64, 1..4u64).prop_map(|(client, by)| Step::Ahead(client, by)),
        20 => (0..3u64, 0..600u64).prop_map(|(client, by)| Step::Behind(client, by)),
        1 => prop_oneof![0..20u64, 300..700u64, Just(KEEP_CLIENTS)].prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..3_000)
}

/// All that a client ever did.
#[derive(Default)]
struct Past {
    carried_out: BTreeSet<u64>,
    given_up: Option<u64>,
    heard: u64,
}

impl Past {
    fn ask(&mut self, sequence: u64, now: u64) -> Reply {
        let silent = now - self.heard;
        if silent > KEEP_CLIENTS {
            (self.carried_out, self.given_up) = (BTreeSet::new(), None);
        } else if silent > KEEP_ANSWERS {
            self.given_up = self.carried_out.last().copied();
        }
        self.heard = now;
        if self.carried_out.last().is_none_or(|highest| sequence > *highest) {
            self.carried_out.insert(sequence);
            self.given_up = self.given_up.max(self.carried_out.iter().rev().nth(MAX_KEPT as usize).copied());
            return reply(sequence);
        }
        if self.given_up.is_some_and(|up_to| sequence <= up_to) {
            return Reply::Forgotten;
        }
        if self.carried_out.contains(&sequence) { reply(sequence) } else { Reply::Superseded }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_keeps_the_rules_of_a_model_that_forgets_nothing(steps in steps()) {
        let mut dedupe = Dedupe::default();
        let mut pasts = BTreeMap::<u64, Past>::new();
        let mut now = 0;
        for step in steps {
            let (client, sequence) = match step {
                Step::Pass(seconds) => {
                    now += seconds;
                    dedupe.sweep(now);
                    continue;
                }
                Step::Ahead(client, by) | Step::Behind(client, by) => {
                    let known = pasts.get(&client).and_then(|past| past.carried_out.last().copied());
                    let highest = known.unwrap_or(1_000);
                    let is_ahead = matches!(step, Step::Ahead(..));
                    (client, if is_ahead { highest + by } else { highest.saturating_sub(by) })
                }
            };
            let expected = pasts.entry(client).or_insert_with(|| Past { heard: now, ..Past::default() });
            prop_assert_eq!(ask(&mut dedupe, request(client, sequence), now), expected.ask(sequence, now));
        }
        dedupe.check();
    }
}

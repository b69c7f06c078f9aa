//! Scenarios of the log: what is enqueued, sent, confirmed and failed, and what every waiter hears.

use super::*;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1);

fn plain(span: u32) -> ValidBatches {
    ValidBatches {
        bytes: Bytes::from(vec![0; span as usize * 10]),
        batches: 1,
        span,
        max_timestamp: Timestamp(i64::from(span)),
        append_time: None,
        producer: None,
    }
}

fn idempotent(first_sequence: i32, count: u32) -> ValidBatches {
    let producer = Some(ProducerBatch { producer: 1, epoch: 0, first_sequence, count });
    ValidBatches { producer, ..plain(count) }
}

fn log() -> PartitionLog<&'static str> {
    PartitionLog::new(Offset(100), ProducerTable::default())
}

fn send_all(log: &mut PartitionLog<&'static str>) -> Vec<i64> {
    let mut bases = Vec::new();
    while let Some(shape) = log.next_entry(usize::MAX) {
        log.send(&shape, |_, base| bases.push(base.0));
    }
    bases
}

fn confirm(log: &mut PartitionLog<&'static str>, through: i64) -> Vec<(&'static str, Option<i64>)> {
    let mut answers = Vec::new();
    log.confirm(Offset(through), &mut answers);
    told(answers)
}

fn told(answers: Vec<LogAnswer<&'static str>>) -> Vec<(&'static str, Option<i64>)> {
    answers.into_iter().map(|(w, a)| (w, a.ok().map(|p| p.base_offset.0))).collect()
}

#[test]
fn offsets_are_dense_and_the_high_watermark_shows_only_what_is_confirmed() {
    let mut log = log();
    for (name, span) in [("a", 3), ("b", 1), ("c", 5)] {
        assert!(log.enqueue(plain(span), name, NOW).is_none());
    }
    assert_eq!(send_all(&mut log), [100, 103, 104]);
    assert_eq!(log.high_watermark(), Offset(100));
    assert_eq!(confirm(&mut log, 104), [("a", Some(100)), ("b", Some(103))]);
    assert_eq!(log.high_watermark(), Offset(104));
    assert_eq!(confirm(&mut log, 109), [("c", Some(104))]);
    assert!(log.is_idle());
}

#[test]
fn appends_that_queue_up_join_one_entry_up_to_the_limit() {
    let mut log = log();
    for name in ["a", "b", "c"] {
        log.enqueue(plain(2), name, NOW);
    }
    let shape = log.next_entry(45).expect("three wait");
    assert_eq!((shape.appends, shape.bytes, shape.record_count, shape.base_offset), (2, 40, 4, Offset(100)));
    log.send(&shape, |_, _| {});
    let rest = log.next_entry(1).expect("one is left, and goes whatever its size");
    assert_eq!((rest.appends, rest.base_offset), (1, Offset(104)));
}

#[test]
fn a_failure_answers_unknown_above_the_confirmed_prefix_and_gives_the_offsets_back() {
    let mut log = log();
    for name in ["a", "b"] {
        log.enqueue(plain(1), name, NOW);
    }
    send_all(&mut log);
    log.enqueue(plain(1), "never sent", NOW);
    confirm(&mut log, 101);
    let mut answers = Vec::new();
    log.fail("the bookie is gone", &mut answers);
    let kinds: Vec<_> =
        answers.iter().map(|(w, a)| (*w, matches!(a, Err(AppendError::OutcomeUnknown { .. })))).collect();
    assert_eq!(kinds, [("b", true), ("never sent", false)]);
    assert_eq!(log.high_watermark(), Offset(101));
    log.enqueue(plain(1), "d", NOW);
    assert_eq!(send_all(&mut log), [101]);
}

#[test]
fn a_confirmed_retry_is_answered_at_once_with_the_first_offset() {
    let mut log = log();
    log.enqueue(idempotent(0, 2), "first", NOW);
    send_all(&mut log);
    confirm(&mut log, 102);
    let (waiter, answer) = log.enqueue(idempotent(0, 2), "retry", NOW).expect("answered at once");
    assert_eq!((waiter, answer.map(|p| p.base_offset)), ("retry", Ok(Offset(100))));
    assert!(log.is_idle());
}

#[test]
fn a_retry_in_flight_waits_for_its_original() {
    let mut log = log();
    log.enqueue(idempotent(0, 2), "first", NOW);
    log.enqueue(idempotent(2, 2), "second", NOW);
    assert!(log.enqueue(idempotent(0, 2), "retry while queued", NOW).is_none());
    assert_eq!(send_all(&mut log), [100, 102]);
    assert!(log.enqueue(idempotent(0, 2), "retry in flight", NOW).is_none());
    let answers = confirm(&mut log, 102);
    assert_eq!(answers, [("first", Some(100)), ("retry while queued", Some(100)), ("retry in flight", Some(100))]);
    assert_eq!(confirm(&mut log, 104), [("second", Some(102))]);
}

#[test]
fn a_retry_shares_the_unknown_outcome_of_its_original() {
    let mut log = log();
    log.enqueue(idempotent(0, 1), "first", NOW);
    send_all(&mut log);
    log.enqueue(idempotent(0, 1), "retry", NOW);
    let mut answers = Vec::new();
    log.fail("gone", &mut answers);
    assert_eq!(told(answers), [("first", None), ("retry", None)]);
    // The sequence counts for nothing: the next attempt is new again.
    assert!(log.enqueue(idempotent(0, 1), "again", NOW).is_none());
    assert_eq!(send_all(&mut log), [100]);
}

#[test]
fn sequences_are_judged_with_what_is_in_flight() {
    let mut log = log();
    log.enqueue(idempotent(0, 2), "first", NOW);
    let (_, gap) = log.enqueue(idempotent(3, 1), "gap", NOW).expect("refused at once");
    assert_eq!(gap, Err(AppendError::OutOfOrderSequence { producer: 1, sequence: 3, expected: 2 }));
    assert!(log.enqueue(idempotent(2, 1), "next", NOW).is_none());
    assert!(log.producers().is_empty(), "nothing is durable yet");
}

/// What a producer sent after a batch that was refused while the log was opened is no gap of the producer's: an error that
/// says so makes librdkafka begin a new epoch, in which it stores once more what is in the log.
#[test]
fn a_producer_finds_its_place_after_the_log_was_opened() {
    let mut first = log();
    assert!(first.enqueue(idempotent(0, 1), "a", NOW).is_none());
    send_all(&mut first);
    confirm(&mut first, 101);
    let reopened = || PartitionLog::new(Offset(101), first.producers().clone());
    let put_off =
        |answer: Option<LogAnswer<&'static str>>| matches!(answer, Some((_, Err(AppendError::Unavailable { .. }))));
    let gap = |answer: Option<LogAnswer<&'static str>>| {
        matches!(answer, Some((_, Err(AppendError::OutOfOrderSequence { sequence: 2, expected: 1, .. }))))
    };

    let mut log = reopened();
    assert!(put_off(log.enqueue(idempotent(2, 1), "early", NOW)));
    assert_eq!(log.enqueue(idempotent(0, 1), "again", NOW).map(|(w, a)| (w, a.is_ok())), Some(("again", true)));
    assert!(gap(log.enqueue(idempotent(2, 1), "gap", NOW)), "it has found its place: a gap is a gap");
    assert!(log.enqueue(idempotent(1, 1), "next", NOW).is_none());

    let mut log = reopened();
    for _ in 0..PUT_OFF {
        assert!(put_off(log.enqueue(idempotent(2, 1), "early", NOW)));
    }
    assert!(gap(log.enqueue(idempotent(2, 1), "gap", NOW)), "what does not end is a gap, too");
}

#[test]
fn a_refused_queue_leaves_no_trace() {
    let mut log = log();
    log.enqueue(idempotent(5, 1), "a", NOW);
    log.enqueue(idempotent(5, 1), "its retry", NOW);
    let mut answers = Vec::new();
    log.refuse_queue(&AppendError::NotEnoughReplicas { available: 0, required: 1 }, &mut answers);
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(_, a)| matches!(a, Err(AppendError::NotEnoughReplicas { .. }))));
    log.enqueue(idempotent(9, 1), "b", NOW);
    assert_eq!(send_all(&mut log), [100]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(u32),
    Send(usize),
    Confirm,
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..5u32).prop_map(Step::Append),
        3 => (1..80usize).prop_map(Step::Send),
        3 => Just(Step::Confirm),
        1 => Just(Step::Fail),
    ]
}

proptest! {
    /// Whatever happens: acknowledged offsets are dense, ascending and never given twice, and everyone hears once.
    #[test]
    fn acknowledged_offsets_are_dense(steps in proptest::collection::vec(step(), 1..80)) {
        let mut log: PartitionLog<usize> = PartitionLog::new(Offset(0), ProducerTable::default());
        let (mut asked, mut heard, mut sent) = (0, 0, VecDeque::new());
        let mut spans = Vec::new();
        let mut acked = Vec::new();
        for step in steps {
            let mut answers = Vec::new();
            match step {
                Step::Append(span) => {
                    answers.extend(log.enqueue(plain(span), asked, NOW));
                    spans.push(i64::from(span));
                    asked += 1;
                }
                Step::Send(max) => if let Some(shape) = log.next_entry(max) {
                    log.send(&shape, |_, _| {});
                    sent.push_back(Offset(shape.base_offset.0 + i64::from(shape.record_count)));
                },
                Step::Confirm => if let Some(through) = sent.pop_front() {
                    log.confirm(through, &mut answers);
                },
                Step::Fail => {
                    log.fail("", &mut answers);
                    sent.clear();
                }
            }
            heard += answers.len();
            acked.extend(answers.into_iter().filter_map(|(w, a)| a.ok().map(|p| (p.base_offset.0, spans[w]))));
            let end = acked.last().map_or(0, |(base, span)| base + span);
            prop_assert_eq!(log.high_watermark(), Offset(end));
        }
        let mut next = 0;
        for (base, span) in acked {
            prop_assert_eq!(base, next);
            next += span;
        }
        let mut rest = Vec::new();
        log.fail("", &mut rest);
        prop_assert_eq!(heard + rest.len(), asked);
    }
}

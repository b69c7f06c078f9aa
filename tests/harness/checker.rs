//! The checker, on histories made by hand: a sound one has no anomaly, and every class is found when it is put in.

use crate::support::checker::{Anomaly, History, Reader, Seen, Value, check};

const fn value(producer: u32, number: u64) -> Value {
    Value { producer, number }
}

const fn seen(partition: i32, offset: i64, producer: u32, number: u64) -> Seen {
    Seen { place: (partition, offset), value: Some(value(producer, number)) }
}

/// Two producers, two partitions, three records each, all acknowledged; one reader from the middle, two to the end.
fn sound() -> History {
    let mut history = History::default();
    let mut all = Vec::new();
    for partition in 0..2 {
        for n in 0..3 {
            for producer in 0..2 {
                let (v, offset) = (value(producer, n * 2 + partition as u64), (n * 2) as i64 + i64::from(producer));
                history.sent.insert(v, partition);
                history.acked.push((v, (partition, offset)));
                all.push(Seen { place: (partition, offset), value: Some(v) });
            }
        }
    }
    let reader = |name: &str, seen: &[Seen], is_final| Reader { name: name.into(), seen: seen.to_vec(), is_final };
    history.readers = vec![reader("tail", &all[2..5], false), reader("a", &all, true), reader("b", &all, true)];
    history
}

/// Applies a change to the sound history and expects these anomalies, no more and no less.
fn expect(change: impl FnOnce(&mut History), expected: &[Anomaly]) {
    let mut history = sound();
    change(&mut history);
    assert_eq!(check(&history, 50), expected);
}

fn drop_from_finals(history: &mut History, partition: i32, offset: i64) {
    for reader in history.readers.iter_mut().filter(|r| r.is_final) {
        reader.seen.retain(|s| s.place != (partition, offset));
    }
}

#[test]
fn a_sound_history_has_no_anomaly() {
    expect(|_| {}, &[]);
    // What was never answered may be there or not.
    expect(
        |h| {
            h.sent.insert(value(0, 100), 0);
            h.sent.insert(value(0, 102), 0);
            for reader in h.readers.iter_mut().filter(|r| r.is_final) {
                reader.seen.insert(6, seen(0, 6, 0, 102));
            }
        },
        &[],
    );
}

#[test]
fn lost_and_unseen_records_are_told_apart() {
    let skipped = |name: &str| Anomaly::Skipped(name.into(), (0, 2));
    let lost = Anomaly::Lost(value(0, 2), (0, 2));
    expect(|h| drop_from_finals(h, 0, 2), &[lost, skipped("a"), skipped("b")]);
    expect(|h| drop_from_finals(h, 1, 5), &[Anomaly::Unseen(value(1, 5), (1, 5))]);
    expect(
        |h| (0..6).for_each(|offset| drop_from_finals(h, 1, offset)),
        &(0..6).map(|o| Anomaly::Unseen(value(o % 2, u64::from(o / 2 * 2 + 1)), (1, i64::from(o)))).fold(
            Vec::new(),
            |mut all: Vec<Anomaly>, one| {
                all.push(one);
                all.sort();
                all
            },
        ),
    );
}

#[test]
fn what_was_acknowledged_without_a_place_must_be_somewhere() {
    expect(|h| h.acked_somewhere.push((value(0, 2), 0)), &[]);
    expect(
        |h| {
            h.sent.insert(value(0, 90), 0);
            h.acked_somewhere.push((value(0, 90), 0));
        },
        &[Anomaly::Missing(value(0, 90), 0)],
    );
}

#[test]
fn duplicates_and_disorder_are_found() {
    let put = |h: &mut History, what: Seen| {
        h.readers.iter_mut().filter(|r| r.is_final).for_each(|r| r.seen.insert(6, what.clone()));
    };
    expect(|h| put(h, seen(0, 6, 1, 4)), &[Anomaly::Duplicate(value(1, 4), (0, 5), (0, 6))]);
    expect(
        |h| {
            h.sent.insert(value(1, 3_000), 0);
            h.sent.insert(value(1, 2_000), 0);
            put(h, seen(0, 7, 1, 2_000));
            put(h, seen(0, 6, 1, 3_000));
        },
        &[Anomaly::Reordered((0, 7), value(1, 3_000), value(1, 2_000))],
    );
}

#[test]
fn one_place_holds_one_value() {
    let two = Anomaly::Inconsistent((0, 6), value(0, 50), value(0, 52));
    let add = |h: &mut History| {
        h.sent.insert(value(0, 50), 0);
        h.sent.insert(value(0, 52), 0);
    };
    // Acknowledged one, stored another; then two readers that saw different values.
    expect(
        |h| {
            add(h);
            h.acked.push((value(0, 50), (0, 6)));
            h.readers.iter_mut().filter(|r| r.is_final).for_each(|r| r.seen.insert(6, seen(0, 6, 0, 52)));
        },
        std::slice::from_ref(&two),
    );
    expect(
        |h| {
            add(h);
            h.readers[1].seen.insert(6, seen(0, 6, 0, 50));
            h.readers[2].seen.insert(6, seen(0, 6, 0, 52));
        },
        &[two, Anomaly::Diverged("a".into(), "b".into(), 0)],
    );
}

#[test]
fn what_nobody_sent_is_foreign() {
    let put = |h: &mut History, what: &Seen| {
        h.readers.iter_mut().filter(|r| r.is_final).for_each(|r| r.seen.insert(6, what.clone()));
    };
    expect(|h| put(h, &seen(0, 6, 9, 9)), &[Anomaly::Foreign((0, 6), Some(value(9, 9)))]);
    expect(|h| put(h, &Seen { place: (0, 6), value: None }), &[Anomaly::Foreign((0, 6), None)]);
    // A record of another partition is as foreign as one of nobody.
    expect(|h| put(h, &seen(0, 6, 0, 1)), &[Anomaly::Foreign((0, 6), Some(value(0, 1)))]);
}

#[test]
fn readers_go_forward_without_gaps() {
    let tail = |h: &mut History, offsets: &[i64]| {
        let all = h.readers[1].seen.clone();
        h.readers[0].seen = offsets.iter().map(|o| all[*o as usize].clone()).collect();
    };
    expect(|h| tail(h, &[2, 3, 4]), &[]);
    expect(|h| tail(h, &[2, 3, 3]), &[Anomaly::NotMonotonic("tail".into(), (0, 3), (0, 3))]);
    expect(|h| tail(h, &[3, 2, 3]), &[Anomaly::NotMonotonic("tail".into(), (0, 3), (0, 2))]);
    expect(|h| tail(h, &[1, 4]), &[2, 3].map(|o| Anomaly::Skipped("tail".into(), (0, o))));
}

#[test]
fn a_run_that_did_next_to_nothing_shows_nothing() {
    assert_eq!(check(&History::default(), 50), [Anomaly::TooLittle { acked: 0, sent: 0 }]);
    let found = |unanswered: u64| {
        let mut history = sound();
        history.sent.extend((0..unanswered).map(|n| (value(7, n), 0)));
        check(&history, 50)
    };
    assert_eq!(found(12), []);
    assert_eq!(found(13), [Anomaly::TooLittle { acked: 12, sent: 25 }]);
}

#[test]
fn payloads_carry_their_value_and_show_damage() {
    for size in [0, 10, 100, 5_000] {
        let payload = value(3, 1_234).payload(size);
        assert!(payload.len() >= size);
        assert_eq!(Value::of(&payload), Some(value(3, 1_234)));
        let damaged = format!("{}#", &payload[..payload.len() - 1]);
        assert_eq!(Value::of(&damaged), None);
    }
    assert_eq!((Value::of(""), Value::of("3-1"), Value::of("x-1.9.")), (None, None, None));
    assert!(Value::of(&value(1, 1).payload(50)[..49]).is_none(), "cut short");
}

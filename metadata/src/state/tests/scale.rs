//! What a large state costs. Prints times, which nothing rests on; checks what does not depend on the machine.
//!
//! `MAGNETAR_KEYS=1000000 cargo test --release -p magnetar-metadata a_large_state -- --nocapture` makes the figures of
//! BENCHMARKS.md.

use super::*;
use protocol::runtime::{Clock, SystemClock};
use std::hint::black_box;

/// Transactions that share a log entry.
const BATCH: u64 = 100;

/// A key of 30 bytes; the order of the numbers is not the order of the keys.
fn key(n: u64) -> String {
    format!("topics/{:016x}/config", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn write(n: u64, key: String) -> Command {
    let value = Bytes::from(vec![n as u8; 200]);
    let operations = vec![Operation::Put { key, value, session: None }];
    let request = Some(RequestId { client: u128::from(n % 64), sequence: n });
    Transaction { operations, request, ..Transaction::default() }.into()
}

/// Resident memory of this process in MB; 0 where the system does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).map_or(0, |pages| pages * 4_096 / 1_000_000)
}

/// Applies writes of these keys; answers the time per write without encoding.
fn fill(state: &mut State, keys: std::ops::Range<u64>, clock: &SystemClock, key: impl Fn(u64) -> String) -> Duration {
    let (mut took, writes) = (Duration::ZERO, (keys.end - keys.start) as u32);
    for first in keys.step_by(BATCH as usize) {
        let commands: Vec<_> = (first..first + BATCH).map(|n| write(n, key(n))).collect();
        let batch = Batch::new(Duration::from_millis(2), &commands);
        let before = clock.monotonic();
        state.advance(batch.elapsed_ms);
        batch.decode().expect("decodes").into_iter().for_each(|command| drop(state.apply(command)));
        took += clock.monotonic() - before;
    }
    took / writes
}

#[test]
fn a_large_state_is_copied_at_once_and_moved_as_a_stream() {
    let keys = std::env::var("MAGNETAR_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000u64);
    let (clock, before) = (SystemClock::default(), resident());
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let start = clock.monotonic();
        work();
        println!("{what}: {:?}", clock.monotonic() - start);
    };
    let mut state = State::default();
    println!("{keys} keys of 30 bytes with 200: {:?} per write", fill(&mut state, 0..keys, &clock, key));
    println!("resident: {} MB more", resident() - before);
    timed("a read of each", &mut || {
        (0..keys).for_each(|n| drop(black_box(state.get(&key(n * 7_919 % keys)))));
    });
    let mut pages = 0;
    timed("a scan of all, by pages of 1000", &mut || {
        let mut after = None;
        loop {
            let (items, more) = state.scan("topics/", after.as_deref(), 1_000, usize::MAX);
            pages += items.len() as u64;
            after = items.last().map(|item| item.key.clone());
            if !more {
                break;
            }
        }
    });
    assert_eq!(pages, keys);
    let mut image = None;
    timed("an image", &mut || image = Some(state.image()));
    let (image, taken) = (image.expect("taken"), state.digest());
    let again = keys..keys + keys / 50 / BATCH * BATCH;
    println!("{:?} per write beside the image", fill(&mut state, again, &clock, |n| key(n * 7_919 % keys)));
    println!("resident: {} MB more", resident() - before);
    let mut file = Vec::with_capacity(keys as usize * 300);
    timed("a snapshot is written", &mut || image.write_snapshot(&mut file).expect("memory"));
    println!("snapshot: {} MB", file.len() / 1_000_000);
    let mut read = None;
    timed("and read", &mut || read = State::read_snapshot(&mut file.as_slice()).ok());
    let read = read.expect("reads");
    assert_eq!((read.digest(), image.digest(), read.key_count() as u64), (taken, taken, keys));
    assert_ne!(state.digest(), taken, "the image stayed as it was while the state went on");
}

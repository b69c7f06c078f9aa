//! Reads: limits, order, waiting, epochs, and catching up from bookies.

use super::{
    Desk,
    desk::{bases, fetch_of, in_time, part},
};
use protocol::{
    id::{LeaderEpoch, Offset},
    service::{
        bookie::BookieError,
        broker::{BrokerService, FetchError, FetchPartition, NotServed},
    },
    testing::{Fault, batches},
};
use std::time::Duration;

/// A long poll that no test waits out.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn limits_hold_but_the_first_batch_always_comes() {
    let desk = Desk::start().await;
    let (a, b) = (desk.topic("a", &[]).await, desk.topic("b", &[]).await);
    for id in [a, b] {
        for _ in 0..4 {
            desk.write(id, &["0123456789"]).await;
        }
    }
    let size = batches::plain(&["0123456789"]).len() as u32;
    let run = async |max_bytes: u32, of_a: u32, of_b: u32| {
        let mut fetch = fetch_of(vec![part(a, 0), part(b, 1)]);
        fetch.max_bytes = max_bytes;
        (fetch.partitions[0].max_bytes, fetch.partitions[1].max_bytes) = (of_a, of_b);
        let fetched = desk.broker.fetch(fetch).await.expect("fetched").partitions;
        let counts: Vec<_> = fetched.iter().map(|p| p.as_ref().map(|p| bases(p).len()).unwrap_or(99)).collect();
        (counts[0], counts[1])
    };
    assert_eq!(run(u32::MAX, u32::MAX, u32::MAX).await, (4, 3));
    assert_eq!(run(1, u32::MAX, u32::MAX).await, (1, 0));
    assert_eq!(run(u32::MAX, 1, 1).await, (1, 0), "only the first batch is above its limit");
    assert_eq!(run(size * 3, u32::MAX, u32::MAX).await, (3, 0));
    assert_eq!(run(size * 3 - 1, size * 2, u32::MAX).await, (2, 0));
    assert_eq!(run(size * 5, size * 2, u32::MAX).await, (2, 3));
}

#[tokio::test]
async fn an_offset_inside_a_batch_gives_the_whole_batch() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a", "b", "c"]).await;
    desk.write(id, &["d", "e"]).await;
    assert_eq!(desk.bases(id, 1).await, [0, 3]);
    assert_eq!(desk.bases(id, 3).await, [3]);
    assert_eq!(desk.bases(id, 4).await, [3]);
    assert_eq!(desk.bases(id, 5).await, [0; 0]);
    let beyond = desk.fetch(id, 6).await;
    let expected = FetchError::OutOfRange { asked: Offset(6), log_start: Offset(0), end: Offset(5) };
    assert_eq!(beyond.err(), Some(expected));
}

#[tokio::test]
async fn a_long_poll_ends_with_data_with_an_error_or_with_its_time() {
    let desk = Desk::start().await;
    let (a, b) = (desk.topic("a", &[]).await, desk.topic("b", &[]).await);
    let poll = |min_bytes: u32, max_wait: Duration| {
        let mut fetch = fetch_of(vec![part(a, 0), part(b, 0)]);
        (fetch.min_bytes, fetch.max_wait) = (min_bytes, max_wait);
        desk.broker.fetch(fetch)
    };
    let waiting = tokio::spawn(poll(1, LONG));
    desk.write(b, &["x"]).await;
    let woken = in_time("the poll", waiting).await.expect("ran").expect("fetched");
    let sizes: Vec<_> = woken.partitions.iter().map(|p| p.as_ref().map(|p| p.batches.len()).unwrap_or(9)).collect();
    assert_eq!(sizes, [0, 1]);

    let batch = batches::plain(&["x"]).len() as u32;
    let waiting = tokio::spawn(poll(batch * 3, LONG));
    desk.write(a, &["x"]).await;
    desk.write(b, &["x"]).await;
    let woken = in_time("enough bytes", waiting).await.expect("ran").expect("fetched");
    assert_eq!(woken.partitions.iter().flatten().map(|p| p.size()).sum::<usize>() as u32, batch * 3);

    let short = in_time("the time", poll(1_000_000, Duration::from_millis(20))).await.expect("fetched");
    assert_eq!(short.partitions.iter().flatten().map(|p| bases(p).len()).sum::<usize>(), 3);

    let mut broken = fetch_of(vec![part(a, 0), part(b, 99)]);
    (broken.min_bytes, broken.max_wait) = (1_000_000, LONG);
    let fetched = in_time("the error", desk.broker.fetch(broken)).await.expect("fetched");
    assert!(fetched.partitions[0].is_ok() && fetched.partitions[1].is_err());
}

#[tokio::test]
async fn a_poll_hears_that_its_partition_has_gone() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    let mut fetch = fetch_of(vec![part(id, 0)]);
    fetch.max_wait = LONG;
    let waiting = tokio::spawn(desk.broker.fetch(fetch));
    desk.broker.delete_topic(protocol::service::broker::DeleteTopic::Name("orders".into())).await.expect("deleted");
    let fetched = in_time("the end", waiting).await.expect("ran").expect("fetched");
    let gone = fetched.partitions.into_iter().next().expect("one").err();
    assert_eq!(gone, Some(NotServed::NoSuchPartition(id).into()));
}

#[tokio::test]
async fn epochs_are_compared() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    desk.assign(id, &desk.broker).await;
    let epoch = super::desk::append_to(&desk.broker, id, batches::plain(&["b"])).await.expect("appended").epoch;
    assert_eq!(epoch, LeaderEpoch(1));
    let with = async |current: i32, last: i32| {
        let mut of = part(id, 2);
        of.current_epoch = Some(LeaderEpoch(current)).filter(|e| e.0 >= 0);
        of.last_fetched_epoch = Some(LeaderEpoch(last)).filter(|e| e.0 >= 0);
        desk.broker.fetch(fetch_of(vec![of])).await.expect("fetched").partitions.remove(0)
    };
    let error = with(0, -1).await.err();
    assert_eq!(error, Some(NotServed::FencedEpoch { current: LeaderEpoch(1) }.into()));
    let error = with(2, -1).await.err();
    assert_eq!(error, Some(NotServed::UnknownEpoch { current: LeaderEpoch(1) }.into()));
    assert_eq!(with(1, 1).await.expect("fetched").diverging, None);
    // The client's record at offset 1 is of epoch 0, which ended at 1: its log diverged there.
    assert_eq!(with(1, 0).await.expect("fetched").diverging, Some((LeaderEpoch(0), Offset(1))));
}

#[tokio::test]
async fn a_reader_that_is_behind_reads_from_bookies() {
    let desk = Desk::start_with(|config| config.cache_bytes = 0).await;
    let id = desk.topic("orders", &[("segment.bytes", "20000")]).await;
    let value = "x".repeat(700);
    for _ in 0..80 {
        desk.write(id, &[&value, &value]).await;
    }
    assert!(desk.closed(id).len() >= 3);
    let mut at = 0;
    while at < 160 {
        let mut fetch = fetch_of(vec![part(id, at)]);
        fetch.max_bytes = 5_000;
        let fetched = desk.broker.fetch(fetch).await.expect("fetched").partitions.remove(0).expect("read");
        let bases = bases(&fetched);
        assert_eq!(bases[0], at);
        assert!(bases.len() <= 3 && bases.windows(2).all(|w| w[1] == w[0] + 2));
        at = bases[bases.len() - 1] + 2;
    }
    assert_eq!(at, 160);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_never_a_gap() {
    let desk = Desk::start_with(|config| config.cache_bytes = 0).await;
    let id = desk.topic("orders", &[]).await;
    for _ in 0..3 {
        desk.write(id, &["a"]).await;
    }
    desk.bookie().faults().always(Some(Fault::Refuse(BookieError::Unknown { reason: "bad sector".into() })));
    let failed = desk.fetch(id, 0).await;
    assert!(matches!(failed, Err(FetchError::Storage { .. })), "{failed:?}");
    desk.bookie().faults().always(None);
    assert_eq!(desk.bases(id, 0).await, [0, 1, 2]);
}

#[tokio::test]
async fn the_read_ahead_serves_the_next_fetch() {
    let desk = Desk::start_with(|config| config.cache_bytes = 80_000).await;
    let id = desk.topic("orders", &[]).await;
    let value = "x".repeat(900);
    for _ in 0..100 {
        desk.write(id, &[&value]).await;
    }
    let mut small = part(id, 0);
    small.max_bytes = 1;
    let read = async |offset| {
        let fetch = fetch_of(vec![FetchPartition { offset: Offset(offset), ..small.clone() }]);
        desk.broker.fetch(fetch).await.expect("fetched").partitions.remove(0)
    };
    assert_eq!(bases(&read(0).await.expect("from the bookie")), [0]);
    desk.bookie().faults().always(Some(Fault::Refuse(BookieError::Unknown { reason: "gone".into() })));
    assert_eq!(bases(&read(1).await.expect("from memory")), [1], "read ahead");
    assert!(read(20).await.is_err(), "neither read ahead nor in the tail");
    assert_eq!(bases(&read(90).await.expect("from memory")), [90], "the tail");
}

//! Watches of a remote client: many on one connection, slow readers, and servers that go away.

use super::{
    PATIENCE,
    cluster::{Cluster, in_time},
    put,
};
use crate::{
    id::Revision,
    service::metadata::{MetadataError, MetadataService, Operation, Transaction, WatchEvent, WatchStream},
    testing::FakeMetadata,
};
use futures::{StreamExt, future::join_all};
use std::time::Duration;

/// So long that a test which waits for it fails first.
const FOREVER: Duration = Duration::from_secs(3600);

async fn next(watch: &mut WatchStream) -> WatchEvent {
    in_time(watch.next()).await.expect("it goes on").expect("without an error")
}

/// Writes without a connection.
async fn write(fake: &FakeMetadata, key: &str) -> Revision {
    fake.transact(put(key)).await.expect("commits");
    fake.revision()
}

#[tokio::test]
async fn a_watch_goes_on_at_another_server_and_its_reader_notices_nothing() {
    const WRITES: u64 = 600;
    let cluster = Cluster::of(3);
    let client = cluster.client(FOREVER);
    let mut watch = in_time(client.watch(String::new(), Revision(0))).await.expect("opens");
    for n in 1..=WRITES {
        write(&cluster.fake, &n.to_string()).await;
        let line = &cluster.lines[n as usize % 3];
        match n % 40 {
            10 => line.cut(),
            20 => cluster.fake.end_watches(),
            30 => {
                line.refuse(true);
                line.cut();
            }
            36 => cluster.lines.iter().for_each(|line| line.refuse(false)),
            _ => {}
        }
        // Some events are read at once, some later from the buffer.
        if n % 3 == 0 {
            for seen in n - 2..=n {
                assert_eq!(next(&mut watch).await.revision, Revision(seen));
            }
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_left_by_its_watches_too() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    let mut watch = in_time(client.watch(String::new(), Revision(0))).await.expect("opens");
    write(&cluster.fake, "a").await;
    assert_eq!(next(&mut watch).await.revision, Revision(1));
    cluster.lines[0].stop_answers(true);
    write(&cluster.fake, "b").await;
    assert_eq!(next(&mut watch).await.revision, Revision(2));
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_that_comes_too_late_says_that_the_past_is_gone() {
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    let mut watch = in_time(client.watch(String::new(), Revision(0))).await.expect("opens");
    write(&cluster.fake, "a").await;
    assert_eq!(next(&mut watch).await.revision, Revision(1));
    cluster.lines.iter().for_each(|line| {
        line.refuse(true);
        line.cut();
    });
    let last = write(&cluster.fake, "b").await;
    cluster.fake.compact();
    cluster.lines[1].refuse(false);
    let gone = MetadataError::Compacted { asked: Revision(1), oldest: last };
    assert_eq!(in_time(watch.next()).await, Some(Err(gone)));
    assert_eq!(in_time(watch.next()).await, None);
    cluster.stop().await;
}

#[tokio::test]
async fn a_slow_reader_loses_its_own_watch_and_can_resume() {
    const WRITES: u64 = 3_000;
    let cluster = Cluster::of(1);
    let client = cluster.client(FOREVER);
    let mut slow = in_time(client.watch(String::new(), Revision(0))).await.expect("opens");
    let mut quick = in_time(client.watch(String::new(), Revision(0))).await.expect("opens");
    for n in 1..=WRITES {
        write(&cluster.fake, &n.to_string()).await;
        assert_eq!(next(&mut quick).await.revision, Revision(n), "nobody waits for the slow one");
    }
    in_time(async {
        while cluster.fake.watches() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut last = Revision(0);
    let error = loop {
        match in_time(slow.next()).await.expect("an error is last") {
            Ok(event) => {
                assert_eq!(event.revision, Revision(last.0 + 1));
                last = event.revision;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, MetadataError::Unavailable { reason } if reason.contains("fell behind")), "{error}");
    assert!(last.0 >= 1_000 && last.0 < WRITES, "{last}");
    assert!(in_time(slow.next()).await.is_none());
    let mut resumed = in_time(client.watch(String::new(), last)).await.expect("opens");
    assert_eq!(next(&mut resumed).await.revision, Revision(last.0 + 1));
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_that_nobody_reads_is_closed_at_the_server() {
    let cluster = Cluster::of(1);
    let client = cluster.client(FOREVER);
    let mut kept = in_time(client.watch("kept".into(), Revision(0))).await.expect("opens");
    let dropped = in_time(client.watch("dropped".into(), Revision(0))).await.expect("opens");
    assert_eq!(cluster.fake.watches(), 2);
    drop(dropped);
    // Whoever does not even wait for it wants none either.
    drop(client.watch("unwanted".into(), Revision(0)));
    in_time(async {
        while cluster.fake.watches() != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    write(&cluster.fake, "kept").await;
    assert_eq!(next(&mut kept).await.revision, Revision(1));
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_is_opened_in_time_or_refused() {
    let cluster = Cluster::of(1);
    cluster.fake.faults().hang_next();
    let client = cluster.client(Duration::from_millis(200));
    let refused = in_time(client.watch(String::new(), Revision(0))).await.map(drop);
    assert!(matches!(refused, Err(MetadataError::Unavailable { reason }) if reason.contains("not opened in time")));
    assert!(in_time(client.watch(String::new(), Revision(0))).await.is_ok());
    cluster.stop().await;
}

#[tokio::test]
async fn the_end_of_the_client_is_the_end_of_its_watches() {
    let cluster = Cluster::of(1);
    let client = cluster.client(FOREVER);
    let mut watch = in_time(client.watch(String::new(), Revision(0))).await.expect("opens");
    assert!(cluster.client.stop(PATIENCE).await);
    assert!(matches!(in_time(watch.next()).await, Some(Err(MetadataError::Unavailable { .. }))));
    assert!(in_time(watch.next()).await.is_none());
    let late = in_time(client.watch(String::new(), Revision(0))).await.map(drop);
    assert!(matches!(late, Err(MetadataError::Unavailable { .. })));
    cluster.stop().await;
}

/// `MAGNETAR_WATCHES=100000` makes it as many as the service has to hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_watches_share_one_connection() {
    let count = std::env::var("MAGNETAR_WATCHES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000_usize);
    let patience = Duration::from_secs(120);
    let cluster = Cluster::of(2);
    let client = cluster.client(FOREVER);
    let open = (0..count).map(|n| client.watch(format!("{n:06}"), Revision(0)));
    let opened = tokio::time::timeout(patience, join_all(open)).await.expect("in time");
    let mut watches: Vec<WatchStream> = opened.into_iter().map(|watch| watch.expect("opens")).collect();
    assert_eq!(cluster.fake.watches(), count);
    // Each sees its own key and nothing else, also when all of them have moved to the other server.
    for round in 1..=2_u64 {
        let operations = (0..count).step_by(count / 100).map(|n| Operation::Put {
            key: format!("{n:06}"),
            value: Default::default(),
            session: None,
        });
        let transaction = Transaction { operations: operations.collect(), ..Transaction::default() };
        cluster.fake.transact(transaction).await.expect("commits");
        for watch in watches.iter_mut().step_by(count / 100) {
            let event = tokio::time::timeout(patience, watch.next()).await.expect("in time");
            let event = event.expect("it goes on").expect("without an error");
            assert_eq!((event.revision, event.changes.len()), (Revision(round), 1));
        }
        cluster.lines[0].cut();
    }
    drop(watches);
    tokio::time::timeout(patience, async {
        while cluster.fake.watches() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all are closed");
    cluster.stop().await;
}

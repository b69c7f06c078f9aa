//! What concurrent clients see while the network between the members fails: one order, in which nothing is lost. The same
//! under killed, stopped and replaced processes is in `tests/metadata/histories.rs`.

use super::members::{Cluster, hold};
use protocol::testing::{
    history::{History, Load},
    linearizability::{self, CONFIGURATIONS},
    oracles::sequences,
};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the network fails, again and again.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_see_while_the_network_fails_is_one_order() {
    let cluster = Cluster::of(3).await;
    let handles: Vec<_> = (1..=3).map(|id| cluster.service(id)).collect();
    let load = Load { clients: 6, keys: 4, calls: usize::MAX, seed: 7, ..Load::default() };
    let stop = CancellationToken::new();
    let calling = {
        let stop = stop.clone();
        tokio::spawn(async move { load.run(&handles, &stop).await })
    };
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < LONG {
        let leader = cluster.leader().await;
        match rounds % 4 {
            0 => cluster.net.isolate(leader, 1..=3),
            1 => cluster.net.isolate(leader % 3 + 1, 1..=3),
            // It is heard, and hears nobody.
            2 => (1..=3).filter(|id| *id != leader).for_each(|id| cluster.net.cut(id, leader)),
            _ => cluster.net.disturb(200, Duration::from_millis(80), rounds),
        }
        hold(Duration::from_millis(1_500)).await;
        cluster.net.heal();
        hold(Duration::from_millis(500)).await;
        rounds += 1;
    }
    stop.cancel();
    let History { calls, taken, .. } = calling.await.expect("the clients end").expect("enough succeeded");
    println!("{} calls, {} numbers, the network failed {rounds} times", calls.len(), taken.len());
    linearizability::check(&calls, CONFIGURATIONS).unwrap_or_else(|problem| panic!("{problem}"));
    sequences::check(&taken).unwrap_or_else(|problem| panic!("{problem}"));
    cluster.until_equal().await;
    assert!(calls.len() > 200 && !taken.is_empty(), "too little happened to prove anything");
    cluster.end().await;
}

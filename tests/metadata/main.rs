//! The metadata service as processes: what clients see while its nodes are killed, stopped, slowed down, replaced and
//! damaged. Histories are judged by `protocol::testing`. `MAGNETAR_SECONDS` and `MAGNETAR_LEADERS` make it longer;
//! `make soak` does. Prints what it measured.

#[path = "../support/mod.rs"]
mod support;

use bytes::Bytes;
use protocol::{
    id::Revision,
    service::metadata::{Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use support::{
    cluster::{Cluster, Plan, alone},
    hold,
    load::{Load, Shape},
    now,
    quorum::Quorum,
    wait_until,
};

mod histories;
mod state;

/// How long a call of a client that sees faults may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A number from the environment.
fn count(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Three metadata nodes and nothing else, all of which vote.
fn three(plan: Plan) -> (Cluster, Quorum) {
    let (mut cluster, quorum) = (Cluster::prepared(plan.with_voters(3)), Quorum::new());
    cluster.restart_metadata();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
    (cluster, quorum)
}

fn servers(cluster: &Cluster) -> Vec<String> {
    cluster.metadata_nodes().map(|node| node.address().to_string()).collect()
}

fn put(key: &str, value: &str) -> Transaction {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Transaction { operations: vec![Operation::Put { key: key.into(), value, session: None }], ..Transaction::default() }
}

/// Writes until it is known to be done.
async fn write(service: &Arc<dyn MetadataService>, key: &str, value: &str) -> Revision {
    let end = support::deadline();
    loop {
        match service.transact(put(key, value)).await {
            Ok(Outcome::Committed { revision, .. }) => return revision,
            Err(MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. }) if !support::passed(end) => {}
            other => panic!("{key} was not written: {other:?}"),
        }
    }
}

/// What a key holds, after everything that was committed.
async fn read(service: &Arc<dyn MetadataService>, key: &str) -> Option<String> {
    let item = service.get(key.into(), Consistency::Linearizable).await.expect("reads");
    item.map(|item| String::from_utf8(item.value.to_vec()).expect("text"))
}

#[test]
fn a_leader_whose_disk_fails_or_hangs_makes_room_for_another() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default().with_shim());
    let writer = Writer::start(&quorum, &cluster);
    let broken = quorum.leader(&cluster);
    let Some(shim) = &cluster.metadata_at(broken).shim else { return support::skip("no shim on this machine") };
    shim.fail_syncs(true);
    assert!(!cluster.metadata_at(broken).wait_exit().success(), "it stops, whatever it has told the others to write");
    let told = cluster.metadata_at(broken).log_text();
    assert!(told.contains("the metadata service cannot go on"), "{told}");
    writer.wait_more();
    if let Some(shim) = &cluster.metadata_at(broken).shim {
        shim.heal();
    }
    cluster.metadata_at(broken).restart();
    quorum.wait_settled(&cluster, &[1, 2, 3]);

    let hanging = quorum.leader(&cluster);
    if let Some(shim) = &cluster.metadata_at(hanging).shim {
        shim.delay_syncs(Duration::from_secs(600));
    }
    wait_until("another one leads", || {
        quorum.statuses(&cluster).iter().any(|one| one.node != hanging && one.leader == Some(one.node))
    });
    writer.wait_more();
    assert!(writer.finish(&quorum).len() > 200, "no write failed");
}

/// A client that writes one value after the other, and when each of them was confirmed.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    work: tokio::task::JoinHandle<Vec<Instant>>,
}

impl Writer {
    fn start(quorum: &Quorum, cluster: &Cluster) -> Self {
        let (service, stop) = (quorum.client(&servers(cluster), PATIENCE), Arc::new(AtomicBool::new(false)));
        let written = Arc::new(AtomicUsize::new(0));
        let (stopping, counter) = (Arc::clone(&stop), Arc::clone(&written));
        let work = quorum.runtime.spawn(async move {
            let mut confirmed = vec![now()];
            while !stopping.load(Ordering::Relaxed) {
                let number = confirmed.len().to_string();
                // The client hides every failure that a retry can hide, so that none is left for us.
                let answer = service.transact(put("writer", &number)).await;
                assert!(matches!(answer, Ok(Outcome::Committed { .. })), "write {number}: {answer:?}");
                confirmed.push(now());
                counter.fetch_add(1, Ordering::Relaxed);
            }
            confirmed
        });
        Self { stop, written, work }
    }

    /// Waits until it has written some more.
    fn wait_more(&self) {
        let before = self.written.load(Ordering::Relaxed);
        wait_until("it writes", || {
            assert!(!self.work.is_finished(), "a write has failed");
            self.written.load(Ordering::Relaxed) > before + 100
        });
    }

    /// The moments of confirmation.
    fn finish(self, quorum: &Quorum) -> Vec<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        quorum.runtime.block_on(self.work).expect("every write was confirmed")
    }
}

/// The longest pause between two confirmations of which the second came at `after` or later, and the first before `until`.
fn longest_pause(confirmed: &[Instant], after: Instant, until: Instant) -> Duration {
    let around = confirmed.windows(2).filter(|pair| pair[1] >= after && pair[0] <= until);
    around.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[test]
fn writes_go_on_soon_after_the_leader_was_killed() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let (kills, writer) = (count("MAGNETAR_LEADERS", 5), Writer::start(&quorum, &cluster));
    let mut times = Vec::new();
    for kill in 0..kills {
        let leader = quorum.leader(&cluster);
        times.push(now());
        cluster.metadata_at(leader).kill();
        writer.wait_more();
        cluster.metadata_at(leader).restart();
        quorum.wait_settled(&cluster, &[1, 2, 3]);
        writer.wait_more();
        eprintln!("killed the leader {} of {kills} times", kill + 1);
    }
    let end = now();
    let confirmed = writer.finish(&quorum);
    let ends = times.iter().skip(1).copied().chain([end]);
    let mut pauses: Vec<Duration> = times.iter().zip(ends).map(|(t, u)| longest_pause(&confirmed, *t, u)).collect();
    pauses.sort();
    let at = |share: usize| pauses[(pauses.len() * share).div_ceil(100) - 1].as_secs_f64() * 1e3;
    println!(
        "MEASURED metadata: {kills} leaders killed, {} writes, none failed; without a write for {:.0} ms (p50), {:.0} ms (p99)",
        confirmed.len(),
        at(50),
        at(99)
    );
    assert!(at(100) < 10_000.0, "a client that waits ten seconds would have seen an error");
}

#[test]
fn a_leader_that_was_stopped_serves_nothing_stale() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    for round in 0..3 {
        let old = quorum.leader(&cluster);
        let at_old = [cluster.metadata_at(old).address().to_string()];
        let (direct, service) = (quorum.client(&at_old, PATIENCE), quorum.client(&servers(&cluster), PATIENCE));
        let (before, after) = (format!("before {round}"), format!("after {round}"));
        quorum.runtime.block_on(write(&service, "k", &before));
        assert_eq!(quorum.runtime.block_on(read(&direct, "k")).as_deref(), Some(&*before));
        cluster.metadata_at(old).pause();
        quorum.runtime.block_on(write(&service, "k", &after));
        // Asked while it does not run: it answers as soon as it does, before anybody told it what it has missed.
        let inside = quorum.runtime.enter();
        let asked: Vec<_> = (0..20).map(|_| direct.get("k".into(), Consistency::Linearizable)).collect();
        drop(inside);
        let asked = quorum.runtime.spawn(futures::future::join_all(asked));
        cluster.metadata_at(old).resume();
        for answer in quorum.runtime.block_on(asked).expect("all answer") {
            match answer {
                Ok(item) => assert_eq!(item.expect("it is there").value, after.as_bytes(), "a stale read"),
                Err(problem) => assert!(matches!(problem, MetadataError::Unavailable { .. }), "{problem}"),
            }
        }
        quorum.wait_settled(&cluster, &[1, 2, 3]);
    }
}

#[test]
fn partitions_go_on_for_a_minute_without_a_metadata_quorum() {
    let _turn = alone();
    let mut cluster = Cluster::start(Plan::of(3).with_voters(3));
    let quorum = Quorum::new();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
    let load = Load::start(&cluster.bootstrap(), Shape::light("headless"));
    load.wait_more(500);
    let leader = quorum.leader(&cluster);
    let other = leader % 3 + 1;
    cluster.metadata_at(leader).kill();
    cluster.metadata_at(other).kill();
    let start = now();
    hold(Duration::from_secs(60));
    let longest = load.latencies(start, now()).max.as_secs_f64() * 1e3;
    let before = load.acked();
    load.wait_more(500);
    assert!(before > 0);
    cluster.restart_all();
    quorum.wait_settled(&cluster, &[1, 2, 3]);
    load.wait_more(500);
    load.finish().assert_flawless();
    println!("MEASURED 60 s without a metadata quorum: no client error, longest produce stall {longest:.0} ms");
    // And what needs metadata works again.
    let (made, text) = cluster.run(&["topic", "create", "afterwards", "--partitions", "3"]);
    assert!(made, "{text}");
}

#[test]
fn one_lost_node_of_three_is_not_noticed() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let writer = Writer::start(&quorum, &cluster);
    for id in 1..=3 {
        cluster.metadata_at(id).kill();
        hold(Duration::from_secs(2));
        cluster.metadata_at(id).restart();
        quorum.wait_settled(&cluster, &[1, 2, 3]);
        let status = cluster.metadata_at(id).terminate();
        assert!(status.success(), "metadata node {id} ends in order: {status}");
        hold(Duration::from_secs(2));
        cluster.metadata_at(id).restart();
        quorum.wait_settled(&cluster, &[1, 2, 3]);
    }
    assert!(writer.finish(&quorum).len() > 100, "it wrote all the time, and no write failed");
}

#[test]
fn saturated_cores_and_a_slow_disk_elect_nobody_again_and_again() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default().with_shim());
    let leader = quorum.leader(&cluster);
    let before = quorum.statuses(&cluster)[0].term;
    let (writer, burn) = (Writer::start(&quorum, &cluster), Arc::new(AtomicBool::new(true)));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let burners: Vec<_> = (0..cores * 2)
        .map(|_| {
            let burn = Arc::clone(&burn);
            std::thread::spawn(move || while burn.load(Ordering::Relaxed) {})
        })
        .collect();
    hold(Duration::from_secs(10));
    // Slower than a sign of life may take, which must not wait for the disk.
    if let Some(shim) = &cluster.metadata_at(leader).shim {
        shim.delay_syncs(Duration::from_millis(300));
        hold(Duration::from_secs(5));
    }
    burn.store(false, Ordering::Relaxed);
    burners.into_iter().for_each(|burner| burner.join().expect("it burns"));
    if let Some(shim) = &cluster.metadata_at(leader).shim {
        shim.heal();
    }
    let written = writer.finish(&quorum).len();
    let elections = quorum.statuses(&cluster)[0].term - before;
    println!("MEASURED saturated cores: {written} writes in 15 s, {elections} elections");
    assert!(elections <= 1, "{elections} elections in 15 s are a storm");
    wait_until("everybody follows", || quorum.statuses(&cluster).len() == 3);
}

//! Histories of concurrent clients under faults, judged: linearizable by key and across keys, sequences never repeat,
//! watches lose and repeat nothing, sessions end neither early nor much too late, and all nodes hold the same at the end.

use super::{PATIENCE, Quorum, count, servers, three, write};
use crate::support::{
    self,
    cluster::{Cluster, Plan, alone},
    hold, now, wait_until,
};
use protocol::{
    id::Revision,
    service::{
        metadata::{Consistency, MetadataError, MetadataService, Operation, Transaction},
        quorum::QuorumService,
    },
    testing::{
        history::{History, Load, follow},
        linearizability::{self, Action, CONFIGURATIONS, Call, Effect, When},
        oracles::{
            sequences,
            sessions::{self, Found, Sighting},
            watches::{Commits, Told},
        },
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long an operator waits for a change of membership.
const CHANGE: Duration = Duration::from_secs(30);

/// Something that happens to the metadata nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillLeader,
    KillFollower,
    KillAll,
    StopLeader,
    StopFollower,
    SlowDisk,
    Transfer,
    Replace,
}

/// In this order, again and again, so that a short run has seen all of them.
const FAULTS: [Fault; 9] = [
    Fault::KillLeader,
    Fault::StopLeader,
    Fault::SlowDisk,
    Fault::Replace,
    Fault::KillFollower,
    Fault::Transfer,
    Fault::StopFollower,
    Fault::KillAll,
    Fault::KillLeader,
];

fn happen(fault: Fault, cluster: &mut Cluster, quorum: &Quorum, random: &mut StdRng) {
    let leader = quorum.leader(cluster);
    let follower = *[1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>().choose(random).expect("two");
    let a_while = Duration::from_millis(random.random_range(500..3_000));
    match fault {
        Fault::KillLeader => kill(cluster, leader, a_while),
        Fault::KillFollower => kill(cluster, follower, a_while),
        Fault::KillAll => {
            (1..=3).for_each(|id| cluster.metadata_at(id).kill());
            cluster.restart_metadata();
        }
        Fault::StopLeader => stop(cluster, leader, a_while),
        Fault::StopFollower => stop(cluster, follower, a_while),
        Fault::SlowDisk => {
            if let Some(shim) = &cluster.metadata_at(if random.random() { leader } else { follower }).shim {
                shim.delay_syncs(Duration::from_millis(random.random_range(20..400)));
                hold(Duration::from_secs(3));
                shim.heal();
            }
        }
        // It may lose against another fault's aftermath; that something led is shown by the writes.
        Fault::Transfer => drop(at(cluster, quorum, leader, async |operator| operator.transfer(Some(follower)).await)),
        Fault::Replace => replace(cluster, quorum, leader),
    }
}

fn kill(cluster: &mut Cluster, id: u64, a_while: Duration) {
    cluster.metadata_at(id).kill();
    hold(a_while);
    cluster.metadata_at(id).restart();
}

fn stop(cluster: &mut Cluster, id: u64, a_while: Duration) {
    cluster.metadata_at(id).pause();
    hold(a_while);
    cluster.metadata_at(id).resume();
}

/// What an operator is told by one node.
fn at<T>(
    cluster: &mut Cluster,
    quorum: &Quorum,
    id: u64,
    ask: impl AsyncFnOnce(Arc<dyn QuorumService>) -> Result<T, protocol::service::quorum::QuorumError>,
) -> Result<T, String> {
    let operator: Arc<dyn QuorumService> = Arc::new(quorum.operator(cluster.metadata_at(id), CHANGE));
    quorum.runtime.block_on(ask(operator)).map_err(|problem| problem.to_string())
}

/// A node that joined loses its disk, is taken out, and joins again as a new member.
fn replace(cluster: &mut Cluster, quorum: &Quorum, leader: u64) {
    let lost = if leader == 2 { 3 } else { 2 };
    cluster.metadata_at(lost).kill();
    cluster.metadata_at(lost).wipe();
    wait_until("the lost node is taken out", || {
        let leader = quorum.leader(cluster);
        at(cluster, quorum, leader, async |operator| operator.remove(lost).await).is_ok()
    });
    cluster.metadata_at(lost).restart();
    quorum.wait_settled(cluster, &[1, 2, 3]);
}

/// A client that nobody else writes to, so that a watcher knows when it has seen everything.
fn last_call(position: u64, key: String, revision: Revision, value: bytes::Bytes) -> Call {
    let action = Action::Write { when: When::Always, effects: vec![Effect { key, value: Some(value) }] };
    Call {
        client: 99,
        invoked: position,
        returned: position + 1,
        action,
        outcome: linearizability::Outcome::Written(revision),
    }
}

#[test]
fn what_clients_see_under_faults_is_one_order_that_nothing_is_lost_from() {
    let _turn = alone();
    let (seconds, seed) = (count("MAGNETAR_SECONDS", 60), count("MAGNETAR_SEED", rand::random()));
    println!("seed {seed}");
    let (mut cluster, quorum) = three(Plan::default().with_shim());
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = servers(&cluster);
    // Every client knows all servers, and begins at another one.
    let handles: Vec<_> = (0..6)
        .map(|_| {
            all.rotate_left(1);
            quorum.client(&all, PATIENCE)
        })
        .collect();
    let load = Load { clients: 6, keys: 4, calls: usize::MAX, seed, ..Load::default() };
    let stop = CancellationToken::new();
    let (target, reached) = watch::channel(None);
    let calling = {
        let (load, handles, stop) = (load.clone(), handles.clone(), stop.clone());
        quorum.runtime.spawn(async move { load.run(&handles, &stop).await })
    };
    let watching = {
        let (handles, prefix) = (handles.clone(), load.prefix.clone());
        quorum.runtime.spawn(async move { follow(&handles, &prefix, reached).await })
    };
    let (start, mut faults) = (now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let fault = FAULTS[faults % FAULTS.len()];
        happen(fault, &mut cluster, &quorum, &mut random);
        faults += 1;
        eprintln!("{faults} faults, {:.0} of {seconds} s: {fault:?}", start.elapsed().as_secs_f64());
        hold(Duration::from_millis(random.random_range(100..1_500)));
    }
    quorum.wait_settled(&cluster, &[1, 2, 3]);
    stop.cancel();
    let history = quorum.runtime.block_on(calling).expect("the clients end").expect("enough succeeded");
    let key = format!("{}last", load.prefix);
    let last = quorum.runtime.block_on(write(&handles[0], &key, "last"));
    target.send_replace(Some(last));
    let (told, resumed) = quorum.runtime.block_on(watching).expect("the watcher ends");
    judge(history, &told, (key, last), &load);
    wait_until("all nodes hold the same", || {
        let all = quorum.statuses(&cluster);
        all.len() == 3 && all.iter().all(|one| one.applied == all[0].applied && one.revision == all[0].revision)
    });
    same_audits(&cluster, &quorum, &handles[0]);
    println!(
        "MEASURED metadata histories: {faults} faults in {seconds} s, the watcher was told {} times and resumed {resumed} times, seed {seed}",
        told.len()
    );
}

fn judge(history: History, told: &[Told], (key, last): (String, Revision), load: &Load) {
    let History { mut calls, taken, .. } = history;
    println!("{} calls, {} numbers", calls.len(), taken.len());
    let position = calls.iter().map(|call| call.returned.max(call.invoked)).max().unwrap_or_default() + 1;
    calls.push(last_call(position, key, last, "last".into()));
    linearizability::check(&calls, CONFIGURATIONS).unwrap_or_else(|problem| panic!("{problem}"));
    sequences::check(&taken).unwrap_or_else(|problem| panic!("{problem}"));
    let commits = Commits::of(&calls, &load.prefix).expect("whole transactions");
    commits.check(told, last).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(calls.len() > 500 && !taken.is_empty() && told.len() > 100, "too little happened to prove anything");
}

/// Writes until all nodes have audited the same position, and compares the digests there.
fn same_audits(cluster: &Cluster, quorum: &Quorum, service: &Arc<dyn MetadataService>) {
    wait_until("all nodes have audited the same position", || {
        quorum.runtime.block_on(write(service, "audit", "me"));
        let audits: Vec<_> = quorum.statuses(cluster).into_iter().map(|one| one.audited).collect();
        let [Some(first), ..] = audits[..] else { return false };
        let same = audits.len() == 3 && audits.iter().all(|audit| audit.is_some_and(|audit| audit.0 == first.0));
        assert!(!same || audits.iter().all(|audit| *audit == Some(first)), "the nodes diverge: {audits:?}");
        same
    });
}

/// One session and everything that was found out about it.
struct Watched {
    service: Arc<dyn MetadataService>,
    id: protocol::id::SessionId,
    start: std::time::Instant,
    sightings: Vec<Sighting>,
}

impl Watched {
    async fn open(service: Arc<dyn MetadataService>, ttl: Duration) -> Self {
        let start = now();
        let id = service.open_session(ttl).await.expect("opened");
        let operations = vec![Operation::Put { key: "held".into(), value: "by a session".into(), session: Some(id) }];
        service.transact(Transaction { operations, ..Transaction::default() }).await.expect("written");
        let answered = start.elapsed();
        let opened = Sighting { asked: Duration::ZERO, answered, found: Found::Alive, extends: true };
        Self { service, id, start, sightings: vec![opened] }
    }

    /// A heartbeat, or only a look at what the session holds.
    async fn look(&mut self, extends: bool) -> Found {
        let asked = self.start.elapsed();
        let found = if extends {
            match self.service.keep_alive(self.id).await {
                Ok(()) => Found::Alive,
                Err(MetadataError::SessionExpired(_)) => Found::Gone,
                Err(_) => Found::Nothing,
            }
        } else {
            match self.service.get("held".into(), Consistency::Linearizable).await {
                Ok(Some(_)) => Found::Alive,
                Ok(None) => Found::Gone,
                Err(_) => Found::Nothing,
            }
        };
        self.sightings.push(Sighting { asked, answered: self.start.elapsed(), found, extends });
        found
    }
}

#[test]
fn a_session_lives_through_changes_of_leader_and_ends_in_time() {
    let _turn = alone();
    let (mut cluster, quorum) = three(Plan::default());
    let (ttl, service) = (Duration::from_secs(4), quorum.client(&servers(&cluster), PATIENCE));
    let watched = quorum.runtime.block_on(Watched::open(Arc::clone(&service), ttl));
    let kept = CancellationToken::new();
    let keeping = {
        let kept = kept.clone();
        quorum.runtime.spawn(async move {
            let mut watched = watched;
            let mut beat = tokio::time::interval(Duration::from_millis(400));
            while !kept.is_cancelled() {
                watched.look(true).await;
                beat.tick().await;
            }
            watched
        })
    };
    for _ in 0..3 {
        let leader = quorum.leader(&cluster);
        cluster.metadata_at(leader).kill();
        quorum.leader(&cluster);
        cluster.metadata_at(leader).restart();
        quorum.wait_settled(&cluster, &[1, 2, 3]);
    }
    kept.cancel();
    let mut watched = quorum.runtime.block_on(keeping).expect("it ends");
    assert!(watched.sightings.iter().all(|sighting| sighting.found != Found::Gone), "it was kept alive");
    // Nobody keeps it any more, and the leader changes once again: it gets its time anew, and ends then.
    let leader = quorum.leader(&cluster);
    cluster.metadata_at(leader).kill();
    quorum.runtime.block_on(async {
        let (end, mut look) = (support::deadline(), tokio::time::interval(Duration::from_millis(50)));
        while watched.look(false).await != Found::Gone {
            assert!(!support::passed(end), "it never ends");
            look.tick().await;
        }
        assert!(matches!(watched.look(true).await, Found::Gone), "it does not come back");
    });
    // One change of leader, within which nobody counts, and the bound of expiry itself.
    let grace = ttl + Duration::from_secs(10);
    sessions::check(&watched.sightings, ttl, grace).unwrap_or_else(|problem| panic!("{problem}"));
}

//! The members of a test cluster: real directories, real raft, calls over loopback TCP, and a network that can fail.

use super::net::Net;
use bytes::Bytes;
use futures::FutureExt;
use metadata::{MetadataConfig, MetadataDeps, MetadataNode, Peers, Role, StartError};
use protocol::{
    runtime::{SystemClock, TaskKind, Tasks},
    service::{
        metadata::{Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
        quorum::{MemberRole, QuorumError, QuorumService, QuorumStatus},
    },
    wire::metadata::{Handles, MetadataServer, Serving},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::Instant};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A member that runs.
pub(crate) struct Running {
    pub(crate) node: MetadataNode,
    serving: Tasks,
}

impl Running {
    pub(crate) fn status(&self) -> QuorumStatus {
        self.node.quorum().status().now_or_never().expect("at once").expect("a status")
    }

    /// Whether it knows that members 1 to n vote, and nothing else under way.
    pub(crate) fn settled(&self, count: u64) -> bool {
        let status = self.status();
        !status.is_changing && voters(&status).into_iter().eq(1..=count)
    }
}

fn voters(status: &QuorumStatus) -> Vec<u64> {
    status.members.iter().filter(|m| m.role == MemberRole::Voter).map(|m| m.member.id).collect()
}

/// A cluster within the process.
pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) running: BTreeMap<u64, Running>,
    dirs: TempDir,
    addresses: BTreeMap<u64, String>,
    pub(crate) snapshot_after_logs: u64,
    /// Whether those who join from now on want no vote.
    pub(crate) learners: bool,
}

impl Cluster {
    /// A cluster of so many voters.
    pub(crate) async fn of(voters: u64) -> Self {
        tell_what_happens();
        let dirs = tempfile::tempdir().expect("a directory");
        let mut cluster = Self {
            net: Net::default(),
            running: BTreeMap::new(),
            dirs,
            addresses: BTreeMap::new(),
            snapshot_after_logs: 10_000,
            learners: false,
        };
        for id in 1..=voters {
            cluster.start(id).await.expect("starts");
        }
        // Before all know that, one that is cut off may take a majority of the old voters with it.
        cluster.until("every member votes", |cluster| cluster.running.values().all(|m| m.settled(voters))).await;
        cluster
    }

    pub(crate) fn dir(&self, id: u64) -> PathBuf {
        self.dirs.path().join(id.to_string())
    }

    /// Starts a member: the first one founds the cluster, the others join it, and all go on where they were.
    pub(crate) async fn start(&mut self, id: u64) -> Result<(), StartError> {
        // The port is chosen once, as an operator would.
        let wanted = self.addresses.get(&id).cloned().unwrap_or_else(|| "127.0.0.1:0".into());
        let listener = TcpListener::bind(&wanted).await.expect("binds");
        let address = listener.local_addr().expect("bound").to_string();
        self.addresses.insert(id, address.clone());
        let config = MetadataConfig {
            node: Some(id),
            data_dir: self.dir(id),
            address,
            peer_address: format!("member-{id}"),
            snapshot_after_logs: self.snapshot_after_logs,
            proposal_timeout_ms: 5_000,
            learner: self.learners,
            ..MetadataConfig::default()
        };
        let net = self.net.clone();
        let others: Vec<Arc<dyn QuorumService>> = self.running.values().map(|member| member.node.quorum()).collect();
        let deps = MetadataDeps {
            clock: Arc::new(SystemClock::default()),
            tasks: Tasks::default(),
            peers: Peers::of(Arc::new(self.net.clone()), move |desk| net.publish(id, desk)),
            cluster: others.into_iter().next(),
        };
        let node = MetadataNode::start(config, deps).await?;
        let serving = Tasks::default();
        let server = MetadataServer::new(
            Serving {
                front: Handles { service: node.service(), quorum: Some(node.quorum()) },
                passed_on: Handles { service: node.service_passed_on(), quorum: Some(node.quorum_passed_on()) },
                node: id,
                group: node.group(),
            },
            &serving,
        );
        let work = server.serve(listener);
        serving.spawn(TaskKind::Background, "server", async move { work.await.map_err(|e| e.to_string()) });
        self.running.insert(id, Running { node, serving });
        Ok(())
    }

    /// Stops a member without a word to the others.
    pub(crate) async fn crash(&mut self, id: u64) {
        let member = self.running.remove(&id).expect("it runs");
        self.net.remove(id);
        assert!(member.serving.stop(PATIENCE).await, "the server ends");
        member.node.end().await;
    }

    /// Stops a member in order.
    pub(crate) async fn stop(&mut self, id: u64) {
        let member = self.running.remove(&id).expect("it runs");
        member.node.stop().await;
        self.net.remove(id);
        assert!(member.serving.stop(PATIENCE).await, "the server ends");
    }

    /// Deletes the disk of a member that does not run.
    pub(crate) fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(self.dir(id)).expect("removed");
    }

    pub(crate) async fn end(mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.crash(id).await;
        }
    }

    pub(crate) fn node(&self, id: u64) -> &MetadataNode {
        &self.running.get(&id).expect("it runs").node
    }

    pub(crate) fn service(&self, id: u64) -> Arc<dyn MetadataService> {
        self.node(id).service()
    }

    pub(crate) fn role(&self, id: u64) -> Role {
        self.node(id).role().borrow().clone()
    }

    /// The leaders as they see themselves.
    pub(crate) fn leaders(&self) -> Vec<u64> {
        self.running.keys().copied().filter(|id| self.role(*id).leads()).collect()
    }

    /// The one leader.
    pub(crate) async fn leader(&self) -> u64 {
        self.until("there is one leader", |cluster| cluster.leaders().len() == 1).await;
        self.leaders()[0]
    }

    /// A member that runs and does not lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.running.keys().find(|id| **id != leader).expect("several members")
    }

    /// The voters as the first running member knows them.
    pub(crate) fn voters(&self) -> Vec<u64> {
        self.running.values().next().map(Running::status).map_or_else(Vec::new, |status| voters(&status))
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "still not so: {what}; leaders {:?}", self.leaders());
            hold(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all running members hold the same state.
    pub(crate) async fn until_equal(&self) {
        self.until("all members hold the same state", |cluster| {
            let mut digests = cluster.running.values().map(|member| (member.node.digest(), member.node.applied()));
            let first = digests.next();
            digests.all(|other| Some(other) == first)
        })
        .await;
    }
}

/// Keeps something up for a while: the length is part of the fault, or the pause between two looks; nothing is expected
/// to have happened when it is over.
pub(crate) async fn hold(duration: Duration) {
    let _ = tokio::time::timeout(duration, std::future::pending::<()>()).await;
}

/// `MAGNETAR_LOG=debug` tells what the members do.
fn tell_what_happens() {
    if let Ok(filter) = std::env::var("MAGNETAR_LOG") {
        // Tests share a process; the first one is enough.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_thread_ids(true).try_init();
    }
}

pub(crate) fn put(key: &str, value: &str) -> Transaction {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let operations = vec![Operation::Put { key: key.into(), value, session: None }];
    Transaction { operations, ..Transaction::default() }
}

/// Writes, and tries again while nobody leads.
pub(crate) async fn write(service: &Arc<dyn MetadataService>, key: &str, value: &str) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match service.transact(put(key, value)).await {
            Ok(outcome) => return outcome,
            Err(problem @ (MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. })) => {
                assert!(Instant::now() < deadline, "{problem}");
            }
            Err(problem) => panic!("{problem}"),
        }
    }
}

/// Asks operators' calls again while nobody leads.
pub(crate) async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, QuorumError>) -> Result<T, QuorumError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(problem @ (QuorumError::Unavailable { .. } | QuorumError::OutcomeUnknown { .. })) => {
                assert!(Instant::now() < deadline, "{problem}");
                hold(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// What a key holds, after everything that was committed.
pub(crate) async fn read(service: &Arc<dyn MetadataService>, key: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match service.get(key.into(), Consistency::Linearizable).await {
            Ok(item) => return item.map(|i| String::from_utf8(i.value.to_vec()).expect("text")),
            Err(problem) => assert!(Instant::now() < deadline, "{problem}"),
        }
    }
}

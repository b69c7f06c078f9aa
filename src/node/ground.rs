//! What every role stands on: a metadata service, in this process or in another one, the cluster view, and the cluster's
//! identity. Owns waiting for a metadata service that is not there yet, and that the controller runs beside its leader.

use super::{Groups, NodeError};
use crate::{
    cluster::{self, ClusterError},
    config::{Config, address::Address},
    readiness::Readiness,
    role::Role,
};
use metadata::{AuditConfig, Controller, MetadataConfig, MetadataDeps, MetadataNode, Peers, Role as Part};
use protocol::{
    cluster::ClusterView,
    model::{ClusterRecord, decode, key},
    runtime::{Clock, TaskKind, Tasks},
    service::{
        metadata::{Consistency, MetadataError, MetadataService},
        quorum::QuorumService,
    },
    wire::metadata::{Handles, MetadataServer, RemoteMetadata, RemoteOptions, RemoteQuorum, Serving},
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};

/// How long the cluster that a metadata node joins may take to answer.
const JOIN: Duration = Duration::from_secs(15);
/// How long the controller's tasks may take to end when another node leads.
const UNWIND: Duration = Duration::from_secs(5);
/// The pause before a metadata service that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a start that waits says so.
const REMINDER: Duration = Duration::from_secs(5);
/// How long a call to a metadata service in another process may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What roles stand on.
pub(super) struct Ground {
    pub(super) metadata: Arc<dyn MetadataService>,
    pub(super) view: ClusterView,
    pub(super) cluster_id: String,
    /// The voter of this process, if it has one.
    pub(super) voter: Option<MetadataNode>,
}

impl Ground {
    /// Starts the metadata node of this process, serves it to others if there are sockets for that, and waits until it
    /// knows the cluster, however long it takes until enough other nodes run.
    pub(super) async fn own(
        config: &Config,
        clock: &Arc<dyn Clock>,
        sockets: MetadataSockets,
        readiness: &Readiness,
        groups: &Groups,
    ) -> Result<Self, NodeError> {
        let MetadataSockets { calls, peers, address, peer_address } = sockets;
        let join: Vec<String> = config.metadata.join.iter().map(ToString::to_string).collect();
        let cluster: Option<Arc<dyn QuorumService>> = match join.is_empty() {
            true => None,
            false => Some(Arc::new(RemoteQuorum::connect(&join, JOIN, &groups.client).map_err(NodeError::Join)?)),
        };
        if cluster.is_some() {
            readiness.waits_for(Some(format!("joining the metadata nodes at {}", join.join(", "))));
        }
        let deps = MetadataDeps {
            clock: Arc::clone(clock),
            tasks: groups.node.clone(),
            peers: peers.map_or_else(Peers::none, Peers::tcp),
            cluster,
        };
        let voter = MetadataNode::start(metadata_config(config, address, peer_address), deps).await?;
        if let Some(listener) = calls {
            let serving = MetadataServer::new(served(&voter), &groups.serving).serve(listener);
            groups.serving.spawn(TaskKind::Vital, "metadata server", async move {
                serving.await.map_err(|problem| problem.to_string())
            });
        }
        readiness.started(Role::Metadata, voter.readiness());
        let metadata = voter.service();
        let mut wait = Wait::new("this node and its peers".into(), clock);
        let cluster_id = loop {
            match cluster::find_or_found(&*metadata, &**clock).await {
                Ok(found) => break found.cluster_id,
                Err(ClusterError::Metadata(problem)) => wait.once_more(&problem.to_string(), readiness).await,
                Err(problem) => return Err(problem.into()),
            }
        };
        let view = wait.view(&metadata, readiness, groups).await;
        let controller = Controllers {
            metadata: Arc::clone(&metadata),
            view: view.clone(),
            clock: Arc::clone(clock),
            audits: AuditConfig { grace: config.repair.grace, interval: config.repair.audit_interval },
            tasks: groups.controller.clone(),
        };
        groups.controller.spawn(TaskKind::Vital, "controller beside the leader", controller.run(voter.role()));
        Ok(Self { metadata, view, cluster_id, voter: Some(voter) })
    }

    /// Connects to the metadata service of the cluster, however long it takes until there is one.
    pub(super) async fn remote(
        servers: &[Address],
        clock: &Arc<dyn Clock>,
        readiness: &Readiness,
        groups: &Groups,
    ) -> Result<Self, NodeError> {
        let options = RemoteOptions { deadline: DEADLINE, ..RemoteOptions::default() };
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let metadata: Arc<dyn MetadataService> = Arc::new(RemoteMetadata::connect(&servers, options, &groups.client)?);
        let mut wait = Wait::new(servers.join(", "), clock);
        readiness.waits_for(Some(wait.text("no answer yet")));
        let record = loop {
            match known_cluster(&*metadata).await {
                Ok(found) => break found,
                Err(reason) => wait.once_more(&reason, readiness).await,
            }
        };
        let view = wait.view(&metadata, readiness, groups).await;
        tracing::info!(cluster = record.cluster_id, "found the cluster");
        Ok(Self { metadata, view, cluster_id: record.cluster_id, voter: None })
    }
}

/// Where a metadata node listens, and what others are told.
pub(super) struct MetadataSockets {
    pub(super) calls: Option<TcpListener>,
    pub(super) peers: Option<TcpListener>,
    pub(super) address: Option<Address>,
    pub(super) peer_address: Option<Address>,
}

/// What a metadata node offers to other processes.
fn served(voter: &MetadataNode) -> Serving {
    Serving {
        front: Handles { service: voter.service(), quorum: Some(voter.quorum()) },
        passed_on: Handles { service: voter.service_passed_on(), quorum: Some(voter.quorum_passed_on()) },
        node: voter.id(),
        group: voter.group(),
    }
}

/// Runs the controller while this process's metadata node leads.
struct Controllers {
    metadata: Arc<dyn MetadataService>,
    view: ClusterView,
    clock: Arc<dyn Clock>,
    audits: AuditConfig,
    tasks: Tasks,
}

impl Controllers {
    async fn run(self, mut role: watch::Receiver<Part>) -> Result<(), String> {
        let stopping = self.tasks.stopping();
        loop {
            let led = tokio::select! {
                led = role.wait_for(Part::leads) => led.is_ok(),
                () = stopping.cancelled() => false,
            };
            if !led {
                return Ok(());
            }
            let tasks = self.tasks.child();
            let (metadata, clock) = (Arc::clone(&self.metadata), Arc::clone(&self.clock));
            Controller::start_with(metadata, self.view.clone(), clock, self.audits, &tasks);
            let over = role.wait_for(|part| !part.leads());
            tokio::select! {
                _ = over => {}
                () = stopping.cancelled() => {}
            }
            // It keeps nothing: whatever is cut off here, the next controller decides again.
            tasks.stop(UNWIND).await;
        }
    }
}

/// A start that waits for metadata: tells whoever asks, and the log now and then.
struct Wait<'a> {
    servers: String,
    clock: &'a Arc<dyn Clock>,
    remind_at: Duration,
}

impl<'a> Wait<'a> {
    fn new(servers: String, clock: &'a Arc<dyn Clock>) -> Self {
        Self { servers, clock, remind_at: Duration::ZERO }
    }

    /// The cluster view, as soon as there is one; then nothing is waited for any more.
    async fn view(
        &mut self,
        metadata: &Arc<dyn MetadataService>,
        readiness: &Readiness,
        groups: &Groups,
    ) -> ClusterView {
        loop {
            match ClusterView::start(Arc::clone(metadata), &groups.view).await {
                Ok(view) => {
                    readiness.waits_for(None);
                    return view;
                }
                Err(problem) => self.once_more(&problem.to_string(), readiness).await,
            }
        }
    }

    fn text(&self, reason: &str) -> String {
        format!("waiting for metadata at {}: {reason}", self.servers)
    }

    async fn once_more(&mut self, reason: &str, readiness: &Readiness) {
        let text = self.text(reason);
        if self.clock.monotonic() >= self.remind_at {
            tracing::warn!("{text}; it is named by --metadata (metadata.servers)");
            self.remind_at = self.clock.monotonic() + REMINDER;
        }
        readiness.waits_for(Some(text));
        tokio::time::sleep(PAUSE).await;
    }
}

/// The cluster that a metadata service knows; or why it knows none.
async fn known_cluster(metadata: &dyn MetadataService) -> Result<ClusterRecord, String> {
    match metadata.get(key::cluster(), Consistency::Linearizable).await {
        Ok(Some(found)) => decode(&found.value).map_err(|problem| problem.to_string()),
        Ok(None) => Err("it has no cluster yet".into()),
        Err(MetadataError::Unavailable { reason }) => Err(reason),
        Err(problem) => Err(problem.to_string()),
    }
}

fn metadata_config(config: &Config, address: Option<Address>, peer_address: Option<Address>) -> MetadataConfig {
    let told = |address: Option<Address>| address.map(|address| address.to_string()).unwrap_or_default();
    MetadataConfig {
        node: config.metadata.id,
        data_dir: config.metadata.data_dir.clone(),
        address: told(address),
        peer_address: told(peer_address),
        learner: config.metadata.is_learner,
        snapshot_after_logs: config.metadata.snapshot_after_logs,
        ..MetadataConfig::default()
    }
}

/// A group of tasks per role, so that each can be stopped and waited for in its turn.
impl Groups {
    pub(super) fn new() -> Self {
        let node = Tasks::default();
        Self {
            client: node.child(),
            serving: node.child(),
            view: node.child(),
            controller: node.child(),
            links: node.child(),
            bookie_server: node.child(),
            bookie: node.child(),
            broker: node.child(),
            coordinators: node.child(),
            node,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::RoleSet;
    use protocol::{id::Timestamp, runtime::SystemClock, testing::metadata::FakeMetadata};

    #[tokio::test]
    async fn a_start_waits_for_metadata_and_says_so() {
        let (groups, server, fake) = (Groups::new(), Tasks::default(), FakeMetadata::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let servers = [Address { host: address.ip().to_string(), port: address.port() }];
        let serving = MetadataServer::of(fake.service(), &server).serve(listener);
        server.spawn(TaskKind::Background, "server", async move { serving.await.map_err(|e| e.to_string()) });
        let readiness = Arc::new(Readiness::new(RoleSet::BOOKIE));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let (seen, founded) = (Arc::clone(&readiness), async {
            while !readiness.obstacles().iter().any(|o| o.contains("it has no cluster yet")) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            fake.put(key::cluster(), &ClusterRecord { cluster_id: "abc".into(), created_at: Timestamp(0) });
        });
        let both = async { tokio::join!(Ground::remote(&servers, &clock, &seen, &groups), founded).0 };
        let ground = tokio::time::timeout(Duration::from_secs(60), both).await.expect("in time").expect("starts");
        assert_eq!(ground.cluster_id, "abc");
        assert_eq!(readiness.obstacles(), ["the bookie role is starting"], "it waits for nothing any more");
        assert!(groups.node.stop(Duration::from_secs(20)).await);
        assert!(server.stop(Duration::from_secs(20)).await);
    }
}

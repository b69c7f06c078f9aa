//! What every role stands on: a metadata service, in this process or in another one, the cluster view, and the cluster's
//! identity. Owns waiting for a metadata service that is not there yet.

use super::{Groups, NodeError};
use crate::{
    cluster,
    config::{Config, address::Address},
    readiness::Readiness,
    role::Role,
};
use metadata::{AuditConfig, Controller, MetadataConfig, MetadataNode};
use protocol::{
    cluster::ClusterView,
    model::{ClusterRecord, decode, key},
    runtime::{Clock, TaskKind, Tasks},
    service::metadata::{Consistency, MetadataError, MetadataService},
    wire::metadata::{MetadataServer, RemoteMetadata, RemoteOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// The voter's number in a metadata service of one.
const VOTER: u64 = 1;
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
    /// Starts the metadata service of this process, and serves it to others if there is a socket for that.
    pub(super) async fn own(
        config: &Config,
        clock: &Arc<dyn Clock>,
        listener: Option<TcpListener>,
        readiness: &Readiness,
        groups: &Groups,
    ) -> Result<Self, NodeError> {
        let voter = MetadataNode::start(metadata_config(config), Arc::clone(clock), &groups.node).await?;
        let metadata = voter.service();
        let view = ClusterView::start(Arc::clone(&metadata), &groups.view).await?;
        let cluster_id = cluster::find_or_found(&*metadata, &**clock).await?.cluster_id;
        let audits = AuditConfig { grace: config.repair.grace, interval: config.repair.audit_interval };
        Controller::start_with(Arc::clone(&metadata), view.clone(), Arc::clone(clock), audits, &groups.controller);
        if let Some(listener) = listener {
            let serving = MetadataServer::of(Arc::clone(&metadata), &groups.serving).serve(listener);
            groups.serving.spawn(TaskKind::Vital, "metadata server", async move {
                serving.await.map_err(|problem| problem.to_string())
            });
        }
        readiness.started(Role::Metadata, voter.readiness());
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
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let metadata: Arc<dyn MetadataService> = Arc::new(RemoteMetadata::connect(&names, options, &groups.client)?);
        let mut wait = Wait::new(&names, clock);
        readiness.waits_for(Some(wait.text("no answer yet")));
        let record = loop {
            match find_cluster(&*metadata).await {
                Ok(found) => break found,
                Err(reason) => wait.once_more(&reason, readiness).await,
            }
        };
        let view = loop {
            match ClusterView::start(Arc::clone(&metadata), &groups.view).await {
                Ok(view) => break view,
                Err(problem) => wait.once_more(&problem.to_string(), readiness).await,
            }
        };
        readiness.waits_for(None);
        tracing::info!(cluster = record.cluster_id, "found the cluster");
        Ok(Self { metadata, view, cluster_id: record.cluster_id, voter: None })
    }
}

/// A start that waits for metadata: tells whoever asks, and the log now and then.
struct Wait<'a> {
    servers: String,
    clock: &'a Arc<dyn Clock>,
    remind_at: Duration,
}

impl<'a> Wait<'a> {
    fn new(servers: &[String], clock: &'a Arc<dyn Clock>) -> Self {
        Self { servers: servers.join(", "), clock, remind_at: Duration::ZERO }
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

/// The cluster that the metadata service knows; or why there is none.
async fn find_cluster(metadata: &dyn MetadataService) -> Result<ClusterRecord, String> {
    match metadata.get(key::cluster(), Consistency::Linearizable).await {
        Ok(Some(found)) => decode(&found.value).map_err(|problem| problem.to_string()),
        Ok(None) => Err("it has no cluster yet".into()),
        Err(MetadataError::Unavailable { reason }) => Err(reason),
        Err(problem) => Err(problem.to_string()),
    }
}

fn metadata_config(config: &Config) -> MetadataConfig {
    MetadataConfig {
        node: VOTER,
        data_dir: config.metadata.data_dir.clone(),
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

//! The metadata nodes of a cluster, as operators and clients see them. Owns a runtime and every connection that is made
//! through it; starts and kills nothing.

use super::cluster::{Cluster, Member};
use protocol::{
    runtime::Tasks,
    service::{
        metadata::MetadataService,
        quorum::{MemberRole, QuorumService, QuorumStatus},
    },
    wire::metadata::{RemoteMetadata, RemoteOptions, RemoteQuorum},
};
use std::{sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// How long a node may take to say how it does.
const STATUS: Duration = Duration::from_secs(2);

/// The view from outside.
pub struct Quorum {
    /// Where everything asynchronous of a test runs.
    pub runtime: Runtime,
    tasks: Tasks,
}

impl Quorum {
    /// No connection yet. `MAGNETAR_LOG=protocol=debug` tells what its clients do.
    pub fn new() -> Self {
        if let Ok(filter) = std::env::var("MAGNETAR_LOG") {
            // Tests share a process; the first one is enough.
            let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
        }
        Self { runtime: Runtime::new().expect("a runtime"), tasks: Tasks::default() }
    }

    /// A client of its own, which knows these servers.
    pub fn client(&self, servers: &[String], deadline: Duration) -> Arc<dyn MetadataService> {
        let _inside = self.runtime.enter();
        let options = RemoteOptions { deadline, ..RemoteOptions::default() };
        Arc::new(RemoteMetadata::connect(servers, options, &self.tasks).expect("addresses"))
    }

    /// Operators' calls to one node.
    pub fn operator(&self, node: &Member, deadline: Duration) -> RemoteQuorum {
        let _inside = self.runtime.enter();
        RemoteQuorum::connect(&[node.address().to_string()], deadline, &self.tasks).expect("an address")
    }

    /// How a node does, if it answers.
    pub fn status(&self, node: &Member) -> Option<QuorumStatus> {
        let operator = self.operator(node, STATUS);
        self.runtime.block_on(async { operator.status().await }).ok()
    }

    /// The status of all metadata nodes that answer.
    pub fn statuses(&self, cluster: &Cluster) -> Vec<QuorumStatus> {
        cluster.metadata_nodes().filter_map(|node| self.status(node)).collect()
    }

    /// Waits until one node says that it leads and a majority of those that answer says so, too.
    pub fn leader(&self, cluster: &Cluster) -> u64 {
        let mut leader = None;
        super::wait_until("somebody leads", || {
            let all = self.statuses(cluster);
            leader = all.iter().find(|one| one.leader == Some(one.node)).map(|one| one.node);
            leader.is_some() && all.iter().filter(|one| one.leader == leader).count() * 2 > all.len()
        });
        leader.expect("just found")
    }

    /// Waits until all of these vote, and know that nothing about it is changing.
    pub fn wait_settled(&self, cluster: &Cluster, voters: &[u64]) {
        let settled = |one: &QuorumStatus| {
            let votes = one.members.iter().filter(|member| member.role == MemberRole::Voter);
            !one.is_changing && one.leader.is_some() && votes.map(|member| member.member.id).eq(voters.iter().copied())
        };
        super::wait_until("all vote and nothing is changing", || {
            let all = self.statuses(cluster);
            all.len() == voters.len() && all.iter().all(settled)
        });
    }
}

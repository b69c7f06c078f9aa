//! The node: starts the roles of a process in the order in which they need each other, and stops them in the opposite
//! one. The only place that knows every role. Owns the data directory's lock and the deadlines of a shutdown; never
//! touches a record.
//!
//! * `listeners`: the sockets. `ground`: metadata, in this process or another one.
//! * `roles`: each role's settings and what it is given. `figures`: metrics that are counted when asked.

mod figures;
mod ground;
mod listeners;
mod roles;

pub use listeners::{Addresses, Listeners};

use crate::{
    admin::{Admin, ConfigValue},
    bookies::ClusterBookies,
    cluster::ClusterError,
    config::Config,
    instance::{Instance, InstanceError},
    readiness::Readiness,
    role::Role,
};
use bookie::Bookie;
use figures::Identity;
use ground::{Ground, MetadataSockets};
use metadata::MetadataNode;
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::{
    runtime::{Clock, SystemClock, Tasks},
    service::{directory::BookieDirectory, metadata::MetadataError, quorum::QuorumError},
};
use roles::{Front, link_settings};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// How long tasks of a role that was told to stop may go on.
const UNWIND: Duration = Duration::from_secs(5);

/// Why a node does not start. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port is in use, or an address is not of this machine.
    #[error(
        "cannot listen on {address} for {purpose}: {reason}{}; choose another address with {setting}",
        in_use(reason)
    )]
    Bind {
        /// The address.
        address: String,
        /// What for.
        purpose: &'static str,
        /// Where it is set.
        setting: &'static str,
        /// Why not.
        reason: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The metadata service.
    #[error(transparent)]
    Metadata(#[from] metadata::StartError),
    /// The addresses of the metadata nodes to join.
    #[error("metadata.join cannot be used")]
    Join(#[source] QuorumError),
    /// The cluster view.
    #[error("the cluster's state cannot be read")]
    View(#[from] MetadataError),
    /// The cluster's record.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The bookie.
    #[error(transparent)]
    Bookie(#[from] bookie::StartError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] broker::StartError),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] gateway::StartError),
}

fn in_use(reason: &io::Error) -> &'static str {
    if reason.kind() == io::ErrorKind::AddrInUse { "; another program uses this port" } else { "" }
}

/// A node whose roles have started.
pub struct Node {
    /// Where it is reached.
    pub addresses: Addresses,
    /// The cluster's id.
    pub cluster_id: String,
    readiness: Arc<Readiness>,
    front: Option<Front>,
    bookie: Option<Arc<Bookie>>,
    voter: Option<MetadataNode>,
    tasks: Groups,
    deadline: Duration,
    /// Bookies find their peers through it, and do not keep it alive.
    _bookies: Arc<dyn BookieDirectory>,
    _instance: Instance,
}

/// A group of tasks per role, so that each can be stopped and waited for in its turn.
struct Groups {
    node: Tasks,
    /// Calls to a metadata service in another process.
    client: Tasks,
    /// Serving our metadata service to others.
    serving: Tasks,
    view: Tasks,
    controller: Tasks,
    /// Links to bookies in other processes.
    links: Tasks,
    /// Serving our bookie to others.
    bookie_server: Tasks,
    bookie: Tasks,
    broker: Tasks,
    coordinators: Tasks,
}

impl Node {
    /// Starts the roles that `listeners` were bound for. `shown` is the configuration as `/config` answers it. Without a
    /// metadata service of its own it waits until there is one.
    ///
    /// # Errors
    /// The first role that does not start; those before it are dropped.
    pub async fn start(
        config: Config,
        shown: BTreeMap<String, ConfigValue>,
        metrics: PrometheusHandle,
        listeners: Listeners,
    ) -> Result<Self, NodeError> {
        let instance = Instance::open(&config.data_dir, config.node)?;
        let Listeners { roles, addresses, admin, metadata, peers, bookie, kafka } = listeners;
        let (readiness, groups) = (Arc::new(Readiness::new(roles)), Groups::new());
        let coordinators = Arc::new(OnceLock::new());
        let identity = Arc::new(Identity::new(config.node.0, roles));
        let extra = figures::extra(&identity, &coordinators);
        admin_routes(&readiness, extra, metrics, shown).serve(admin, &groups.node);

        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let ground = if roles.contains(Role::Metadata) {
            let (address, peer_address) = (addresses.metadata.clone(), addresses.peers.clone());
            let sockets = MetadataSockets { calls: metadata, peers, address, peer_address };
            Ground::own(&config, &clock, sockets, &readiness, &groups).await?
        } else {
            Ground::remote(&config.metadata.servers, &clock, &readiness, &groups).await?
        };
        identity.found(&ground.cluster_id);
        let start = roles::Start { config: &config, roles, clock, addresses: &addresses, ground: &ground };
        let bookies = ClusterBookies::new(ground.view.clone(), link_settings(), &groups.links);
        let directory: Arc<dyn BookieDirectory> = Arc::new(bookies.clone());
        let bookie = match roles.contains(Role::Bookie) {
            true => Some(start.bookie(bookie, &bookies, &directory, &readiness, &groups).await?),
            false => None,
        };
        let front = match kafka {
            Some(listener) => {
                let front = start.front(listener, instance.id(), Arc::clone(&directory), &readiness, &groups).await?;
                let _ = coordinators.set(Arc::clone(&front.coordinators));
                Some(front)
            }
            None => None,
        };
        let Ground { cluster_id, voter, .. } = ground;
        Ok(Self {
            addresses,
            cluster_id,
            readiness,
            front,
            bookie,
            voter,
            tasks: groups,
            deadline: config.stop_deadline,
            _bookies: directory,
            _instance: instance,
        })
    }

    /// What the node still waits for; nothing if it is ready.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        self.readiness.obstacles()
    }

    /// Resolves when something has failed without which the node cannot go on.
    pub async fn failure(&self) -> String {
        let problem = self.tasks.node.failure().await;
        self.readiness.failed(problem.clone());
        problem
    }

    /// Stops the roles, the last started first: clients are let go, what was accepted is written, ledgers are closed.
    /// `false` if something had to be cut off.
    pub async fn stop(self) -> bool {
        self.readiness.stopping();
        tracing::info!("stopping");
        let mut clean = true;
        if let Some(front) = self.front {
            // The gateway gets a third, so that a client that does not let go leaves time for what matters: the broker.
            clean &= front.gateway.stop(self.deadline / 3).await;
            clean &= self.tasks.coordinators.stop(UNWIND).await;
            clean &= front.broker.drain(self.deadline / 3).await;
            clean &= self.tasks.broker.stop(UNWIND).await;
        }
        if let Some(bookie) = self.bookie {
            clean &= tokio::time::timeout(self.deadline / 3, bookie.stop()).await.is_ok();
            clean &= self.tasks.bookie.stop(UNWIND).await;
            clean &= self.tasks.bookie_server.stop(UNWIND).await;
        }
        for group in [&self.tasks.links, &self.tasks.controller, &self.tasks.view, &self.tasks.serving] {
            clean &= group.stop(UNWIND).await;
        }
        clean &= self.tasks.client.stop(UNWIND).await;
        if let Some(voter) = self.voter {
            voter.stop().await;
        }
        clean &= self.tasks.node.stop(UNWIND).await;
        if clean {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped, but not everything ended in time; the next start recovers what was cut off");
        }
        clean
    }
}

fn admin_routes(
    readiness: &Arc<Readiness>,
    extra: figures::Extra,
    metrics: PrometheusHandle,
    config: BTreeMap<String, ConfigValue>,
) -> Admin {
    let (healthy, ready) = (Arc::clone(readiness), Arc::clone(readiness));
    Admin {
        metrics,
        extra,
        ailments: Arc::new(move || healthy.ailments()),
        obstacles: Arc::new(move || ready.obstacles()),
        config,
    }
}

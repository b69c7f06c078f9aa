//! The node: starts the roles in the order in which they need each other, and stops them in the opposite one. The only
//! place that knows every role. Owns listeners, the data directory's lock and the deadlines of a shutdown; never touches
//! a record.

use crate::{
    admin::{Admin, ConfigValue},
    cluster::{self, ClusterError},
    config::{Config, address::Address},
    directory::{LocalBookies, LocalNode},
    instance::{Instance, InstanceError},
    process,
    readiness::Readiness,
    role::Role,
};
use bookie::{Bookie, BookieConfig, BookieDeps};
use broker::{Broker, BrokerConfig, BrokerDeps};
use futures::future::BoxFuture;
use gateway::{
    Endpoint, Gateway, GatewayConfig, GatewayDeps,
    group::{Coordinators, CoordinatorsConfig, CoordinatorsDeps, render_prometheus},
};
use metadata::{Controller, MetadataConfig, MetadataNode};
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::{
    cluster::ClusterView,
    runtime::{Clock, SystemClock, Tasks},
    service::{
        directory::BookieDirectory,
        metadata::{MetadataError, MetadataService},
    },
};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::net::{TcpListener, TcpSocket};

/// The voter's number in a metadata service of one.
const VOTER: u64 = 1;
/// How many connections the kernel keeps until they are accepted.
const LISTEN_QUEUE: u32 = 4096;
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

/// A node that serves clients.
pub struct Node {
    /// Where Kafka clients reach it.
    pub kafka: Address,
    /// Where metrics are.
    pub admin: SocketAddr,
    /// The cluster's id.
    pub cluster_id: String,
    readiness: Arc<Readiness>,
    gateway: Gateway,
    broker: Arc<Broker>,
    bookie: Arc<Bookie>,
    metadata: MetadataNode,
    tasks: Groups,
    deadline: Duration,
    _instance: Instance,
}

/// A group of tasks per role, so that each can be stopped and waited for in its turn.
struct Groups {
    node: Tasks,
    view: Tasks,
    controller: Tasks,
    bookie: Tasks,
    broker: Tasks,
    coordinators: Tasks,
}

impl Groups {
    fn new() -> Self {
        let node = Tasks::default();
        Self {
            view: node.child(),
            controller: node.child(),
            bookie: node.child(),
            broker: node.child(),
            coordinators: node.child(),
            node,
        }
    }
}

/// What later roles need of earlier ones.
struct Ground {
    config: Config,
    instance: Instance,
    clock: Arc<dyn Clock>,
    metadata: Arc<dyn MetadataService>,
    view: ClusterView,
    cluster_id: String,
    /// What clients are told to connect to, the port being the one that is listened on.
    advertised: Address,
}

impl Node {
    /// Starts every role. `shown` is the configuration as `/config` answers it.
    ///
    /// # Errors
    /// The first role that does not start; those before it are dropped.
    pub async fn start(
        config: Config,
        shown: BTreeMap<String, ConfigValue>,
        metrics: PrometheusHandle,
    ) -> Result<Self, NodeError> {
        let kafka = bind(&config.listener, "Kafka clients", "--kafka-address (listeners)").await?;
        let admin = bind(&config.admin, "metrics and health", "--admin-address (admin.address)").await?;
        let instance = Instance::open(&config.data_dir, config.node)?;
        let (readiness, groups) = (Arc::new(Readiness::default()), Groups::new());
        let coordinators = Arc::new(OnceLock::new());
        let admin_address = local_address(&admin, "--admin-address (admin.address)")?;
        let identity = Arc::new(OnceLock::new());
        let extra = extra_metrics(config.node.0, &identity, &coordinators);
        admin_routes(&readiness, extra, metrics, shown).serve(admin, &groups.node);

        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metadata_node = MetadataNode::start(metadata_config(&config), Arc::clone(&clock), &groups.node).await?;
        let metadata = metadata_node.service();
        readiness.started(Role::Metadata, metadata_node.readiness());
        let view = ClusterView::start(Arc::clone(&metadata), &groups.view).await?;
        let cluster_id = cluster::find_or_found(&*metadata, &*clock).await?.cluster_id;
        let _ = identity.set(cluster_id.clone());
        Controller::start(Arc::clone(&metadata), view.clone(), Arc::clone(&clock), &groups.controller);

        let port = local_address(&kafka, "--kafka-address (listeners)")?.port();
        let advertised = Address { host: config.advertised.host.clone(), port: advertised_port(&config, port) };
        let ground = Ground { config, instance, clock, metadata, view, cluster_id, advertised };
        let bookie = Arc::new(start_bookie(&ground, &groups.bookie).await?);
        let seen = Arc::clone(&bookie);
        readiness.started_with(Role::Bookie, move || seen.obstacle());
        let bookies: Arc<dyn BookieDirectory> = Arc::new(LocalBookies::new(bookie.service(), ground.view.clone()));
        bookie.set_peers(Arc::downgrade(&bookies));
        let broker = start_broker(&ground, bookies, &groups.broker).await?;
        let seen = Arc::clone(&broker);
        readiness.started(Role::Broker, move || seen.is_ready());
        let directory = Arc::new(LocalNode::new(ground.config.node));
        directory.broker_started(Arc::clone(&broker) as _);
        let groups_of_clients = start_coordinators(&ground, &broker, &groups.coordinators);
        directory.coordinator_started(Arc::clone(&groups_of_clients) as _);
        let _ = coordinators.set(groups_of_clients);
        let gateway = start_gateway(&ground, kafka, directory, &groups.node)?;
        readiness.started(Role::Gateway, || true);
        Ok(Self {
            kafka: ground.advertised,
            admin: admin_address,
            cluster_id: ground.cluster_id,
            readiness,
            gateway,
            broker,
            bookie,
            metadata: metadata_node,
            tasks: groups,
            deadline: ground.config.stop_deadline,
            _instance: ground.instance,
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
        // The gateway gets a third, so that a client that does not let go leaves time for what matters: the broker.
        let mut clean = self.gateway.stop(self.deadline / 3).await;
        clean &= self.tasks.coordinators.stop(UNWIND).await;
        clean &= self.broker.drain(self.deadline / 3).await;
        clean &= self.tasks.broker.stop(UNWIND).await;
        clean &= tokio::time::timeout(self.deadline / 3, self.bookie.stop()).await.is_ok();
        clean &= self.tasks.bookie.stop(UNWIND).await;
        clean &= self.tasks.controller.stop(UNWIND).await;
        clean &= self.tasks.view.stop(UNWIND).await;
        self.metadata.stop().await;
        clean &= self.tasks.node.stop(UNWIND).await;
        if clean {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped, but not everything ended in time; the next start recovers what was cut off");
        }
        clean
    }
}

async fn bind(address: &Address, purpose: &'static str, setting: &'static str) -> Result<TcpListener, NodeError> {
    let (host, port) = address.bind();
    let failed = |reason| NodeError::Bind { address: address.to_string(), purpose, setting, reason };
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    for candidate in tokio::net::lookup_host((host.as_str(), port)).await.map_err(failed)? {
        match listen(candidate) {
            Ok(listener) => return Ok(listener),
            Err(problem) => last = problem,
        }
    }
    Err(failed(last))
}

/// Listens with a long queue: with the usual 128, a crowd of clients that connect at once waits seconds for a retry.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_QUEUE)
}

fn local_address(listener: &TcpListener, setting: &'static str) -> Result<SocketAddr, NodeError> {
    let failed = |reason| NodeError::Bind { address: "its socket".into(), purpose: "clients", setting, reason };
    listener.local_addr().map_err(failed)
}

/// Port 0 lets the system choose; clients are told what it chose.
fn advertised_port(config: &Config, bound: u16) -> u16 {
    if config.advertised.port == 0 { bound } else { config.advertised.port }
}

/// Metrics that are counted when asked.
type Extra = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// What this process is and uses, and, once there are coordinators, how far consumer groups are behind.
fn extra_metrics(
    node: i32,
    cluster_id: &Arc<OnceLock<String>>,
    coordinators: &Arc<OnceLock<Arc<Coordinators>>>,
) -> Extra {
    let (cluster_id, coordinators) = (Arc::clone(cluster_id), Arc::clone(coordinators));
    Arc::new(move || {
        let mut text = process::render(node, cluster_id.get().map_or("", String::as_str));
        let coordinators = coordinators.get().cloned();
        Box::pin(async move {
            if let Some(coordinators) = coordinators {
                text += &render_prometheus(&coordinators.lag().await);
            }
            text
        })
    })
}

fn admin_routes(
    readiness: &Arc<Readiness>,
    extra: Extra,
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

fn metadata_config(config: &Config) -> MetadataConfig {
    MetadataConfig {
        node: VOTER,
        data_dir: config.metadata.data_dir.clone(),
        snapshot_after_logs: config.metadata.snapshot_after_logs,
        ..MetadataConfig::default()
    }
}

async fn start_bookie(ground: &Ground, tasks: &Tasks) -> Result<Bookie, NodeError> {
    let section = &ground.config.bookie;
    let config = BookieConfig {
        id: section.id,
        data_dir: section.data_dir.clone(),
        wal_dir: section.wal_dir.clone(),
        rack: ground.config.kafka.get("broker.rack").map(Into::into),
        disk_reserve: section.reserve,
        accept_lost_entries: section.accept_lost_entries,
        ..BookieConfig::default()
    };
    let deps = BookieDeps {
        metadata: Arc::clone(&ground.metadata),
        clock: Arc::clone(&ground.clock),
        tasks: tasks.clone(),
        cluster_id: ground.cluster_id.clone(),
    };
    Ok(Bookie::start(config, deps).await?)
}

async fn start_broker(
    ground: &Ground,
    bookies: Arc<dyn BookieDirectory>,
    tasks: &Tasks,
) -> Result<Arc<Broker>, NodeError> {
    let Address { host, port } = ground.advertised.clone();
    let config = BrokerConfig {
        rack: ground.config.kafka.get("broker.rack").map(Into::into),
        settings: ground.config.kafka.clone(),
        cache_bytes: ground.config.broker.cache,
        queue_bytes: ground.config.broker.queue,
        ..BrokerConfig::standalone(ground.config.node, ground.instance.id(), host, port)
    };
    let deps = BrokerDeps {
        metadata: Arc::clone(&ground.metadata),
        view: ground.view.clone(),
        bookies,
        clock: Arc::clone(&ground.clock),
        tasks: tasks.clone(),
    };
    Ok(Broker::start(config, deps).await?)
}

fn start_coordinators(ground: &Ground, broker: &Arc<Broker>, tasks: &Tasks) -> Arc<Coordinators> {
    let config = CoordinatorsConfig { node: ground.config.node, settings: ground.config.kafka.clone() };
    let deps = CoordinatorsDeps {
        broker: Arc::clone(broker) as _,
        view: ground.view.clone(),
        clock: Arc::clone(&ground.clock),
        tasks: tasks.clone(),
    };
    Coordinators::start(config, deps)
}

fn start_gateway(
    ground: &Ground,
    listener: TcpListener,
    nodes: Arc<LocalNode>,
    tasks: &Tasks,
) -> Result<Gateway, NodeError> {
    let Address { host, port } = ground.advertised.clone();
    let config = GatewayConfig {
        node: ground.config.node,
        settings: ground.config.kafka.clone(),
        advertised: Endpoint { host, port },
    };
    let deps = GatewayDeps {
        listener,
        nodes,
        metadata: Arc::clone(&ground.metadata),
        view: ground.view.clone(),
        clock: Arc::clone(&ground.clock),
        tasks: tasks.clone(),
    };
    Ok(Gateway::start(config, deps)?)
}

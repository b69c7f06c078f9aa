//! The start of each role: its settings out of the configuration, and what it is given. Owns what a cluster process does
//! differently from a standalone one; never decides the order (the node does).

use super::{Addresses, Groups, NodeError, ground::Ground};
use crate::{
    bookies::ClusterBookies,
    config::{Config, address::Address},
    directory::LocalNode,
    readiness::Readiness,
    role::{Role, RoleSet},
};
use bookie::{Bookie, BookieConfig, BookieDeps};
use broker::{Broker, BrokerConfig, BrokerDeps, Copies};
use gateway::{
    Endpoint, Gateway, GatewayConfig, GatewayDeps,
    group::{Coordinators, CoordinatorsConfig, CoordinatorsDeps},
};
use protocol::{
    runtime::Clock,
    service::directory::BookieDirectory,
    transport::tcp::TcpAcceptor,
    wire::{self, RemoteSettings, ServeSettings, Services},
};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;
use uuid::Uuid;

/// How long a bookie in another process may take to answer.
const BOOKIE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a broker in a cluster counts as alive without a heartbeat: as long as one of Kafka.
const SESSION: Duration = Duration::from_secs(9);

/// How bookies in other processes are called.
pub(super) fn link_settings() -> RemoteSettings {
    RemoteSettings { deadline: BOOKIE_DEADLINE, ..RemoteSettings::default() }
}

/// What every start of a role needs.
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) roles: RoleSet,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) addresses: &'a Addresses,
    pub(super) ground: &'a Ground,
}

/// The roles that clients meet.
pub(super) struct Front {
    pub(super) broker: Arc<Broker>,
    pub(super) coordinators: Arc<Coordinators>,
    pub(super) gateway: Gateway,
}

impl Start<'_> {
    /// Starts the bookie, and serves it to other processes if there is a socket for that.
    pub(super) async fn bookie(
        &self,
        listener: Option<TcpListener>,
        bookies: &ClusterBookies,
        directory: &Arc<dyn BookieDirectory>,
        readiness: &Readiness,
        groups: &Groups,
    ) -> Result<Arc<Bookie>, NodeError> {
        let deps = BookieDeps {
            metadata: Arc::clone(&self.ground.metadata),
            clock: Arc::clone(&self.clock),
            tasks: groups.bookie.clone(),
            cluster_id: self.ground.cluster_id.clone(),
        };
        let bookie = Arc::new(Bookie::start(self.bookie_config(), deps).await?);
        bookies.set_local(bookie.member(), bookie.service());
        bookie.set_peers(Arc::downgrade(directory));
        if let Some(listener) = listener {
            let services = Services { bookie: Some(bookie.service()), ..Services::default() };
            wire::listen(TcpAcceptor::from(listener), services, ServeSettings::default(), &groups.bookie_server);
        }
        let seen = Arc::clone(&bookie);
        readiness.started_with(Role::Bookie, move || seen.obstacle());
        Ok(bookie)
    }

    fn bookie_config(&self) -> BookieConfig {
        let (section, repair) = (&self.config.bookie, &self.config.repair);
        BookieConfig {
            id: section.id,
            data_dir: section.data_dir.clone(),
            wal_dir: section.wal_dir.clone(),
            address: self.addresses.bookie.as_ref().map(ToString::to_string),
            rack: self.rack(),
            disk_reserve: section.reserve,
            accept_lost_entries: section.accept_lost_entries,
            on_empty_disk: section.on_empty_disk,
            scrub_interval_ms: millis(section.scrub_interval),
            scrub_bytes_per_second: section.scrub_bandwidth,
            repair_bandwidth: repair.bandwidth,
            ..BookieConfig::default()
        }
    }

    /// Starts broker, coordinators and gateway.
    pub(super) async fn front(
        &self,
        listener: TcpListener,
        instance: Uuid,
        bookies: Arc<dyn BookieDirectory>,
        readiness: &Readiness,
        groups: &Groups,
    ) -> Result<Front, NodeError> {
        let advertised = self.addresses.kafka.clone().unwrap_or_else(|| self.config.advertised.clone());
        let deps = BrokerDeps {
            metadata: Arc::clone(&self.ground.metadata),
            view: self.ground.view.clone(),
            bookies,
            clock: Arc::clone(&self.clock),
            tasks: groups.broker.clone(),
        };
        let broker = Broker::start(self.broker_config(instance, &advertised), deps).await?;
        let seen = Arc::clone(&broker);
        readiness.started(Role::Broker, move || seen.is_ready());
        let directory = Arc::new(LocalNode::new(self.config.node));
        directory.broker_started(Arc::clone(&broker) as _);
        let coordinators = self.coordinators(&broker, groups);
        directory.coordinator_started(Arc::clone(&coordinators) as _);
        let gateway = self.gateway(listener, directory, advertised, groups)?;
        readiness.started(Role::Gateway, || true);
        Ok(Front { broker, coordinators, gateway })
    }

    fn broker_config(&self, instance: Uuid, advertised: &Address) -> BrokerConfig {
        let Address { host, port } = advertised.clone();
        let usual = BrokerConfig::standalone(self.config.node, instance, host, port);
        let alone = self.roles.is_standalone();
        BrokerConfig {
            rack: self.rack(),
            settings: self.config.kafka.clone(),
            cache_bytes: self.config.broker.cache,
            queue_bytes: self.config.broker.queue,
            session_timeout: if alone { usual.session_timeout } else { SESSION },
            copies: if alone { Copies::AsManyAsBookies } else { Copies::AsAsked },
            bookie_grace: self.config.repair.grace,
            ..usual
        }
    }

    fn coordinators(&self, broker: &Arc<Broker>, groups: &Groups) -> Arc<Coordinators> {
        let config = CoordinatorsConfig { node: self.config.node, settings: self.config.kafka.clone() };
        let deps = CoordinatorsDeps {
            broker: Arc::clone(broker) as _,
            view: self.ground.view.clone(),
            clock: Arc::clone(&self.clock),
            tasks: groups.coordinators.clone(),
        };
        Coordinators::start(config, deps)
    }

    fn gateway(
        &self,
        listener: TcpListener,
        nodes: Arc<LocalNode>,
        advertised: Address,
        groups: &Groups,
    ) -> Result<Gateway, NodeError> {
        let Address { host, port } = advertised;
        let config = GatewayConfig {
            node: self.config.node,
            settings: self.config.kafka.clone(),
            advertised: Endpoint { host, port },
        };
        let deps = GatewayDeps {
            listener,
            nodes,
            metadata: Arc::clone(&self.ground.metadata),
            view: self.ground.view.clone(),
            clock: Arc::clone(&self.clock),
            tasks: groups.node.clone(),
        };
        Ok(Gateway::start(config, deps)?)
    }

    fn rack(&self) -> Option<String> {
        self.config.kafka.get("broker.rack").map(Into::into)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

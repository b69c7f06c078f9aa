//! Starting and stopping a gateway. Owns the order: stop accepting, let started requests finish, close what is left.

use crate::{
    config::{GatewayConfig, GatewayDeps},
    kafka::{
        Budget, context::Shared, listener::Listener, producer_ids::ProducerIds, router::APIS, settings::LiveSettings,
    },
    metrics::GatewayMetrics,
};
use protocol::runtime::{TaskKind, Tasks};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long aborted connections get to unwind once the deadline of [`Gateway::stop`] has passed.
const UNWIND: Duration = Duration::from_secs(1);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listening socket is unusable.
    #[error("the Kafka listener is unusable: {0}")]
    Listener(#[from] io::Error),
}

/// A running gateway.
pub struct Gateway {
    address: SocketAddr,
    tasks: Tasks,
    draining: CancellationToken,
    connections: Arc<Semaphore>,
    max_connections: u32,
}

impl Gateway {
    /// Starts to serve Kafka clients on a bound listener.
    ///
    /// # Errors
    /// The listener is unusable.
    pub fn start(config: GatewayConfig, deps: GatewayDeps) -> Result<Self, StartError> {
        let GatewayConfig { node, settings, advertised } = config;
        let GatewayDeps { listener, nodes, metadata, view, clock, tasks } = deps;
        let address = listener.local_addr()?;
        let settings = LiveSettings::new(settings, node, view.clone());
        let effective = settings.current();
        let limit = effective.max_connections.clamp(1, Semaphore::MAX_PERMITS.min(i32::MAX as usize));
        let max_connections = u32::try_from(limit).unwrap_or(u32::MAX);
        let metrics = GatewayMetrics::new(APIS.iter().map(|api| (api.key as i16, api.name)));
        let budget = Budget::new(effective.queued_request_bytes, metrics.inflight_bytes.clone());
        let producer_ids = ProducerIds::new(metadata);
        let shared = Shared { node, advertised, nodes, view, clock, settings, producer_ids, budget, metrics };
        let (tasks, draining) = (tasks.child(), CancellationToken::new());
        let connections = Arc::new(Semaphore::new(limit));
        let listener = Listener {
            socket: listener,
            shared: Arc::new(shared),
            tasks: tasks.clone(),
            draining: draining.clone(),
            connections: Arc::clone(&connections),
        };
        tasks.spawn(TaskKind::Vital, "kafka listener", Box::pin(listener.run()));
        tracing::info!(node = node.0, %address, "the gateway serves Kafka clients");
        Ok(Self { address, tasks, draining, connections, max_connections })
    }

    /// The address it listens on.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and reading, waits until started requests are answered, and closes what is left at the deadline;
    /// `false` if something had to be cut off.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.draining.cancel();
        let drained = tokio::time::timeout(deadline, self.connections.acquire_many(self.max_connections)).await;
        let stopped = self.tasks.stop(UNWIND).await;
        let clean = drained.is_ok() && stopped;
        tracing::info!(clean, "the gateway has stopped");
        clean
    }
}

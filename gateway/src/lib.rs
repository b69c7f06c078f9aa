//! Client protocols: Kafka, with its group coordinator. A gateway keeps no state of its own but connections: what it
//! answers comes from the cluster view and from brokers and coordinators, its own node's or others'.
//!
//! * [`Gateway`] is started by the node with a bound listener and the handles of [`GatewayDeps`].
//! * `kafka` holds the protocol, from the socket to the calls on brokers; a second client protocol will sit beside it.
//! * [`group`] holds the consumer groups and the coordinator that serves them to every gateway.

mod config;
pub mod group;
mod kafka;
mod metrics;
mod server;

pub use config::{GatewayConfig, GatewayDeps};
pub use kafka::context::Endpoint;
pub use server::{Gateway, StartError};

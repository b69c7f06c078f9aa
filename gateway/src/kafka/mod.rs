//! The Kafka protocol. The way of a request:
//!
//! 1. [`listener`] accepts, [`connection`] reads a frame through [`intake`] within the [`budget`].
//! 2. [`header`] names API and version, [`router`] finds the handler, [`message`] guards ([`shape`]) and decodes.
//! 3. A handler in [`api`] makes its calls on brokers and coordinators and returns the rest as a future.
//! 4. [`outlet`] awaits the answers in request order and writes them.
//!
//! [`error`] is the one map from our errors to Kafka's; [`context`] is what handlers share.

pub(crate) mod api;
mod budget;
mod cluster;
mod connection;
pub(crate) mod context;
pub(crate) mod error;
mod header;
mod intake;
pub(crate) mod listener;
pub(crate) mod message;
mod outlet;
pub(crate) mod producer_ids;
pub(crate) mod request;
pub(crate) mod router;
pub(crate) mod settings;
mod shape;
#[cfg(test)]
mod tests;

pub(crate) use budget::Budget;

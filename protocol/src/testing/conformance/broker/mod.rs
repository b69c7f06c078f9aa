//! The suite of [`BrokerService`]: `records` checks appending, fetching and offsets, `topics` administration.

mod desk;
mod records;
mod topics;

use crate::service::broker::BrokerService;
use desk::Desk;
use std::sync::Arc;

/// Checks a broker that becomes the owner of every topic it creates. It must hold no topic that begins with
/// `conformance`.
///
/// # Panics
/// At the first broken promise.
pub async fn broker(service: Arc<dyn BrokerService>) {
    let desk = Desk(service);
    records::check(&desk).await;
    topics::check(&desk).await;
}

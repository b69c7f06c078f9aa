//! The broker on fakes: an in-memory metadata service and in-memory bookies, everything else as in the product.

mod admin;
mod append;
mod cluster;
mod desk;
mod fetch;
mod lifecycle;
mod offsets;
mod retention;
mod takeover;

use desk::{Desk, eventually};

/// The suite that every broker passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let desk = Desk::start().await;
    protocol::testing::conformance::broker(desk.broker.clone()).await;
}

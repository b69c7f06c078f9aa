//! The conformance suites on the fakes themselves: a suite that its own fake fails would prove nothing.

use super::*;
use crate::testing::{FakeBookie, FakeCluster, FakeCoordinator, FakeDirectory, FakeMetadata, FakePeer};

#[tokio::test]
async fn the_fake_metadata_service_conforms() {
    metadata(FakeMetadata::new().service()).await;
    metadata_keeps_the_order_of_requests(FakeMetadata::new().service()).await;
}

#[tokio::test]
async fn the_fake_bookie_conforms() {
    let fake = FakeBookie::numbered(3);
    bookie(fake.service(), fake.member()).await;
    let directory = FakeDirectory::of(2);
    let (a, b) = (directory.fake(0), directory.fake(1));
    bookie_copies((a.service(), a.member()), (b.service(), b.member())).await;
}

#[tokio::test]
async fn the_fake_broker_conforms() {
    broker(FakeCluster::new(1).broker(0).service()).await;
}

#[tokio::test]
async fn the_fake_coordinator_conforms() {
    let fake = FakeCoordinator::new();
    coordinator(fake.service(), &fake).await;
}

#[tokio::test]
async fn the_fake_peer_conforms() {
    let fake = FakePeer::new();
    peer(fake.service(), &fake).await;
}

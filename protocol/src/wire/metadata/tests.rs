//! The suite over a stream, and what a lost or strange connection means.

use super::*;
use crate::{
    id::Revision,
    runtime::{TaskKind, Tasks},
    service::metadata::{Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
    testing::{FakeMetadata, conformance},
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;

mod quorum;
mod server;

const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> RemoteOptions {
    RemoteOptions { deadline: PATIENCE, ..RemoteOptions::default() }
}

fn put(key: &str) -> Transaction {
    let operations = vec![Operation::Put { key: key.into(), value: key.to_owned().into(), session: None }];
    Transaction { operations, ..Transaction::default() }
}

#[tokio::test]
async fn a_remote_service_conforms_in_memory() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let remote = over_memory(FakeMetadata::new().service(), options(), &server, &client);
    conformance::metadata(Arc::new(remote)).await;
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_remote_service_conforms_over_tcp() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address").to_string();
    let serving = MetadataServer::of(FakeMetadata::new().service(), &server).serve(listener);
    server.spawn(TaskKind::Background, "server", async move { serving.await.map_err(|e| e.to_string()) });
    let remote = RemoteMetadata::connect(&address, options(), &client).expect("an address");
    conformance::metadata(Arc::new(remote)).await;
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_write_on_a_lost_connection_is_unknown_and_a_read_is_unavailable() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let remote = over_memory(fake.service(), options(), &server, &client);
    remote.transact(put("a")).await.expect("commits");
    let mut watch = remote.watch(String::new(), Revision(1)).await.expect("watches");
    fake.faults().hang_next();
    let write = remote.transact(put("b"));
    fake.faults().hang_next();
    let read = remote.get("a".into(), Consistency::Linearizable);
    assert!(server.stop(PATIENCE).await);
    assert!(matches!(write.await, Err(MetadataError::OutcomeUnknown { .. })));
    assert!(matches!(read.await, Err(MetadataError::Unavailable { .. })));
    assert!(matches!(watch.next().await, Some(Err(MetadataError::Unavailable { .. }))));
    assert!(watch.next().await.is_none());
    // Nobody listens any more: nothing can have happened.
    assert!(matches!(remote.transact(put("c")).await, Err(MetadataError::Unavailable { .. })));
    assert!(client.stop(PATIENCE).await);
}

#[tokio::test]
async fn every_call_has_a_deadline() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let hasty = RemoteOptions { deadline: Duration::from_millis(300), ..options() };
    let remote = over_memory(fake.service(), hasty, &server, &client);
    // Without a fault the first call, which also connects, is far quicker than the deadline.
    remote.transact(put("a")).await.expect("commits");
    fake.faults().hang_next();
    let write = remote.transact(put("b")).await;
    assert!(matches!(write, Err(MetadataError::OutcomeUnknown { .. })), "{write:?}");
    fake.faults().hang_next();
    let read = remote.get("a".into(), Consistency::Stale).await;
    assert!(matches!(read, Err(MetadataError::Unavailable { .. })), "{read:?}");
    assert!(matches!(remote.transact(put("c")).await, Ok(Outcome::Committed { .. })), "the stream lives on");
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn errors_of_the_service_arrive_as_they_are() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let remote = over_memory(fake.service(), options(), &server, &client);
    fake.put("cluster".into(), &crate::model::ConfigRecord::default());
    fake.compact();
    let watch = remote.watch(String::new(), Revision(0)).await.map(|_| ());
    assert_eq!(watch, Err(MetadataError::Compacted { asked: Revision(0), oldest: Revision(1) }));
    let unknown = MetadataError::OutcomeUnknown { reason: "as the service said".into() };
    fake.fail_next(unknown.clone());
    assert_eq!(remote.transact(put("a")).await, Err(unknown));
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

//! The suite over a stream, and what a lost or strange connection means.

use super::*;
use crate::{
    id::{Revision, SessionId},
    runtime::{TaskKind, Tasks},
    service::metadata::{Consistency, MetadataError, MetadataService, Operation, Outcome, Scan, Transaction},
    testing::{FakeMetadata, conformance},
};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;

mod cluster;
mod quorum;
mod server;
mod watching;

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
    conformance::metadata(Arc::new(remote.clone())).await;
    conformance::metadata_keeps_the_order_of_requests(Arc::new(remote)).await;
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_remote_service_conforms_over_tcp() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address").to_string();
    let serving = MetadataServer::of(FakeMetadata::new().service(), &server).serve(listener);
    server.spawn(TaskKind::Background, "server", async move { serving.await.map_err(|e| e.to_string()) });
    let remote = RemoteMetadata::connect(&[address], options(), &client).expect("an address");
    conformance::metadata(Arc::new(remote)).await;
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn what_is_passed_on_is_tried_once() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let line = MemoryLine::to("leader", MetadataServer::of(fake.service(), &server), &server);
    let passing = RemoteMetadata::passing_across(&line, options(), &client);
    passing.transact(put("a")).await.expect("commits");
    let unknown = MetadataError::OutcomeUnknown { reason: "as the service said".into() };
    fake.fail_next(unknown.clone());
    assert_eq!(passing.transact(put("x")).await, Err(unknown));
    let unavailable = MetadataError::Unavailable { reason: "no leader any more".into() };
    fake.fail_next(unavailable.clone());
    assert_eq!(passing.transact(put("x")).await, Err(unavailable));
    let mut watch = passing.watch(String::new(), Revision(1)).await.expect("watches");
    fake.faults().hang_next();
    let write = passing.transact(put("b"));
    fake.faults().hang_next();
    let read = passing.get("a".into(), Consistency::Linearizable);
    assert!(server.stop(PATIENCE).await);
    assert!(matches!(write.await, Err(MetadataError::OutcomeUnknown { .. })));
    assert!(matches!(read.await, Err(MetadataError::Unavailable { .. })));
    assert!(matches!(watch.next().await, Some(Err(MetadataError::Unavailable { .. }))));
    assert!(watch.next().await.is_none());
    // Nobody listens any more: nothing can have happened.
    assert!(matches!(passing.transact(put("c")).await, Err(MetadataError::Unavailable { .. })));
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
async fn errors_of_the_call_itself_arrive_as_they_are() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let remote = over_memory(fake.service(), options(), &server, &client);
    fake.put("cluster".into(), &crate::model::ConfigRecord::default());
    fake.compact();
    let watch = remote.watch(String::new(), Revision(0)).await.map(|_| ());
    assert_eq!(watch, Err(MetadataError::Compacted { asked: Revision(0), oldest: Revision(1) }));
    for error in [
        MetadataError::SessionExpired(SessionId(3)),
        MetadataError::Invalid("as the service said".into()),
        MetadataError::TooLarge { what: "value", size: 2, limit: 1 },
        MetadataError::overtaken(),
    ] {
        fake.fail_next(error.clone());
        assert_eq!(remote.transact(put("a")).await, Err(error));
    }
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_dropped_handle_still_finishes_its_calls_and_its_watches() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let remote = over_memory(fake.service(), options(), &server, &client);
    let mut watch = remote.watch(String::new(), Revision(0)).await.expect("watches");
    fake.faults().hold_answers();
    let write = remote.transact(put("a"));
    drop(remote);
    fake.faults().wait_held(1).await;
    fake.faults().release_answers();
    assert!(matches!(write.await, Ok(Outcome::Committed { .. })));
    assert!(matches!(watch.next().await, Some(Ok(event)) if event.revision == Revision(1)));
    drop(watch);
    // Both tasks end although nobody tells them to: this group only waits.
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn what_no_message_can_carry_is_refused_and_costs_nobody_else_anything() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let remote = over_memory(fake.service(), options(), &server, &client);
    let endless = "k".repeat(MAX_MESSAGE);
    let read = remote.get(endless.clone(), Consistency::Stale).await;
    assert!(matches!(read, Err(MetadataError::TooLarge { what: "request", .. })), "{read:?}");
    let watch = remote.watch(endless, Revision(0)).await.map(drop);
    assert!(matches!(watch, Err(MetadataError::TooLarge { what: "key", .. })), "{watch:?}");
    // Each counts for more than its name, so that no message within the limit of a transaction is beyond that of messages.
    let dust = (0..1_100_000).map(|_| Operation::Sequence { name: "s".into(), count: u64::MAX }).collect();
    let write = remote.transact(Transaction { operations: dust, ..Transaction::default() }).await;
    assert!(matches!(write, Err(MetadataError::TooLarge { what: "transaction", .. })));
    assert_eq!(fake.revision(), Revision(0));
    assert!(remote.transact(put("a")).await.is_ok());
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

#[tokio::test]
async fn a_page_that_no_message_can_carry_comes_in_parts() {
    let (server, client) = (Tasks::default(), Tasks::default());
    let fake = FakeMetadata::new();
    let remote = over_memory(fake.service(), options(), &server, &client);
    for n in 0..40 {
        let large = Operation::Put { key: format!("{n:02}"), value: vec![0; 1 << 20].into(), session: None };
        let write = Transaction { operations: vec![large], ..Transaction::default() };
        fake.transact(write).await.expect("commits");
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let consistency = Consistency::Linearizable;
        let page =
            remote.scan(Scan { prefix: String::new(), after, limit: 10_000, consistency }).await.expect("answers");
        seen.extend(page.items.into_iter().map(|item| item.key));
        if !page.more {
            break;
        }
        after = seen.last().cloned();
    }
    assert_eq!(seen, (0..40).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    assert!(client.stop(PATIENCE).await && server.stop(PATIENCE).await);
}

//! Starting, staying registered, stopping.

use super::{
    Desk,
    desk::{append_to, config, eventually, in_time, request},
};
use crate::{Broker, StartError};
use protocol::{
    id::{NodeId, Offset},
    model::key,
    service::broker::{AppendError, BrokerService},
    testing::batches,
};
use std::time::Duration;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn another_data_directory_cannot_take_a_live_node_id() {
    let desk = Desk::start().await;
    let stranger = config(1, |config| config.instance = Uuid::from_u128(99));
    let refused = Broker::start(stranger.clone(), desk.deps()).await.err();
    let Some(StartError::NodeIdTaken { node: NodeId(1), .. }) = refused else { panic!("{refused:?}") };
    desk.metadata.expire(desk.broker.registered.borrow().session);
    // The first broker registers again by itself; whoever comes first wins, and never both.
    let held = desk.metadata.peek(&key::node(NodeId(1))).is_some();
    assert_eq!(Broker::start(stranger, desk.deps()).await.is_err(), held);
}

#[tokio::test]
async fn an_expired_session_is_replaced_and_service_goes_on() {
    let desk = Desk::start_with(|config| config.session_timeout = Duration::from_millis(80)).await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    let first = *desk.broker.registered.borrow();
    desk.metadata.expire(first.session);
    eventually("a new registration", || desk.broker.registered.borrow().owner != first.owner).await;
    assert_eq!(desk.write(id, &["b"]).await, 1, "nobody else has the partition");
    let renewed = desk.broker.registered.borrow().owner;
    assert!(renewed.registration > first.owner.registration);
    assert!(!desk.broker.is_ready(), "the partition is still an earlier life's: clients would find no leader");
    // The controller gives the partition to the new registration.
    desk.assign(id, &desk.broker).await;
    assert_eq!(append_to(&desk.broker, id, batches::plain(&["c"])).await.expect("appended").base_offset, Offset(2));
    eventually("readiness", || desk.broker.is_ready()).await;
}

#[tokio::test]
async fn a_drain_writes_what_was_accepted_and_ends_every_head() {
    let desk = Desk::start().await;
    let (a, b) = (desk.topic("a", &[]).await, desk.topic("b", &[]).await);
    desk.append(a, batches::idempotent(4, 0, 0, 2)).await.expect("appended");
    desk.bookie().faults().hold_answers();
    let accepted = desk.broker.append(request(b, batches::plain(&["last"])));
    let broker = desk.broker.clone();
    let drain = tokio::spawn(async move { broker.drain(LONG).await });
    eventually("the drain to begin", || !desk.broker.partition(a).is_ok_and(|p| p.takes_appends_for_tests())).await;
    let late = in_time("the refusal", desk.broker.append(request(a, batches::plain(&["late"])))).await;
    assert!(matches!(late, Err(AppendError::Unavailable { .. })), "{late:?}");
    desk.bookie().faults().release_answers();
    assert_eq!(in_time("the last append", accepted).await.expect("appended").base_offset, Offset(0));
    assert!(in_time("the drain", drain).await.expect("ran"));
    for id in [a, b] {
        assert!(desk.record(id).head.is_none() && desk.closed(id).len() == 1);
    }
    assert!(desk.metadata.peek(&key::node(NodeId(1))).is_none(), "the registration is given up");
    let next = desk.another(2).await;
    desk.assign(a, &next).await;
    let retry = append_to(&next, a, batches::idempotent(4, 0, 0, 2)).await.expect("recognized");
    assert_eq!(retry.base_offset, Offset(0), "the producers are in the closed ledger's snapshot");
}

#[tokio::test]
async fn a_broker_is_ready_when_its_partitions_are_open() {
    let desk = Desk::start().await;
    eventually("readiness", || desk.broker.is_ready()).await;
    for n in 0..20 {
        desk.topic(&format!("t{n}"), &[]).await;
    }
    eventually("readiness", || desk.broker.is_ready()).await;
    let status = desk.broker.partition_status(Vec::new()).await.expect("answered");
    assert_eq!(status.len(), 20);
}

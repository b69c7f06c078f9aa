//! Every API in every version that is advertised, over a socket: the answer is one that clients can read.

use super::client::{Client, Running};
use crate::kafka::{router::APIS, shape::tests::samples};
use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use protocol::{service::coordinator::CoordinatorError, testing::Fault, topic::CONSUMER_OFFSETS};

async fn assert_answered(client: &mut Client, key: ApiKey, version: i16, request: &Bytes) {
    client.send_body(key as i16, version, request).await;
    let body = client.receive_body(key as i16, version).await;
    assert_eq!(samples::check_response(key, version, body), Ok(()), "{key:?} version {version}");
}

/// Sends an empty and a full request of everything to a gateway.
async fn ask_everything(running: &Running) {
    let coordinator = running.cluster.coordinator(0);
    coordinator.faults().always(Some(Fault::Refuse(CoordinatorError::Loading)));
    let mut client = running.connect().await;
    for api in APIS {
        for version in api.versions() {
            // Without acks there is no answer to an empty produce request.
            if api.key != ApiKey::Produce {
                assert_answered(&mut client, api.key, version, &samples::empty(api.key, version)).await;
            }
            assert_answered(&mut client, api.key, version, &samples::filled(api.key, version)).await;
        }
    }
}

#[tokio::test]
async fn everything_is_answered_when_nothing_exists() {
    let running = Running::with(1, &[("auto.create.topics.enable", "false")]).await;
    ask_everything(&running).await;
}

#[tokio::test]
async fn everything_is_answered_when_what_it_names_exists() {
    let running = Running::start(1).await;
    running.topic(CONSUMER_OFFSETS, 1);
    running.topic("orders", 3);
    let mut client = running.connect().await;
    drop(client.call(9, &super::connections::produce("orders", -1, &["a", "b"])).await);
    ask_everything(&running).await;
}

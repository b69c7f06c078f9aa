//! The suite of [`CoordinatorService`], for handles that end at a [`FakeCoordinator`].
//!
//! What a coordinator does with a request is Kafka's business and tested there; here it is only that requests arrive
//! whole, in order, and are answered by what was answered.

use super::within;
use crate::{
    service::coordinator::{CoordinatorCall, CoordinatorError, CoordinatorKey, CoordinatorService},
    testing::coordinator::FakeCoordinator,
};
use bytes::Bytes;
use std::sync::Arc;

/// Checks a handle whose calls end at `behind`.
///
/// # Panics
/// At the first broken promise.
pub async fn coordinator(service: Arc<dyn CoordinatorService>, behind: &FakeCoordinator) {
    requests_arrive_whole(&service, behind).await;
    errors_keep_their_meaning(&service, behind).await;
    calls_take_effect_in_call_order(&service, behind).await;
    dropped_answers_do_not_stop_work(&service, behind).await;
    every_admitted_call_is_answered(&service).await;
}

fn call(body: impl Into<Bytes>) -> CoordinatorCall {
    CoordinatorCall {
        key: CoordinatorKey::Group("orders".into()),
        api_key: 11,
        api_version: 9,
        client_id: Some("c".into()),
        client_host: "/127.0.0.1".into(),
        body: body.into(),
    }
}

async fn requests_arrive_whole(service: &Arc<dyn CoordinatorService>, behind: &FakeCoordinator) {
    let calls = [
        call("join"),
        CoordinatorCall { key: CoordinatorKey::Transaction("t".into()), client_id: None, ..call("") },
        CoordinatorCall { key: CoordinatorKey::Node, api_key: -1, api_version: 0, ..call(vec![0; 100_000]) },
    ];
    for sent in calls {
        behind.answer(Ok(Bytes::from_static(b"welcome")));
        assert_eq!(within("call", service.call(sent.clone())).await, Ok(Bytes::from_static(b"welcome")));
        let arrived = behind.calls().pop().expect("it arrived");
        assert_eq!(format!("{arrived:?}"), format!("{sent:?}"));
    }
}

async fn errors_keep_their_meaning(service: &Arc<dyn CoordinatorService>, behind: &FakeCoordinator) {
    let reason = || "because".to_string();
    for error in [
        CoordinatorError::NotCoordinator("orders".into()),
        CoordinatorError::Loading,
        CoordinatorError::Unavailable { reason: reason() },
        CoordinatorError::OutcomeUnknown { reason: reason() },
        CoordinatorError::Malformed { reason: reason() },
    ] {
        behind.answer(Err(error.clone()));
        assert_eq!(within("call", service.call(call("x"))).await, Err(error));
    }
}

async fn calls_take_effect_in_call_order(service: &Arc<dyn CoordinatorService>, behind: &FakeCoordinator) {
    let before = behind.calls().len();
    let answers: Vec<_> = (0..100).map(|n| service.call(call(format!("{n}")))).collect();
    for (n, answer) in answers.into_iter().enumerate().rev() {
        assert_eq!(within("call", answer).await, Ok(format!("{n}").into()));
    }
    let order: Vec<_> = behind.calls().split_off(before).into_iter().map(|c| c.body).collect();
    assert_eq!(order, (0..100).map(|n| Bytes::from(format!("{n}"))).collect::<Vec<_>>());
}

async fn dropped_answers_do_not_stop_work(service: &Arc<dyn CoordinatorService>, behind: &FakeCoordinator) {
    let before = behind.calls().len();
    for n in 0..20 {
        drop(service.call(call(format!("{n}"))));
    }
    within("call", service.call(call("last"))).await.expect("answers");
    assert_eq!(behind.calls().len() - before, 21);
}

async fn every_admitted_call_is_answered(service: &Arc<dyn CoordinatorService>) {
    let body = Bytes::from(vec![1; 256 * 1024]);
    let answers: Vec<_> = (0..200).map(|_| service.call(call(body.clone()))).collect();
    for answer in answers {
        match within("call", answer).await {
            Ok(echo) => assert_eq!(echo, body),
            Err(CoordinatorError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

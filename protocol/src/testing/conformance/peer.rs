//! The suite of [`PeerService`], for handles that end at a [`FakePeer`].
//!
//! What a message means is raft's business; here it is only that messages arrive whole, in order, and are answered by
//! what was answered.

use super::within;
use crate::{
    service::peer::{PeerCall, PeerError, PeerName, PeerService, PeerVerb},
    testing::peer::FakePeer,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Checks a handle whose messages end at `behind`.
///
/// # Panics
/// At the first broken promise.
pub async fn peer(service: Arc<dyn PeerService>, behind: &FakePeer) {
    messages_arrive_whole(&service, behind).await;
    errors_keep_their_meaning(&service, behind).await;
    messages_take_effect_in_call_order(&service, behind).await;
    dropped_answers_do_not_stop_work(&service, behind).await;
}

fn name(id: u64) -> PeerName {
    PeerName { group: Uuid::from_u128(u128::MAX - 7), id, life: Uuid::from_u128(u128::from(id) << 70) }
}

fn message(body: impl Into<Bytes>) -> PeerCall {
    let patience = Duration::from_secs(30);
    PeerCall { verb: PeerVerb::Append, from: name(1), to: name(u64::MAX), patience, body: body.into() }
}

async fn messages_arrive_whole(service: &Arc<dyn PeerService>, behind: &FakePeer) {
    let verbs =
        [PeerVerb::Append, PeerVerb::Beat, PeerVerb::Vote, PeerVerb::Canvass, PeerVerb::Stand, PeerVerb::Snapshot];
    for (n, verb) in verbs.into_iter().enumerate() {
        let sent = PeerCall { verb, ..message(vec![n as u8; n * 100_000]) };
        behind.answer(Ok(Bytes::from_static(b"granted")));
        assert_eq!(within("call", service.call(sent.clone())).await, Ok(Bytes::from_static(b"granted")));
        assert_eq!(behind.calls().pop(), Some(sent));
    }
}

async fn errors_keep_their_meaning(service: &Arc<dyn PeerService>, behind: &FakePeer) {
    let reason = || "because".to_string();
    for error in [
        PeerError::Unreachable { reason: reason() },
        PeerError::Lost { reason: reason() },
        PeerError::Stranger { reason: reason() },
        PeerError::Failed { reason: reason() },
    ] {
        behind.answer(Err(error.clone()));
        assert_eq!(within("call", service.call(message("x"))).await, Err(error));
    }
}

async fn messages_take_effect_in_call_order(service: &Arc<dyn PeerService>, behind: &FakePeer) {
    let before = behind.calls().len();
    let answers: Vec<_> = (0..100).map(|n| service.call(message(format!("{n}")))).collect();
    for (n, answer) in answers.into_iter().enumerate().rev() {
        assert_eq!(within("call", answer).await, Ok(format!("{n}").into()));
    }
    let order: Vec<_> = behind.calls().split_off(before).into_iter().map(|c| c.body).collect();
    assert_eq!(order, (0..100).map(|n| Bytes::from(format!("{n}"))).collect::<Vec<_>>());
}

async fn dropped_answers_do_not_stop_work(service: &Arc<dyn PeerService>, behind: &FakePeer) {
    let before = behind.calls().len();
    for n in 0..20 {
        drop(service.call(message(format!("{n}"))));
    }
    within("call", service.call(message("last"))).await.expect("answers");
    assert_eq!(behind.calls().len() - before, 21);
}

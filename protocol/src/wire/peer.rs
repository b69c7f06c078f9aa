//! Metadata nodes for each other, over a stream: raft's messages travel unread.
//!
//! Owns the envelope of a message. A call ends after the caller's own patience on both sides, never after the deadline
//! of the connection: the caller asks again or stands for election long before that.

use super::{
    connection::{Link, RemoteSettings, Request},
    envelope::{Method, pack, unpack, wait_ms, wait_of},
    frame::WireError,
    problem::{Failure, Problem},
    server::{Incoming, Outgoing, unknown_method},
};
use crate::{
    runtime::Tasks,
    service::{
        Answer,
        peer::{PeerCall, PeerError, PeerName, PeerService, PeerVerb},
    },
    transport::Connect,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// The high byte of this service's methods.
pub(super) const SERVICE: u32 = 4;

const CALL: Method = Method(0x401);

/// A metadata node as its peers reach it. Clones share one connection.
#[derive(Debug, Clone)]
pub struct RemotePeer(Link);

impl RemotePeer {
    /// The node behind `connector`, connected when first called.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, settings: RemoteSettings, tasks: &Tasks) -> Self {
        Self(Link::new(connector, settings, tasks))
    }
}

impl PeerService for RemotePeer {
    fn call(&self, call: PeerCall) -> Answer<Bytes, PeerError> {
        let patience_ms = wait_ms(call.patience).max(1);
        let message = CallMessage {
            verb: verb_number(call.verb),
            from: Some(call.from.into()),
            to: Some(call.to.into()),
            patience_ms,
        };
        let until = Instant::now() + wait_of(patience_ms);
        let request = Request { method: CALL, message: pack(&message), body: vec![call.body], wait: Duration::ZERO };
        self.0.call_until(until, request, |(): (), body| Ok(body))
    }
}

/// A call; the body is the message.
#[derive(Clone, PartialEq, Message)]
struct CallMessage {
    /// See [`verb_number`].
    #[prost(uint32, tag = "1")]
    verb: u32,
    #[prost(message, optional, tag = "2")]
    from: Option<NameMessage>,
    #[prost(message, optional, tag = "3")]
    to: Option<NameMessage>,
    #[prost(uint32, tag = "4")]
    patience_ms: u32,
}

/// A [`PeerName`].
#[derive(Clone, PartialEq, Message)]
struct NameMessage {
    #[prost(fixed64, tag = "1")]
    group_high: u64,
    #[prost(fixed64, tag = "2")]
    group_low: u64,
    #[prost(uint64, tag = "3")]
    id: u64,
    #[prost(fixed64, tag = "4")]
    life_high: u64,
    #[prost(fixed64, tag = "5")]
    life_low: u64,
}

impl From<PeerName> for NameMessage {
    fn from(name: PeerName) -> Self {
        let ((group_high, group_low), (life_high, life_low)) = (name.group.as_u64_pair(), name.life.as_u64_pair());
        Self { group_high, group_low, id: name.id, life_high, life_low }
    }
}

impl From<NameMessage> for PeerName {
    fn from(name: NameMessage) -> Self {
        Self {
            group: Uuid::from_u64_pair(name.group_high, name.group_low),
            id: name.id,
            life: Uuid::from_u64_pair(name.life_high, name.life_low),
        }
    }
}

impl CallMessage {
    fn with(self, body: Bytes) -> Result<PeerCall, WireError> {
        let named = |name: Option<NameMessage>| {
            name.map(PeerName::from).ok_or_else(|| WireError::Malformed("a message between peers without names".into()))
        };
        let patience = wait_of(self.patience_ms);
        Ok(PeerCall { verb: verb_of(self.verb)?, from: named(self.from)?, to: named(self.to)?, patience, body })
    }
}

/// What a verb is called by on the wire.
const fn verb_number(verb: PeerVerb) -> u32 {
    match verb {
        PeerVerb::Append => 1,
        PeerVerb::Beat => 2,
        PeerVerb::Vote => 3,
        PeerVerb::Canvass => 4,
        PeerVerb::Stand => 5,
        PeerVerb::Snapshot => 6,
    }
}

fn verb_of(number: u32) -> Result<PeerVerb, WireError> {
    Ok(match number {
        1 => PeerVerb::Append,
        2 => PeerVerb::Beat,
        3 => PeerVerb::Vote,
        4 => PeerVerb::Canvass,
        5 => PeerVerb::Stand,
        6 => PeerVerb::Snapshot,
        other => return Err(WireError::Malformed(format!("verb {other} between peers is unknown"))),
    })
}

/// Starts a message that arrived. Nobody waits for its answer longer than the sender does.
pub(super) fn start(
    peer: Option<&Arc<dyn PeerService>>,
    incoming: Incoming,
) -> Result<BoxFuture<'static, Outgoing>, WireError> {
    let Some(peer) = peer else { return Ok(incoming.absent::<PeerError>("metadata peer")) };
    if incoming.method != CALL {
        return Err(unknown_method(incoming.method.0));
    }
    let call = unpack::<CallMessage>(incoming.message.clone())?.with(incoming.body.clone())?;
    let patience = call.patience;
    let answer = peer.call(call);
    let answer: Answer<Bytes, PeerError> = Box::pin(async move {
        let late = |_| Err(PeerError::Lost { reason: format!("it took longer than the caller's {patience:?}") });
        timeout(patience, answer).await.unwrap_or_else(late)
    });
    Ok(incoming.answer(answer, |body| (Bytes::new(), vec![body])))
}

impl Failure for PeerError {
    fn unavailable(reason: String) -> Self {
        Self::Unreachable { reason }
    }

    fn unknown(reason: String) -> Self {
        Self::Lost { reason }
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::Unreachable { reason } => Problem::new(1, reason, &[]),
            Self::Lost { reason } => Problem::new(2, reason, &[]),
            Self::Stranger { reason } => Problem::new(3, reason, &[]),
            Self::Failed { reason } => Problem::new(4, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let reason = problem.text.clone();
        Some(match problem.kind {
            1 => Self::Unreachable { reason },
            2 => Self::Lost { reason },
            3 => Self::Stranger { reason },
            4 => Self::Failed { reason },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;

//! Coordinators over a stream: the request's body travels unread.

use super::{
    connection::{Link, RemoteSettings, Request},
    envelope::{Method, pack, unpack},
    frame::WireError,
    problem::{Failure, Problem},
    server::{Incoming, Outgoing, unknown_method},
};
use crate::{
    runtime::Tasks,
    service::{
        Answer,
        coordinator::{CoordinatorCall, CoordinatorError, CoordinatorKey, CoordinatorService},
    },
    transport::Connect,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use std::{sync::Arc, time::Duration};

/// The high byte of this service's methods.
pub(super) const SERVICE: u32 = 3;

const CALL: Method = Method(0x301);

/// How long joining a group may wait on purpose: for the slowest member to come back.
const PATIENCE: Duration = Duration::from_secs(300);

/// The coordinators of another node. Clones share one connection.
#[derive(Debug, Clone)]
pub struct RemoteCoordinator(Link);

impl RemoteCoordinator {
    /// The coordinators behind `connector`, connected when first called.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, settings: RemoteSettings, tasks: &Tasks) -> Self {
        Self(Link::new(connector, settings, tasks))
    }
}

impl CoordinatorService for RemoteCoordinator {
    fn call(&self, call: CoordinatorCall) -> Answer<Bytes, CoordinatorError> {
        let (kind, name) = match call.key {
            CoordinatorKey::Group(name) => (1, name),
            CoordinatorKey::Transaction(name) => (2, name),
            CoordinatorKey::Node => (3, String::new()),
        };
        let message = CallMessage {
            kind,
            name,
            api_key: call.api_key.into(),
            api_version: call.api_version.into(),
            client_id: call.client_id,
            client_host: call.client_host,
        };
        let request = Request { method: CALL, message: pack(&message), body: vec![call.body], wait: PATIENCE };
        self.0.call(request, |(): (), body| Ok(body))
    }
}

/// A call; the body is the request's.
#[derive(Clone, PartialEq, Message)]
struct CallMessage {
    /// 1 a group, 2 a transaction, 3 the node.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(int32, tag = "3")]
    api_key: i32,
    #[prost(int32, tag = "4")]
    api_version: i32,
    #[prost(string, optional, tag = "5")]
    client_id: Option<String>,
    #[prost(string, tag = "6")]
    client_host: String,
}

impl CallMessage {
    fn with(self, body: Bytes) -> Result<CoordinatorCall, WireError> {
        let key = match self.kind {
            1 => CoordinatorKey::Group(self.name),
            2 => CoordinatorKey::Transaction(self.name),
            3 => CoordinatorKey::Node,
            other => return Err(WireError::Malformed(format!("coordinator key of kind {other}"))),
        };
        let narrow = |number: i32| i16::try_from(number).map_err(|_| WireError::Malformed(format!("API {number}")));
        let (api_key, api_version) = (narrow(self.api_key)?, narrow(self.api_version)?);
        let (client_id, client_host) = (self.client_id, self.client_host);
        Ok(CoordinatorCall { key, api_key, api_version, client_id, client_host, body })
    }
}

/// Starts a request that arrived.
pub(super) fn start(
    coordinator: Option<&Arc<dyn CoordinatorService>>,
    incoming: Incoming,
) -> Result<BoxFuture<'static, Outgoing>, WireError> {
    let Some(coordinator) = coordinator else { return Ok(incoming.absent::<CoordinatorError>("coordinator")) };
    if incoming.method != CALL {
        return Err(unknown_method(incoming.method.0));
    }
    let call = unpack::<CallMessage>(incoming.message.clone())?.with(incoming.body.clone())?;
    Ok(incoming.answer(coordinator.call(call), |body| (Bytes::new(), vec![body])))
}

impl Failure for CoordinatorError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    fn unknown(reason: String) -> Self {
        Self::OutcomeUnknown { reason }
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::NotCoordinator(key) => Problem::new(1, key, &[]),
            Self::Loading => Problem::new(2, "", &[]),
            Self::Unavailable { reason } => Problem::new(3, reason, &[]),
            Self::OutcomeUnknown { reason } => Problem::new(4, reason, &[]),
            Self::Malformed { reason } => Problem::new(5, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let reason = problem.text.clone();
        Some(match problem.kind {
            1 => Self::NotCoordinator(reason),
            2 => Self::Loading,
            3 => Self::Unavailable { reason },
            4 => Self::OutcomeUnknown { reason },
            5 => Self::Malformed { reason },
            _ => return None,
        })
    }
}

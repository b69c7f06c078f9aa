//! One request on its way through the gateway, and the answer to it. Owns the split between what happens before a
//! handler returns (calls on brokers, in arrival order) and what the answer waits for; never touches a socket.

use super::{
    context::Shared,
    error::Failure,
    message::{self, MessageError},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::{future::Future, net::IpAddr, sync::Arc};

/// What the rest of a handler needs to know about its request.
#[derive(Clone)]
pub(crate) struct Call {
    /// Everything the gateway's handlers share.
    pub(crate) shared: Arc<Shared>,
    /// Kafka's API key.
    pub(crate) api_key: i16,
    /// The version of the request and of its answer.
    pub(crate) version: i16,
}

impl Call {
    /// The code of a failure, counted in the metrics.
    pub(crate) fn code(&self, failure: &Failure) -> i16 {
        let code = failure.error.code();
        self.shared.metrics.count_error(self.api_key, code);
        code
    }

    /// Code and message of a failure, counted in the metrics.
    pub(crate) fn refuse(&self, failure: &Failure) -> (i16, Option<StrBytes>) {
        (self.code(failure), Some(StrBytes::from_string(failure.message.clone())))
    }

    /// Code and message of an outcome: 0 and none if it is good.
    pub(crate) fn verdict<T>(&self, outcome: &Result<T, Failure>) -> (i16, Option<StrBytes>) {
        outcome.as_ref().err().map_or((0, None), |failure| self.refuse(failure))
    }

    /// An answer that is there already.
    pub(crate) fn now<M: Encodable>(&self, response: &M) -> Reply {
        Box::pin(std::future::ready(self.outcome(response)))
    }

    /// An answer that comes later.
    pub(crate) fn later<M: Encodable + Send>(&self, response: impl Future<Output = M> + Send + 'static) -> Reply {
        let call = self.clone();
        Box::pin(async move { call.outcome(&response.await) })
    }

    fn outcome<M: Encodable>(&self, response: &M) -> Outcome {
        match message::encode(response, self.version) {
            Ok(body) => Outcome::Send(vec![body]),
            Err(problem) => {
                tracing::error!(api = self.api_key, %problem, "a response of ours cannot be encoded");
                Outcome::Close
            }
        }
    }
}

/// A request whose header has been read.
pub(crate) struct Request {
    /// What it is.
    pub(crate) call: Call,
    /// The client's own name for itself.
    pub(crate) client_id: Option<StrBytes>,
    /// Where the client connects from.
    pub(crate) peer: IpAddr,
    /// The body, a slice of the frame.
    pub(crate) body: Bytes,
}

impl Request {
    /// The decoded body.
    ///
    /// # Errors
    /// It is malformed; the connection is beyond repair.
    pub(crate) fn decode<M: Decodable>(&self) -> Result<M, MessageError> {
        message::decode(self.call.api_key, self.call.version, self.body.clone())
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The body of the response, in pieces that are written one after the other.
    Send(Vec<Bytes>),
    /// No response (a produce request with acks=0 that went well).
    Nothing,
    /// The connection is closed, after everything before was answered.
    Close,
}

/// The answer of a started request. Dropping it drops the answer, never the work.
pub(crate) type Reply = BoxFuture<'static, Outcome>;

/// What a handler returns: by then it has made its first calls on brokers and coordinators.
pub(crate) type Handled = Result<Reply, MessageError>;

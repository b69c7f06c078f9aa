//! The group APIs: passed on, unread but for the group's name, to the node that coordinates the group. Owns finding that
//! node and telling the client when it does not answer; what the requests mean is the coordinator's.
//!
//! Requests about several groups are split and their answers merged ([`many`]); [`refusal`] says "no" in the form of each
//! API, with the codes that its clients know.

mod many;
mod refusal;

use super::find_coordinator::group_coordinator;
use crate::kafka::{
    error::{self, Failure},
    message,
    request::{Call, Handled, Outcome, Reply, Request},
};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteGroupsRequest, DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
        ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
        SyncGroupRequest,
    },
    protocol::Decodable,
};
use protocol::{
    id::NodeId,
    service::{
        Answer,
        coordinator::{CoordinatorCall, CoordinatorError, CoordinatorKey},
    },
};
use refusal::Refuse;

/// The first version of OffsetFetch that asks for several groups.
const MANY_OFFSETS_SINCE: i16 = 8;

/// Handles OffsetCommit.
pub(crate) fn offset_commit(request: Request) -> Handled {
    one::<OffsetCommitRequest>(request)
}

/// Handles JoinGroup.
pub(crate) fn join_group(request: Request) -> Handled {
    one::<JoinGroupRequest>(request)
}

/// Handles SyncGroup.
pub(crate) fn sync_group(request: Request) -> Handled {
    one::<SyncGroupRequest>(request)
}

/// Handles Heartbeat.
pub(crate) fn heartbeat(request: Request) -> Handled {
    one::<HeartbeatRequest>(request)
}

/// Handles LeaveGroup.
pub(crate) fn leave_group(request: Request) -> Handled {
    one::<LeaveGroupRequest>(request)
}

/// Handles OffsetDelete.
pub(crate) fn offset_delete(request: Request) -> Handled {
    one::<OffsetDeleteRequest>(request)
}

/// Handles OffsetFetch.
pub(crate) fn offset_fetch(request: Request) -> Handled {
    if request.call.version >= MANY_OFFSETS_SINCE {
        return many::split::<OffsetFetchRequest>(request);
    }
    one::<OffsetFetchRequest>(request)
}

/// Handles DescribeGroups.
pub(crate) fn describe_groups(request: Request) -> Handled {
    many::split::<DescribeGroupsRequest>(request)
}

/// Handles DeleteGroups.
pub(crate) fn delete_groups(request: Request) -> Handled {
    many::split::<DeleteGroupsRequest>(request)
}

/// Passes on a request about one group.
fn one<Q: Decodable + Refuse + Send + 'static>(request: Request) -> Handled {
    let message: Q = request.decode()?;
    let made = ask_group(&request, message.group(), request.body.clone());
    let call = request.call;
    Ok(Box::pin(async move {
        match settle(made).await {
            Ok(body) => Outcome::Send(vec![body]),
            Err(Some(failure)) => {
                call.code(&failure);
                refused(&call, &message.refuse(&failure, call.version))
            }
            Err(None) => Outcome::Close,
        }
    }))
}

fn refused<M: kafka_protocol::protocol::Encodable>(call: &Call, response: &M) -> Outcome {
    match message::encode(response, call.version) {
        Ok(body) => Outcome::Send(vec![body]),
        Err(problem) => {
            tracing::error!(api = call.api_key, %problem, "a refusal of ours cannot be encoded");
            Outcome::Close
        }
    }
}

/// A call on a coordinator that was made, or the reason why it was not.
type Asked = Result<Answer<Bytes, CoordinatorError>, Failure>;

/// Asks the coordinator of a group. The call is made when this returns.
fn ask_group(request: &Request, group: &str, body: Bytes) -> Asked {
    let node = group_coordinator(&request.call.shared.view.snapshot(), group)?;
    ask(request, node, CoordinatorKey::Group(group.to_owned()), body)
}

fn ask(request: &Request, node: NodeId, key: CoordinatorKey, body: Bytes) -> Asked {
    let coordinator = request.call.shared.nodes.coordinator(node).ok_or_else(|| {
        Failure::new(ResponseError::CoordinatorNotAvailable, format!("the coordinator on node {node} is not reachable"))
    })?;
    Ok(coordinator.call(CoordinatorCall {
        key,
        api_key: request.call.api_key,
        api_version: request.call.version,
        client_id: request.client_id.as_ref().map(ToString::to_string),
        client_host: format!("/{}", request.peer),
        body,
    }))
}

/// The coordinator's answer, or what to tell the client; `Err(None)` closes the connection.
async fn settle(asked: Asked) -> Result<Bytes, Option<Failure>> {
    let answer = asked.map_err(Some)?;
    answer.await.map_err(|problem| {
        tracing::debug!(%problem, "a coordinator did not answer");
        error::coordinator(&problem)
    })
}

/// Handles ListGroups: asks every live node, because any may coordinate groups.
pub(crate) fn list_groups(request: Request) -> Handled {
    let _: ListGroupsRequest = request.decode()?;
    let snapshot = request.call.shared.view.snapshot();
    let mut nodes: Vec<NodeId> = snapshot.nodes.keys().copied().collect();
    if !nodes.contains(&request.call.shared.node) {
        nodes.push(request.call.shared.node);
    }
    let asked: Vec<Asked> =
        nodes.into_iter().map(|node| ask(&request, node, CoordinatorKey::Node, request.body.clone())).collect();
    Ok(list_all(&request.call, asked))
}

fn list_all(call: &Call, asked: Vec<Asked>) -> Reply {
    let answering = call.clone();
    call.later(async move {
        let mut list = ListGroupsResponse::default();
        for asked in asked {
            let failure = match settle(asked).await {
                Ok(mut body) => match ListGroupsResponse::decode(&mut body, answering.version) {
                    Ok(part) => {
                        list.error_code = if part.error_code == 0 { list.error_code } else { part.error_code };
                        list.groups.extend(part.groups);
                        continue;
                    }
                    Err(problem) => Failure::new(ResponseError::UnknownServerError, problem.to_string()),
                },
                Err(failure) => failure.unwrap_or_else(|| {
                    Failure::new(ResponseError::InvalidRequest, "a coordinator refused the request")
                }),
            };
            // What the others answered is listed all the same; the error says that it is not everything.
            list.error_code = answering.code(&failure);
        }
        list
    })
}

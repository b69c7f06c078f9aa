//! Group requests: decoding the bodies that gateways pass on. Owns the list of APIs a coordinator serves.

use crate::kafka::message;
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        DeleteGroupsRequest, DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
        ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest,
    },
    protocol::Decodable,
};
use protocol::service::coordinator::CoordinatorError;

/// A decoded request.
#[derive(Debug, Clone)]
pub(super) enum Request {
    OffsetCommit(OffsetCommitRequest),
    OffsetFetch(OffsetFetchRequest),
    Join(JoinGroupRequest),
    Heartbeat(HeartbeatRequest),
    Leave(LeaveGroupRequest),
    Sync(SyncGroupRequest),
    Describe(DescribeGroupsRequest),
    List(ListGroupsRequest),
    Delete(DeleteGroupsRequest),
    OffsetDelete(OffsetDeleteRequest),
}

impl Request {
    /// Decodes a body.
    pub(super) fn decode(api_key: i16, version: i16, body: Bytes) -> Result<Self, CoordinatorError> {
        Ok(match api_key {
            8 => Self::OffsetCommit(read(api_key, version, body)?),
            9 => Self::OffsetFetch(read(api_key, version, body)?),
            11 => Self::Join(read(api_key, version, body)?),
            12 => Self::Heartbeat(read(api_key, version, body)?),
            13 => Self::Leave(read(api_key, version, body)?),
            14 => Self::Sync(read(api_key, version, body)?),
            15 => Self::Describe(read(api_key, version, body)?),
            16 => Self::List(read(api_key, version, body)?),
            42 => Self::Delete(read(api_key, version, body)?),
            47 => Self::OffsetDelete(read(api_key, version, body)?),
            other => {
                let reason = format!("API {other} is not one of a group coordinator");
                return Err(CoordinatorError::Malformed { reason });
            }
        })
    }
}

fn read<M: Decodable>(api_key: i16, version: i16, body: Bytes) -> Result<M, CoordinatorError> {
    message::decode(api_key, version, body).map_err(|e| CoordinatorError::Malformed { reason: e.to_string() })
}

//! Requests about several groups: one request per group to that group's coordinator, and one answer out of theirs, in the
//! order of the request.

use super::{Asked, ask_group, settle};
use crate::kafka::{
    error::Failure,
    message,
    request::{Handled, Request},
};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
        OffsetFetchRequest, OffsetFetchResponse, delete_groups_response::DeletableGroupResult,
        describe_groups_response::DescribedGroup, offset_fetch_response::OffsetFetchResponseGroup,
    },
    protocol::{Decodable, Encodable, StrBytes},
};

/// A request about several groups.
pub(super) trait Groups: Decodable + Encodable + Send + 'static {
    /// What its response says about one group.
    type Part: Send + 'static;
    /// Its response.
    type Response: Decodable + Encodable + Send + 'static;

    /// A request for each of its groups, alone.
    fn apart(self) -> Vec<(GroupId, Self)>;
    /// What a response says about its groups.
    fn parts(response: Self::Response) -> Vec<Self::Part>;
    /// A group whose coordinator did not answer.
    fn refuse(group: GroupId, code: i16, text: Option<StrBytes>, version: i16) -> Self::Part;
    /// A response about all groups.
    fn together(parts: Vec<Self::Part>) -> Self::Response;
}

/// Splits a request, passes its parts on, and merges the answers.
pub(super) fn split<Q: Groups>(request: Request) -> Handled {
    let message: Q = request.decode()?;
    let version = request.call.version;
    let asked: Vec<(GroupId, Asked)> = message
        .apart()
        .into_iter()
        .map(|(group, alone)| {
            let body = message::encode(&alone, version).map_err(unmergeable);
            let asked = body.and_then(|body| ask_group(&request, &group, body));
            (group, asked)
        })
        .collect();
    let call = request.call.clone();
    Ok(request.call.later(async move {
        let mut parts = Vec::with_capacity(asked.len());
        for (group, asked) in asked {
            match answer::<Q>(asked, version).await {
                Ok(of_group) => parts.extend(of_group),
                Err(failure) => {
                    let (code, text) = call.refuse(&failure);
                    parts.push(Q::refuse(group, code, text, version));
                }
            }
        }
        Q::together(parts)
    }))
}

async fn answer<Q: Groups>(asked: Asked, version: i16) -> Result<Vec<Q::Part>, Failure> {
    let malformed = || Failure::new(ResponseError::InvalidRequest, "the coordinator refused the request as malformed");
    let mut body: Bytes = settle(asked).await.map_err(|failure| failure.unwrap_or_else(malformed))?;
    let response = Q::Response::decode(&mut body, version).map_err(unmergeable)?;
    Ok(Q::parts(response))
}

fn unmergeable(problem: impl std::fmt::Display) -> Failure {
    tracing::error!(%problem, "a request about several groups cannot be split or merged");
    Failure::new(ResponseError::UnknownServerError, problem.to_string())
}

impl Groups for OffsetFetchRequest {
    type Part = OffsetFetchResponseGroup;
    type Response = OffsetFetchResponse;

    fn apart(self) -> Vec<(GroupId, Self)> {
        let stable = self.require_stable;
        let alone = |group| Self::default().with_require_stable(stable).with_groups(vec![group]);
        self.groups.into_iter().map(|group| (group.group_id.clone(), alone(group))).collect()
    }
    fn parts(response: OffsetFetchResponse) -> Vec<OffsetFetchResponseGroup> {
        response.groups
    }
    fn refuse(group: GroupId, code: i16, _text: Option<StrBytes>, _version: i16) -> OffsetFetchResponseGroup {
        OffsetFetchResponseGroup::default().with_group_id(group).with_error_code(code)
    }
    fn together(parts: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
        OffsetFetchResponse::default().with_groups(parts)
    }
}

impl Groups for DescribeGroupsRequest {
    type Part = DescribedGroup;
    type Response = DescribeGroupsResponse;

    fn apart(self) -> Vec<(GroupId, Self)> {
        let operations = self.include_authorized_operations;
        let alone = |group| Self::default().with_include_authorized_operations(operations).with_groups(vec![group]);
        self.groups.into_iter().map(|group| (group.clone(), alone(group))).collect()
    }
    fn parts(response: DescribeGroupsResponse) -> Vec<DescribedGroup> {
        response.groups
    }
    fn refuse(group: GroupId, code: i16, text: Option<StrBytes>, version: i16) -> DescribedGroup {
        let text = text.filter(|_| version >= 6);
        DescribedGroup::default().with_group_id(group).with_error_code(code).with_error_message(text)
    }
    fn together(parts: Vec<DescribedGroup>) -> DescribeGroupsResponse {
        DescribeGroupsResponse::default().with_groups(parts)
    }
}

impl Groups for DeleteGroupsRequest {
    type Part = DeletableGroupResult;
    type Response = DeleteGroupsResponse;

    fn apart(self) -> Vec<(GroupId, Self)> {
        let alone = |group| Self::default().with_groups_names(vec![group]);
        self.groups_names.into_iter().map(|group| (group.clone(), alone(group))).collect()
    }
    fn parts(response: DeleteGroupsResponse) -> Vec<DeletableGroupResult> {
        response.results
    }
    fn refuse(group: GroupId, code: i16, _text: Option<StrBytes>, _version: i16) -> DeletableGroupResult {
        DeletableGroupResult::default().with_group_id(group).with_error_code(code)
    }
    fn together(parts: Vec<DeletableGroupResult>) -> DeleteGroupsResponse {
        DeleteGroupsResponse::default().with_results(parts)
    }
}

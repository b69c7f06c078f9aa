//! ListPartitionReassignments: nothing is ever being reassigned, because moving a partition moves no data.
//! `kafka-topics --describe` asks all the same.

use crate::kafka::request::{Handled, Request};
use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

/// Handles ListPartitionReassignments.
pub(crate) fn handle(request: Request) -> Handled {
    let _: ListPartitionReassignmentsRequest = request.decode()?;
    Ok(request.call.now(&ListPartitionReassignmentsResponse::default()))
}

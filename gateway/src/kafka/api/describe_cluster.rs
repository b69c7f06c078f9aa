//! DescribeCluster: cluster id, controller and live brokers.

use crate::kafka::{
    cluster::{self, CLUSTER_OPERATIONS},
    error::Failure,
    request::{Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{DescribeClusterRequest, DescribeClusterResponse, describe_cluster_response::DescribeClusterBroker},
};

/// The endpoint type that stands for brokers; controllers (2) cannot be reached by clients.
const BROKERS: i8 = 1;

/// Handles DescribeCluster.
pub(crate) fn handle(request: Request) -> Handled {
    let message: DescribeClusterRequest = request.decode()?;
    let call = request.call;
    if message.endpoint_type != BROKERS {
        let failure = Failure::new(ResponseError::MismatchedEndpointType, "this is a broker, not a controller");
        let (code, text) = call.refuse(&failure);
        return Ok(call.now(&DescribeClusterResponse::default().with_error_code(code).with_error_message(text)));
    }
    let snapshot = call.shared.view.snapshot();
    let brokers = cluster::brokers(&call.shared, &snapshot).into_iter().map(|broker| {
        let described = DescribeClusterBroker::default().with_broker_id(broker.id).with_host(broker.host);
        described.with_port(broker.port).with_rack(broker.rack)
    });
    let response = DescribeClusterResponse::default()
        .with_cluster_id(cluster::cluster_id(&snapshot))
        .with_controller_id(cluster::controller(&call.shared, &snapshot))
        .with_brokers(brokers.collect());
    let operations = message.include_cluster_authorized_operations.then_some(CLUSTER_OPERATIONS);
    Ok(call.now(&response.with_cluster_authorized_operations(operations.unwrap_or(i32::MIN))))
}

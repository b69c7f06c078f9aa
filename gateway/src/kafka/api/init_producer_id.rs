//! InitProducerId: an id for an idempotent producer. Transactional producers are refused with the one error that every
//! client takes for final.

use crate::kafka::{
    error::Failure,
    request::{Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId},
};
use std::sync::Arc;

/// Handles InitProducerId.
pub(crate) fn handle(request: Request) -> Handled {
    let message: InitProducerIdRequest = request.decode()?;
    let call = request.call;
    if message.transactional_id.is_some() {
        let failure = transactions_unsupported();
        return Ok(call.now(&refused(call.code(&failure))));
    }
    let (answering, shared) = (call.clone(), Arc::clone(&call.shared));
    Ok(call.later(async move {
        match shared.producer_ids.next().await {
            Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id.0)).with_producer_epoch(0),
            Err(problem) => {
                tracing::warn!(%problem, "no producer id could be assigned");
                refused(answering.code(&problem.into()))
            }
        }
    }))
}

/// What transactional producers are told.
pub(super) fn transactions_unsupported() -> Failure {
    let text = "transactions are not supported yet; remove transactional.id from the producer's configuration";
    Failure::new(ResponseError::TransactionalIdAuthorizationFailed, text)
}

fn refused(code: i16) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_error_code(code).with_producer_id(ProducerId(-1)).with_producer_epoch(-1)
}

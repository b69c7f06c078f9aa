//! A coordinator that writes down what it is asked and answers what it was told to.

use super::faults::Faults;
use crate::service::{
    Answer,
    coordinator::{CoordinatorCall, CoordinatorError, CoordinatorService},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};

/// An in-memory [`CoordinatorService`]. Clones share one state. Without an answer to give it echoes the body.
#[derive(Debug, Clone, Default)]
pub struct FakeCoordinator(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    calls: Mutex<Vec<CoordinatorCall>>,
    answers: Mutex<VecDeque<Result<Bytes, CoordinatorError>>>,
    faults: Faults<CoordinatorError>,
}

impl FakeCoordinator {
    /// A coordinator that was asked nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This coordinator as its users hold it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn CoordinatorService> {
        Arc::new(self.clone())
    }

    /// The switches: fail, lose answers, hang, hold.
    #[must_use]
    pub fn faults(&self) -> &Faults<CoordinatorError> {
        &self.0.faults
    }

    /// Queues an answer.
    pub fn answer(&self, answer: Result<Bytes, CoordinatorError>) {
        self.0.answers.lock().push_back(answer);
    }

    /// What took effect so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<CoordinatorCall> {
        self.0.calls.lock().clone()
    }
}

impl CoordinatorService for FakeCoordinator {
    fn call(&self, call: CoordinatorCall) -> Answer<Bytes, CoordinatorError> {
        self.0.faults.run(|| {
            let body = call.body.clone();
            self.0.calls.lock().push(call);
            self.0.answers.lock().pop_front().unwrap_or(Ok(body))
        })
    }
}

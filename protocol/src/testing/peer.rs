//! A metadata peer that writes down what it is told and answers what it was told to.

use super::faults::Faults;
use crate::service::{
    Answer,
    peer::{PeerCall, PeerError, PeerService},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};

/// An in-memory [`PeerService`]. Clones share one state. Without an answer to give it echoes the body.
#[derive(Debug, Clone, Default)]
pub struct FakePeer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    calls: Mutex<Vec<PeerCall>>,
    answers: Mutex<VecDeque<Result<Bytes, PeerError>>>,
    faults: Faults<PeerError>,
}

impl FakePeer {
    /// A peer that was told nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This peer as its users hold it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn PeerService> {
        Arc::new(self.clone())
    }

    /// The switches: fail, lose answers, hang, hold.
    #[must_use]
    pub fn faults(&self) -> &Faults<PeerError> {
        &self.0.faults
    }

    /// Queues an answer.
    pub fn answer(&self, answer: Result<Bytes, PeerError>) {
        self.0.answers.lock().push_back(answer);
    }

    /// What took effect so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<PeerCall> {
        self.0.calls.lock().clone()
    }
}

impl PeerService for FakePeer {
    fn call(&self, call: PeerCall) -> Answer<Bytes, PeerError> {
        self.0.faults.run(|| {
            let body = call.body.clone();
            self.0.calls.lock().push(call);
            self.0.answers.lock().pop_front().unwrap_or(Ok(body))
        })
    }
}

//! Admission by bytes: how much of clients' requests and answers may be in memory at once, per gateway and per
//! connection. At the limit the sockets are not read; nothing is ever dropped.
//!
//! Small requests (heartbeats above all) have a reserve, so that a gateway full of produce requests still keeps groups
//! together. The file owns the counting; it never reads a socket.

use metrics::Gauge;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests below this size, in bytes, may use the reserve.
pub(crate) const SMALL_REQUEST: usize = 16 * 1024;
/// The reserve of small requests, in bytes.
const RESERVE: usize = 4 * 1024 * 1024;
/// The smallest allowance of a fetch, in bytes, however much is in flight.
const SMALL_FETCH: usize = 64 * 1024;

/// The byte budget of one gateway.
pub(crate) struct Budget {
    requests: Arc<Semaphore>,
    capacity: usize,
    reserve: Arc<Semaphore>,
    answers: Arc<AtomicUsize>,
    gauge: Gauge,
}

impl Budget {
    /// A budget of `capacity` bytes for requests, and as many for answers; `gauge` shows the requests admitted.
    pub(crate) fn new(capacity: usize, gauge: Gauge) -> Self {
        let capacity = capacity.clamp(SMALL_REQUEST, u32::MAX as usize);
        Self {
            requests: Arc::new(Semaphore::new(capacity)),
            capacity,
            reserve: Arc::new(Semaphore::new(RESERVE)),
            answers: Arc::default(),
            gauge,
        }
    }

    /// Waits until a request of `size` bytes may be read. A request larger than the whole budget is admitted alone.
    pub(crate) fn admit(&self, size: usize) -> impl Future<Output = Admission> + use<> {
        let (requests, reserve) = (Arc::clone(&self.requests), Arc::clone(&self.reserve));
        let (permits, gauge) = (size.min(self.capacity) as u32, self.gauge.clone());
        async move {
            let permit = match Arc::clone(&requests).try_acquire_many_owned(permits) {
                Ok(permit) => permit,
                Err(_) => {
                    let pool = if size < SMALL_REQUEST { reserve } else { requests };
                    pool.acquire_many_owned(permits).await.expect("the budget is never closed")
                }
            };
            gauge.increment(size as f64);
            Admission { permits: vec![permit], size, gauge }
        }
    }

    /// How many bytes a fetch may bring in, given what it asks for and what is in flight.
    pub(crate) fn fetch_allowance(&self, asked: usize) -> usize {
        let free = self.capacity.saturating_sub(self.answers.load(Ordering::Relaxed));
        asked.min(free.max(SMALL_FETCH))
    }

    /// Counts `bytes` of an answer until the guard is dropped.
    pub(crate) fn hold_answer(&self, bytes: usize) -> AnswerBytes {
        self.answers.fetch_add(bytes, Ordering::Relaxed);
        AnswerBytes { bytes, answers: Arc::clone(&self.answers) }
    }
}

/// What one request occupies until its answer is written: bytes of the gateway's budget, and what its connection adds.
pub(crate) struct Admission {
    permits: Vec<OwnedSemaphorePermit>,
    size: usize,
    gauge: Gauge,
}

impl Admission {
    /// Keeps a further permit for as long.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permits.push(permit);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gauge.decrement(self.size as f64);
    }
}

/// Bytes of an answer that is being written.
#[derive(Debug)]
pub(crate) struct AnswerBytes {
    bytes: usize,
    answers: Arc<AtomicUsize>,
}

impl Drop for AnswerBytes {
    fn drop(&mut self) {
        self.answers.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn small_requests_pass_when_the_budget_is_used_up() {
        let budget = Budget::new(100_000, Gauge::noop());
        let all = budget.admit(10_000_000).now_or_never().expect("a huge request is admitted alone");
        assert!(budget.admit(SMALL_REQUEST).now_or_never().is_none(), "a large one waits");
        let small = budget.admit(100).now_or_never().expect("a small one uses the reserve");
        drop((all, small));
        assert!(budget.admit(SMALL_REQUEST).now_or_never().is_some(), "and goes on when there is room");
    }

    #[test]
    fn fetches_shrink_while_answers_are_being_written() {
        let budget = Budget::new(1_000_000, Gauge::noop());
        assert_eq!(budget.fetch_allowance(5_000_000), 1_000_000);
        let held = budget.hold_answer(2_000_000);
        assert_eq!(budget.fetch_allowance(5_000_000), SMALL_FETCH);
        assert_eq!(budget.fetch_allowance(10), 10);
        drop(held);
        assert_eq!(budget.fetch_allowance(5_000_000), 1_000_000);
    }
}

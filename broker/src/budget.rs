//! The byte budget of appends: how much unanswered data clients can make the broker hold. Owns the count; a permit gives
//! its bytes back when it is dropped, so that no path can forget to.

use metrics::Gauge;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A budget of bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ByteBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    used: AtomicUsize,
    gauge: Gauge,
}

/// Bytes taken from a budget.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: ByteBudget,
    bytes: usize,
}

impl Permit {
    /// How many bytes it stands for.
    #[must_use]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub(crate) fn new(limit: usize, gauge: Gauge) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0), gauge }))
    }

    /// Takes bytes, or says no. One request always fits into an empty budget, whatever its size.
    #[must_use]
    pub(crate) fn take(&self, bytes: usize) -> Option<Permit> {
        let fits = |used: usize| (used == 0 || used + bytes <= self.0.limit).then_some(used + bytes);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        self.0.gauge.increment(bytes as f64);
        Some(Permit { budget: self.clone(), bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.0.gauge.decrement(self.bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ByteBudget {
        fn used(&self) -> usize {
            self.0.used.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_full_budget_says_no_until_a_permit_is_dropped() {
        let budget = ByteBudget::new(10, Gauge::noop());
        let first = budget.take(6).expect("fits");
        assert!(budget.take(5).is_none());
        let second = budget.take(4).expect("fits exactly");
        drop(first);
        assert_eq!((budget.used(), second.bytes()), (4, 4));
        drop(second);
        assert!(budget.take(99).is_some(), "an empty budget takes one request of any size");
    }
}

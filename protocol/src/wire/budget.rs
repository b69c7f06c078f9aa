//! Admission by bytes: how much may be in flight on one connection, with a reserve that only small calls may use.
//!
//! Owns the counting; never the memory. A call's share is given back when it has been answered.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls up to this size may use the reserve: heartbeats, fences and look-ups get through beside bulk traffic.
const SMALL: usize = 16 * 1024;
/// What a call costs beside its bytes.
const OVERHEAD: usize = 512;
/// Bytes per permit; semaphores count to 2^29 at least.
const UNIT: usize = 256;

/// A call's share of the budget; dropped, it is given back.
pub(super) type Share = OwnedSemaphorePermit;

/// A budget of bytes.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    main: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    limit: u32,
}

impl Budget {
    /// `bytes` for all calls, and `reserve` more for small ones.
    pub(super) fn new(bytes: usize, reserve: usize) -> Self {
        let limit = units(bytes.max(UNIT));
        let semaphore = |count: u32| Arc::new(Semaphore::new(count as usize));
        Self { main: semaphore(limit), reserve: semaphore(units(reserve)), limit }
    }

    /// A share for a call of `bytes`, if there is one now. A call larger than the budget takes all of it.
    pub(super) fn try_admit(&self, bytes: usize) -> Option<Share> {
        let cost = self.cost(bytes);
        let main = Arc::clone(&self.main).try_acquire_many_owned(cost).ok();
        main.or_else(|| {
            let reserve = || Arc::clone(&self.reserve).try_acquire_many_owned(cost).ok();
            (bytes <= SMALL).then(reserve).flatten()
        })
    }

    /// A share for a call of `bytes`, as soon as there is one.
    pub(super) async fn admit(&self, bytes: usize) -> Option<Share> {
        if let Some(share) = self.try_admit(bytes) {
            return Some(share);
        }
        let cost = self.cost(bytes);
        let main = Arc::clone(&self.main).acquire_many_owned(cost);
        if bytes > SMALL {
            return main.await.ok();
        }
        tokio::select! {
            share = main => share.ok(),
            share = Arc::clone(&self.reserve).acquire_many_owned(cost) => share.ok(),
        }
    }

    fn cost(&self, bytes: usize) -> u32 {
        units(bytes + OVERHEAD).min(self.limit)
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_traffic_leaves_a_reserve_for_small_calls() {
        let budget = Budget::new(1 << 20, 64 << 10);
        let bulk: Vec<_> = std::iter::from_fn(|| budget.try_admit(100 << 10)).collect();
        assert_eq!(bulk.len(), 10);
        let small: Vec<_> = std::iter::from_fn(|| budget.try_admit(1 << 10)).collect();
        assert!(small.len() > 40, "{}", small.len());
        assert!(budget.try_admit(1 << 10).is_none(), "the reserve ends too");
        drop(bulk);
        assert!(budget.try_admit(100 << 10).is_some());
    }

    #[test]
    fn what_exceeds_the_budget_goes_alone() {
        let budget = Budget::new(1 << 20, 0);
        let whole = budget.try_admit(50 << 20).expect("nothing else is in flight");
        assert!(budget.try_admit(20 << 10).is_none());
        drop(whole);
        assert!(budget.try_admit(20 << 10).is_some());
    }

    #[tokio::test]
    async fn waiting_ends_when_a_share_is_given_back() {
        let budget = Budget::new(1 << 20, 0);
        let all = budget.try_admit(1 << 20);
        let mut waiting = Box::pin(budget.admit(1));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(all);
        assert!(waiting.await.is_some());
    }
}

//! Locks between processes: fair, with fencing tokens, and given up by themselves when their holder dies.
//!
//! Owns the names; the queue behind them is [`crate::queue`], where it says what a holder may rely on.

use crate::{
    id::Revision,
    model::QueueKind,
    queue::{Place, Queue},
    runtime::Tasks,
    service::metadata::{MetadataError, MetadataService},
};
use std::{future::Future, sync::Arc, time::Duration};

pub use crate::queue::Holder;

/// A lock that processes take in turn. Clones are the same lock.
#[derive(Debug, Clone)]
pub struct Lock {
    queue: Queue,
    ttl: Duration,
}

impl Lock {
    /// The lock with this name. A holder that is silent for `ttl` loses it. Its tasks end with `tasks`, and then every
    /// lock taken through it is given up.
    ///
    /// # Errors
    /// `Invalid` if it is not a name.
    pub fn new(
        metadata: Arc<dyn MetadataService>,
        name: &str,
        ttl: Duration,
        tasks: &Tasks,
    ) -> Result<Self, MetadataError> {
        Ok(Self { queue: Queue::new(metadata, QueueKind::Lock, name, tasks)?, ttl })
    }

    /// Takes the lock when it is its turn, however long that takes. `who` says for people who holds it. Dropping the
    /// future leaves the queue.
    ///
    /// # Errors
    /// `SessionExpired` if the place in the queue was lost; what else the service says, unless it is only unavailable.
    pub async fn acquire(&self, who: &str) -> Result<HeldLock, MetadataError> {
        self.queue.enter(who, self.ttl).await.map(HeldLock)
    }

    /// Who holds it now.
    ///
    /// # Errors
    /// What the service says, unless it is only unavailable.
    pub async fn holder(&self) -> Result<Option<Holder>, MetadataError> {
        self.queue.front().await
    }
}

/// A lock that is held. Dropped, it is given up soon; see [`HeldLock::release`].
#[derive(Debug)]
pub struct HeldLock(Place);

impl HeldLock {
    /// The fencing token: higher than those of all who held the lock before. What the lock guards should refuse a lower
    /// one than it has seen.
    #[must_use]
    pub const fn token(&self) -> Revision {
        self.0.token()
    }

    /// Whether somebody else may hold it by now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Resolves when somebody else may hold it.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.lost()
    }

    /// Gives it up, and waits until the next one may have it, or metadata cannot be told.
    pub async fn release(self) {
        self.0.leave().await;
    }
}

//! Elections: of all who stand, the first leads until they resign or die, then the next.
//!
//! Owns the names; the queue behind them is [`crate::queue`], where it says what a leader may rely on.

use crate::{
    id::Revision,
    model::QueueKind,
    queue::{Place, Queue},
    runtime::Tasks,
    service::metadata::{MetadataError, MetadataService},
};
use futures::{StreamExt, stream, stream::BoxStream};
use std::{future::Future, sync::Arc, time::Duration};

pub use crate::queue::Holder as Leader;

/// An election. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Election {
    queue: Queue,
    ttl: Duration,
}

impl Election {
    /// The election with this name. A leader that is silent for `ttl` is one no more. Its tasks end with `tasks`, and
    /// then everybody who stands through it resigns.
    ///
    /// # Errors
    /// `Invalid` if it is not a name.
    pub fn new(
        metadata: Arc<dyn MetadataService>,
        name: &str,
        ttl: Duration,
        tasks: &Tasks,
    ) -> Result<Self, MetadataError> {
        Ok(Self { queue: Queue::new(metadata, QueueKind::Election, name, tasks)?, ttl })
    }

    /// Stands for election and waits until it is won, however long that takes. `who` is what observers see. Dropping the
    /// future withdraws.
    ///
    /// # Errors
    /// `SessionExpired` if the candidacy was lost; what else the service says, unless it is only unavailable.
    pub async fn campaign(&self, who: &str) -> Result<Leadership, MetadataError> {
        self.queue.enter(who, self.ttl).await.map(Leadership)
    }

    /// Who leads now.
    ///
    /// # Errors
    /// What the service says, unless it is only unavailable.
    pub async fn leader(&self) -> Result<Option<Leader>, MetadataError> {
        self.queue.front().await
    }

    /// Who leads, now and each time that changes; `None` while nobody does. Tokens only grow. Some leaders may be left
    /// out, the latest never is. It ends with an error that is not only "unavailable".
    #[must_use]
    pub fn observe(&self) -> BoxStream<'static, Result<Option<Leader>, MetadataError>> {
        /// What was told last.
        enum Told {
            Nothing,
            This(Option<Leader>),
            End,
        }
        let leaders = stream::unfold((self.queue.clone(), Told::Nothing), |(queue, told)| async move {
            let next = match &told {
                Told::Nothing => queue.front().await,
                Told::This(known) => queue.next_front(known.as_ref()).await,
                Told::End => return None,
            };
            let told = next.as_ref().map_or(Told::End, |leader| Told::This(leader.clone()));
            Some((next, (queue, told)))
        });
        leaders.boxed()
    }
}

/// A lead. Dropped, it is resigned soon; see [`Leadership::resign`].
#[derive(Debug)]
pub struct Leadership(Place);

impl Leadership {
    /// The fencing token: higher than those of all leaders before. What is led should refuse a lower one than it has
    /// seen.
    #[must_use]
    pub const fn token(&self) -> Revision {
        self.0.token()
    }

    /// Whether somebody else may lead by now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Resolves when somebody else may lead.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.lost()
    }

    /// Resigns, and waits until the next one may lead, or metadata cannot be told.
    pub async fn resign(self) {
        self.0.leave().await;
    }
}

//! The cluster view: keeps a [`ClusterSnapshot`] current by one scan and one watch. Owns the resuming of the watch;
//! never writes metadata, and never shows a revision lower than it showed before.

use super::{ClusterSnapshot, projection::Projection};
use crate::{
    id::Revision,
    model::{key, prefix},
    runtime::{TaskKind, Tasks},
    service::metadata::{Consistency, MetadataError, MetadataService, Scan, WatchEvent, WatchStream},
};
use futures::{FutureExt, StreamExt};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Items per scan page.
const PAGE: u32 = 2_000;
/// The most events that are folded into one snapshot.
const BURST: usize = 1_000;
/// The first and the longest pause before a watch that ended is resumed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long the first snapshot waits for the events that happened during the scan.
const SETTLE: Duration = Duration::from_secs(2);

/// A current copy of the cluster model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterView {
    current: watch::Receiver<Arc<ClusterSnapshot>>,
}

impl ClusterView {
    /// Reads the model and follows it from then on, until `tasks` stop.
    ///
    /// # Errors
    /// What the first scan or watch answered; later failures are retried.
    pub async fn start(metadata: Arc<dyn MetadataService>, tasks: &Tasks) -> Result<Self, MetadataError> {
        let (projection, watch) = list(&metadata).await?;
        let mut follower = Follower { metadata, projection, publish: watch::Sender::new(Arc::default()) };
        follower.publish();
        let current = follower.publish.subscribe();
        let stopping = tasks.stopping();
        tasks.spawn(TaskKind::Background, "cluster view", async move {
            follower.run(watch, stopping).await;
            Ok(())
        });
        Ok(Self { current })
    }

    /// A view that never changes, for tests.
    #[must_use]
    pub fn fixed(snapshot: ClusterSnapshot) -> Self {
        let (tx, current) = watch::channel(Arc::new(snapshot));
        std::mem::forget(tx);
        Self { current }
    }

    /// A view that shows what the test sends.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn controlled(snapshot: ClusterSnapshot) -> (Self, watch::Sender<Arc<ClusterSnapshot>>) {
        let (publish, current) = watch::channel(Arc::new(snapshot));
        (Self { current }, publish)
    }

    /// The latest state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<ClusterSnapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// Follows the states; some may be skipped, the last never is.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<ClusterSnapshot>> {
        self.current.clone()
    }

    /// Waits until the view shows `revision`; `false` if it does not within `patience`.
    pub async fn wait_for(&self, revision: Revision, patience: Duration) -> bool {
        let mut changes = self.changes();
        let seen = changes.wait_for(|s| s.revision >= revision);
        matches!(tokio::time::timeout(patience, seen).await, Ok(Ok(_)))
    }
}

/// The task that follows the watch.
struct Follower {
    metadata: Arc<dyn MetadataService>,
    projection: Projection,
    publish: watch::Sender<Arc<ClusterSnapshot>>,
}

impl Follower {
    async fn run(&mut self, first: WatchStream, stopping: CancellationToken) {
        let mut watch = Some(first);
        let mut pause = PAUSE.0;
        loop {
            let ended = match watch.take() {
                Some(mut stream) => tokio::select! {
                    problem = self.follow(&mut stream, &mut pause) => problem,
                    () = stopping.cancelled() => return,
                },
                None => match self.resume().await {
                    Ok(stream) => {
                        watch = Some(stream);
                        continue;
                    }
                    Err(problem) => problem,
                },
            };
            let asked_too_late = matches!(ended, MetadataError::Compacted { .. });
            if stopping.is_cancelled() {
                return;
            }
            let revision = self.projection.revision();
            tracing::warn!(problem = %ended, %revision, "the cluster view's watch ended; resuming");
            if asked_too_late && let Ok((projection, stream)) = list(&self.metadata).await {
                self.projection = projection;
                self.publish();
                watch = Some(stream);
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn resume(&self) -> Result<WatchStream, MetadataError> {
        self.metadata.watch(String::new(), self.projection.revision()).await
    }

    /// Follows one watch to its end. A burst of events becomes one snapshot.
    async fn follow(&mut self, watch: &mut WatchStream, pause: &mut Duration) -> MetadataError {
        loop {
            let mut next = watch.next().await;
            let mut taken = 0;
            let ended = loop {
                match next {
                    Some(Ok(event)) => self.projection.event(&event),
                    Some(Err(problem)) => break Some(problem),
                    None => break Some(silent_end()),
                }
                taken += 1;
                if taken == BURST {
                    break None;
                }
                match watch.next().now_or_never() {
                    Some(more) => next = more,
                    None => break None,
                }
            };
            if taken > 0 {
                *pause = PAUSE.0;
                self.publish();
            }
            if let Some(problem) = ended {
                return problem;
            }
        }
    }

    fn publish(&mut self) {
        let snapshot = self.projection.snapshot();
        self.publish.send_replace(snapshot);
    }
}

/// Scans what snapshots show, and opens the watch that continues from there.
///
/// Pages are read one after the other, so later ones may be newer. The watch begins at the oldest page, and the
/// projection takes its events up to the newest page before it is shown: that is one consistent state.
async fn list(metadata: &Arc<dyn MetadataService>) -> Result<(Projection, WatchStream), MetadataError> {
    let mut projection = Projection::default();
    let (mut oldest, mut newest) = (None, Revision(0));
    let cluster = key::cluster();
    let prefixes = [
        &cluster,
        prefix::NODES,
        prefix::BOOKIES,
        prefix::COOKIES,
        prefix::DECOMMISSIONS,
        prefix::CONFIG,
        prefix::TOPICS,
        prefix::PARTITIONS,
    ];
    for prefix in prefixes {
        let mut after = None;
        loop {
            let consistency = Consistency::Linearizable;
            let page = metadata.scan(Scan { prefix: prefix.into(), after, limit: PAGE, consistency }).await?;
            oldest.get_or_insert(page.revision);
            newest = newest.max(page.revision);
            page.items.iter().for_each(|item| projection.list(item));
            match page.items.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
    }
    let oldest = oldest.unwrap_or_default();
    projection.reached(oldest);
    let mut watch = metadata.watch(String::new(), oldest).await?;
    let settled = tokio::time::timeout(SETTLE, async {
        while projection.revision() < newest {
            let event: WatchEvent = watch.next().await.unwrap_or_else(|| Err(silent_end()))?;
            projection.event(&event);
        }
        Ok(())
    });
    match settled.await {
        Ok(Err(problem)) => Err(problem),
        // Nothing but transactions without changes can be missing.
        Ok(Ok(())) | Err(_) => Ok((projection, watch)),
    }
}

fn silent_end() -> MetadataError {
    MetadataError::Unavailable { reason: "the watch ended without an error".into() }
}

#[cfg(test)]
mod tests;

//! The cluster view: keeps a [`ClusterSnapshot`] current by one scan and one watch.

use super::ClusterSnapshot;
use crate::{id::Revision, runtime::Tasks, service::metadata::{MetadataError, MetadataService}};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// A current copy of the cluster model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterView {
    current: watch::Receiver<Arc<ClusterSnapshot>>,
}

impl ClusterView {
    /// Reads the model and follows it from then on.
    pub async fn start(metadata: Arc<dyn MetadataService>, tasks: &Tasks) -> Result<Self, MetadataError> {
        let _ = (metadata, tasks);
        Err(MetadataError::Invalid("not written yet".into()))
    }

    /// A view that never changes, for tests.
    #[must_use]
    pub fn fixed(snapshot: ClusterSnapshot) -> Self {
        let (tx, current) = watch::channel(Arc::new(snapshot));
        std::mem::forget(tx);
        Self { current }
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

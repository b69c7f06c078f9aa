//! Feeds committed entries to the state machine and keeps its snapshots on disk. The state lives in memory; after a
//! start it is the last snapshot plus the entries that follow it.

use super::{
    LogId, Seat, StorageError, TypeConfig,
    snapshots::{SnapshotFile, Snapshots},
    store::StoreError,
};
use crate::{
    applied::Applied,
    state::{Replies, State},
};
use openraft::{
    AnyError, Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageIOError,
    StoredMembership, storage::RaftStateMachine,
};
use std::sync::Arc;
use uuid::Uuid;

/// The state machine as openraft sees it.
#[derive(Debug)]
pub struct Machine {
    snapshots: Snapshots,
    applied: Arc<Applied>,
    last: Option<LogId>,
    membership: StoredMembership<u64, Seat>,
}

impl Machine {
    /// The state of the last snapshot; the log brings it up to date.
    ///
    /// # Errors
    /// If the snapshot cannot be read.
    pub fn open(snapshots: Snapshots) -> Result<Self, StoreError> {
        let (meta, state) = match snapshots.current()? {
            Some((meta, file)) => (meta, file.state()?),
            None => (SnapshotMeta::default(), State::default()),
        };
        let applied = Arc::new(Applied::new(state));
        Ok(Self { snapshots, applied, last: meta.last_log_id, membership: meta.last_membership })
    }

    /// The applied state, for readers and watches.
    #[must_use]
    pub fn applied(&self) -> Arc<Applied> {
        Arc::clone(&self.applied)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership<u64, Seat>), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        for entry in entries {
            self.last = Some(entry.log_id);
            replies.push(match entry.payload {
                EntryPayload::Blank => Replies::default(),
                EntryPayload::Normal(batch) => self
                    .applied
                    .apply(&batch, entry.log_id.index)
                    .map_err(|e| StorageIOError::apply(entry.log_id, AnyError::new(&e)))?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Replies::default()
                }
            });
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            snapshots: self.snapshots.clone(),
            applied: Arc::clone(&self.applied),
            state: self.applied.image(),
            last: self.last,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        // Pieces go to the desk, which keeps the file until it is whole; only openraft's own suite asks here.
        let empty = self.snapshots.receive().and_then(super::snapshots::Incoming::finish);
        empty.map(Box::new).map_err(|e| StorageIOError::write_snapshot(None, AnyError::new(&e)).into())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Seat>,
        file: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let (snapshots, written) = (self.snapshots.clone(), meta.clone());
        let work = tokio::task::spawn_blocking(move || {
            // Read before it is adopted: a damaged snapshot must not replace a good one.
            let state = file.state()?;
            snapshots.adopt(&written, *file)?;
            Ok(state)
        });
        let state = finished(work.await).map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), e))?;
        self.applied.replace(state);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        tracing::info!(index = self.last.map_or(0, |l| l.index), "metadata snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = self.snapshots.current().map_err(|e| StorageIOError::read_snapshot(None, e))?;
        Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: Box::new(file) }))
    }
}

/// Writes a snapshot of the state as it was when the builder was made, while newer entries are applied.
#[derive(Debug)]
pub struct Builder {
    snapshots: Snapshots,
    applied: Arc<Applied>,
    state: State,
    last: Option<LogId>,
    membership: StoredMembership<u64, Seat>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: Uuid::new_v4().to_string(),
        };
        let (snapshots, state, written) = (self.snapshots.clone(), std::mem::take(&mut self.state), meta.clone());
        let work = tokio::task::spawn_blocking(move || snapshots.write(&written, &state));
        let file = finished(work.await).map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), e))?;
        tracing::info!(index = self.last.map_or(0, |l| l.index), bytes = file.bytes(), "metadata snapshot written");
        self.applied.snapshot_written();
        Ok(Snapshot { meta, snapshot: Box::new(file) })
    }
}

/// The result of work on another thread; a panic there is a failure of the disk, for all we know.
fn finished<T>(work: Result<Result<T, StoreError>, tokio::task::JoinError>) -> Result<T, StoreError> {
    work.unwrap_or_else(|e| Err(StoreError::Malformed { what: "a snapshot", reason: e.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{directory, log::LogStore};
    use openraft::testing::{StoreBuilder, Suite};
    use tempfile::TempDir;

    struct Fresh;

    impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Fresh {
        async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
            let dir = tempfile::tempdir().expect("a directory");
            let opened = directory::open(dir.path(), None).expect("opens");
            let machine = Machine::open(opened.snapshots).expect("opens");
            Ok((dir, LogStore::new(opened.store), machine))
        }
    }

    #[test]
    fn openrafts_own_suite_passes() {
        Suite::test_all(Fresh).expect("the storage keeps openraft's rules");
    }
}

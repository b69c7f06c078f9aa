//! Feeds committed entries to the state machine and keeps its snapshot on disk. The state lives in memory; after a
//! start it is the last snapshot plus the entries that follow it.

use super::{
    LogId, StorageError, TypeConfig,
    store::{Store, StoreError},
};
use crate::{
    applied::Applied,
    state::{Replies, State},
};
use openraft::{
    AnyError, BasicNode, Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageIOError, StoredMembership, storage::RaftStateMachine,
};
use std::{io::Cursor, sync::Arc};
use uuid::Uuid;

/// The state machine as openraft sees it.
#[derive(Debug)]
pub struct Machine {
    store: Arc<Store>,
    applied: Arc<Applied>,
    last: Option<LogId>,
    membership: StoredMembership<u64, BasicNode>,
}

impl Machine {
    /// The state of the last snapshot; the log brings it up to date.
    ///
    /// # Errors
    /// If the snapshot cannot be read.
    pub fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let (meta, state) = match store.read_snapshot()? {
            Some((meta, bytes)) => {
                let state = State::decode(&bytes)
                    .map_err(|e| StoreError::Malformed { what: "the snapshot", reason: e.to_string() })?;
                (meta, state)
            }
            None => (SnapshotMeta::default(), State::default()),
        };
        let applied = Arc::new(Applied::new(state));
        Ok(Self { store, applied, last: meta.last_log_id, membership: meta.last_membership })
    }

    /// The applied state, for readers and watches.
    #[must_use]
    pub fn applied(&self) -> Arc<Applied> {
        Arc::clone(&self.applied)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership<u64, BasicNode>), StorageError> {
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
            store: Arc::clone(&self.store),
            applied: Arc::clone(&self.applied),
            state: self.applied.image(),
            last: self.last,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        // Decoded before it is stored: a damaged snapshot must not replace a good one.
        let state = State::decode(&bytes)
            .map_err(|e| StoreError::Malformed { what: "a received snapshot", reason: e.to_string() })
            .map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), e))?;
        self.store
            .write_snapshot(meta, &bytes)
            .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), e))?;
        self.applied.replace(state);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = self.store.read_snapshot().map_err(|e| StorageIOError::read_snapshot(None, e))?;
        Ok(current.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

/// Writes a snapshot of the state as it was when the builder was made, while newer entries are applied.
#[derive(Debug)]
pub struct Builder {
    store: Arc<Store>,
    applied: Arc<Applied>,
    state: State,
    last: Option<LogId>,
    membership: StoredMembership<u64, BasicNode>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: Uuid::new_v4().to_string(),
        };
        let (store, state, written) = (Arc::clone(&self.store), std::mem::take(&mut self.state), meta.clone());
        let work = tokio::task::spawn_blocking(move || {
            let bytes = state.encode();
            store.write_snapshot(&written, &bytes).map(|()| bytes)
        });
        let bytes = work
            .await
            .unwrap_or_else(|e| Err(StoreError::Malformed { what: "a snapshot", reason: e.to_string() }))
            .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), e))?;
        tracing::info!(index = self.last.map_or(0, |l| l.index), bytes = bytes.len(), "metadata snapshot written");
        self.applied.snapshot_written();
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
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
            let store = directory::open(dir.path(), 1).expect("opens");
            let machine = Machine::open(Arc::clone(&store)).expect("opens");
            Ok((dir, LogStore::new(store), machine))
        }
    }

    #[test]
    fn openrafts_own_suite_passes() {
        Suite::test_all(Fresh).expect("the storage keeps openraft's rules");
    }
}

//! The raft log and the vote on disk. Appends are synced before they are reported; nothing else here waits for a disk
//! flush except votes and truncations, which raft's safety rests on.

use super::{
    LogId, StorageError, TypeConfig,
    store::{Meta, Store, StoreError, encode},
};
use openraft::{
    Entry, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

/// The most bytes that a replication task is handed at once.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The log of this voter; clones read and write the same log.
#[derive(Debug, Clone)]
pub struct LogStore {
    store: Arc<Store>,
}

impl LogStore {
    /// The log in an open database.
    #[must_use]
    pub const fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Runs a write on a thread that may block.
    async fn blocking(
        &self,
        write: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || write(&store)).await;
        done.unwrap_or_else(|e| Err(StoreError::Malformed { what: "a write", reason: e.to_string() }))
    }
}

fn read_failed(error: StoreError) -> StorageError {
    StorageIOError::read_logs(error).into()
}

fn write_failed(error: StoreError) -> StorageError {
    StorageIOError::write_logs(error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        self.store.read_log(first, |index, _| range.contains(&index)).map_err(read_failed)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        let mut bytes = 0;
        let take = |index: u64, size: usize| {
            let room = index == start || bytes + size <= READ_BYTES;
            bytes += size;
            index < end && room
        };
        self.store.read_log(start, take).map_err(read_failed)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let last_purged_log_id: Option<LogId> = self.store.read_meta(Meta::Purged).map_err(read_failed)?;
        let last: Option<Entry<TypeConfig>> = self.store.last_entry().map_err(read_failed)?;
        Ok(LogState { last_purged_log_id, last_log_id: last.map(|e| e.log_id).or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let vote = *vote;
        let written = self.blocking(move |store| store.write_meta(Meta::Vote, &vote, true)).await;
        written.map_err(|e| StorageIOError::write_vote(e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.store.read_meta(Meta::Vote).map_err(|e| StorageIOError::read_vote(e).into())
    }

    // Only saves time at the next start, so it need not be durable.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.store.write_meta(Meta::Committed, &committed, false).map_err(write_failed)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = self.store.read_meta(Meta::Committed).map_err(read_failed)?;
        Ok(committed.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded: Vec<_> = entries.into_iter().map(|e| (e.log_id.index, encode(&e))).collect();
        match self.blocking(move |store| store.append(encoded)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(write_failed(error))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.blocking(move |store| store.truncate(log_id.index)).await.map_err(write_failed)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.blocking(move |store| store.purge(log_id.index, &log_id)).await.map_err(write_failed)
    }
}

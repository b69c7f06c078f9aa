//! The raft log and the vote on disk. Appends, votes and truncations are synced before raft is told so, which its safety
//! rests on; purges are not. Nothing is purged before the snapshot that holds it is on disk.
//!
//! There is one exception, so that a leader's disk and those of its followers work at the same time: a leader that others
//! must confirm is told at once, and sends its entries while its own disk still writes them; [`Headway`] decides when. The
//! invariant stays: nothing is committed that its leader does not hold durably, because what a follower says of an entry
//! counts only after [`LogStore::durable`] ([`super::network`] sees to that).
//!
//! The latest entries are also in memory, because each is read twice as soon as it is written: by those who replicate it
//! and by the state machine. What is in memory is always a whole end of the log on disk.

use super::{
    LogId, Seat, StorageError, TypeConfig,
    disk::Disk,
    headway::Headway,
    snapshots::Snapshots,
    store::{Meta, Store, StoreError},
};
use openraft::{
    Entry, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError, StoredMembership, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// The most bytes that a replication task is handed at once.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of the latest entries in memory.
const RECENT_BYTES: usize = 16 * 1024 * 1024;
/// What an entry takes in memory beyond its commands.
const OVERHEAD: usize = 256;

/// The log of this node; clones read and write the same log.
#[derive(Debug, Clone)]
pub struct LogStore {
    store: Arc<Store>,
    disk: Disk,
    recent: Arc<Mutex<Recent>>,
    headway: Arc<Mutex<Headway>>,
    counts: Arc<Counts>,
    /// How far the snapshot on disk goes; none where nothing is ever purged but by hand.
    snapshot: Option<watch::Receiver<u64>>,
}

/// What others want to know of the log.
#[derive(Debug, Default)]
struct Counts {
    /// Bytes that this process has appended, as in memory.
    appended: AtomicU64,
    /// The last index that is known to be committed.
    committed: AtomicU64,
    /// How often the end of the log was cut off.
    truncated: AtomicU64,
}

/// The end of the log, without gaps.
#[derive(Debug, Default)]
struct Recent {
    entries: VecDeque<Entry<TypeConfig>>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, entry: Entry<TypeConfig>) {
        if self.entries.back().is_some_and(|last| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        while self.bytes > RECENT_BYTES && self.entries.len() > 1 {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.entries.pop_front() {
            self.bytes -= size(&first);
        }
    }

    fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|last| last.log_id.index >= from)
            && let Some(last) = self.entries.pop_back()
        {
            self.bytes -= size(&last);
        }
    }

    fn purge(&mut self, to: u64) {
        while self.entries.front().is_some_and(|first| first.log_id.index <= to) {
            self.drop_first();
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// The entries from `first` on until `take` says stop; `None` if the first is not here.
    fn read(&self, first: u64, mut take: impl FnMut(u64, usize) -> bool) -> Option<Vec<Entry<TypeConfig>>> {
        let skip = first.checked_sub(self.entries.front()?.log_id.index)?;
        let entries = self.entries.iter().skip(usize::try_from(skip).ok()?);
        Some(entries.take_while(|entry| take(entry.log_id.index, size(entry))).cloned().collect())
    }
}

fn size(entry: &Entry<TypeConfig>) -> usize {
    OVERHEAD
        + match &entry.payload {
            EntryPayload::Normal(batch) => batch.size(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        }
}

impl LogStore {
    /// The log in an open database.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        let disk = Disk::of(&store, last(&store));
        let (recent, headway, counts) = (Arc::default(), Arc::default(), Arc::default());
        Self { store, disk, recent, headway, counts, snapshot: None }
    }

    /// As [`LogStore::new`]; nothing is purged that these snapshots do not hold.
    #[must_use]
    pub fn behind(store: Arc<Store>, snapshots: &Snapshots) -> Self {
        Self { snapshot: Some(snapshots.durable()), ..Self::new(store) }
    }

    /// From now on raft may go on before the disk, while `me` leads members who must confirm it; these are the members so
    /// far. Whoever calls this lets nothing count that a follower says of an entry before [`LogStore::durable`] says the
    /// same of this node, and does not let raft resume a lead ([`super::directory::open`] sees to that).
    pub(crate) fn allow_headway(&self, me: u64, members: &StoredMembership<u64, Seat>) {
        self.headway.lock().begin(me, members);
    }

    /// Raft works with these members.
    pub(crate) fn note_members(&self, members: &StoredMembership<u64, Seat>) {
        self.headway.lock().named(members);
    }

    /// Waits until this entry and everything before it are durable here.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn durable(&self, entry: LogId) -> Result<(), StoreError> {
        self.disk.durable(entry).await
    }

    /// Why nothing can be written any more, if so. Raft itself may not know yet.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        self.disk.failure()
    }

    /// How long the write that is under way has taken.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.disk.busy()
    }

    /// How often this process has cut off the end of the log, because another leader has another one. What was cut off
    /// here may still be in the logs of others, and be committed by them.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.counts.truncated.load(Ordering::Acquire)
    }

    /// Bytes that this process has appended so far, as they are in memory.
    #[must_use]
    pub fn appended(&self) -> u64 {
        self.counts.appended.load(Ordering::Relaxed)
    }

    /// The last index that this node knows to be committed; 0 if it knows none.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.counts.committed.load(Ordering::Relaxed)
    }

    /// Where the log ends; what was purged counts.
    ///
    /// # Errors
    /// The database failed.
    pub fn last(&self) -> Result<Option<LogId>, StoreError> {
        if let Some(last) = self.recent.lock().entries.back() {
            return Ok(Some(last.log_id));
        }
        last(&self.store)
    }

    fn read(
        &self,
        first: u64,
        take: impl FnMut(u64, usize) -> bool + Clone,
    ) -> Result<Vec<Entry<TypeConfig>>, StoreError> {
        match self.recent.lock().read(first, take.clone()) {
            Some(entries) => Ok(entries),
            None => self.store.read_log(first, take),
        }
    }
}

/// Where the log on disk ends; what was purged counts.
fn last(store: &Store) -> Result<Option<LogId>, StoreError> {
    let last: Option<Entry<TypeConfig>> = store.last_entry()?;
    let purged: Option<LogId> = store.read_meta(Meta::Purged)?;
    Ok(last.map(|entry| entry.log_id).max(purged))
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
        self.read(first, |index, _| range.contains(&index)).map_err(read_failed)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        let mut bytes = 0;
        let take = move |index: u64, size: usize| {
            let room = index == start || bytes + size <= READ_BYTES;
            bytes += size;
            index < end && room
        };
        self.read(start, take).map_err(read_failed)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let last_purged_log_id: Option<LogId> = self.store.read_meta(Meta::Purged).map_err(read_failed)?;
        Ok(LogState { last_purged_log_id, last_log_id: self.last().map_err(read_failed)? })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let vote = *vote;
        self.headway.lock().voted(&vote);
        let written = self.disk.write(move |store| store.write_meta(Meta::Vote, &vote)).await;
        written.map_err(|e| StorageIOError::write_vote(e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.store.read_meta(Meta::Vote).map_err(|e| StorageIOError::read_vote(e).into())
    }

    // Only saves time at the next start, so it may be late or lost.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.counts.committed.store(committed.map_or(0, |id| id.index), Ordering::Relaxed);
        if let Some(committed) = committed {
            self.disk.note(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = self.store.read_meta(Meta::Committed).map_err(read_failed)?;
        let committed = committed.flatten();
        self.counts.committed.store(committed.map_or(0, |id| id.index), Ordering::Relaxed);
        Ok(committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let goes_on = self.headway.lock().appending(&entries);
        let mut recent = self.recent.lock();
        for entry in &entries {
            self.counts.appended.fetch_add(size(entry) as u64, Ordering::Relaxed);
            recent.push(entry.clone());
        }
        drop(recent);
        let (at_once, when_durable) = if goes_on { (Some(callback), None) } else { (None, Some(callback)) };
        self.disk.append(entries, when_durable).map_err(write_failed)?;
        if let Some(callback) = at_once {
            callback.log_io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.counts.truncated.fetch_add(1, Ordering::AcqRel);
        self.recent.lock().truncate(log_id.index);
        self.headway.lock().truncated(log_id.index);
        self.disk.write(move |store| store.truncate(log_id.index)).await.map_err(write_failed)
    }

    // openraft purges as soon as it has *begun* to install a snapshot. A process that ends between the two would have
    // neither the entries nor the snapshot that holds them.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        if let Some(snapshot) = &mut self.snapshot
            && snapshot.wait_for(|index| *index >= log_id.index).await.is_err()
        {
            let reason = "the snapshot that holds what is to be purged was not written".into();
            return Err(write_failed(StoreError::Malformed { what: "the log", reason }));
        }
        self.recent.lock().purge(log_id.index);
        self.headway.lock().purged(log_id.index);
        self.disk.write(move |store| store.purge(log_id.index, &log_id)).await.map_err(write_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        raft::{blank, directory},
        state::State,
    };
    use futures::FutureExt;
    use openraft::{Membership, SnapshotMeta, storage::RaftLogStorageExt};
    use std::collections::BTreeSet;

    fn id(index: u64) -> LogId {
        blank(index).log_id
    }

    /// Does something that must not be done before the disk is.
    async fn after_the_disk<T>(store: &Store, work: impl Future<Output = T>) -> T {
        let hanging = store.hang();
        let mut work = Box::pin(work);
        assert!(work.as_mut().now_or_never().is_none(), "the disk hangs");
        drop(hanging);
        work.await
    }

    /// The log of node 1, one of three voters, with an entry.
    async fn one_of_three(dir: &tempfile::TempDir) -> (Arc<Store>, LogStore) {
        let opened = directory::open(dir.path(), None).expect("opens");
        let mut log = LogStore::new(Arc::clone(&opened.store));
        let members = Membership::new(vec![BTreeSet::from([1, 2, 3])], None);
        log.allow_headway(1, &StoredMembership::new(Some(id(0)), members));
        log.blocking_append([blank(0)]).await.expect("writes");
        (opened.store, log)
    }

    #[tokio::test]
    async fn nothing_is_purged_before_the_snapshot_that_holds_it_is_on_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = directory::open(dir.path(), None).expect("opens");
        let mut log = LogStore::behind(Arc::clone(&opened.store), &opened.snapshots);
        let meta = |index| SnapshotMeta { last_log_id: Some(id(index)), ..SnapshotMeta::default() };
        opened.snapshots.write(&meta(50), &State::default()).expect("writes");
        log.purge(id(50)).await.expect("it is held");
        let mut purging = Box::pin(log.purge(id(100)));
        assert!(purging.as_mut().now_or_never().is_none(), "the snapshot ends at 50");
        opened.snapshots.write(&meta(100), &State::default()).expect("writes");
        purging.await.expect("now it is held");
    }

    #[tokio::test]
    async fn a_leader_goes_on_before_its_disk_but_does_not_count_as_having_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, mut log) = one_of_three(&dir).await;
        log.save_vote(&Vote::new_committed(1, 1)).await.expect("writes");
        let hanging = store.hang();
        log.blocking_append([blank(1)]).await.expect("goes on");
        log.blocking_append([blank(2)]).await.expect("goes on");
        assert_eq!(log.last(), Ok(Some(id(2))));
        assert_eq!(log.try_get_log_entries(1..3).await.expect("reads").len(), 2, "followers can have them");
        assert_eq!(log.durable(id(0)).await, Ok(()));
        let mut durable = Box::pin(log.durable(id(1)));
        assert!(durable.as_mut().now_or_never().is_none());
        assert_eq!(last(&store), Ok(Some(id(0))));
        drop(hanging);
        durable.await.expect("is written");
        log.durable(id(2)).await.expect("is written");
        assert_eq!(last(&store), Ok(Some(id(2))));
    }

    #[tokio::test]
    async fn a_follower_waits_for_its_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, mut log) = one_of_three(&dir).await;
        for vote in [Vote::new(1, 1), Vote::new_committed(1, 2)] {
            log.save_vote(&vote).await.expect("writes");
            after_the_disk(&store, log.blocking_append([blank(1)])).await.expect("writes");
            assert_eq!(last(&store), Ok(Some(id(1))));
        }
    }

    #[tokio::test]
    async fn a_vote_comes_after_everything_that_was_appended_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, mut log) = one_of_three(&dir).await;
        log.save_vote(&Vote::new_committed(1, 1)).await.expect("writes");
        let voting = async {
            log.blocking_append([blank(1)]).await?;
            log.save_vote(&Vote::new(2, 3)).await
        };
        after_the_disk(&store, voting).await.expect("writes");
        assert_eq!(last(&store), Ok(Some(id(1))));
    }

    #[tokio::test]
    async fn after_a_failure_nothing_is_written_any_more_and_everybody_learns_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, mut log) = one_of_three(&dir).await;
        log.save_vote(&Vote::new_committed(1, 1)).await.expect("writes");
        store.broken.store(true, Ordering::Relaxed);
        log.blocking_append([blank(1)]).await.expect("goes on");
        assert!(log.durable(id(1)).await.is_err());
        assert!(log.failure().is_some());
        store.broken.store(false, Ordering::Relaxed);
        assert!(log.blocking_append([blank(2)]).await.is_err(), "it would follow a gap");
        assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
        assert_eq!(last(&store), Ok(Some(id(0))));
    }

    #[tokio::test]
    async fn what_is_committed_is_noted_beside_the_next_entries() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_store, mut log) = one_of_three(&dir).await;
        log.save_committed(Some(id(0))).await.expect("notes");
        assert_eq!(log.read_committed().await, Ok(None), "it is not worth a write");
        log.blocking_append([blank(1)]).await.expect("writes");
        assert_eq!(log.read_committed().await, Ok(Some(id(0))));
    }
}

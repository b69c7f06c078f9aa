//! The state as a file: written by this node, or received from the leader, one at a time.
//!
//! A file becomes the current snapshot by a synced record in the database that names it, after the file itself is synced
//! under its final name; until then the old one stays. Everything else in the folder is left over and removed. Owns the
//! files and that record; what is inside them belongs to [`State`].

use super::{
    Seat,
    store::{Meta, Store, StoreError},
};
use crate::state::State;
use bytes::Bytes;
use openraft::SnapshotMeta;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;
use uuid::Uuid;

/// Bytes that are read or written at a time.
const BUFFER: usize = 256 * 1024;
/// How unfinished files end.
const UNFINISHED: &str = "part";

/// Which file is the current snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    meta: SnapshotMeta<u64, Seat>,
    file: String,
    bytes: u64,
}

impl Head {
    fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }
}

/// A snapshot's file, open: it can be read to its end even when a newer one takes its place.
#[derive(Clone)]
pub struct SnapshotFile {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
    /// What is in it, if it was read before: copies of a state share what they have in common.
    state: Option<State>,
}

impl SnapshotFile {
    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Up to `length` bytes from `offset` on; fewer only at the end.
    ///
    /// # Errors
    /// The disk failed, or the file is shorter than it was.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; length.min(left)];
        self.file.read_exact_at(&mut piece, offset)?;
        Ok(piece.into())
    }

    /// Removes a received file that did not become the current snapshot.
    pub(super) fn discard_unless_adopted(self) {
        // Adopted, it has another name.
        let _ = fs::remove_file(&self.path);
    }

    /// The same file, read and found whole; asked for its state it need not be read again.
    ///
    /// # Errors
    /// Those of [`SnapshotFile::state`].
    pub(super) fn checked(mut self) -> Result<Self, StoreError> {
        self.state = Some(self.state()?);
        Ok(self)
    }

    /// The state in it.
    ///
    /// # Errors
    /// It is damaged, or was written by a newer version.
    pub fn state(&self) -> Result<State, StoreError> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        let unread = |reason: String| StoreError::Malformed { what: "the snapshot", reason };
        let cursor = Cursor { file: &self.file, at: 0 };
        State::read_snapshot(&mut BufReader::with_capacity(BUFFER, cursor)).map_err(|e| unread(e.to_string()))
    }
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotFile({}, {} bytes)", self.path.display(), self.bytes)
    }
}

/// The current snapshot: what openraft is told about it, and its file.
pub type Current = (SnapshotMeta<u64, Seat>, SnapshotFile);

/// Reads a shared file from a position of its own.
struct Cursor<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The folder of snapshots. One that is built and one that arrives may meet here: the later one stays.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
    store: Arc<Store>,
    /// Held while the current snapshot changes, or is opened.
    changing: Arc<Mutex<()>>,
    /// The last log index in the current snapshot; 0 before the first.
    durable: watch::Sender<u64>,
}

impl Snapshots {
    /// Opens the folder, makes it if there is none, and removes what is left over.
    pub(super) fn open(dir: &Path, store: Arc<Store>) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        if let Some(parent) = dir.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| failed(&e))?;
        }
        let head: Option<Head> = store.read_meta(Meta::Snapshot)?;
        let durable = watch::Sender::new(head.map_or(0, |head| head.index()));
        let this = Self { dir: dir.into(), store, changing: Arc::default(), durable };
        // Nobody writes yet, so what is unfinished stays so.
        this.tidy(&["snapshot", UNFINISHED])?;
        Ok(this)
    }

    /// The current snapshot.
    ///
    /// # Errors
    /// Its file is gone, or the database failed.
    pub fn current(&self) -> Result<Option<Current>, StoreError> {
        let _unchanged = self.changing.lock();
        let Some(head): Option<Head> = self.store.read_meta(Meta::Snapshot)? else { return Ok(None) };
        let path = self.dir.join(&head.file);
        let file = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = file.map_err(|e| failed(&e))?;
        if bytes != head.bytes {
            return Err(failed(&io::Error::other(format!("it has {bytes} of {} bytes", head.bytes))));
        }
        Ok(Some((head.meta, SnapshotFile { file: Arc::new(file), path, bytes, state: None })))
    }

    /// Writes a state and makes it the current snapshot; durable on return.
    ///
    /// # Errors
    /// The disk failed; the old snapshot stays.
    pub fn write(&self, meta: &SnapshotMeta<u64, Seat>, state: &State) -> Result<SnapshotFile, StoreError> {
        let path = self.unfinished();
        let written = File::options().create_new(true).read(true).write(true).open(&path).and_then(|file| {
            let mut buffer = BufWriter::with_capacity(BUFFER, file);
            state.write_snapshot(&mut buffer)?;
            finish(buffer.into_inner().map_err(io::IntoInnerError::into_error)?, path)
        });
        self.adopt(meta, written.map_err(|e| failed(&e))?)
    }

    /// Begins to receive a snapshot.
    ///
    /// # Errors
    /// The disk failed.
    pub fn receive(&self) -> io::Result<Incoming> {
        let path = self.unfinished();
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        Ok(Incoming { file, path, bytes: 0 })
    }

    /// The last log index that the current snapshot holds, as it grows.
    pub(super) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    /// Makes a finished file the current snapshot, unless a later one is; durable on return.
    ///
    /// # Errors
    /// The disk failed; the old snapshot stays.
    pub fn adopt(&self, meta: &SnapshotMeta<u64, Seat>, file: SnapshotFile) -> Result<SnapshotFile, StoreError> {
        let _changing = self.changing.lock();
        let current: Option<Head> = self.store.read_meta(Meta::Snapshot)?;
        if current.is_some_and(|head| head.meta.last_log_id > meta.last_log_id) {
            // Its log may be purged already, so that the earlier one could not be followed by anything.
            fs::remove_file(&file.path).map_err(|e| failed(&e))?;
            return Ok(file);
        }
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let name = format!("{index:020}-{}.snapshot", Uuid::new_v4());
        let path = self.dir.join(&name);
        fs::rename(&file.path, &path).and_then(|()| File::open(&self.dir)?.sync_all()).map_err(|e| failed(&e))?;
        let head = Head { meta: meta.clone(), file: name, bytes: file.bytes };
        self.store.write_meta(Meta::Snapshot, &head)?;
        self.durable.send_replace(index);
        self.tidy(&["snapshot"])?;
        Ok(SnapshotFile { path, ..file })
    }

    /// Removes the files that end like this, but not the current snapshot.
    fn tidy(&self, endings: &[&str]) -> Result<(), StoreError> {
        let head: Option<Head> = self.store.read_meta(Meta::Snapshot)?;
        let current = head.map(|head| head.file);
        for entry in fs::read_dir(&self.dir).map_err(|e| failed(&e))? {
            let path = entry.map_err(|e| failed(&e))?.path();
            let is_current = current.as_deref().is_some_and(|name| path.ends_with(name));
            let ends = path.extension().is_some_and(|ending| endings.iter().any(|e| ending == *e));
            if ends && !is_current {
                fs::remove_file(&path).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join(format!("{}.{UNFINISHED}", Uuid::new_v4()))
    }
}

/// A snapshot that is being received. Dropped unfinished, it is removed.
#[derive(Debug)]
pub struct Incoming {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Incoming {
    /// Where the next piece belongs.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// The disk failed.
    pub fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// The whole file, synced.
    ///
    /// # Errors
    /// The disk failed.
    pub fn finish(mut self) -> io::Result<SnapshotFile> {
        let path = std::mem::take(&mut self.path);
        finish(self.file.try_clone()?, path)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn finish(file: File, path: PathBuf) -> io::Result<SnapshotFile> {
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    Ok(SnapshotFile { file: Arc::new(file), path, bytes, state: None })
}

fn failed(problem: &io::Error) -> StoreError {
    StoreError::Malformed { what: "the snapshot", reason: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raft::directory, state::Command};
    use openraft::{CommittedLeaderId, LogId};

    fn meta(index: u64) -> SnapshotMeta<u64, Seat> {
        let last_log_id = Some(LogId::new(CommittedLeaderId::new(1, 1), index));
        SnapshotMeta { last_log_id, snapshot_id: index.to_string(), ..SnapshotMeta::default() }
    }

    fn state(sessions: u64) -> State {
        let mut state = State::default();
        (0..sessions).for_each(|_| drop(state.apply(Command::OpenSession { ttl_ms: 1_000 })));
        state
    }

    fn files(snapshots: &Snapshots) -> usize {
        fs::read_dir(&snapshots.dir).expect("a folder").count()
    }

    #[test]
    fn the_newest_file_is_current_and_the_others_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = directory::open(dir.path(), None).expect("opens");
        assert!(opened.snapshots.current().expect("reads").is_none());
        let first = opened.snapshots.write(&meta(7), &state(1)).expect("writes");
        opened.snapshots.write(&meta(9), &state(2)).expect("writes");
        assert_eq!(files(&opened.snapshots), 1);
        assert_eq!(first.state().expect("whoever reads the old file reads on").digest(), state(1).digest());
        drop(opened);
        let again = directory::open(dir.path(), None).expect("opens again");
        let (found, file) = again.snapshots.current().expect("reads").expect("a snapshot");
        assert_eq!((found, file.state().expect("whole").digest()), (meta(9), state(2).digest()));
    }

    #[test]
    fn a_snapshot_arrives_in_pieces_and_an_unfinished_one_leaves_nothing() {
        let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (from, to) = (directory::open(from.path(), None), directory::open(to.path(), None));
        let (from, to) = (from.expect("opens").snapshots, to.expect("opens").snapshots);
        let sent = from.write(&meta(7), &state(100)).expect("writes");
        let mut incoming = to.receive().expect("begins");
        while incoming.bytes() < sent.bytes() {
            incoming.add(&sent.read(incoming.bytes(), 100).expect("reads")).expect("writes");
        }
        let file = incoming.finish().expect("synced");
        to.adopt(&meta(7), file).expect("adopted");
        assert_eq!(
            to.current().expect("reads").expect("a snapshot").1.state().map(|s| s.digest()),
            Ok(state(100).digest())
        );

        let mut broken = to.receive().expect("begins");
        broken.add(b"half").expect("writes");
        assert_eq!(files(&to), 2);
        drop(broken);
        assert_eq!(files(&to), 1);
    }

    #[test]
    fn a_snapshot_that_is_gone_or_cut_is_an_error_and_not_an_empty_state() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = directory::open(dir.path(), None).expect("opens");
        let file = opened.snapshots.write(&meta(7), &state(5)).expect("writes");
        let whole = fs::read(&file.path).expect("reads");
        fs::write(&file.path, &whole[..whole.len() - 1]).expect("cut");
        assert!(opened.snapshots.current().is_err());
        fs::remove_file(&file.path).expect("removed");
        assert!(opened.snapshots.current().is_err());
    }

    #[test]
    fn an_earlier_snapshot_that_is_finished_later_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = directory::open(dir.path(), None).expect("opens");
        opened.snapshots.write(&meta(100), &state(2)).expect("writes");
        opened.snapshots.write(&meta(50), &state(1)).expect("is left out");
        let (found, file) = opened.snapshots.current().expect("reads").expect("a snapshot");
        assert_eq!((found, file.state().expect("reads").session_count()), (meta(100), 2));
        assert_eq!((files(&opened.snapshots), *opened.snapshots.durable().borrow()), (1, 100));
    }
}

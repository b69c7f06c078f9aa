//! The directory of a metadata node: opening it, whose it is, and every reason why it cannot be used, in plain words.
//!
//! What is damaged keeps the node from starting, and so from voting: the others hold what it lost, and it can come back
//! as a new member.

use super::{
    identity::Identity,
    snapshots::Snapshots,
    store::{FAMILIES, FORMAT, Store, StoreError},
};
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Options};
use std::{path::Path, sync::Arc};
use uuid::Uuid;

/// Why the metadata directory cannot be used. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be created or written.
    #[error("the metadata directory {dir} cannot be written: {reason}; check that it exists and belongs to this user")]
    NotWritable {
        /// The directory.
        dir: String,
        /// What the system said.
        reason: String,
    },
    /// Another process has it open.
    #[error("the metadata directory {dir} is in use by another process; stop that one, or choose another directory")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// A newer Magnetar wrote it.
    #[error("the metadata directory {dir} has format {found}, this version knows {FORMAT}; start the newer version")]
    NewerFormat {
        /// The directory.
        dir: String,
        /// The format found.
        found: u8,
    },
    /// A version before the first release wrote it.
    #[error(
        "the metadata directory {dir} has format {found}, which this version can no longer read (it writes {FORMAT}); \
         start with an empty directory"
    )]
    OlderFormat {
        /// The directory.
        dir: String,
        /// The format found.
        found: u8,
    },
    /// It belongs to another node.
    #[error(
        "the metadata directory {dir} belongs to metadata node {found}, not to node {node}; choose the right directory"
    )]
    OtherNode {
        /// The directory.
        dir: String,
        /// Whose it is.
        found: u64,
        /// Who wanted it.
        node: u64,
    },
    /// It is damaged.
    #[error(
        "the metadata directory {dir} cannot be read: {reason}; this node must not vote any more. If other nodes of \
         the cluster live, remove it there (magnetar metadata remove), delete the directory and join again; otherwise \
         restore a backup (magnetar metadata restore)"
    )]
    Damaged {
        /// The directory.
        dir: String,
        /// What the database said.
        reason: String,
    },
}

/// An open directory.
#[derive(Debug)]
pub struct Opened {
    /// The database of the log, the vote and the identity.
    pub store: Arc<Store>,
    /// The files of snapshots.
    pub snapshots: Snapshots,
    /// Whose it is.
    pub identity: Identity,
}

/// Opens the directory of a node, and makes it if there is none. Everything in it is read once.
///
/// # Errors
/// See [`OpenError`]; `OtherNode` only if a `node` is wanted and it belongs to another one.
pub fn open(dir: &Path, node: Option<u64>) -> Result<Opened, OpenError> {
    let shown = dir.display().to_string();
    std::fs::create_dir_all(dir)
        .and_then(|()| probe_writable(dir))
        .map_err(|e| OpenError::NotWritable { dir: shown.clone(), reason: e.to_string() })?;
    refuse_older_families(dir, &shown)?;
    let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options()));
    let db = DB::open_cf_descriptors(&database_options(), dir, families).map_err(|e| explain(&shown, &e))?;
    let store = Arc::new(Store::over(db));
    let identity = claim(&store, &shown, node)?;
    let damaged = |reason: String| OpenError::Damaged { dir: shown.clone(), reason };
    store.verify_log().map_err(|e| damaged(e.to_string()))?;
    if let Some(place) = identity.place {
        store.resign(place.id).map_err(|e| damaged(e.to_string()))?;
    }
    let snapshots = Snapshots::open(&dir.join("snapshots"), Arc::clone(&store)).map_err(|e| damaged(e.to_string()))?;
    let (purged, held) = (store.purged().map_err(|e| damaged(e.to_string()))?, *snapshots.durable().borrow());
    if let Some(purged) = purged.filter(|purged| *purged > held) {
        return Err(damaged(format!("the log begins after entry {purged}, and the snapshot ends with entry {held}")));
    }
    Ok(Opened { store, snapshots, identity })
}

/// The first format had a column family that is gone; RocksDB would only say that it is unknown.
fn refuse_older_families(dir: &Path, shown: &str) -> Result<(), OpenError> {
    let families = DB::list_cf(&Options::default(), dir).unwrap_or_default();
    match families.iter().any(|name| name == "snapshot") {
        true => Err(OpenError::OlderFormat { dir: shown.into(), found: 1 }),
        false => Ok(()),
    }
}

/// Checks the format and the owner; a new directory gets a format and a life.
fn claim(store: &Store, dir: &str, node: Option<u64>) -> Result<Identity, OpenError> {
    let damaged = |e: StoreError| OpenError::Damaged { dir: dir.into(), reason: e.to_string() };
    match store.format().map_err(damaged)? {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(OpenError::NewerFormat { dir: dir.into(), found }),
        Some(found) => return Err(OpenError::OlderFormat { dir: dir.into(), found }),
        None => store.found(FORMAT, Uuid::new_v4()).map_err(damaged)?,
    }
    let identity = store.identity().map_err(damaged)?;
    match (identity.place.map(|place| place.id), node) {
        (Some(found), Some(node)) if found != node => Err(OpenError::OtherNode { dir: dir.into(), found, node }),
        _ => Ok(identity),
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail was never reported as synced; anything else in the log that is broken must not be skipped.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(64 * 1024 * 1024);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(64);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(4 * 1024 * 1024);
    options.set_max_write_buffer_number(2);
    options
}

/// Says in plain words why RocksDB did not open.
fn explain(dir: &str, error: &rocksdb::Error) -> OpenError {
    let reason = error.to_string();
    let locked = reason.contains("lock hold by current process")
        || (reason.contains("LOCK") && reason.contains("Resource temporarily unavailable"));
    if locked {
        OpenError::Locked { dir: dir.into() }
    } else if reason.contains("Column families not opened") {
        OpenError::NewerFormat { dir: dir.into(), found: FORMAT + 1 }
    } else if reason.contains("Permission denied") || reason.contains("Read-only file system") {
        OpenError::NotWritable { dir: dir.into(), reason }
    } else {
        OpenError::Damaged { dir: dir.into(), reason }
    }
}

fn probe_writable(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(".writable");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Vote, identity::Place, store::Meta};

    #[test]
    fn a_second_opener_is_told_that_the_directory_is_in_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path(), Some(1)).expect("opens");
        assert!(matches!(open(dir.path(), Some(1)), Err(OpenError::Locked { .. })));
        let place = Place { id: 1, group: Uuid::new_v4(), is_founder: true };
        first.store.take_place(place).expect("writes");
        let (closed, life) = (first.store.closed(), first.identity.life);
        drop(first);
        assert!(closed.is_cancelled());
        assert!(matches!(open(dir.path(), Some(2)), Err(OpenError::OtherNode { found: 1, node: 2, .. })));
        let again = open(dir.path(), None).expect("opens again").identity;
        assert_eq!(again, Identity { life, place: Some(place) }, "it is still the same life, in the same place");
    }

    #[test]
    fn a_node_that_has_led_does_not_go_on_where_it_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place { id: 1, group: Uuid::new_v4(), is_founder: true };
        open(dir.path(), None).expect("opens").store.take_place(place).expect("writes");
        let reopened = |vote: &Vote| {
            open(dir.path(), None).expect("opens").store.write_meta(Meta::Vote, vote).expect("writes");
            open(dir.path(), None)
                .expect("opens")
                .store
                .read_meta::<Vote>(Meta::Vote)
                .expect("reads")
                .expect("is there")
        };
        assert_eq!(reopened(&Vote::new_committed(4, 1)), Vote::new(4, 1));
        assert_eq!(reopened(&Vote::new_committed(5, 2)), Vote::new_committed(5, 2), "it has followed another one");
    }

    #[test]
    fn other_formats_and_unusable_directories_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = open(dir.path(), None).expect("opens");
        opened.store.found(9, Uuid::new_v4()).expect("writes");
        drop(opened);
        assert!(matches!(open(dir.path(), None), Err(OpenError::NewerFormat { found: 9, .. })));
        let file = dir.path().join("file");
        std::fs::write(&file, b"").expect("writes");
        assert!(matches!(open(&file, None), Err(OpenError::NotWritable { .. })));

        let old = tempfile::tempdir().expect("a directory");
        let families = ["log", "meta", "snapshot"].map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        drop(DB::open_cf_descriptors(&database_options(), old.path(), families).expect("opens"));
        assert!(matches!(open(old.path(), None), Err(OpenError::OlderFormat { found: 1, .. })));
    }

    #[test]
    fn a_damaged_log_keeps_the_node_from_starting() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = open(dir.path(), None).expect("opens");
        opened.store.append(vec![(0, vec![FORMAT, 9, 9, 9, 9, 9])], None).expect("writes");
        drop(opened);
        let refused = open(dir.path(), None).expect_err("damaged").to_string();
        assert!(refused.contains("must not vote") && refused.contains("checksum"), "{refused}");
    }

    #[test]
    fn entries_that_neither_the_log_nor_the_snapshot_holds_are_missed() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = open(dir.path(), None).expect("opens");
        let last = openraft::LogId::new(openraft::CommittedLeaderId::new(1, 1), 7);
        opened.store.purge(7, &last).expect("writes");
        drop(opened);
        let refused = open(dir.path(), None).expect_err("a hole").to_string();
        assert!(refused.contains("begins after entry 7, and the snapshot ends with entry 0"), "{refused}");
    }
}

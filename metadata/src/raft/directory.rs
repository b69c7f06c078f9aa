//! The directory of a voter: opening it, whose it is, and every reason why it cannot be used, in plain words.

use super::store::{FAMILIES, FORMAT, Meta, Store, StoreError};
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Options};
use std::{path::Path, sync::Arc};

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
    /// It belongs to another voter.
    #[error("the metadata directory {dir} belongs to voter {found}, not to voter {node}; choose the right directory")]
    OtherNode {
        /// The directory.
        dir: String,
        /// Whose it is.
        found: u64,
        /// Who wanted it.
        node: u64,
    },
    /// It is damaged.
    #[error("the metadata directory {dir} cannot be read: {reason}")]
    Damaged {
        /// The directory.
        dir: String,
        /// What the database said.
        reason: String,
    },
}

/// Opens the directory of voter `node`, and founds it if there is none.
///
/// # Errors
/// See [`OpenError`].
pub fn open(dir: &Path, node: u64) -> Result<Arc<Store>, OpenError> {
    let shown = dir.display().to_string();
    std::fs::create_dir_all(dir)
        .and_then(|()| probe_writable(dir))
        .map_err(|e| OpenError::NotWritable { dir: shown.clone(), reason: e.to_string() })?;
    let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options()));
    let db = DB::open_cf_descriptors(&database_options(), dir, families).map_err(|e| explain(&shown, &e))?;
    let store = Store::over(db);
    claim(&store, &shown, node)?;
    Ok(Arc::new(store))
}

/// Checks the format and the owner, and writes both into a new directory.
fn claim(store: &Store, dir: &str, node: u64) -> Result<(), OpenError> {
    let damaged = |e: StoreError| OpenError::Damaged { dir: dir.into(), reason: e.to_string() };
    match store.format().map_err(damaged)? {
        Some(FORMAT) => {}
        Some(found) => return Err(OpenError::NewerFormat { dir: dir.into(), found }),
        None => store.found(FORMAT, node).map_err(damaged)?,
    }
    match store.read_meta::<u64>(Meta::Node).map_err(damaged)? {
        Some(found) if found != node => Err(OpenError::OtherNode { dir: dir.into(), found, node }),
        _ => Ok(()),
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

    #[test]
    fn a_second_opener_is_told_that_the_directory_is_in_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path(), 1).expect("opens");
        assert!(matches!(open(dir.path(), 1), Err(OpenError::Locked { .. })));
        let closed = first.closed();
        drop(first);
        assert!(closed.is_cancelled());
        assert!(matches!(open(dir.path(), 2), Err(OpenError::OtherNode { found: 1, node: 2, .. })));
        open(dir.path(), 1).expect("opens again");
    }

    #[test]
    fn a_newer_format_and_an_unusable_directory_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path(), 1).expect("opens");
        store.found(9, 1).expect("writes");
        drop(store);
        assert!(matches!(open(dir.path(), 1), Err(OpenError::NewerFormat { found: 9, .. })));
        let file = dir.path().join("file");
        std::fs::write(&file, b"").expect("writes");
        assert!(matches!(open(&file, 1), Err(OpenError::NotWritable { .. })));
    }
}

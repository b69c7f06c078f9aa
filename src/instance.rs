//! The identity of a data directory: an instance id drawn when it is first used, the node it belongs to, and a lock that
//! keeps a second process out. Owns `instance.json` and `lock` below the data directory; never touches what roles keep.

use protocol::id::NodeId;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The newest layout of a data directory that this program knows.
const FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// It cannot be created, read or written.
    #[error("cannot use the data directory {dir}: {reason}; name another one with --data-dir")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {0} is in use by another Magnetar process; stop that one, or name another directory with --data-dir"
    )]
    Locked(PathBuf),
    /// A newer version wrote it.
    #[error("the data directory {dir} has format {found}, but this program knows up to {FORMAT}; use a newer Magnetar")]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The identity cannot be understood.
    #[error("{path} is damaged ({problem}); restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It belongs to another node.
    #[error(
        "the data directory {dir} belongs to node {found}, but this node is {expected}; set node.id to {found}, or name another directory with --data-dir"
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        expected: NodeId,
    },
}

/// What `instance.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    instance: Uuid,
    node: NodeId,
}

/// A locked data directory. The lock is released when this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Instance {
    id: Uuid,
    /// Held for the lock on it.
    _lock: File,
}

impl Instance {
    /// Locks the directory of this node, and gives it an identity if it has none.
    ///
    /// # Errors
    /// It is not usable, in use, newer, damaged, or another node's.
    pub fn open(dir: &Path, node: NodeId) -> Result<Self, InstanceError> {
        let io = |reason| InstanceError::Io { dir: dir.into(), reason };
        fs::create_dir_all(dir).map_err(io)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|problem| match problem {
            TryLockError::WouldBlock => InstanceError::Locked(dir.into()),
            TryLockError::Error(reason) => io(reason),
        })?;
        let path = dir.join("instance.json");
        let identity = match fs::read(&path) {
            Ok(bytes) => read(dir, &path, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(dir, &path, node).map_err(io)?,
            Err(e) => return Err(io(e)),
        };
        if identity.node != node {
            return Err(InstanceError::OtherNode { dir: dir.into(), found: identity.node, expected: node });
        }
        Ok(Self { id: identity.instance, _lock: lock })
    }

    /// The identity: stable over restarts, different for every directory.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }
}

fn read(dir: &Path, path: &Path, bytes: &[u8]) -> Result<Identity, InstanceError> {
    let damaged = |e: serde_json::Error| InstanceError::Damaged { path: path.into(), problem: e.to_string() };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    // The format is read first: what a newer version wrote beside it may not be ours to understand.
    let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if found > u64::from(FORMAT) {
        return Err(InstanceError::Newer { dir: dir.into(), found: u32::try_from(found).unwrap_or(u32::MAX) });
    }
    serde_json::from_value(value).map_err(damaged)
}

/// Writes a new identity so that it is there whole or not at all, also after a power cut.
fn create(dir: &Path, path: &Path, node: NodeId) -> io::Result<Identity> {
    let identity = Identity { format: FORMAT, instance: Uuid::new_v4(), node };
    let draft = dir.join("instance.json.new");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(&identity)?)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_outlives_restarts_and_the_lock_does_not() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let first = Instance::open(dir.path(), NodeId(1)).expect("new");
        let refused = Instance::open(dir.path(), NodeId(1)).expect_err("locked").to_string();
        assert!(refused.contains("in use by another Magnetar process"), "{refused}");
        let id = first.id();
        drop(first);
        assert_eq!(Instance::open(dir.path(), NodeId(1)).expect("free again").id(), id);
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        drop(Instance::open(dir.path(), NodeId(1)).expect("new"));
        let refused = Instance::open(dir.path(), NodeId(2)).expect_err("not ours").to_string();
        assert!(refused.contains("belongs to node 1, but this node is 2"), "{refused}");
    }

    #[test]
    fn newer_and_damaged_identities_are_refused() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        fs::write(dir.path().join("instance.json"), br#"{"format": 9, "anything": "else"}"#).expect("written");
        assert!(matches!(Instance::open(dir.path(), NodeId(1)), Err(InstanceError::Newer { found: 9, .. })));
        fs::write(dir.path().join("instance.json"), b"{").expect("written");
        assert!(matches!(Instance::open(dir.path(), NodeId(1)), Err(InstanceError::Damaged { .. })));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_a_clear_error() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        fs::write(dir.path().join("file"), b"").expect("written");
        let refused = Instance::open(&dir.path().join("file"), NodeId(1)).expect_err("a file").to_string();
        assert!(refused.contains("--data-dir"), "{refused}");
    }
}

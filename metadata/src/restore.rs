//! A new cluster from a backup: a directory whose node is the only voter of a new group, and whose state is the backup's.
//!
//! Owns what is written and in which order; a directory that is not whole is removed again. Numbers and revisions that
//! may have been given out after the backup was made are skipped ([`State::restored`]), and the group is a new one, so
//! that nodes and clients of the lost cluster do not take it for theirs.

use crate::{
    raft::{
        LogId, Seat, Vote,
        directory::{self, OpenError},
        identity::Place,
        store::StoreError,
    },
    state::{SnapshotError, State},
};
use openraft::{CommittedLeaderId, Membership, SnapshotMeta, StoredMembership};
use protocol::id::Revision;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::PathBuf,
};
use uuid::Uuid;

/// Where a backup is restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreTo {
    /// The metadata directory of the new node; it must not exist, or be empty.
    pub dir: PathBuf,
    /// The number of the new node, 1 or more.
    pub id: u64,
}

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Keys.
    pub keys: usize,
    /// The revision that the new cluster begins after.
    pub revision: Revision,
}

/// Why a backup was not restored; then the directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already.
    #[error("{0} is not empty; a backup is restored into a directory of its own")]
    NotEmpty(PathBuf),
    /// It cannot be looked at.
    #[error("{dir} cannot be used: {reason}")]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The backup is damaged, or newer than this program.
    #[error(transparent)]
    Backup(#[from] SnapshotError),
    /// The directory cannot be opened.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The disk failed.
    #[error("the directory cannot be written: {0}")]
    Store(#[from] StoreError),
}

/// Makes a node's directory from a backup.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(from: &mut impl Read, to: &RestoreTo) -> Result<Restored, RestoreError> {
    let unusable = |reason| RestoreError::Unusable { dir: to.dir.clone(), reason };
    match std::fs::read_dir(&to.dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(RestoreError::NotEmpty(to.dir.clone())),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => return Err(unusable(problem)),
    }
    // Read whole before anything is written.
    let state = State::read_snapshot(from)?.restored();
    let written = write(&state, to);
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&to.dir);
    }
    written.map(|()| Restored { keys: state.key_count(), revision: state.revision() })
}

fn write(state: &State, to: &RestoreTo) -> Result<(), RestoreError> {
    let opened = directory::open(&to.dir, None)?;
    let seat = Seat { life: opened.identity.life, ..Seat::default() };
    let first = LogId::new(CommittedLeaderId::new(1, to.id), 1);
    let members = Membership::new(vec![BTreeSet::from([to.id])], BTreeMap::from([(to.id, seat)]));
    let meta = SnapshotMeta {
        last_log_id: Some(first),
        last_membership: StoredMembership::new(Some(first), members),
        snapshot_id: Uuid::new_v4().to_string(),
    };
    opened.snapshots.write(&meta, state)?;
    opened.store.begin_after(&first, &Vote::new(1, to.id))?;
    // Last, because with a place the directory is a node's.
    opened.store.take_place(Place { id: to.id, group: Uuid::new_v4(), is_founder: false })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MetadataConfig, MetadataDeps, MetadataNode, Peers, state::Command};
    use protocol::{
        runtime::{SystemClock, Tasks},
        service::metadata::{Consistency, Operation, Outcome, Transaction},
    };
    use std::sync::Arc;

    fn backup() -> Vec<u8> {
        let mut state = State::default();
        let operations = vec![
            Operation::Put { key: "k".into(), value: "v".into(), session: None },
            Operation::Sequence { name: "ledger".into(), count: 7 },
        ];
        state.apply(Command::from(Transaction { operations, ..Transaction::default() }));
        let mut bytes = Vec::new();
        state.write_snapshot(&mut bytes).expect("writes to memory");
        bytes
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restored_node_serves_what_was_backed_up_and_repeats_no_number() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = RestoreTo { dir: dir.path().join("metadata"), id: 3 };
        let restored = restore(&mut &backup()[..], &to).expect("restores");
        assert_eq!(restored.keys, 1);
        let again = restore(&mut &backup()[..], &to);
        assert!(matches!(again, Err(RestoreError::NotEmpty(_))), "{again:?}");

        let config = MetadataConfig { data_dir: to.dir.clone(), ..MetadataConfig::default() };
        let deps = MetadataDeps {
            clock: Arc::new(SystemClock::default()),
            tasks: Tasks::default(),
            peers: Peers::none(),
            cluster: None,
        };
        let node = MetadataNode::start(config, deps).await.expect("starts");
        assert_eq!(node.id(), 3);
        let service = node.service();
        let found = service.get("k".into(), Consistency::Linearizable).await.expect("reads").expect("is there");
        assert_eq!(found.value, "v");
        let take = vec![Operation::Sequence { name: "ledger".into(), count: 1 }];
        match service.transact(Transaction { operations: take, ..Transaction::default() }).await {
            Ok(Outcome::Committed { revision, sequences }) => {
                assert!(revision > restored.revision && sequences[0] > 1 << 32, "{revision} {sequences:?}");
            }
            other => panic!("{other:?}"),
        }
        node.stop().await;
    }

    #[test]
    fn a_damaged_backup_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = RestoreTo { dir: dir.path().join("metadata"), id: 1 };
        let whole = backup();
        for cut in [0, 10, whole.len() - 1] {
            assert!(matches!(restore(&mut &whole[..cut], &to), Err(RestoreError::Backup(_))), "{cut} bytes");
        }
        assert!(!to.dir.exists());
    }
}

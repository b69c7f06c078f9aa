//! Why a bookie does not start, in sentences that say what to do.

use crate::{cookie::CookieError, store::rocks::OpenError};
use protocol::service::metadata::MetadataError;
use std::{io, path::PathBuf};

/// Why a bookie did not start. Nothing was changed on its disks.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be made, read or written.
    #[error("cannot use {}: {problem}{}", path.display(), space_advice(&problem.to_string()))]
    Directory {
        /// The path.
        path: PathBuf,
        /// What the system said.
        problem: io::Error,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process; stop it, or give this bookie a data_dir of its own", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directories are not this bookie's.
    #[error(transparent)]
    Cookie(#[from] CookieError),
    /// The store does not open.
    #[error("the store in {} does not open: {problem}. {}", path.display(), advice(problem))]
    Store {
        /// The store's directory.
        path: PathBuf,
        /// Why.
        problem: OpenError,
    },
    /// The store opened and then failed.
    #[error("the store in {} failed while starting: {problem}{}", path.display(), space_advice(problem))]
    StoreFailed {
        /// The store's directory.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
    /// The metadata service did not answer.
    #[error("the bookie cannot check its identity: {0}")]
    Metadata(#[from] MetadataError),
    /// A thread could not be started.
    #[error("a thread of the bookie could not be started: {0}")]
    Thread(io::Error),
}

/// What to do if a disk is full; nothing for other problems.
pub(crate) fn space_advice(problem: &str) -> &'static str {
    let is_full = ["No space left", "os error 28", "Disk quota exceeded"].iter().any(|text| problem.contains(text));
    match is_full {
        true => ". The disk is full: free some space (nothing in this directory, every file is needed) and start again",
        false => "",
    }
}

fn advice(problem: &OpenError) -> &'static str {
    match problem {
        OpenError::Locked => "Stop the other process, or give this bookie a data_dir of its own.",
        OpenError::Newer { .. } => "It was written by a newer Magnetar: run that version or a later one.",
        OpenError::Missing => {
            "The directory carries this bookie's identity but its entries are gone. Mount the disk that holds them. If they \
             are lost for good, empty every directory of the bookie and start it: it begins a new life, and what other \
             bookies hold is copied again."
        }
        OpenError::Damaged(_) => {
            "Entries that were acknowledged lie behind the damage, so it is not skipped. If other bookies hold copies, empty \
             every directory of the bookie and start it: it begins a new life and copies them. If this is the only copy, \
             restore the disk from a backup."
        }
        OpenError::Failed(text) if !space_advice(text).is_empty() => {
            "The disk is full: free some space (nothing in this directory, every file is needed) and start again."
        }
        OpenError::Failed(_) => "Check the disk and its permissions.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_explained_wherever_it_is_met() {
        let path = PathBuf::from("/data");
        let full = || io::Error::from_raw_os_error(28);
        let text = "IO error: No space left on device: While appending to file: /data/store/000012.log";
        let problems = [
            StartError::Directory { path: path.clone(), problem: full() },
            StartError::Store { path: path.clone(), problem: OpenError::Failed(text.into()) },
            StartError::StoreFailed { path: path.clone(), problem: text.into() },
            StartError::Cookie(CookieError::Io { path: path.clone(), problem: full() }),
        ];
        for problem in problems {
            assert!(problem.to_string().contains("free some space"), "{problem}");
        }
        let other = StartError::Directory { path, problem: io::Error::from_raw_os_error(13) };
        assert!(!other.to_string().contains("free some space"), "{other}");
    }
}

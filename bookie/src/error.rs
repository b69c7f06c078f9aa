//! Why a bookie does not start, in sentences that say what to do.

use crate::{cookie::CookieError, store::rocks::OpenError};
use protocol::service::metadata::MetadataError;
use std::{io, path::PathBuf};

/// Why a bookie did not start. Nothing was changed on its disks.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be made, read or written.
    #[error("cannot use {}: {problem}", path.display())]
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
    #[error("the store in {} failed while starting: {problem}", path.display())]
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

const fn advice(problem: &OpenError) -> &'static str {
    match problem {
        OpenError::Locked => "Stop the other process, or give this bookie a data_dir of its own.",
        OpenError::Newer { .. } => "It was written by a newer Magnetar: run that version or a later one.",
        OpenError::Missing => {
            "The directory carries this bookie's identity but its entries are gone. Mount the disk that holds them. If they \
             are lost for good, start an empty bookie with another id, so that nothing mistakes it for this one."
        }
        OpenError::Damaged(_) => {
            "Entries that were acknowledged lie behind the damage, so it is not skipped. Restore the disk from a copy. If \
             that is impossible, start an empty bookie with another id."
        }
        OpenError::Failed(_) => "Check the disk and its permissions.",
    }
}

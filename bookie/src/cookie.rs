//! Who this bookie is: one cookie in metadata and one in each of its directories, all the same (rule B10).
//!
//! Owns the decision whether a bookie may start here. New only if nothing is anywhere: no cookie in metadata, none in any
//! directory, and the directories empty. Every other difference refuses to start, in a sentence that says what to do,
//! because a wrong guess loses acknowledged entries.
//!
//! A first start writes a *pending* cookie into the directories, then the cookie into metadata, then makes the store,
//! and last renames the pending cookies. Killed at any point, it continues at the next start instead of being refused.

use protocol::{
    id::{BookieId, Incarnation},
    ledger::metadata::BookieMember,
    model::{Cookie, ModelError, Sequence, decode, encode, key},
    service::metadata::{
        Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction, Versioned,
    },
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// The cookie's file in each directory.
const FILE: &str = "cookie";
/// The cookie of a first start that has not ended.
const PENDING: &str = "cookie.pending";
/// Files that do not make a directory one with entries.
const HARMLESS: [&str; 2] = ["lock", "lost+found"];
/// The largest cookie that is read, in bytes.
const MAX_COOKIE: u64 = 64 * 1024;

/// Why a bookie may not start in these directories.
#[derive(Debug, thiserror::Error)]
pub enum CookieError {
    /// Metadata knows the bookie, a directory does not.
    #[error(
        "bookie {bookie} is known to the cluster, but {} is empty. Mount the disk that holds its entries. If they are \
         lost for good, start an empty bookie with another id: under this id it would deny entries it once acknowledged",
        path.display()
    )]
    Empty {
        /// The bookie.
        bookie: BookieId,
        /// The empty directory.
        path: PathBuf,
    },
    /// A directory knows the bookie, metadata does not.
    #[error(
        "{} belongs to bookie {} of cluster {}, which this cluster ({cluster_id}) does not know. Check that the node \
         uses the metadata it was started with; for a new bookie, choose an empty directory",
        path.display(), found.bookie, found.cluster_id
    )]
    UnknownToCluster {
        /// The directory.
        path: PathBuf,
        /// Its cookie.
        found: Box<Cookie>,
        /// The cluster that was asked.
        cluster_id: String,
    },
    /// The cookies differ.
    #[error(
        "{} belongs to bookie {} of cluster {} (incarnation {}), expected is bookie {} of cluster {} (incarnation {}). \
         Check bookie.id, data_dir and wal_dir: each bookie needs directories of its own",
        path.display(), found.bookie, found.cluster_id, found.incarnation,
        expected.bookie, expected.cluster_id, expected.incarnation
    )]
    Different {
        /// The directory.
        path: PathBuf,
        /// Its cookie.
        found: Box<Cookie>,
        /// What metadata says.
        expected: Box<Cookie>,
    },
    /// A directory without cookie holds files.
    #[error(
        "{} is to become the directory of a new bookie, but holds {found:?}. Choose an empty directory, or move its files \
         away",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// The first file found.
        found: String,
    },
    /// Another bookie of this id came first.
    #[error("bookie {0} was registered by another node at the same time. Give each bookie an id of its own")]
    Taken(BookieId),
    /// A cookie cannot be decoded.
    #[error("the cookie of {place} cannot be read: {problem}")]
    Unreadable {
        /// Where it stands.
        place: String,
        /// Why not.
        problem: ModelError,
    },
    /// A directory cannot be read or written.
    #[error("cannot use {}: {problem}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        problem: io::Error,
    },
    /// The metadata service did not answer.
    #[error("the bookie cannot check its identity: {0}")]
    Metadata(#[from] MetadataError),
}

/// The right of a bookie to start in its directories.
#[derive(Debug)]
pub(crate) struct Claim {
    cookie: Cookie,
    directories: Vec<PathBuf>,
    /// Whether this is a first start that has not ended yet.
    pub(crate) is_new: bool,
}

impl Claim {
    /// Who the bookie is.
    pub(crate) const fn member(&self) -> BookieMember {
        BookieMember { id: self.cookie.bookie, incarnation: self.cookie.incarnation }
    }

    /// The store exists and is durable: from now on the directories are this bookie's.
    pub(crate) fn settle(&self) -> Result<(), CookieError> {
        for dir in self.directories.iter().filter(|_| self.is_new) {
            let settled = fs::rename(dir.join(PENDING), dir.join(FILE)).and_then(|()| sync_directory(dir));
            settled.map_err(|problem| CookieError::Io { path: dir.clone(), problem })?;
        }
        Ok(())
    }
}

/// What a directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// It is this bookie's.
    Settled(Cookie),
    /// A first start has begun here.
    Pending(Cookie),
    /// Nothing at all.
    Nothing,
}

/// Compares the cookies of metadata and of every directory, and makes them all for a new bookie. Directories exist and
/// are locked by the caller.
///
/// # Errors
/// See [`CookieError`].
pub(crate) async fn claim(
    metadata: &Arc<dyn MetadataService>,
    cluster_id: &str,
    bookie: BookieId,
    directories: Vec<PathBuf>,
) -> Result<Claim, CookieError> {
    let found = directories.iter().map(|dir| look(dir)).collect::<Result<Vec<_>, _>>()?;
    match registered(metadata, bookie).await? {
        Some(expected) => {
            let is_new = check_known(&expected, cluster_id, &directories, &found)?;
            Ok(Claim { cookie: expected, directories, is_new })
        }
        None => {
            check_new(cluster_id, &directories, &found)?;
            let cookie = register(metadata, cluster_id, bookie, &directories).await?;
            tracing::info!(bookie = %bookie, incarnation = %cookie.incarnation, "a new bookie");
            Ok(Claim { cookie, directories, is_new: true })
        }
    }
}

/// Metadata knows the bookie: every directory must carry the same cookie. Answers whether the first start goes on.
fn check_known(
    expected: &Cookie,
    cluster_id: &str,
    directories: &[PathBuf],
    found: &[Found],
) -> Result<bool, CookieError> {
    let mut is_new = false;
    for (path, found) in directories.iter().zip(found) {
        let cookie = match found {
            Found::Settled(cookie) => cookie,
            Found::Pending(cookie) => {
                is_new = true;
                cookie
            }
            Found::Nothing => return Err(CookieError::Empty { bookie: expected.bookie, path: path.clone() }),
        };
        if cookie != expected || expected.cluster_id != cluster_id {
            let (found, expected) = (Box::new(cookie.clone()), Box::new(expected.clone()));
            return Err(CookieError::Different { path: path.clone(), found, expected });
        }
    }
    if is_new {
        settle_rest(directories, found)?;
    }
    Ok(is_new)
}

/// Killed between two renames: the settled ones become pending again, so that all are settled together.
fn settle_rest(directories: &[PathBuf], found: &[Found]) -> Result<(), CookieError> {
    for (dir, found) in directories.iter().zip(found) {
        if matches!(found, Found::Settled(_)) {
            fs::rename(dir.join(FILE), dir.join(PENDING))
                .map_err(|problem| CookieError::Io { path: dir.clone(), problem })?;
        }
    }
    Ok(())
}

/// Metadata does not know the bookie: no directory may belong to one, or hold anything.
fn check_new(cluster_id: &str, directories: &[PathBuf], found: &[Found]) -> Result<(), CookieError> {
    for (path, found) in directories.iter().zip(found) {
        match found {
            Found::Settled(cookie) => {
                let (path, found, cluster_id) = (path.clone(), Box::new(cookie.clone()), cluster_id.into());
                return Err(CookieError::UnknownToCluster { path, found, cluster_id });
            }
            // The cluster never heard of it, so nothing can have been stored behind it.
            Found::Pending(_) | Found::Nothing => check_empty(path)?,
        }
    }
    Ok(())
}

/// What a directory says; an error if it holds files but no cookie.
fn look(dir: &Path) -> Result<Found, CookieError> {
    if let Some(cookie) = read(&dir.join(FILE))? {
        return Ok(Found::Settled(cookie));
    }
    if let Some(cookie) = read(&dir.join(PENDING))? {
        return Ok(Found::Pending(cookie));
    }
    check_empty(dir)?;
    Ok(Found::Nothing)
}

/// Refuses a directory that holds anything but what a first start leaves before it is known to the cluster.
fn check_empty(dir: &Path) -> Result<(), CookieError> {
    let io = |problem| CookieError::Io { path: dir.to_path_buf(), problem };
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if !HARMLESS.contains(&name.as_str()) && name != PENDING && name != write_name(PENDING) {
            return Err(CookieError::NotEmpty { path: dir.to_path_buf(), found: name });
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Cookie>, CookieError> {
    let io = |problem| CookieError::Io { path: path.to_path_buf(), problem };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(io(problem)),
        Ok(file) if file.len() > MAX_COOKIE => {
            return Err(io(io::Error::new(io::ErrorKind::InvalidData, "far too large for a cookie")));
        }
        Ok(_) => {}
    }
    let value = fs::read(path).map_err(io)?;
    let place = path.display().to_string();
    decode(&value).map(Some).map_err(|problem| CookieError::Unreadable { place, problem })
}

fn write_name(name: &str) -> String {
    format!("{name}.tmp")
}

/// Writes a file so that it is there in full or not at all.
fn write(dir: &Path, name: &str, cookie: &Cookie) -> Result<(), CookieError> {
    let temporary = dir.join(write_name(name));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(&encode(cookie)).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, dir.join(name)))
        .and_then(|()| sync_directory(dir));
    written.map_err(|problem| CookieError::Io { path: dir.to_path_buf(), problem })
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

async fn registered(metadata: &Arc<dyn MetadataService>, bookie: BookieId) -> Result<Option<Cookie>, CookieError> {
    let found: Option<Versioned> = metadata.get(key::cookie(bookie), Consistency::Linearizable).await?;
    let decoded = found.map(|item| decode(&item.value)).transpose();
    decoded.map_err(|problem| CookieError::Unreadable { place: format!("bookie {bookie} in metadata"), problem })
}

async fn register(
    metadata: &Arc<dyn MetadataService>,
    cluster_id: &str,
    bookie: BookieId,
    directories: &[PathBuf],
) -> Result<Cookie, CookieError> {
    let incarnation = next_incarnation(metadata).await?;
    let cookie = Cookie { cluster_id: cluster_id.into(), bookie, incarnation, instance: Uuid::new_v4() };
    for dir in directories {
        write(dir, PENDING, &cookie)?;
    }
    let key = key::cookie(bookie);
    let put = Transaction {
        conditions: vec![Condition::Absent(key.clone())],
        operations: vec![Operation::Put { key, value: encode(&cookie), session: None }],
        request: None,
    };
    match metadata.transact(put).await {
        Ok(Outcome::Committed { .. }) => Ok(cookie),
        // Whether this put or another one was first, metadata says now.
        Ok(Outcome::Conflict { .. }) | Err(MetadataError::OutcomeUnknown { .. }) => {
            match registered(metadata, bookie).await? {
                Some(there) if there == cookie => Ok(cookie),
                _ => Err(CookieError::Taken(bookie)),
            }
        }
        Err(problem) => Err(problem.into()),
    }
}

async fn next_incarnation(metadata: &Arc<dyn MetadataService>) -> Result<Incarnation, CookieError> {
    let name = Sequence::Incarnation.name().into();
    let take = Transaction { operations: vec![Operation::Sequence { name, count: 1 }], ..Transaction::default() };
    match metadata.transact(take).await? {
        Outcome::Committed { sequences, .. } if sequences.len() == 1 => Ok(Incarnation(sequences[0])),
        other => {
            let reason = format!("taking an incarnation answered {other:?}");
            Err(MetadataError::Unavailable { reason }.into())
        }
    }
}

#[cfg(test)]
mod tests;

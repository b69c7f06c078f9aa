//! Who this bookie is: one cookie in metadata and one in each of its directories, all the same (rule B10).
//!
//! Owns the decision whether a bookie may start here. New only if nothing is anywhere: no cookie in metadata, none in any
//! directory, and the directories empty. If the cluster knows the bookie and *every* directory is empty, its disk is
//! lost: it may begin a new life with an incarnation of its own, which never answers for the old one (rule B11). Every
//! other difference refuses to start, in a sentence that says what to do, because a wrong guess loses acknowledged
//! entries.
//!
//! A first start writes a *pending* cookie into the directories, then the cookie into metadata, then makes the store,
//! and last renames the pending cookies. Killed at any point, it continues at the next start instead of being refused.

use crate::{OnEmptyDisk, error::space_advice};
use protocol::{
    id::{BookieId, Incarnation, Revision},
    ledger::metadata::BookieMember,
    model::{BookieRecord, Cookie, ModelError, Sequence, decode, encode, key, prefix},
    service::metadata::{
        Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Scan, Transaction, Versioned,
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
         lost for good, empty all of its directories and set bookie.on_empty_disk = heal: it begins a new life, and what \
         it held is copied again from other bookies",
        path.display()
    )]
    Empty {
        /// The bookie.
        bookie: BookieId,
        /// The empty directory.
        path: PathBuf,
    },
    /// The only bookie has lost everything.
    #[error(
        "{} is empty, and bookie {bookie} is the only one of the cluster: nobody else has what it held. Mount the disk \
         that holds its entries. If they are lost for good, set bookie.on_empty_disk = discard for one start: the topics \
         stay, their records are gone",
        path.display()
    )]
    OnlyCopy {
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
    /// A directory belongs to another bookie.
    #[error(
        "{} belongs to bookie {} of cluster {}, and this is bookie {bookie}. Check bookie.id, data_dir and wal_dir: each \
         bookie needs directories of its own",
        path.display(), found.bookie, found.cluster_id
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its cookie.
        found: Box<Cookie>,
        /// The bookie that asks.
        bookie: BookieId,
    },
    /// A directory knows the bookie, and its cluster has given it up.
    #[error(
        "bookie {} was taken out of cluster {}: no ledger needs {} any more. To use the disk again, empty the directory; \
         the bookie then joins as a new one",
        found.bookie, found.cluster_id, path.display()
    )]
    TakenOut {
        /// The directory.
        path: PathBuf,
        /// Its cookie.
        found: Box<Cookie>,
    },
    /// A directory is of an earlier life of the bookie.
    #[error(
        "{} holds life {} of bookie {}, which was given up when the bookie came back with empty directories as life \
         {current}. What it held was copied from other bookies; wipe the directory to use the disk again",
        path.display(), found.incarnation, found.bookie
    )]
    GivenUp {
        /// The directory.
        path: PathBuf,
        /// Its cookie.
        found: Box<Cookie>,
        /// The life that counts.
        current: Incarnation,
    },
    /// The directories are empty, and a bookie of this id lives.
    #[error(
        "bookie {bookie} lives already{}; stop it first, or give this bookie an id of its own",
        address.as_ref().map(|a| format!(" at {a}")).unwrap_or_default()
    )]
    StillLive {
        /// The bookie.
        bookie: BookieId,
        /// Where it is.
        address: Option<String>,
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
    #[error("cannot use {}: {problem}{}", path.display(), space_advice(&problem.to_string()))]
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
    /// The revision that wrote the cookie into metadata; while it stands, this life of the bookie counts.
    pub(crate) version: Revision,
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

/// Who asks to start, and where.
#[derive(Debug, Clone)]
pub(crate) struct Applicant<'a> {
    pub(crate) cluster_id: &'a str,
    pub(crate) bookie: BookieId,
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) on_empty_disk: OnEmptyDisk,
}

/// Compares the cookies of metadata and of every directory, and makes them all for a new bookie. Directories exist and
/// are locked by the caller.
///
/// # Errors
/// See [`CookieError`].
pub(crate) async fn claim(metadata: &Arc<dyn MetadataService>, applicant: Applicant<'_>) -> Result<Claim, CookieError> {
    let Applicant { cluster_id, bookie, ref directories, on_empty_disk } = applicant;
    let found = directories.iter().map(|dir| look(dir)).collect::<Result<Vec<_>, _>>()?;
    match registered(metadata, bookie).await? {
        Some((old, version)) if are_vacant(&old, cluster_id, directories, &found) => {
            let path = directories.first().cloned().unwrap_or_default();
            match on_empty_disk {
                OnEmptyDisk::Refuse => return Err(CookieError::Empty { bookie, path }),
                OnEmptyDisk::Heal if is_alone(metadata, bookie).await? => {
                    return Err(CookieError::OnlyCopy { bookie, path });
                }
                OnEmptyDisk::Heal | OnEmptyDisk::Discard => {}
            }
            let claim = begin(metadata, &applicant, Some(version)).await?;
            tracing::warn!(
                %bookie, given_up = %old.incarnation, incarnation = %claim.cookie.incarnation,
                "the directories are empty: the old life of this bookie is given up with all it held, and repair copies \
                 that from other bookies. If a disk was only not mounted, its entries are no longer used"
            );
            Ok(claim)
        }
        Some((expected, version)) => {
            let is_new = check_known(&expected, cluster_id, directories, &found)?;
            Ok(Claim { cookie: expected, version, directories: applicant.directories, is_new })
        }
        None => {
            check_new(&applicant, &found)?;
            let claim = begin(metadata, &applicant, None).await?;
            tracing::info!(%bookie, incarnation = %claim.cookie.incarnation, "a new bookie");
            Ok(claim)
        }
    }
}

/// Whether nothing is anywhere but what an earlier attempt to begin a new life left behind.
fn are_vacant(old: &Cookie, cluster_id: &str, directories: &[PathBuf], found: &[Found]) -> bool {
    let is_vacant = |(path, found): (&PathBuf, &Found)| match found {
        Found::Nothing => true,
        Found::Pending(cookie) => {
            let is_next = cookie.bookie == old.bookie && cookie.incarnation > old.incarnation;
            is_next && cookie.cluster_id == cluster_id && check_empty(path).is_ok()
        }
        Found::Settled(_) => false,
    };
    old.cluster_id == cluster_id && directories.iter().zip(found).all(is_vacant)
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
            let is_earlier = cookie.bookie == expected.bookie && cookie.incarnation < expected.incarnation;
            if is_earlier && cookie.cluster_id == cluster_id && expected.cluster_id == cluster_id {
                let (found, current) = (Box::new(cookie.clone()), expected.incarnation);
                return Err(CookieError::GivenUp { path: path.clone(), found, current });
            }
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
fn check_new(applicant: &Applicant<'_>, found: &[Found]) -> Result<(), CookieError> {
    let bookie = applicant.bookie;
    for (path, found) in applicant.directories.iter().zip(found) {
        match found {
            Found::Settled(cookie) => {
                let (path, found) = (path.clone(), Box::new(cookie.clone()));
                return Err(match (cookie.cluster_id == applicant.cluster_id, cookie.bookie == bookie) {
                    (true, true) => CookieError::TakenOut { path, found },
                    (true, false) => CookieError::NotOurs { path, found, bookie },
                    (false, _) => {
                        CookieError::UnknownToCluster { path, found, cluster_id: applicant.cluster_id.into() }
                    }
                });
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

/// Whether the cluster has no other bookie, live or not.
async fn is_alone(metadata: &Arc<dyn MetadataService>, bookie: BookieId) -> Result<bool, CookieError> {
    let scan = Scan { prefix: prefix::COOKIES.into(), after: None, limit: 2, consistency: Consistency::Linearizable };
    let own = key::cookie(bookie);
    Ok(metadata.scan(scan).await?.items.iter().all(|item| item.key == own))
}

async fn registered(
    metadata: &Arc<dyn MetadataService>,
    bookie: BookieId,
) -> Result<Option<(Cookie, Revision)>, CookieError> {
    let found: Option<Versioned> = metadata.get(key::cookie(bookie), Consistency::Linearizable).await?;
    let decoded = found.map(|item| decode(&item.value).map(|cookie| (cookie, item.version))).transpose();
    decoded.map_err(|problem| CookieError::Unreadable { place: format!("bookie {bookie} in metadata"), problem })
}

/// Begins a life: of a new bookie, or of one whose cookie of version `replaces` is given up. That is done only while no
/// bookie of this id is live, and in one transaction, so that of two lives only one ever counts.
async fn begin(
    metadata: &Arc<dyn MetadataService>,
    applicant: &Applicant<'_>,
    replaces: Option<Revision>,
) -> Result<Claim, CookieError> {
    let bookie = applicant.bookie;
    if let Some(live) = metadata.get(key::bookie(bookie), Consistency::Linearizable).await? {
        return Err(still_live(bookie, Some(&live)));
    }
    let incarnation = next_incarnation(metadata).await?;
    let cookie = Cookie { cluster_id: applicant.cluster_id.into(), bookie, incarnation, instance: Uuid::new_v4() };
    for dir in &applicant.directories {
        write(dir, PENDING, &cookie)?;
    }
    let key = key::cookie(bookie);
    let as_seen = replaces.map_or_else(|| Condition::Absent(key.clone()), |v| Condition::Version(key.clone(), v));
    let put = Transaction {
        conditions: vec![as_seen, Condition::Absent(key::bookie(bookie))],
        operations: vec![Operation::Put { key, value: encode(&cookie), session: None }],
        request: None,
    };
    let version = match metadata.transact(put).await {
        Ok(Outcome::Committed { revision, .. }) => revision,
        Ok(Outcome::Conflict { condition: 1, current }) => return Err(still_live(bookie, current.as_ref())),
        // Whether this put or another one was first, metadata says now.
        Ok(Outcome::Conflict { .. }) | Err(MetadataError::OutcomeUnknown { .. }) => {
            match registered(metadata, bookie).await? {
                Some((there, version)) if there == cookie => version,
                _ => return Err(CookieError::Taken(bookie)),
            }
        }
        Err(problem) => return Err(problem.into()),
    };
    Ok(Claim { cookie, version, directories: applicant.directories.clone(), is_new: true })
}

fn still_live(bookie: BookieId, live: Option<&Versioned>) -> CookieError {
    let record = live.and_then(|item| decode::<BookieRecord>(&item.value).ok());
    CookieError::StillLive { bookie, address: record.and_then(|record| record.address) }
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

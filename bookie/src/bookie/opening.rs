//! Opening a bookie's directories: who uses them, whose they are, and whether anything is missing.
//!
//! Owns the steps before a bookie serves. Changes nothing on a disk that is not this bookie's, and never skips a step:
//! whatever is in doubt refuses to start or means limbo.

use super::{BookieDeps, STORE, WATERMARK};
use crate::{
    BookieConfig, StartError,
    cookie::{self, Applicant, Claim, CookieError},
    inventory,
    ledger::Floor,
    limbo::{self, Verdict},
    metrics::Metrics,
    store::{
        EntryStore, StoreState,
        rocks::{OpenError, RocksStore},
        watermark::Watermark,
    },
};
use protocol::{id::Revision, ledger::metadata::BookieMember, mutant::Mutants, service::metadata::MetadataError};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

/// How long a start waits for metadata to become available.
const METADATA_PATIENCE: Duration = Duration::from_secs(30);
/// The pause before metadata is asked again while starting.
const METADATA_PAUSE: Duration = Duration::from_millis(200);

/// A store that was opened and judged.
pub(super) struct Opened {
    pub(super) member: BookieMember,
    /// The revision that wrote this life's cookie.
    pub(super) cookie: Revision,
    pub(super) store: Arc<dyn EntryStore>,
    pub(super) watermark: Watermark,
    pub(super) limbo: bool,
    /// What the store says after that.
    pub(super) state: StoreState,
    pub(super) metrics: Arc<Metrics>,
}

/// Makes a directory if needed, and takes it for this process.
pub(super) fn lock(dir: &Path) -> Result<File, StartError> {
    let directory = |problem| StartError::Directory { path: dir.to_path_buf(), problem };
    fs::create_dir_all(dir).map_err(directory)?;
    let file = File::create(dir.join("lock")).map_err(directory)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { path: dir.to_path_buf() }),
        Err(TryLockError::Error(problem)) => Err(directory(problem)),
    }
}

/// Checks who we are, and waits for metadata if it is not there yet.
pub(super) async fn claim_patiently(config: &BookieConfig, deps: &BookieDeps) -> Result<Claim, StartError> {
    let until = deps.clock.monotonic() + METADATA_PATIENCE.max(config.session() * 2);
    let mut told = false;
    loop {
        let (cluster_id, directories) = (deps.cluster_id.as_str(), config.directories());
        let on_empty_disk = config.on_empty_disk;
        let applicant = Applicant { cluster_id, bookie: config.id, directories, on_empty_disk };
        let claim = cookie::claim(&deps.metadata, applicant);
        let left = until.saturating_sub(deps.clock.monotonic());
        let Ok(outcome) = tokio::time::timeout(left.max(METADATA_PAUSE), claim).await else {
            let reason = format!("no answer within {METADATA_PATIENCE:?}");
            return Err(MetadataError::Unavailable { reason }.into());
        };
        match outcome {
            // One that was killed just now counts as live until its session has ended.
            Err(
                ref problem @ (CookieError::StillLive { .. }
                | CookieError::Metadata(
                    MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. },
                )),
            ) if deps.clock.monotonic() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(bookie = %config.id, %problem, "the bookie cannot start yet; it waits");
                }
                tokio::time::sleep(METADATA_PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// The floor for a loss that is to be accepted: no ledger that began before this start has this id or a higher one.
pub(super) async fn floor(config: &BookieConfig, deps: &BookieDeps) -> Result<Floor, StartError> {
    if !config.accept_lost_entries {
        return Ok(Floor::NONE);
    }
    Ok(Floor(inventory::next_ledger(&deps.metadata).await?))
}

/// Opens the store and decides whether anything that was acknowledged is missing. If the loss is accepted, `floor` is
/// what holds from then on. Blocks.
pub(super) fn open(config: &BookieConfig, claim: Claim, floor: Floor) -> Result<Opened, StartError> {
    let path = config.data_dir.join(STORE);
    let directory = |problem: io::Error| StartError::Directory { path: config.data_dir.join(WATERMARK), problem };
    let failed = |problem: String| StartError::StoreFailed { path: path.clone(), problem };
    if let Some(journal) = config.store_options().wal_dir {
        fs::create_dir_all(&journal).map_err(|problem| StartError::Directory { path: journal, problem })?;
    }
    let store = RocksStore::open(&path, &config.store_options(), claim.is_new).map_err(|problem| match problem {
        OpenError::Locked => StartError::Locked { path: config.data_dir.clone() },
        problem => StartError::Store { path: path.clone(), problem },
    })?;
    let mut watermark = Watermark::open(&config.data_dir.join(WATERMARK)).map_err(directory)?;
    let state = store.state().map_err(|e| failed(e.to_string()))?;
    if claim.is_new {
        watermark.advance(state.commit).map_err(directory)?;
        claim.settle()?;
    }
    let verdict = limbo::judge(state, watermark.number(), Mutants::NONE);
    let limbo =
        settle_limbo(config.accept_lost_entries.then_some(floor), verdict, &store, &mut watermark).map_err(failed)?;
    let state = store.state().map_err(|e| failed(e.to_string()))?;
    let (member, cookie, metrics) = (claim.member(), claim.version, Arc::new(Metrics::new()));
    Ok(Opened { member, cookie, store: Arc::new(store), watermark, limbo, state, metrics })
}

/// Acts on the verdict, and answers whether the bookie is in limbo. `accepted` is the floor if a loss is accepted.
fn settle_limbo(
    accepted: Option<Floor>,
    verdict: Verdict,
    store: &RocksStore,
    watermark: &mut Watermark,
) -> Result<bool, String> {
    match verdict {
        Verdict::Sound => return Ok(false),
        Verdict::Lost { synced, found } => {
            tracing::error!(synced, found, "acknowledged entries are missing: the journal ends before the watermark");
        }
        Verdict::NoWatermark => tracing::error!("the watermark is missing: acknowledged entries may be, too"),
        Verdict::Unhealed => tracing::error!("acknowledged entries are missing since an earlier start"),
    }
    if let Some(floor) = accepted {
        tracing::warn!("the loss is accepted (accept_lost_entries): the bookie serves what it has, all of it fenced");
        limbo::leave(store, floor).map_err(|e| e.to_string())?;
        let commit = store.state().map_err(|e| e.to_string())?.commit;
        watermark.reset(commit).map_err(|e| e.to_string())?;
        return Ok(false);
    }
    tracing::error!(
        "the bookie is in limbo: it serves what it has, takes no adds and denies nothing, until it has fetched what is \
         missing from other bookies. If there is no other copy, restore its disk, or set bookie.accept_lost_entries = \
         true once to go on without the lost entries"
    );
    limbo::enter(store).map_err(|e| e.to_string())?;
    Ok(true)
}

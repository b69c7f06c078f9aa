//! Free space: below the reserve the bookie takes no adds, so that fences and recovery never meet a full disk (rule B4).
//! Owns the threshold and its hysteresis; never deletes anything.

use crate::{health::Health, metrics::Metrics};
use protocol::model::DiskUsage;
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The default reserve is at most this many bytes ...
const RESERVE_BYTES: u64 = 1 << 30;
/// ... and at most this part of the disk.
const RESERVE_PART: u64 = 20;

/// With this much more than the reserve free, the next look may wait: nothing writes that much between two looks.
const PLENTY_BYTES: u64 = 2 << 30;
/// How much more often it is looked when there is less.
const HURRY: u32 = 40;

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes that this process may still write.
    pub(crate) free: u64,
    /// Bytes in all.
    pub(crate) total: u64,
}

/// Asks how much space there is; tests answer themselves.
pub(crate) type Probe = Arc<dyn Fn() -> io::Result<Space> + Send + Sync>;

/// Asks the file system of the fullest of these directories.
pub(crate) fn probe_of(directories: Vec<PathBuf>) -> Probe {
    Arc::new(move || {
        let mut least: Option<Space> = None;
        for dir in &directories {
            let stat = rustix::fs::statvfs(dir)?;
            let space = Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize };
            least = Some(least.filter(|least| least.free <= space.free).unwrap_or(space));
        }
        least.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no directory"))
    })
}

/// Watches free space.
pub(crate) struct Guard {
    pub(crate) probe: Probe,
    /// Bytes that the store holds in its journal and memory and has yet to write to its files.
    pub(crate) owed: Box<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) reserve: Option<u64>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    /// Hears how full the disk is.
    pub(crate) usage: watch::Sender<Option<DiskUsage>>,
}

impl Guard {
    /// Looks every `every`, and more often while space is short, until stopped.
    pub(crate) async fn run(self, every: Duration, stopping: CancellationToken) {
        let mut full = false;
        loop {
            let probe = Arc::clone(&self.probe);
            let mut wait = every;
            match tokio::task::spawn_blocking(move || probe()).await {
                Ok(Ok(space)) => {
                    self.usage.send_replace(Some(DiskUsage { capacity: space.total, free: space.free }));
                    let space = Space { free: space.free.saturating_sub((self.owed)()), ..space };
                    full = self.judge(space, full);
                    if !full && space.free < self.reserve_of(space) + PLENTY_BYTES {
                        wait /= HURRY;
                    }
                }
                Ok(Err(problem)) => tracing::warn!(%problem, "free space cannot be read"),
                Err(_) => return,
            }
            tokio::select! {
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    fn reserve_of(&self, space: Space) -> u64 {
        self.reserve.unwrap_or_else(|| RESERVE_BYTES.min(space.total / RESERVE_PART))
    }

    /// Says what the space means, and whether the disk counts as full from now on.
    pub(crate) fn judge(&self, space: Space, was_full: bool) -> bool {
        self.metrics.disk_free.set(space.free as f64);
        let reserve = self.reserve_of(space);
        // Back only when a quarter more than the reserve is free, or the state would flutter.
        let full = if was_full { space.free < reserve + reserve / 4 } else { space.free < reserve };
        if full && !was_full {
            tracing::error!(free = space.free, reserve, "the disk is nearly full: the bookie is read-only");
        }
        if !full && was_full {
            tracing::info!(free = space.free, reserve, "there is space again: the bookie takes adds");
        }
        let reason = || format!("its disk has {} bytes free, {reserve} are reserved for recovery", space.free);
        self.health.set_full(full.then(reason));
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::model::BookieState;

    fn guard(reserve: Option<u64>) -> Guard {
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::new(false, crate::ledger::Floor::NONE, Arc::clone(&metrics)));
        Guard {
            probe: Arc::new(|| Ok(Space { free: 50, total: 1000 })),
            owed: Box::new(|| 0),
            reserve,
            health,
            metrics,
            usage: watch::Sender::new(None),
        }
    }

    #[test]
    fn the_bookie_closes_below_the_reserve_and_opens_well_above_it() {
        let guard = guard(Some(100));
        let space = |free| Space { free, total: 1000 };
        assert!(!guard.judge(space(100), false));
        assert!(guard.judge(space(99), false));
        assert_eq!(guard.health.state(), BookieState::ReadOnly);
        assert!(guard.judge(space(124), true), "just above is not enough");
        assert!(!guard.judge(space(125), true));
        assert_eq!(guard.health.state(), BookieState::Writable);
    }

    #[test]
    fn a_small_disk_has_a_small_reserve() {
        let guard = guard(None);
        assert!(guard.judge(Space { free: 49, total: 1000 }, false));
        assert!(!guard.judge(Space { free: 50, total: 1000 }, false));
        let large = 10 << 40;
        assert!(guard.judge(Space { free: (1 << 30) - 1, total: large }, false));
        assert!(!guard.judge(Space { free: 1 << 30, total: large }, false));
    }

    #[tokio::test]
    async fn it_looks_by_itself() {
        let guard = guard(Some(100));
        let mut states = guard.health.changes();
        let stopping = CancellationToken::new();
        let mut usage = guard.usage.subscribe();
        let task = tokio::spawn(guard.run(Duration::from_millis(1), stopping.clone()));
        let seen = *usage.wait_for(Option::is_some).await.expect("watched");
        assert_eq!(seen, Some(DiskUsage { capacity: 1000, free: 50 }));
        states.wait_for(|state| *state == BookieState::ReadOnly).await.expect("watched");
        stopping.cancel();
        task.await.expect("ends");
    }

    #[tokio::test]
    async fn what_is_yet_to_be_flushed_counts_as_used() {
        let guard = Guard { owed: Box::new(|| 21), ..guard(Some(30)) };
        let mut states = guard.health.changes();
        let stopping = CancellationToken::new();
        let task = tokio::spawn(guard.run(Duration::from_secs(3600), stopping.clone()));
        states.wait_for(|state| *state == BookieState::ReadOnly).await.expect("50 bytes less 21 are under 30");
        stopping.cancel();
        task.await.expect("ends");
    }

    #[test]
    fn a_real_disk_answers() {
        let dir = tempfile::tempdir().expect("a directory");
        let space = probe_of(vec![dir.path().into()])().expect("answers");
        assert!(space.total > 0 && space.free <= space.total);
        assert!(probe_of(vec![dir.path().join("missing")])().is_err());
    }
}

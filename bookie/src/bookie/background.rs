//! What a bookie does beside serving: watermark, free space, deletion, registration, leaving, repair, healing, scrubs.
//!
//! Owns which tasks there are and what each is given; they all end when the bookie stops. None is on the way of an
//! acknowledgement.

use super::{Bookie, BookieConfig, BookieDeps};
use crate::{
    disk::{self, Guard},
    gc::{Collector, Reclaim},
    heal::{Healer, ResetWatermark},
    leaving::Leaving,
    pace::Pace,
    registration::Registration,
    repair,
    scrub::{Plan, Scrubber},
    service::Core,
    store::watermark::Watermark,
};
use parking_lot::Mutex;
use protocol::{
    id::Revision,
    model::{BookieRecord, DiskUsage},
    runtime::TaskKind,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the watermark is advanced.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);

/// What the tasks of a bookie are made of.
#[derive(Clone, Copy)]
pub(super) struct Background<'a> {
    pub(super) bookie: &'a Bookie,
    pub(super) config: &'a BookieConfig,
    pub(super) deps: &'a BookieDeps,
    /// The revision that wrote this life's cookie.
    pub(super) cookie: Revision,
}

impl Background<'_> {
    /// Starts them all.
    pub(super) fn start(self, registered: watch::Sender<bool>) {
        let usage = watch::Sender::new(None);
        let watched = usage.subscribe();
        self.spawn("bookie watermark", |stopping| {
            let synced = Arc::clone(&self.core().shared.synced);
            keep_watermark(Arc::clone(&self.bookie.watermark), synced, stopping)
        });
        self.spawn("bookie disk", |stopping| self.guard(usage).run(self.disk_check(), stopping));
        self.spawn("bookie gc", |stopping| self.collector().run(stopping));
        self.spawn("bookie registration", |stopping| self.registration(registered, watched).run(stopping));
        self.spawn("bookie leaving", |stopping| self.leaving().run(stopping));
        self.spawn("bookie repair", |stopping| self.repair().run(stopping));
        self.spawn("bookie healing", |stopping| self.healer().run(stopping));
        self.spawn("bookie scrub", |stopping| self.scrubber().run(stopping));
    }

    fn core(&self) -> &Arc<Core> {
        &self.bookie.service.0
    }

    fn spawn<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = task(self.core().tasks.stopping());
        self.core().tasks.spawn(TaskKind::Background, name, async move {
            work.await;
            Ok(())
        });
    }

    const fn disk_check(&self) -> Duration {
        Duration::from_millis(self.config.disk_check_ms)
    }

    fn guard(&self, usage: watch::Sender<Option<DiskUsage>>) -> Guard {
        let shared = &self.core().shared;
        let store = Arc::clone(&shared.store);
        // A full buffer is written once to the files, and its successor's journal is allocated before that.
        let next_journal = self.config.write_buffer_bytes as u64 * 11 / 10;
        Guard {
            probe: disk::probe_of(self.config.directories()),
            owed: Box::new(move || store.unflushed().map_or(0, |bytes| bytes + bytes.min(next_journal))),
            reserve: self.config.disk_reserve,
            health: Arc::clone(&shared.health),
            metrics: Arc::clone(&shared.metrics),
            usage,
        }
    }

    fn collector(&self) -> Collector {
        let store = Arc::clone(&self.core().shared.store);
        let reclaim: Reclaim = Arc::new(move |ledgers| {
            let store = Arc::clone(&store);
            Box::pin(async move {
                let done = tokio::task::spawn_blocking(move || store.reclaim(&ledgers)).await;
                if let Ok(Err(problem)) = done {
                    tracing::warn!(%problem, "the space of deleted ledgers could not be given back yet");
                }
            })
        });
        let (metadata, bookie) = (Arc::clone(&self.deps.metadata), self.bookie.service());
        Collector { metadata, bookie, member: self.core().member, reclaim }
    }

    fn registration(&self, registered: watch::Sender<bool>, usage: watch::Receiver<Option<DiskUsage>>) -> Registration {
        let (address, rack) = (self.config.address.clone(), self.config.rack.clone());
        let started_at = self.deps.clock.wall();
        let state = self.bookie.state();
        Registration {
            metadata: Arc::clone(&self.deps.metadata),
            clock: Arc::clone(&self.deps.clock),
            record: BookieRecord { address, rack, started_at, ..BookieRecord::new(self.core().member, state) },
            cookie: self.cookie,
            ttl: self.config.session(),
            states: self.core().shared.health.changes(),
            usage,
            registered,
        }
    }

    fn leaving(&self) -> Leaving {
        let (metadata, health) = (Arc::clone(&self.deps.metadata), Arc::clone(&self.core().shared.health));
        Leaving { metadata, member: self.core().member, health }
    }

    fn repair(&self) -> repair::Worker {
        let known = Arc::downgrade(self.core());
        repair::Worker {
            metadata: Arc::clone(&self.deps.metadata),
            bookie: self.bookie.service(),
            member: self.core().member,
            peers: Arc::new(move || known.upgrade()?.peers.get()?.upgrade()),
            states: self.core().shared.health.changes(),
            clock: Arc::clone(&self.deps.clock),
            ttl: self.config.session(),
            bandwidth: self.config.repair_bandwidth,
        }
    }

    fn healer(&self) -> Healer {
        let watermark = Arc::clone(&self.bookie.watermark);
        let reset: ResetWatermark = Arc::new(move |commit| watermark.lock().reset(commit));
        let pace = Pace::new(self.config.repair_bandwidth, Arc::clone(&self.deps.clock));
        Healer::new(self.bookie.service.clone(), Arc::clone(&self.deps.metadata), pace, reset)
    }

    fn scrubber(&self) -> Scrubber {
        let interval = Some(self.config.scrub_interval_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        let plan = Plan { interval, bytes_per_second: self.config.scrub_bytes_per_second };
        let (metadata, clock) = (Arc::clone(&self.deps.metadata), Arc::clone(&self.deps.clock));
        Scrubber::new(self.bookie.service.clone(), metadata, clock, plan)
    }
}

/// Advances the watermark about once a second, off the way of every acknowledgement.
async fn keep_watermark(watermark: Arc<Mutex<Watermark>>, synced: Arc<AtomicU64>, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(WATERMARK_EVERY);
    let mut marked = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let now = synced.load(Ordering::Acquire);
        if marked == Some(now) {
            continue;
        }
        let (watermark, synced) = (Arc::clone(&watermark), Arc::clone(&synced));
        if tokio::task::spawn_blocking(move || advance(&watermark, &synced)).await.is_err() {
            return;
        }
        marked = Some(now);
    }
}

/// Raises the watermark to what was synced. Blocks.
pub(super) fn advance(watermark: &Mutex<Watermark>, synced: &AtomicU64) {
    let number = synced.load(Ordering::Acquire);
    if let Err(problem) = watermark.lock().advance(number) {
        tracing::warn!(%problem, "the watermark could not be advanced; it stays behind, which is safe");
    }
}

//! One case: entries of one size into so many ledgers, as fast as they are acknowledged. Owns the order of entries and
//! deletes; the bookie is the real one, without a cluster.

use super::size_of;
use crate::{
    bench::{
        meter::{Cost, Meter, space_of},
        probe::per_second,
    },
    cli::table,
};
use anyhow::{Context, anyhow};
use bookie::{BookieConfig, DetachedBookie, store::StoreError};
use bytes::BytesMut;
use futures::FutureExt;
use hdrhistogram::Histogram;
use protocol::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    ledger::{
        entry::{SEAL_LEN, SealedEntry},
        metadata::BookieMember,
    },
    runtime::{Clock, SystemClock},
    service::{
        Answer,
        bookie::{AddEntry, BookieError, BookieService, DeleteLedger},
    },
};
use std::{
    collections::VecDeque,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The smallest entry: a seal and a number that makes it differ from others.
pub(super) const LEAST_ENTRY: usize = SEAL_LEN + 8;
/// With deletes, ledgers are written in this many generations; half of each is deleted while the next one is written.
const GENERATIONS: u64 = 4;
/// The key of every ledger.
const KEY: LedgerKey = LedgerKey(1);
/// Random bytes beyond one entry, so that entries differ.
const VARIETY: usize = 4096;

/// What is written, and how.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Bytes of an entry as it is stored.
    pub(super) entry_size: usize,
    /// Ledgers that are written at a time.
    pub(super) ledgers: u64,
    /// Whether every second ledger is deleted.
    pub(super) deletes: bool,
    /// Bytes of all entries.
    pub(super) bytes: u64,
    /// Bytes of entries that wait for their acknowledgement at a time.
    pub(super) in_flight: u64,
    /// The store's write buffer, if not its default.
    pub(super) write_buffer: Option<u64>,
    /// The smallest entry of blob files, if not the default.
    pub(super) blob_min: Option<u64>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, ledgers) = (size_of(self.entry_size), table::count(self.ledgers, "ledger"));
        write!(f, "{size}, {ledgers}{}", if self.deletes { ", deletes" } else { "" })
    }
}

impl Case {
    fn entries(&self) -> u64 {
        (self.bytes / self.entry_size as u64).max(1)
    }

    fn generations(&self) -> u64 {
        if self.deletes { GENERATIONS.min(self.entries()) } else { 1 }
    }

    /// Entries of each generation but the last, which takes the rest.
    fn per_generation(&self) -> u64 {
        self.entries() / self.generations()
    }

    /// Where the entry of this number goes: its ledger, and its place there.
    fn place(&self, number: u64) -> (LedgerId, EntryId) {
        let generation = (number / self.per_generation()).min(self.generations() - 1);
        let within = number - generation * self.per_generation();
        (LedgerId(generation * self.ledgers + within % self.ledgers), EntryId(within / self.ledgers))
    }

    /// The ledgers that die when the entry of this number is about to be written: every second one of the generation
    /// that is complete by then. With an odd number of ledgers the generations take turns in which half it is.
    fn deaths_before(&self, number: u64) -> Vec<LedgerId> {
        let starts =
            number.is_multiple_of(self.per_generation()) && number < self.generations() * self.per_generation();
        if !self.deletes || !starts || number == 0 {
            return Vec::new();
        }
        let generation = number / self.per_generation() - 1;
        let written = self.ledgers.min(self.per_generation());
        let first = generation * self.ledgers;
        (first..first + written).filter(|id| id % 2 == 0).map(LedgerId).collect()
    }
}

/// The folders of a case.
pub(super) struct Place<'a> {
    pub(super) data: &'a Path,
    pub(super) wal: Option<&'a Path>,
}

/// What a case measured.
pub(super) struct Outcome {
    /// Bytes of entries that were acknowledged.
    pub(super) bytes: u64,
    /// From the first add to the last acknowledgement.
    pub(super) took: Duration,
    /// Synced writes.
    pub(super) syncs: u64,
    /// Microseconds from the call of an add to its acknowledgement.
    pub(super) latency: Histogram<u64>,
    /// What it cost until nothing was left to flush or merge; memory is read before that.
    pub(super) cost: Cost,
    /// Bytes of entries that are not deleted.
    pub(super) live: u64,
    /// Bytes that the files occupy at the end.
    pub(super) disk: u64,
}

impl Outcome {
    /// Bytes of entries per second.
    pub(super) fn rate(&self) -> f64 {
        per_second(self.bytes, self.took)
    }

    /// So much for each gigabyte of entries.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    pub(super) fn per_gb(&self, amount: f64) -> f64 {
        amount * 1e9 / self.bytes.max(1) as f64
    }

    /// So many bytes for each byte of entries.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    pub(super) fn per_byte(&self, bytes: u64) -> f64 {
        bytes as f64 / self.bytes.max(1) as f64
    }

    /// Bytes on the disk for each byte that is not deleted.
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    pub(super) fn space(&self) -> f64 {
        self.disk as f64 / self.live.max(1) as f64
    }
}

/// Runs a case in empty folders; none if it was interrupted. `tell` hears of bytes that were acknowledged.
///
/// # Errors
/// The folders or the store do not work.
pub(super) fn run(
    case: &Case,
    place: &Place<'_>,
    interrupted: &AtomicBool,
    tell: &dyn Fn(u64),
) -> anyhow::Result<Option<Outcome>> {
    let clock = SystemClock::default();
    let mut config = BookieConfig {
        data_dir: place.data.to_path_buf(),
        wal_dir: place.wal.map(Path::to_path_buf),
        ..BookieConfig::default()
    };
    config.write_buffer_bytes =
        case.write_buffer.map_or(Ok(config.write_buffer_bytes), usize::try_from).context("--write-buffer")?;
    config.blob_min_bytes = case.blob_min.unwrap_or(config.blob_min_bytes);
    let folders: Vec<_> = std::iter::once(place.data).chain(place.wal).collect();
    let meter = Meter::new(&folders);
    let bookie = Arc::new(DetachedBookie::create(&config, Arc::new(clock))?);
    let before = meter.read();
    let load = Load::new(case, Arc::clone(&bookie), clock)?;
    let written = futures::executor::block_on(load.run(interrupted, tell))?;
    let resident = meter.read().resident;
    let syncs = bookie.syncs();
    let Some(written) = written else {
        bookie.stop()?;
        return Ok(None);
    };
    bookie.settle()?;
    let cost = Cost { resident, ..meter.read().since(before) };
    // What is deleted last is given back as a bookie does it; then nothing is left to do.
    bookie.reclaim(&written.dead)?;
    bookie.settle()?;
    bookie.stop()?;
    let disk = folders.iter().map(|dir| space_of(dir)).sum::<std::io::Result<u64>>().context("reading the folders")?;
    let Written { bytes, live, took, latency, .. } = written;
    Ok(Some(Outcome { bytes, took, syncs, latency, cost, live, disk }))
}

/// What was written and deleted.
struct Written {
    bytes: u64,
    live: u64,
    took: Duration,
    latency: Histogram<u64>,
    /// Every ledger that was deleted, in order.
    dead: Vec<LedgerId>,
}

/// The one writer of a case.
struct Load<'a> {
    case: &'a Case,
    bookie: Arc<DetachedBookie>,
    service: Arc<dyn BookieService>,
    member: BookieMember,
    clock: SystemClock,
    /// Random bytes, so that nothing on the way can make them fewer.
    noise: Vec<u8>,
    /// When each add that waits was called, and its answer; in call order.
    waiting: VecDeque<(Duration, Answer<(), BookieError>)>,
    /// Threads that give space back.
    collectors: Vec<JoinHandle<Result<(), StoreError>>>,
    latency: Histogram<u64>,
}

impl<'a> Load<'a> {
    fn new(case: &'a Case, bookie: Arc<DetachedBookie>, clock: SystemClock) -> anyhow::Result<Self> {
        let mut noise = vec![0; case.entry_size + VARIETY];
        rand::fill(&mut noise[..]);
        let (service, member) = (bookie.service(), bookie.member());
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        let (waiting, collectors) = (VecDeque::new(), Vec::new());
        Ok(Self { case, bookie, service, member, clock, noise, waiting, collectors, latency })
    }

    async fn run(mut self, interrupted: &AtomicBool, tell: &dyn Fn(u64)) -> anyhow::Result<Option<Written>> {
        let start = self.clock.monotonic();
        let (size, mut dead) = (self.case.entry_size as u64, Vec::new());
        for number in 0..self.case.entries() {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let dying = self.case.deaths_before(number);
            if !dying.is_empty() {
                self.delete(&dying).await?;
                dead.extend(dying);
            }
            while !self.waiting.is_empty() && (self.waiting.len() as u64 + 1) * size > self.case.in_flight {
                tell(self.settle_some().await? * size);
            }
            self.add(number);
        }
        while !self.waiting.is_empty() {
            tell(self.settle_some().await? * size);
        }
        let took = self.clock.monotonic().saturating_sub(start);
        for collector in self.collectors {
            collector.join().map_err(|_| anyhow!("giving space back panicked"))?.context("giving space back")?;
        }
        let live = (0..self.case.entries()).filter(|n| dead.binary_search(&self.case.place(*n).0).is_err()).count();
        let bytes = self.case.entries() * size;
        Ok(Some(Written { bytes, live: live as u64 * size, took, latency: self.latency, dead }))
    }

    fn add(&mut self, number: u64) {
        let (ledger, entry) = self.case.place(number);
        let mut buf = BytesMut::with_capacity(self.case.entry_size);
        buf.resize(SEAL_LEN, 0);
        let from = usize::try_from(number % VARIETY as u64).unwrap_or(0);
        buf.extend_from_slice(&self.noise[from..from + self.case.entry_size - SEAL_LEN]);
        let called = self.clock.monotonic();
        let entry = SealedEntry::seal(buf, ledger, entry, Lac::from_count(entry.0), 0);
        let add = AddEntry { member: self.member, key: KEY, recovery: false, entry };
        self.waiting.push_back((called, self.service.add_entry(add)));
    }

    /// Waits for the oldest answer, then takes all that came with it, and says how many there were.
    async fn settle_some(&mut self) -> anyhow::Result<u64> {
        let mut count = 0;
        while let Some((called, answer)) = self.waiting.front_mut() {
            let answered = if count == 0 { Some(answer.await) } else { answer.now_or_never() };
            let Some(answered) = answered else { break };
            answered.context("an add failed")?;
            let took = self.clock.monotonic().saturating_sub(*called).as_micros();
            self.latency.saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
            self.waiting.pop_front();
            count += 1;
        }
        Ok(count)
    }

    /// Deletes ledgers and has their space given back, beside the adds that go on.
    async fn delete(&mut self, dying: &[LedgerId]) -> anyhow::Result<()> {
        let delete = |ledger: &LedgerId| DeleteLedger { member: self.member, ledger: *ledger };
        let calls: Vec<_> = dying.iter().map(|ledger| self.service.delete_ledger(delete(ledger))).collect();
        for call in calls {
            call.await.context("a deletion failed")?;
        }
        let (bookie, dying) = (Arc::clone(&self.bookie), dying.to_vec());
        let reclaim = std::thread::Builder::new().name("reclaim".into()).spawn(move || bookie.reclaim(&dying))?;
        self.collectors.push(reclaim);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn case(ledgers: u64, deletes: bool, entries: u64) -> Case {
        let (entry_size, in_flight) = (1024, 1);
        Case { entry_size, ledgers, deletes, bytes: entries * 1024, in_flight, write_buffer: None, blob_min: None }
    }

    #[test]
    fn entries_are_dense_in_every_ledger_and_dead_ledgers_get_no_more() {
        for (ledgers, deletes, entries) in
            [(1, false, 10), (1, true, 11), (3, true, 50), (100, true, 30), (7, false, 50)]
        {
            let case = case(ledgers, deletes, entries);
            let (mut next, mut dead) = (BTreeMap::<LedgerId, u64>::new(), BTreeSet::new());
            for number in 0..case.entries() {
                dead.extend(case.deaths_before(number));
                let (ledger, entry) = case.place(number);
                assert!(!dead.contains(&ledger), "{ledger} was deleted");
                let next = next.entry(ledger).or_default();
                assert_eq!(entry.0, *next, "{case}, entry {number}");
                *next += 1;
            }
            assert!(dead.iter().all(|ledger| next.contains_key(ledger)), "only ledgers that were written die");
            assert_eq!(!dead.is_empty(), deletes, "{case}");
        }
    }
}

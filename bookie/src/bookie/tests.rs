//! A whole bookie over real directories: start, stop, crash, loss.

mod damage;
mod lives;

use super::*;
use crate::{
    OnEmptyDisk,
    inventory::tests::{closed, issue_ledgers, ledger, publish},
    rig::KEY,
    store::conformance::entry,
};
use protocol::{
    id::{BookieId, EntryId, Lac, LedgerId, Timestamp},
    ledger::metadata::LedgerState,
    model::{BookieRecord, DeadLedger, decode, key},
    runtime::SystemClock,
    service::bookie::{AddEntry, BookieError, DeleteLedger, FenceLedger, ReadEntries},
    testing::{FakeMetadata, conformance},
};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A cluster of one bookie.
struct World {
    metadata: FakeMetadata,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self { metadata: FakeMetadata::new(), dir: tempfile::tempdir().expect("a directory") }
    }

    fn config(&self) -> BookieConfig {
        BookieConfig {
            data_dir: self.dir.path().join("data"),
            wal_dir: Some(self.dir.path().join("wal")),
            ..BookieConfig::default()
        }
    }

    async fn try_start(&self, config: BookieConfig) -> Result<Bookie, StartError> {
        let deps = BookieDeps {
            metadata: self.metadata.service(),
            clock: Arc::new(SystemClock::default()),
            tasks: Tasks::default(),
            cluster_id: "cluster".into(),
        };
        Bookie::start(config, deps).await
    }

    /// Loses everything that is in the directories.
    fn wipe(&self) {
        for file in fs::read_dir(self.dir.path()).expect("readable") {
            fs::remove_dir_all(file.expect("readable").path()).expect("removed");
        }
    }

    async fn start(&self) -> Bookie {
        self.try_start(self.config()).await.expect("starts")
    }

    /// What the disk would hold if the power went now; metadata is shared.
    fn crashed(&self) -> Self {
        fn copy(from: &Path, to: &Path) {
            fs::create_dir_all(to).expect("made");
            for file in fs::read_dir(from).expect("readable") {
                let file = file.expect("readable").path();
                let target = to.join(file.file_name().expect("named"));
                if file.is_dir() {
                    copy(&file, &target);
                } else {
                    fs::copy(&file, &target).expect("copied");
                }
            }
        }
        let dir = tempfile::tempdir().expect("a directory");
        copy(self.dir.path(), dir.path());
        Self { metadata: self.metadata.clone(), dir }
    }

    fn journal(&self) -> PathBuf {
        let files = fs::read_dir(self.dir.path().join("wal/journal")).expect("readable");
        let longest = |path: &PathBuf| fs::metadata(path).expect("there").len();
        files.map(|f| f.expect("readable").path()).max_by_key(longest).expect("a journal")
    }

    fn record(&self) -> Option<BookieRecord> {
        let item = self.metadata.peek(&key::bookie(BookieId(1)))?;
        Some(decode(&item.value).expect("a record"))
    }
}

async fn until(what: &str, wanted: impl Fn() -> bool) {
    let look = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !wanted() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn add(bookie: &Bookie, ledger: u64, id: u64) -> Result<(), BookieError> {
    add_as(bookie, bookie.member(), ledger, id).await
}

async fn add_as(bookie: &Bookie, member: BookieMember, ledger: u64, id: u64) -> Result<(), BookieError> {
    let entry = entry(ledger, id, &[id as u8; 6000]);
    bookie.service().add_entry(AddEntry { member, key: KEY, recovery: false, entry }).await
}

async fn fence(bookie: &Bookie, ledger: u64) -> Result<Lac, BookieError> {
    bookie.service().fence_ledger(FenceLedger { member: bookie.member(), ledger: LedgerId(ledger), key: KEY }).await
}

async fn read(bookie: &Bookie, ledger: u64, first: u64) -> Result<usize, BookieError> {
    let (ledger, first) = (LedgerId(ledger), EntryId(first));
    let read =
        ReadEntries { member: bookie.member(), ledger, first, max_count: 1000, max_bytes: 16 << 20, fence: None };
    bookie.service().read_entries(read).await.map(|run| run.entries.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let world = World::new();
    let bookie = world.start().await;
    conformance::bookie(bookie.service(), bookie.member()).await;
    bookie.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_stop_and_a_start() {
    let world = World::new();
    let bookie = world.start().await;
    bookie.wait_registered().await;
    assert!(bookie.is_ready() && world.record().is_some_and(|r| r.state == BookieState::Writable));
    for id in 0..10 {
        add(&bookie, 1, id).await.expect("stored");
    }
    fence(&bookie, 2).await.expect("fenced");
    let delete = DeleteLedger { member: bookie.member(), ledger: LedgerId(3) };
    bookie.service().delete_ledger(delete).await.expect("deleted");
    let member = bookie.member();
    bookie.stop().await;
    assert_eq!(world.record(), None, "it leaves at once");
    assert!(matches!(add(&bookie, 1, 10).await, Err(BookieError::Unavailable { .. })));

    let again = world.start().await;
    assert_eq!(again.member(), member, "the same life of the same disk");
    assert_eq!(read(&again, 1, 0).await, Ok(10));
    assert_eq!(read(&again, 1, 10).await, Err(BookieError::NoSuchEntry(LedgerId(1), EntryId(10))));
    assert_eq!(add(&again, 1, 10).await, Ok(()));
    assert_eq!(add(&again, 2, 0).await, Err(BookieError::Fenced(LedgerId(2))));
    assert_eq!(add(&again, 3, 0).await, Err(BookieError::Deleted(LedgerId(3))));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_survives_a_crash() {
    let world = World::new();
    let bookie = world.start().await;
    let adds: Vec<_> = (0..500).map(|id| (id, add(&bookie, 1, id))).collect();
    for (id, add) in adds {
        add.await.unwrap_or_else(|e| panic!("{id}: {e}"));
    }
    fence(&bookie, 2).await.expect("fenced");
    let crashed = world.crashed();
    bookie.stop().await;
    let again = crashed.start().await;
    assert_eq!(again.state(), BookieState::Writable);
    assert_eq!(read(&again, 1, 0).await, Ok(500));
    assert_eq!(add(&again, 2, 0).await, Err(BookieError::Fenced(LedgerId(2))));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_cut_means_limbo_until_the_loss_is_accepted() {
    let world = World::new();
    let bookie = world.start().await;
    for id in 0..10 {
        add(&bookie, 1, id).await.expect("stored");
    }
    let synced = Arc::clone(&bookie.service.0.shared.synced);
    advance(&bookie.watermark, &synced);
    let crashed = world.crashed();
    publish(&world.metadata, vec![ledger(1, &[(0, &[bookie.member()])], LedgerState::Open)]);
    bookie.stop().await;

    // Cut in the middle: RocksDB itself sees a torn tail and opens.
    let journal = fs::OpenOptions::new().write(true).open(crashed.journal()).expect("there");
    journal.set_len(journal.metadata().expect("there").len() / 2).expect("cut");
    let limbo = crashed.start().await;
    assert_eq!(limbo.state(), BookieState::Limbo);
    limbo.wait_registered().await;
    assert!(crashed.record().is_some_and(|r| r.state == BookieState::Limbo));
    let left = read(&limbo, 1, 0).await.expect("what is there is served");
    assert!(left < 10);
    assert!(matches!(read(&limbo, 1, left as u64).await, Err(BookieError::Unknown { .. })), "lost, not absent");
    assert!(matches!(read(&limbo, 99, 0).await, Err(BookieError::Unknown { .. })));
    assert!(matches!(add(&limbo, 1, 10).await, Err(BookieError::ReadOnly { .. })));
    assert!(matches!(add(&limbo, 99, 0).await, Err(BookieError::ReadOnly { .. })));
    limbo.stop().await;

    let still = crashed.start().await;
    assert_eq!(still.state(), BookieState::Limbo, "a restart heals nothing that no other bookie has");
    still.stop().await;

    issue_ledgers(&world.metadata, 4).await;
    let accepted = crashed.try_start(BookieConfig { accept_lost_entries: true, ..crashed.config() }).await;
    let accepted = accepted.expect("starts");
    assert_eq!(accepted.state(), BookieState::Writable);
    assert_eq!(read(&accepted, 1, left as u64).await, Err(BookieError::NoSuchEntry(LedgerId(1), EntryId(left as u64))));
    assert_eq!(add(&accepted, 1, 10).await, Err(BookieError::Fenced(LedgerId(1))), "its writer must recover it");
    assert_eq!(add(&accepted, 50, 0).await, Ok(()));
    accepted.stop().await;
    let sound = crashed.start().await;
    assert_eq!(sound.state(), BookieState::Writable, "accepted once is enough");
    assert!(matches!(add(&sound, 4, 0).await, Err(BookieError::ReadOnly { .. })), "it may be a ledger that was lost");
    sound.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_watermark_means_limbo() {
    let world = World::new();
    let bookie = world.start().await;
    add(&bookie, 1, 0).await.expect("stored");
    publish(&world.metadata, vec![ledger(1, &[(0, &[bookie.member()])], LedgerState::Open)]);
    bookie.stop().await;
    fs::remove_file(world.config().data_dir.join(WATERMARK)).expect("removed");
    let limbo = world.start().await;
    assert_eq!(limbo.state(), BookieState::Limbo);
    // Nothing is missing, and once the head is closed that is known.
    publish(&world.metadata, vec![ledger(1, &[(0, &[limbo.member()])], closed(0))]);
    until("healed", || limbo.state() == BookieState::Writable).await;
    assert_eq!(read(&limbo, 1, 0).await, Ok(1));
    limbo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_must_be_refused_are_explained() {
    let world = World::new();
    let bookie = world.start().await;
    add(&bookie, 1, 0).await.expect("stored");
    let told = |outcome: Result<Bookie, StartError>| outcome.expect_err("refused").to_string();
    assert!(told(world.try_start(world.config()).await).contains("in use by another process"));
    bookie.stop().await;

    let other_id = BookieConfig { id: BookieId(2), ..world.config() };
    assert!(told(world.try_start(other_id).await).contains("belongs to bookie 1"));

    let emptied = world.crashed();
    fs::remove_dir_all(emptied.config().data_dir.join(STORE)).expect("removed");
    assert!(told(emptied.try_start(emptied.config()).await).contains("Mount the disk"));

    let replaced = World { metadata: world.metadata.clone(), dir: tempfile::tempdir().expect("a directory") };
    let refuse = BookieConfig { on_empty_disk: OnEmptyDisk::Refuse, ..replaced.config() };
    assert!(told(replaced.try_start(refuse).await).contains("is known to the cluster"));

    let file = tempfile::NamedTempFile::new().expect("a file");
    let no_dir = BookieConfig { data_dir: file.path().join("x"), wal_dir: None, ..world.config() };
    assert!(told(world.try_start(no_dir).await).contains("cannot use"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_journal_refuses_to_start() {
    let world = World::new();
    let bookie = world.start().await;
    for id in 0..5 {
        add(&bookie, 1, id).await.expect("stored");
    }
    let crashed = world.crashed();
    bookie.stop().await;
    let journal = fs::OpenOptions::new().write(true).open(crashed.journal()).expect("there");
    journal.write_all_at(&[0xee; 8], 9000).expect("damaged");
    let refused = crashed.try_start(crashed.config()).await.expect_err("refused").to_string();
    assert!(refused.contains("lie behind the damage"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_ledgers_are_deleted() {
    let world = World::new();
    let bookie = world.start().await;
    add(&bookie, 1, 0).await.expect("stored");
    let dead = DeadLedger { ledger: LedgerId(1), held_by: vec![bookie.member()], since: Timestamp(0) };
    world.metadata.put(key::dead(LedgerId(1)), &dead);
    until("the record goes", || world.metadata.peek(&key::dead(LedgerId(1))).is_none()).await;
    assert_eq!(read(&bookie, 1, 0).await, Err(BookieError::Deleted(LedgerId(1))));
    bookie.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_announced() {
    let world = World::new();
    let bookie = world.try_start(BookieConfig { disk_reserve: Some(u64::MAX / 4), ..world.config() }).await;
    let bookie = bookie.expect("starts");
    until("read-only", || world.record().is_some_and(|r| r.state == BookieState::ReadOnly)).await;
    assert!(matches!(add(&bookie, 1, 0).await, Err(BookieError::ReadOnly { .. })));
    assert!(fence(&bookie, 1).await.is_ok());
    bookie.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watermark_rises_by_itself() {
    let world = World::new();
    let bookie = world.start().await;
    add(&bookie, 1, 0).await.expect("stored");
    let path = world.config().data_dir.join(WATERMARK);
    until("it rises", || Watermark::open(&path).expect("opens").number().is_some_and(|n| n > 0)).await;
    bookie.stop().await;
}

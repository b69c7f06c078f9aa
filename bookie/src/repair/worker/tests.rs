//! Workers over a real committer, with sources and metadata in memory.

use super::*;
use crate::{
    rig::{KEY, MEMBER, Rig},
    store::{conformance::entry, memory::MemoryStore},
};
use protocol::{
    id::{BookieId, EntryId, Incarnation, LeaderEpoch, LedgerId, Offset, Timestamp},
    ledger::{
        metadata::{Fragment, Hole, LedgerMetadata, LedgerState},
        quorum::Quorum,
    },
    model::{
        BookieRecord, ClosedLedger, ClosedPage, Cookie, Decommission, Record, RepairClaim, RepairReason, RepairTask,
        StrayCopies, decode, encode, key,
    },
    runtime::SystemClock,
    service::{
        bookie::{AddEntry, BookieError},
        metadata::{Condition, Operation, Outcome as Written, Transaction},
    },
    testing::{FakeBookie, FakeDirectory, FakeMetadata},
    topic::{PartitionId, TopicId},
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// How long a condition may take to come true: longer than several failures and the rests between them.
const PATIENCE: Duration = Duration::from_secs(180);
const FAST: u64 = 1 << 30;
/// A pace at which an entry of a few hundred bytes takes a few seconds, and a large one takes days.
const CRAWL: u64 = 100;
const P: PartitionId = PartitionId { topic: TopicId(Uuid::from_u128(1)), index: 0 };
const L: LedgerId = LedgerId(1);

fn first(id: u32) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
}

fn ledger(id: u64, fragments: &[(u64, &[u32])], entries: u64) -> LedgerMetadata {
    let quorum = Quorum::of_replication(fragments[0].1.len() as u8, 1).expect("legal");
    let ensemble = fragments[0].1.iter().map(|id| first(*id)).collect();
    let mut ledger = LedgerMetadata::open(LedgerId(id), KEY, quorum, ensemble, Timestamp(0));
    let fragment = |(at, ids): &(u64, &[u32])| Fragment {
        first_entry: EntryId(*at),
        ensemble: ids.iter().map(|id| first(*id)).collect(),
    };
    ledger.fragments = fragments.iter().map(fragment).collect();
    ledger.state = LedgerState::Closed { last_entry: entries.checked_sub(1).map(EntryId), length: entries * 10_000 };
    ledger
}

fn closed(ledger: LedgerMetadata) -> ClosedLedger {
    ClosedLedger {
        ledger,
        epoch: LeaderEpoch(0),
        base_offset: Offset(0),
        end_offset: Offset(10),
        max_timestamp: Timestamp::NONE,
        last_index: None,
        closed_at: Timestamp(0),
    }
}

/// Bookie 1 is real and repairs; bookies 2 to 5 are sources.
struct World {
    metadata: FakeMetadata,
    peers: Arc<FakeDirectory>,
    rig: Rig,
    stopping: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (metadata, peers) = (FakeMetadata::new(), Arc::new(FakeDirectory::default()));
        (2..=5).for_each(|id| peers.insert(FakeBookie::numbered(id)));
        let rig = Rig::new(Arc::new(MemoryStore::new()));
        let world = Self { metadata, peers, rig, stopping: CancellationToken::new() };
        (1..=5).for_each(|id| world.join(first(id), BookieState::Writable));
        world
    }

    fn join(&self, member: BookieMember, state: BookieState) {
        let (cluster_id, instance) = ("cluster".into(), Uuid::nil());
        let cookie = Cookie { cluster_id, bookie: member.id, incarnation: member.incarnation, instance };
        self.metadata.put(key::cookie(member.id), &cookie);
        self.metadata.put(key::bookie(member.id), &BookieRecord::new(member, state));
    }

    /// Takes a bookie away for good.
    fn lose(&self, id: u32) {
        self.metadata.delete(key::bookie(BookieId(id)));
        self.peers.set_reachable(id, false);
    }

    /// Entries of about 10,000 bytes, on these bookies.
    async fn write(&self, ledger: u64, entries: u64, on: &[u32]) {
        self.write_sized(ledger, &vec![10_000; entries as usize], on).await;
    }

    /// Entries of these sizes, on these bookies.
    async fn write_sized(&self, ledger: u64, sizes: &[usize], on: &[u32]) {
        for id in on {
            let bookie = self.peers.fake(*id);
            for (n, size) in (0..).zip(sizes) {
                let entry = entry(ledger, n, &vec![n as u8; *size]);
                let add = AddEntry { member: bookie.member(), key: KEY, recovery: false, entry };
                bookie.service().add_entry(add).await.expect("stored");
            }
        }
    }

    fn page(&self, ledgers: Vec<LedgerMetadata>) {
        let ledgers = ledgers.into_iter().map(closed).collect();
        self.metadata.put(key::closed_page(P, 0), &ClosedPage { ledgers });
    }

    fn ask(&self, ledger: u64, reason: RepairReason, lost: &[u32]) {
        let (lost, takers) = (lost.iter().map(|id| first(*id)).collect(), Vec::new());
        let (ledger, since) = (LedgerId(ledger), Timestamp(0));
        let task = RepairTask { partition: P, page: 0, ledger, reason, bytes: 1, since, lost, takers };
        self.metadata.put(key::repair(ledger), &task);
    }

    fn worker(&self, bandwidth: u64) -> Worker {
        self.worker_of(Arc::new(self.rig.0.clone()), MEMBER, bandwidth)
    }

    fn worker_of(&self, bookie: Arc<dyn BookieService>, member: BookieMember, bandwidth: u64) -> Worker {
        let directory: Arc<dyn BookieDirectory> = Arc::clone(&self.peers) as _;
        Worker {
            metadata: self.metadata.service(),
            bookie,
            member,
            peers: Arc::new(move || Some(Arc::clone(&directory))),
            states: self.rig.shared().health.changes(),
            clock: Arc::new(SystemClock::default()),
            ttl: Duration::from_secs(3600),
            bandwidth,
        }
    }

    fn start(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.worker(FAST).run(self.stopping.clone()))
    }

    async fn stop(self, worker: tokio::task::JoinHandle<()>) {
        self.stopping.cancel();
        worker.await.expect("it ends");
        assert_eq!(self.metadata.peek_all(prefix::REPAIRING), [], "claims go with their bookie");
        self.rig.stop();
    }

    fn read<R: Record>(&self, key: &str) -> Option<R> {
        self.metadata.peek(key).map(|item| decode(&item.value).expect("a record"))
    }

    fn ledger(&self, id: u64) -> Option<LedgerMetadata> {
        let page: ClosedPage = self.read(&key::closed_page(P, 0))?;
        page.ledgers.into_iter().map(|closed| closed.ledger).find(|ledger| ledger.id.0 == id)
    }

    fn names(&self, id: u64, ids: &[u32]) -> bool {
        let wanted: BTreeSet<_> = ids.iter().map(|id| first(*id)).collect();
        let is_so = |f: &Fragment| f.ensemble.iter().copied().collect::<BTreeSet<_>>() == wanted;
        self.ledger(id).is_some_and(|ledger| ledger.fragments.iter().all(is_so))
    }

    fn is_asked(&self, ledger: u64) -> bool {
        self.metadata.peek(&key::repair(LedgerId(ledger))).is_some()
    }

    fn strays(&self, ledger: u64) -> Vec<BookieMember> {
        self.read::<StrayCopies>(&key::stray(LedgerId(ledger))).map_or(Vec::new(), |stray| stray.held_by)
    }

    async fn held(&self, ledger: u64) -> usize {
        self.rig.read(ledger, 0).await.map_or(0, |entries| entries.len())
    }
}

async fn until<F: Future<Output = bool>>(what: &str, wanted: impl Fn() -> F) {
    let look = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !wanted().await {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_member_is_replaced_after_everything_was_copied() {
    let world = World::new();
    world.write(1, 60, &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4]), (20, &[2, 3, 4])], 60)]);
    world.lose(4);
    world.ask(1, RepairReason::Lost, &[4]);
    let worker = world.start();
    until("it is named", async || world.names(1, &[1, 2, 3])).await;
    assert_eq!(world.held(1).await, 60);
    assert!(!world.is_asked(1));
    assert_eq!(world.strays(1), [first(4)], "it may come back with its copies");
    assert_eq!(world.rig.add(1, 60).await, Err(BookieError::Fenced(L)), "the copy of an ended ledger is fenced");
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_was_killed_goes_on_where_it_was() {
    let world = World::new();
    // The first entry is paid for in a few seconds, after which progress is written. The second is as large as a part may
    // be, so it is stored alone, and paying for it takes longer than this test can run: the copy stands still there.
    world.write_sized(1, &[300, 128 << 10, 10, 10], &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 4)]);
    world.lose(4);
    world.ask(1, RepairReason::Lost, &[4]);
    let killed = tokio::spawn(world.worker(CRAWL).run(world.stopping.clone()));
    until("it stands still", async || world.held(1).await == 2).await;
    let claim = world.read::<RepairClaim>(&key::repairing(L)).expect("claimed");
    assert!(claim.copied > 300 && claim.copied < 1_000 && claim.bookie == MEMBER, "progress is shown: {claim:?}");
    killed.abort();
    drop(killed.await);
    world.metadata.sessions().into_iter().for_each(|session| world.metadata.expire(session));
    assert_eq!(world.strays(1), [MEMBER], "what is there is noted");
    assert!(world.names(1, &[2, 3, 4]), "and not named before it is whole");
    assert_eq!(world.rig.read(1, 0).await, Ok(vec![0, 1]));
    for (entry, source) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        world.peers.fake(source).forget(L, EntryId(entry));
    }
    let worker = world.start();
    until("it is named", async || world.names(1, &[1, 2, 3])).await;
    assert_eq!((world.held(1).await, world.strays(1)), (4, vec![first(4)]));
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_fail_lack_entries_or_are_gone_give_way_to_others() {
    let world = World::new();
    world.write(1, 60, &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4, 5])], 60)]);
    world.lose(5);
    world.peers.set_reachable(4, false);
    (0..60).filter(|id| id % 2 == 0).for_each(|id| world.peers.fake(2).forget(L, EntryId(id)));
    (0..60).filter(|id| id % 2 == 1).for_each(|id| world.peers.fake(3).forget(L, EntryId(id)));
    let damaged = BookieError::Unknown { reason: "the stored entry is damaged".into() };
    world.peers.fake(2).faults().fail_next(damaged.clone());
    world.ask(1, RepairReason::Lost, &[5]);
    let worker = world.start();
    until("it is named", async || world.names(1, &[1, 2, 3, 4])).await;
    assert_eq!(world.held(1).await, 60);
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_every_entry_the_page_stays_as_it_is() {
    let world = World::new();
    world.write(1, 60, &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 60)]);
    world.lose(4);
    [2, 3].into_iter().for_each(|id| world.peers.fake(id).forget(L, EntryId(41)));
    world.ask(1, RepairReason::Lost, &[4]);
    // Another one shows that the first has failed before.
    let worker = world.start();
    until("all but the missing one", async || world.held(1).await == 41).await;
    world.write(2, 1, &[2, 3, 4]).await;
    let both = vec![world.ledger(1).expect("there"), ledger(2, &[(0, &[2, 3, 4])], 1)];
    world.page(both);
    world.ask(2, RepairReason::Lost, &[4]);
    until("the other one", async || world.names(2, &[1, 2, 3])).await;
    assert!(world.names(1, &[2, 3, 4]) && world.is_asked(1));
    world.write(1, 60, &[3]).await;
    until("it is tried again", async || world.names(1, &[1, 2, 3])).await;
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_filled_by_its_member() {
    let world = World::new();
    world.write(1, 30, &[2, 3]).await;
    for n in (0..30).filter(|n| !(10..20).contains(n)) {
        let entry = entry(1, n, &[n as u8; 10_000]);
        let add = AddEntry { member: MEMBER, key: KEY, recovery: false, entry };
        world.rig.0.add_entry(add).await.expect("stored");
    }
    let mut holed = ledger(1, &[(0, &[1, 2, 3])], 30);
    holed.holes = vec![Hole { member: MEMBER, entries: 8..=19 }, Hole { member: first(2), entries: 3..=3 }];
    world.page(vec![holed]);
    world.ask(1, RepairReason::Hole, &[]);
    let worker = world.start();
    let holes = || world.ledger(1).map(|ledger| ledger.holes);
    until("it is filled", async || holes() == Some(vec![Hole { member: first(2), entries: 3..=3 }])).await;
    assert_eq!((world.held(1).await, world.strays(1)), (30, vec![]));
    assert!(world.names(1, &[1, 2, 3]) && world.is_asked(1), "the other hole is for bookie 2 to fill");
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_ledger_needs_no_copy() {
    let world = World::new();
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 0)]);
    world.lose(4);
    world.ask(1, RepairReason::Lost, &[4]);
    let worker = world.start();
    until("it is named", async || world.names(1, &[1, 2, 3])).await;
    assert_eq!(world.rig.read(1, 0).await, Err(BookieError::NoSuchLedger(L)), "nothing was stored");
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_added_as_bookies_join() {
    let world = World::new();
    world.write(1, 30, &[2]).await;
    (4..=5).for_each(|id| world.lose(id));
    let mut thin = ledger(1, &[(0, &[2])], 30);
    thin.wanted_write = 3;
    world.page(vec![thin]);
    world.ask(1, RepairReason::Copies, &[]);
    let worker = world.start();
    let third = world.peers.fake(3);
    let other = world.worker_of(third.service(), third.member(), FAST);
    let other = tokio::spawn(other.run(world.stopping.clone()));
    until("three copies", async || world.names(1, &[1, 2, 3])).await;
    assert_eq!((world.held(1).await, third.entries(L).len()), (30, 30));
    until("nothing is asked for", async || !world.is_asked(1)).await;
    world.stopping.cancel();
    other.await.expect("it ends");
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_member_serves_until_it_is_replaced() {
    let world = World::new();
    world.write(1, 30, &[4]).await;
    world.page(vec![ledger(1, &[(0, &[4])], 30)]);
    let order =
        Decommission { member: first(4), keeps_id: false, since: Timestamp(0), total_bytes: None, obstacle: None };
    world.metadata.put(key::decommission(BookieId(4)), &order);
    world.ask(1, RepairReason::Leaving, &[]);
    let worker = world.start();
    until("it is replaced", async || world.names(1, &[1])).await;
    assert_eq!((world.held(1).await, world.is_asked(1)), (30, false));
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_dropped_meanwhile_leaves_a_note_of_the_copy() {
    let world = World::new();
    world.write(1, 30, &[2, 3, 4]).await;
    let before = vec![ledger(1, &[(0, &[2, 3, 4])], 30)];
    world.page(before);
    world.lose(4);
    for id in [2, 3] {
        world.peers.fake(id).faults().hold_answers();
    }
    world.ask(1, RepairReason::Lost, &[4]);
    let worker = world.start();
    until("it copies", async || [2, 3].iter().any(|id| world.peers.fake(*id).faults().held() > 0)).await;
    assert_eq!(world.strays(1), [MEMBER], "noted before the first byte");
    world.page(vec![]);
    for id in [2, 3] {
        world.peers.fake(id).faults().release_answers();
    }
    until("the task goes", async || !world.is_asked(1)).await;
    assert_eq!(world.ledger(1), None, "what was dropped does not come back");
    assert_eq!(world.strays(1), [MEMBER], "the auditor has it deleted");
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_was_decided_before_the_swap_does_not_happen() {
    let world = World::new();
    world.write(1, 30, &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 30)]);
    let seen = world.metadata.peek(&key::closed_page(P, 0)).expect("there");
    world.lose(4);
    world.ask(1, RepairReason::Lost, &[4]);
    let worker = world.start();
    until("it is named", async || world.names(1, &[1, 2, 3])).await;
    // Whoever drops it names those who hold it, as it saw the page: it must look again.
    let conditions = vec![Condition::Version(seen.key.clone(), seen.version)];
    let drop = Transaction { conditions, operations: vec![Operation::Delete(seen.key)], request: None };
    let outcome = world.metadata.service().transact(drop).await.expect("answered");
    assert!(matches!(outcome, Written::Conflict { .. }));
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_changes_meanwhile_is_judged_again() {
    let world = World::new();
    world.write(1, 30, &[2, 3, 4]).await;
    let lacking = ledger(1, &[(0, &[2, 3, 4])], 30);
    world.page(vec![lacking.clone()]);
    world.lose(4);
    for id in [2, 3] {
        world.peers.fake(id).faults().hold_answers();
    }
    world.ask(1, RepairReason::Lost, &[4]);
    let worker = world.start();
    until("it copies", async || [2, 3].iter().any(|id| world.peers.fake(*id).faults().held() > 0)).await;
    // The owner closes another ledger into the same page.
    world.page(vec![lacking, ledger(2, &[(0, &[1, 2, 3])], 0)]);
    for id in [2, 3] {
        world.peers.fake(id).faults().release_answers();
    }
    until("it is named", async || world.names(1, &[1, 2, 3])).await;
    assert!(world.names(2, &[1, 2, 3]), "and nothing else was touched");
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_came_back_is_not_replaced() {
    let world = World::new();
    world.write(1, 30, &[2, 3, 4]).await;
    world.write(2, 30, &[2, 3, 5]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 30), ledger(2, &[(0, &[2, 3, 5])], 30)]);
    world.lose(5);
    // The auditor thought that bookie 4 was lost, too.
    world.ask(1, RepairReason::Lost, &[4, 5]);
    let worker = world.start();
    until("the task is found needless", async || !world.is_asked(1)).await;
    world.ask(2, RepairReason::Lost, &[4, 5]);
    until("the other is done", async || world.names(2, &[1, 2, 3])).await;
    assert!(world.names(1, &[2, 3, 4]));
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_bookie_has_claimed_is_left_to_it() {
    let world = World::new();
    world.write(1, 30, &[2, 3, 4]).await;
    world.write(2, 30, &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 30), ledger(2, &[(0, &[2, 3, 4])], 30)]);
    world.lose(4);
    let session = world.metadata.service().open_session(PATIENCE).await.expect("opens");
    let claim = RepairClaim { bookie: first(5), copied: 0, total: 1, since: Timestamp(0) };
    let (key, value) = (key::repairing(L), encode(&claim));
    let operations = vec![Operation::Put { key, value, session: Some(session) }];
    world.metadata.service().transact(Transaction { operations, ..Transaction::default() }).await.expect("ok");
    world.ask(1, RepairReason::AtRisk, &[4]);
    world.ask(2, RepairReason::Lost, &[4]);
    let worker = world.start();
    until("the less urgent one", async || world.names(2, &[1, 2, 3])).await;
    assert!(world.names(1, &[2, 3, 4]));
    world.metadata.expire(session);
    until("the claim has gone", async || world.names(1, &[1, 2, 3])).await;
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_expired_is_opened_again() {
    let world = World::new();
    let worker = world.start();
    until("it has a session", async || !world.metadata.sessions().is_empty()).await;
    world.write(1, 30, &[2, 3, 4]).await;
    world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 30)]);
    world.lose(4);
    let expired = world.metadata.sessions();
    expired.iter().for_each(|session| world.metadata.expire(*session));
    world.metadata.end_watches();
    world.ask(1, RepairReason::Lost, &[4]);
    until("it is named", async || world.names(1, &[1, 2, 3])).await;
    world.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_lost_change_nothing_in_the_end() {
    for nth in 0..24 {
        let world = World::new();
        world.write(1, 3, &[2, 3, 4]).await;
        world.page(vec![ledger(1, &[(0, &[2, 3, 4])], 3)]);
        world.lose(4);
        world.ask(1, RepairReason::Lost, &[4]);
        (0..nth).for_each(|_| world.metadata.faults().push(protocol::testing::Fault::Pass));
        world.metadata.faults().lose_next_answer();
        let worker = world.start();
        until("it is named", async || world.names(1, &[1, 2, 3])).await;
        until("the task is gone", async || !world.is_asked(1)).await;
        until("no claim is left", async || world.metadata.peek_all(prefix::REPAIRING).is_empty()).await;
        assert_eq!((world.held(1).await, world.strays(1)), (3, vec![first(4)]), "call {nth}");
        world.stop(worker).await;
    }
}

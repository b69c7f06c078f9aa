//! The auditor over a metadata service in memory, with a clock that the test moves.

use super::{super::Controller, *};
use protocol::{
    cluster::ClusterSnapshot,
    id::{BookieId, EntryId, Incarnation, LeaderEpoch, LedgerId, LedgerKey, Offset, Timestamp},
    ledger::{
        metadata::{BookieMember, Fragment, LedgerMetadata, LedgerState},
        quorum::Quorum,
    },
    model::{
        BookieRecord, BookieState, ClosedLedger, ClosedPage, ClusterRecord, Cookie, DeadLedger, Decommission,
        HeadLedger, PartitionRecord, Record, RepairReason, RepairTask, StrayCopies, TopicRecord, decode, key,
    },
    runtime::Tasks,
    testing::{FakeMetadata, ManualClock},
    topic::{PartitionId, TopicId, TopicName},
};
use std::collections::BTreeMap;
use uuid::Uuid;

const GRACE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
const P: PartitionId = PartitionId { topic: TopicId(Uuid::from_u128(1)), index: 0 };

fn member(id: u32, incarnation: u64) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(incarnation) }
}

fn first(id: u32) -> BookieMember {
    member(id, 1)
}

fn ledger(id: u64, ensemble: &[BookieMember]) -> LedgerMetadata {
    let quorum = Quorum::of_replication(ensemble.len() as u8, 1).expect("legal");
    LedgerMetadata::open(LedgerId(id), LedgerKey(9), quorum, ensemble.to_vec(), Timestamp(0))
}

fn closed(id: u64, ensemble: &[BookieMember]) -> ClosedLedger {
    let state = LedgerState::Closed { last_entry: Some(EntryId(9)), length: 1_000 };
    ClosedLedger {
        ledger: LedgerMetadata { state, ..ledger(id, ensemble) },
        epoch: LeaderEpoch(0),
        base_offset: Offset(0),
        end_offset: Offset(10),
        max_timestamp: Timestamp::NONE,
        last_index: None,
        closed_at: Timestamp(0),
    }
}

/// A cluster without anything but metadata.
struct World {
    metadata: FakeMetadata,
    clock: ManualClock,
    tasks: Tasks,
}

impl World {
    /// Bookies 1 to `bookies` live; the auditor has not been started.
    fn new(bookies: u32) -> Self {
        let world = Self { metadata: FakeMetadata::new(), clock: ManualClock::default(), tasks: Tasks::default() };
        let cluster = ClusterRecord { cluster_id: "cluster".into(), created_at: Timestamp(0) };
        world.metadata.put(key::cluster(), &cluster);
        (1..=bookies).for_each(|id| world.join(first(id)));
        world
    }

    async fn start(&self) {
        let config = AuditConfig { grace: GRACE, interval: Duration::from_secs(600) };
        let view = ClusterView::start(self.metadata.service(), &self.tasks).await.expect("reads");
        Controller::start_with(self.metadata.service(), view, Arc::new(self.clock.clone()), config, &self.tasks);
    }

    async fn stop(self) {
        assert!(self.tasks.stop(PATIENCE).await);
    }

    fn join(&self, member: BookieMember) {
        let (cluster_id, instance) = ("cluster".into(), Uuid::nil());
        let cookie = Cookie { cluster_id, bookie: member.id, incarnation: member.incarnation, instance };
        self.metadata.put(key::cookie(member.id), &cookie);
        self.metadata.put(key::bookie(member.id), &BookieRecord::new(member, BookieState::Writable));
    }

    fn leave(&self, id: u32) {
        self.metadata.delete(key::bookie(BookieId(id)));
    }

    fn page(&self, number: u32, ledgers: Vec<ClosedLedger>) {
        self.metadata.put(key::closed_page(P, number), &ClosedPage { ledgers });
    }

    fn order(&self, member: BookieMember, keeps_id: bool) {
        let order = Decommission { member, keeps_id, since: Timestamp(0), total_bytes: None, obstacle: None };
        self.metadata.put(key::decommission(member.id), &order);
    }

    fn read<R: Record>(&self, key: &str) -> Option<R> {
        self.metadata.peek(key).map(|item| decode(&item.value).expect("a record"))
    }

    fn task(&self, ledger: u64) -> Option<RepairTask> {
        self.read(&key::repair(LedgerId(ledger)))
    }

    fn obstacle(&self, id: u32) -> Option<String> {
        self.read::<Decommission>(&key::decommission(BookieId(id))).and_then(|order| order.obstacle)
    }
}

async fn until(what: &str, wanted: impl Fn() -> bool) {
    let look = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !wanted() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookie_that_is_gone_is_waited_for_and_then_replaced() {
    let world = World::new(4);
    world.page(0, vec![closed(1, &[first(1), first(2), first(3)]), closed(2, &[first(1), first(2), first(4)])]);
    world.start().await;
    world.leave(3);
    // Bookie 2 comes back without its data: that is known at once, and shows that this state was judged.
    world.join(member(2, 2));
    until("the ledgers of bookie 2 need repair", || world.task(1).is_some() && world.task(2).is_some()).await;
    let task = world.task(1).expect("asked for");
    assert_eq!((task.partition, task.page, task.reason, task.bytes), (P, 0, RepairReason::AtRisk, 1_000));
    assert!(!task.takers.is_empty() && task.lost.is_empty(), "bookie 3 may come back: {task:?}");
    assert_eq!(world.task(2).map(|t| t.reason), Some(RepairReason::Lost));
    world.clock.advance(GRACE);
    until("bookie 3 is lost", || world.task(1).is_some_and(|t| t.lost == [first(3)] && t.bytes == 2_000)).await;
    world.join(first(3));
    until("bookie 3 is back", || world.task(1).is_some_and(|t| t.lost.is_empty() && t.bytes == 1_000)).await;
    // Repaired: the page says so, and the tasks go.
    let whole = vec![closed(1, &[first(1), member(2, 2), first(3)]), closed(2, &[first(1), member(2, 2), first(4)])];
    world.page(0, whole);
    until("the tasks go", || world.task(1).is_none() && world.task(2).is_none()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_follow_the_pages() {
    let world = World::new(4);
    world.start().await;
    // A ledger that was written with too few copies, then closed while the auditor runs.
    let mut thin = closed(1, &[first(1)]);
    thin.ledger.wanted_write = 3;
    world.page(0, vec![thin.clone()]);
    until("copies are wanted", || world.task(1).is_some_and(|t| t.reason == RepairReason::Copies)).await;
    assert_eq!(world.task(1).map(|t| (t.bytes, t.takers.len())), Some((2_000, 3)));
    // Somebody removes the task although work is left.
    world.metadata.delete(key::repair(LedgerId(1)));
    until("it is written again", || world.task(1).is_some()).await;
    // The watches end; what happens meanwhile is found by the audit that follows.
    world.metadata.end_watches();
    world.page(1, vec![ClosedLedger { ledger: LedgerMetadata { id: LedgerId(2), ..thin.ledger.clone() }, ..thin }]);
    until("the audit goes on", || world.task(2).is_some()).await;
    world.metadata.delete(key::closed_page(P, 1));
    world.metadata.delete(key::closed_page(P, 0));
    until("what was dropped needs nothing", || world.task(1).is_none() && world.task(2).is_none()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_auditors_agree() {
    let world = World::new(4);
    let ledgers = (0..300).map(|id| closed(id, &[first(1), first(2), member(3, 0)])).collect();
    world.page(0, ledgers);
    world.start().await;
    world.start().await;
    until("all are asked for", || (0..300).all(|id| world.task(id).is_some())).await;
    world.page(0, (0..300).map(|id| closed(id, &[first(1), first(2), first(3)])).collect());
    until("none is asked for", || world.metadata.peek_all("repairs/").is_empty()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_carried_out_when_nothing_names_the_bookie_any_more() {
    let world = World::new(3);
    let all = [first(1), first(2), first(3)];
    world.page(0, vec![closed(1, &all)]);
    let mut topic = PartitionRecord::new(None);
    topic.head = Some(HeadLedger { ledger: ledger(2, &all), base_offset: Offset(0), epoch: LeaderEpoch(0) });
    world.metadata.put(key::partition(P), &topic);
    let name = TopicName::new("orders").expect("legal");
    let (config, created_at) = (BTreeMap::new(), Timestamp(0));
    let record =
        TopicRecord { id: P.topic, name: name.clone(), partitions: 1, replication_factor: 3, config, created_at };
    world.metadata.put(key::topic(&name), &record);
    let held_by = vec![first(1), first(3)];
    world.metadata.put(key::dead(LedgerId(7)), &DeadLedger { ledger: LedgerId(7), held_by, since: Timestamp(0) });
    let held_by = vec![first(3)];
    let stray = StrayCopies { partition: P, page: 0, ledger: LedgerId(1), held_by };
    world.metadata.put(key::stray(LedgerId(1)), &stray);
    world.start().await;

    world.order(first(3), false);
    let told = |part: &str| world.obstacle(3).is_some_and(|o| o.contains(part));
    until("there is no other bookie", || told("too few bookies")).await;
    assert_eq!(world.task(1), None, "nobody could take it");
    world.join(first(4));
    until("there is one now", || world.task(1).is_some_and(|t| t.takers == [first(4)])).await;
    until("the obstacle goes", || world.obstacle(3).is_none()).await;
    let order: Decommission = world.read(&key::decommission(BookieId(3))).expect("stands");
    assert_eq!(order.total_bytes, Some(1_000));

    world.page(0, vec![closed(1, &[first(1), first(2), first(4)])]);
    until("the head is left", || told("1 partitions still write")).await;
    assert!(world.read::<Cookie>(&key::cookie(BookieId(3))).is_some());
    topic.head = None;
    world.metadata.put(key::partition(P), &topic);
    until("it is taken out", || world.metadata.peek(&key::decommission(BookieId(3))).is_none()).await;
    assert_eq!(world.read::<Cookie>(&key::cookie(BookieId(3))), None);
    let dead: DeadLedger = world.read(&key::dead(LedgerId(7))).expect("stands");
    assert_eq!((dead.held_by, world.metadata.peek(&key::stray(LedgerId(1)))), (vec![first(1)], None));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_bookie_keeps_its_id_and_what_cannot_be_read_keeps_an_order_open() {
    let world = World::new(4);
    world.leave(3);
    world.order(first(3), true);
    let unreadable = key::closed_page(P, 5);
    let value = bytes::Bytes::from_static(&[255]);
    let put = protocol::service::metadata::Operation::Put { key: unreadable.clone(), value, session: None };
    let broken = protocol::service::metadata::Transaction { operations: vec![put], ..Default::default() };
    world.metadata.service().transact(broken).await.expect("written");
    world.page(0, vec![closed(1, &[first(1), first(2), first(3)])]);
    world.start().await;
    until("no grace for who is given up", || world.task(1).is_some_and(|t| t.reason == RepairReason::Lost)).await;
    world.page(0, vec![closed(1, &[first(1), first(2), first(4)])]);
    until("it is told", || world.obstacle(3).is_some_and(|o| o.contains("cannot be read"))).await;
    world.metadata.delete(unreadable);
    until("it is done", || world.metadata.peek(&key::decommission(BookieId(3))).is_none()).await;
    assert!(world.read::<Cookie>(&key::cookie(BookieId(3))).is_some(), "a replacement takes the id over");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_the_only_copy_says_so() {
    let world = World::new(3);
    world.leave(3);
    world.page(0, vec![closed(1, &[first(3)])]);
    world.order(first(3), false);
    world.start().await;
    until("it is told", || world.obstacle(3).is_some_and(|o| o.contains("no other live bookie"))).await;
    assert_eq!(world.task(1), None);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stray_copies_of_dropped_ledgers_are_deleted_and_others_are_kept() {
    let world = World::new(4);
    let stray = |ledger: u64, held_by: Vec<BookieMember>| {
        let stray = StrayCopies { partition: P, page: 0, ledger: LedgerId(ledger), held_by };
        world.metadata.put(key::stray(LedgerId(ledger)), &stray);
    };
    world.page(0, vec![closed(1, &[first(1), first(2), first(3)]), closed(4, &[first(1), first(2), first(3)])]);
    stray(1, vec![first(4), first(3), member(2, 0)]);
    stray(2, vec![first(4)]);
    stray(3, vec![first(4), member(2, 0)]);
    stray(4, vec![member(2, 0), first(1)]);
    let dead = DeadLedger { ledger: LedgerId(3), held_by: vec![first(1)], since: Timestamp(5) };
    world.metadata.put(key::dead(LedgerId(3)), &dead);
    world.start().await;
    let left = |ledger: u64| world.read::<StrayCopies>(&key::stray(LedgerId(ledger))).map(|s| s.held_by);
    let dead = |ledger: u64| world.read::<DeadLedger>(&key::dead(LedgerId(ledger))).map(|d| d.held_by);
    until("swept", || left(2).is_none() && left(3).is_none() && left(4).is_none()).await;
    assert_eq!(left(1), Some(vec![first(4)]), "alive: named ones and earlier lives need no note");
    assert_eq!((dead(2), dead(3)), (Some(vec![first(4)]), Some(vec![first(1), first(4)])));
    assert_eq!((dead(1), dead(4)), (None, None));
    // Later it is dropped, too: found by the next audit of everything.
    world.page(0, vec![]);
    world.clock.advance(Duration::from_secs(600));
    until("swept again", || left(1).is_none()).await;
    assert_eq!(dead(1), Some(vec![first(4)]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_empty_proves_nothing() {
    let world = World::new(4);
    world.page(0, vec![closed(1, &[first(1), first(2), first(3)])]);
    let view = ClusterView::fixed(ClusterSnapshot::default());
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let auditor = Auditor::new(world.metadata.service(), view, clock, AuditConfig::default());
    let audit = Audit::new(auditor.desk.clone(), auditor.metrics.clone());
    let absences = Absences::new(GRACE);
    let mut known = Known { absences, roster: Roster::default(), audit, audited_at: None, attended: None, looks: 0 };
    auditor.look(&mut known, &mut None).await.expect("looked");
    world.clock.advance(GRACE * 2);
    auditor.look(&mut known, &mut None).await.expect("looked");
    assert_eq!((known.audited_at, world.task(1)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_is_asked_again() {
    let world = World::new(4);
    world.page(0, vec![closed(1, &[first(1), first(2), member(3, 0)])]);
    world.start().await;
    until("asked for", || world.task(1).is_some()).await;
    let down = protocol::service::metadata::MetadataError::Unavailable { reason: "down".into() };
    world.metadata.faults().always(Some(protocol::testing::Fault::Refuse(down)));
    world.metadata.end_watches();
    let mut thin = closed(2, &[first(1)]);
    thin.ledger.wanted_write = 2;
    thin.ledger.fragments.push(Fragment { first_entry: EntryId(10), ensemble: vec![first(4)] });
    world.page(1, vec![thin]);
    world.metadata.faults().always(None);
    until("found after it came back", || world.task(2).is_some()).await;
    world.stop().await;
}

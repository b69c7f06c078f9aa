//! What counts as gone, what is said, and what is written. What bookies are asked is in `tests/cluster.rs`.

use super::*;
use protocol::{
    id::{BookieId, Incarnation, LedgerId, LedgerKey, NodeId, Registration, Timestamp},
    ledger::{
        metadata::{Fragment, LedgerMetadata},
        quorum::Quorum,
    },
    model::{BookieState, ClusterRecord, HeadLedger, Owner, PartitionRecord},
    runtime::{TaskKind, Tasks},
    testing::FakeMetadata,
    topic::{PartitionId, TopicId},
    wire::metadata::MetadataServer,
};
use uuid::Uuid;

const P: PartitionId = PartitionId { topic: TopicId(Uuid::nil()), index: 2 };

fn member(id: u32) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(4) }
}

/// A head on bookies 1, 2 and 3, acknowledged by two.
fn head() -> Owned {
    let quorum = Quorum::new(3, 3, 2).expect("legal");
    let ensemble = [1, 2, 3].map(member).to_vec();
    let mut ledger = LedgerMetadata::open(LedgerId(17), LedgerKey(1), quorum, ensemble, Timestamp(0));
    ledger.fragments.insert(0, Fragment { first_entry: EntryId(0), ensemble: [4, 5, 6].map(member).to_vec() });
    ledger.fragments[1].first_entry = EntryId(8);
    let (epoch, base_offset) = (LeaderEpoch(3), Offset(1000));
    Owned { topic: "orders".into(), partition: P, ledger, epoch, base_offset, end_offset: None }
}

/// A cluster whose metadata is a fake, over a real connection.
struct World {
    fake: FakeMetadata,
    client: ClusterClient,
    _tasks: Tasks,
}

impl World {
    async fn new() -> Self {
        let (tasks, fake) = (Tasks::default(), FakeMetadata::new());
        fake.put(key::cluster(), &ClusterRecord { cluster_id: "abc".into(), created_at: Timestamp(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = MetadataServer::of(fake.service(), &tasks).serve(listener);
        tasks.spawn(TaskKind::Background, "server", async move { serving.await.map_err(|e| e.to_string()) });
        let client = ClusterClient::connect(&address).await.expect("connects");
        Self { fake, client, _tasks: tasks }
    }

    fn cookie(&self, id: u32, incarnation: u64) {
        let (bookie, incarnation) = (BookieId(id), Incarnation(incarnation));
        let cookie = Cookie { cluster_id: "abc".into(), bookie, incarnation, instance: Uuid::nil() };
        self.fake.put(key::cookie(bookie), &cookie);
    }

    fn order(&self, member: BookieMember) {
        let (keeps_id, since, total_bytes, obstacle) = (true, Timestamp(0), None, None);
        let order = model::Decommission { member, keeps_id, since, total_bytes, obstacle };
        self.fake.put(key::decommission(member.id), &order);
    }

    fn register(&self, member: BookieMember) {
        self.fake.put(key::bookie(member.id), &BookieRecord::new(member, BookieState::Writable));
    }

    async fn gone(&self, id: u32) -> Option<Gone> {
        why_gone(&self.client, member(id)).await.expect("metadata answers")
    }

    fn record(&self) -> PartitionRecord {
        decode(&self.fake.peek(&key::partition(P)).expect("a record").value).expect("a partition")
    }
}

#[tokio::test]
async fn a_bookie_is_gone_only_if_something_says_so() {
    let world = World::new().await;
    assert!(world.gone(1).await.is_some_and(|gone| gone.why.contains("taken out")), "no cookie is left of it");
    world.cookie(1, 4);
    assert!(world.gone(1).await.is_none(), "down is not gone");
    world.order(BookieMember { incarnation: Incarnation(3), ..member(1) });
    assert!(world.gone(1).await.is_none(), "the order is for another life");
    world.order(member(1));
    assert!(world.gone(1).await.is_some_and(|gone| gone.why.contains("ordered")));
    world.register(member(1));
    assert!(world.gone(1).await.is_none(), "it lives");
    world.cookie(1, 5);
    assert!(world.gone(1).await.is_some_and(|gone| gone.why.contains("empty disk")));
}

#[tokio::test]
async fn nothing_is_given_up_that_can_be_recovered() {
    let world = World::new().await;
    (1..=6).for_each(|id| world.cookie(id, 4));
    world.cookie(2, 9);
    let refused = Loss::look(&world.client, &head()).await.expect_err("two are left").to_string();
    assert!(refused.contains("that are gone (2)") && refused.contains("bookie replace"), "{refused}");
    world.cookie(3, 9);
    let refused = Loss::look(&world.client, &head()).await.expect_err("bookie 1 is silent").to_string();
    assert!(refused.contains("bookie 1 does not say what it holds"), "{refused}");
}

#[tokio::test]
async fn what_is_given_up_is_what_was_shown() {
    let world = World::new().await;
    let mut found = head();
    found.ledger.fragments.remove(0);
    found.ledger.fragments[0].first_entry = EntryId(0);
    let owner = Owner { node: NodeId(1), registration: Registration(1) };
    let head = HeadLedger { ledger: found.ledger.clone(), base_offset: found.base_offset, epoch: found.epoch };
    let record = PartitionRecord { head: Some(head), ..PartitionRecord::new(Some(owner)) };
    world.fake.put(key::partition(P), &record);
    (1..=3).for_each(|id| world.cookie(id, 9));
    let loss = Loss::look(&world.client, &found).await.expect("all are gone");
    assert!(!loss.leaves_something());
    world.cookie(2, 10);
    let refused = loss.accept(&world.client).await.expect_err("bookie 2 changed").to_string();
    assert!(refused.contains("look again"), "{refused}");
    assert_eq!(world.record(), record, "nothing was given up");
    let loss = Loss::look(&world.client, &found).await.expect("all are gone");
    assert_eq!(loss.accept(&world.client).await.expect("given up"), LeaderEpoch(1));
    assert_eq!((world.record().epoch, world.record().head), (LeaderEpoch(1), None));
    assert!(loss.accept(&world.client).await.is_err(), "once");
}

#[test]
fn the_loss_is_told_in_words() {
    let gone = |why| Gone { why, proof: Vec::new() };
    let lives = BTreeMap::from([(member(2), gone("it was taken out")), (member(3), gone("it came back"))]);
    let Remnant::Part(ledger) = remnant(&head().ledger, |m| lives.contains_key(&m)) else { panic!("bookie 1 is left") };
    let left = |last: Option<u64>, end, confirmed: Option<u64>| {
        let (last, confirmed) = (last.map(EntryId), confirmed.map(EntryId));
        Some(Left { ledger: Owned { ledger: (*ledger).clone(), ..head() }, last, end: Offset(end), confirmed })
    };
    let mut loss = Loss { found: head(), gone: lives, left: left(Some(11), 1100, Some(13)) };
    let expected = "ledger 17 is written for orders/2, from offset 1000 on\n\
        bookie 2 is gone: it was taken out\n\
        bookie 3 is gone: it came back\n\
        left: entries 0-11, offsets 1000-1099, on bookie 1\n\
        lost: every record from offset 1100 on, at least entries 12-13, which were acknowledged\n\
        new records get offset 1100 and those after it, which others may have had before";
    assert_eq!(loss.words(), expected);
    loss.left = left(Some(11), 1100, Some(10));
    assert!(loss.words().contains("from offset 1100 on, if any was acknowledged"), "{}", loss.words());
    loss.left = None;
    let words = loss.words();
    assert!(words.contains("left: nothing") && words.contains("every record from offset 1000 on"), "{words}");
}

#[test]
fn what_is_left_ends_at_the_first_gap() {
    let end = |begin, held: &[RangeInclusive<u64>]| dense_end(EntryId(begin), held.to_vec()).map(|entry| entry.0);
    assert_eq!(end(0, &[]), None);
    assert_eq!(end(8, &[]), Some(7), "what comes before is confirmed");
    assert_eq!(end(8, &[10..=12]), Some(7));
    assert_eq!(end(8, &[9..=12, 0..=9, 14..=15]), Some(12), "several bookies make up for each other");
}

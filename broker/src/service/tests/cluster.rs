//! Several bookies under one broker: one dies, hangs, is in limbo or leaves, comes back; ledgers move.

use super::{
    Desk,
    desk::{append_to, bases, create, eventually, fetch_from, in_time},
};
use crate::{BrokerConfig, Copies};
use protocol::{
    id::{BookieId, Incarnation, Offset, Timestamp},
    ledger::metadata::{BookieMember, Hole},
    model::{BookieState, ClosedPage, Cookie, Decommission, decode, key, prefix},
    service::{
        bookie::{BookieService, ReadEntries},
        broker::{AppendError, BrokerService},
    },
    testing::{FakeBookie, Fault, batches},
    topic::PartitionId,
};
use std::time::Duration;
use uuid::Uuid;

fn member(id: u32) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
}

fn cluster_config(config: &mut BrokerConfig) {
    config.copies = Copies::AsAsked;
    config.bookie_grace = Duration::from_millis(300);
}

/// A broker with this many bookies.
async fn cluster(bookies: u32) -> Desk {
    let desk = Desk::start_with(cluster_config).await;
    (1..bookies).for_each(|id| desk.bookies.insert(FakeBookie::numbered(id)));
    desk
}

/// A topic of one partition that wants three copies.
async fn topic(desk: &Desk, name: &str, config: &[(&str, &str)]) -> PartitionId {
    let mut wanted = create(name, 1, config);
    wanted.replication_factor = Some(3);
    let created = desk.broker.create_topic(wanted).await.expect("created");
    let id = PartitionId { topic: created.id, index: 0 };
    desk.open(&desk.broker, id).await;
    id
}

fn ensemble(desk: &Desk, id: PartitionId) -> Vec<BookieMember> {
    desk.record(id).head.expect("the partition has a head").ledger.fragments[0].ensemble.clone()
}

/// Waits until the head is closed; nothing is written meanwhile.
async fn until_closed(desk: &Desk, id: PartitionId, count: usize) {
    eventually("the head to end", || desk.closed(id).len() == count && desk.record(id).head.is_none()).await;
}

#[tokio::test]
async fn what_a_hung_bookie_lacks_is_written_down_when_its_ledger_ends() {
    let desk = cluster(3).await;
    let id = topic(&desk, "orders", &[("segment.bytes", "200")]).await;
    desk.write(id, &["a"]).await;
    let ledger = desk.head(id);
    let hung = ensemble(&desk, id)[1];
    let fake = desk.bookies.fake(hung.id.0);
    fake.wait_entries(ledger, 1).await;
    fake.faults().always(Some(Fault::Hang));
    let value = "x".repeat(300);
    for n in 1..4 {
        assert_eq!(desk.write(id, &[&value]).await, n, "nobody waits for it");
    }
    eventually("the ledger to end", || !desk.closed(id).is_empty()).await;
    let closed = desk.closed(id);
    assert_eq!(closed[0].ledger.id, ledger);
    let holes = &closed[0].ledger.holes;
    assert!(holes.iter().any(|h| h.member == hung && h.entries.contains(&1)), "{holes:?}");
    assert!(holes.iter().all(|h| h.member == hung && *h.entries.start() >= 1), "{holes:?}");
    fake.faults().always(None);
    assert_eq!(desk.bases(id, 0).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn with_one_of_three_dead_writing_goes_on_also_across_a_restart() {
    let desk = cluster(3).await;
    let id = topic(&desk, "orders", &[]).await;
    desk.write(id, &["a"]).await;
    desk.bookies.set_reachable(2, false);
    desk.write(id, &["b"]).await;
    // The same broker, started again.
    let again = desk.another_with(1, cluster_config).await;
    desk.assign(id, &again).await;
    assert_eq!(append_to(&again, id, batches::plain(&["c"])).await.expect("appended").base_offset, Offset(2));
    let closed = &desk.closed(id)[0];
    assert!(closed.ledger.holes.iter().any(|hole| hole.member == member(2)), "{:?}", closed.ledger.holes);
    let head = desk.record(id).head.expect("written").ledger;
    assert_eq!((head.quorum.write(), head.quorum.ack(), head.wanted_write), (2, 2, 3));
    assert_eq!(bases(&fetch_from(&again, id, 0).await.expect("fetched")), [0, 1, 2]);
    // It is back: the degraded head ends, and the next one has all its copies.
    desk.bookies.set_reachable(2, true);
    until_closed(&desk, id, 2).await;
    assert_eq!(append_to(&again, id, batches::plain(&["d"])).await.expect("appended").base_offset, Offset(3));
    assert_eq!(desk.record(id).head.expect("written").ledger.quorum.write(), 3);
}

#[tokio::test]
async fn fewer_than_the_ack_quorum_write_nothing() {
    let desk = cluster(3).await;
    let id = topic(&desk, "orders", &[]).await;
    (1..3).for_each(|id| desk.bookies.set_reachable(id, false));
    let refused = desk.append(id, batches::plain(&["a"])).await;
    assert_eq!(refused, Err(AppendError::NotEnoughReplicas { available: 1, required: 2 }));
    desk.bookies.set_reachable(1, true);
    assert_eq!(desk.write(id, &["a"]).await, 0);
}

#[tokio::test]
async fn a_takeover_waits_neither_for_a_dead_bookie_nor_for_a_hung_one() {
    for hangs in [false, true] {
        let desk = cluster(3).await;
        let id = topic(&desk, "orders", &[]).await;
        for value in ["a", "b", "c"] {
            desk.write(id, &[value]).await;
        }
        match hangs {
            true => desk.bookies.fake(0).faults().always(Some(Fault::Hang)),
            false => desk.bookies.set_reachable(0, false),
        }
        let next = desk.another_with(2, cluster_config).await;
        desk.assign(id, &next).await;
        // Four deadlines of one call would be longer than a test may wait.
        desk.open(&next, id).await;
        let appended = in_time("an append", append_to(&next, id, batches::plain(&["d"]))).await;
        assert_eq!(appended.expect("appended").base_offset, Offset(3), "hangs: {hangs}");
        assert_eq!(bases(&fetch_from(&next, id, 0).await.expect("fetched")), [0, 1, 2, 3]);
    }
}

#[tokio::test]
async fn a_head_without_writes_leaves_a_bookie_that_stays_away() {
    let desk = cluster(4).await;
    let id = topic(&desk, "orders", &[]).await;
    desk.write(id, &["a"]).await;
    let ledger = desk.head(id);
    let lost = ensemble(&desk, id)[0];
    desk.bookies.set_reachable(lost.id.0, false);
    until_closed(&desk, id, 1).await;
    assert_eq!((desk.closed(id)[0].ledger.id, desk.dead().len()), (ledger, 0));
    assert_eq!(desk.write(id, &["b"]).await, 1);
    assert!(!ensemble(&desk, id).contains(&lost));
    assert_eq!(ensemble(&desk, id).len(), 3);
}

#[tokio::test]
async fn a_head_leaves_a_bookie_in_limbo_and_one_that_is_taken_out() {
    let desk = cluster(4).await;
    let id = topic(&desk, "orders", &[]).await;
    desk.write(id, &["a"]).await;
    let limbo = ensemble(&desk, id)[0];
    desk.bookies.set_state(limbo.id.0, BookieState::Limbo);
    until_closed(&desk, id, 1).await;
    desk.bookies.set_state(limbo.id.0, BookieState::Writable);

    let id = topic(&desk, "payments", &[]).await;
    desk.write(id, &["a"]).await;
    let leaving = ensemble(&desk, id)[0];
    let since = Timestamp(0);
    let order = Decommission { member: leaving, keeps_id: false, since, total_bytes: None, obstacle: None };
    desk.metadata.put(key::decommission(leaving.id), &order);
    until_closed(&desk, id, 1).await;
    assert_eq!(desk.write(id, &["b"]).await, 1);
    assert!(!ensemble(&desk, id).contains(&leaving), "it says that it is writable, the order says otherwise");
}

#[tokio::test]
async fn a_head_that_ends_for_better_bookies_keeps_what_was_in_flight() {
    let desk = cluster(4).await;
    let id = topic(&desk, "orders", &[]).await;
    // The first entry is stored and not answered yet when one of its bookies dies.
    (0..4).for_each(|b| desk.bookies.fake(b).faults().hold_answers());
    let waiting = desk.broker.append(super::desk::request(id, batches::plain(&["a"])));
    eventually("the head", || desk.record(id).head.is_some()).await;
    let (ledger, lost) = (desk.head(id), ensemble(&desk, id)[0]);
    desk.bookies.set_reachable(lost.id.0, false);
    (0..4).for_each(|b| desk.bookies.fake(b).faults().release_answers());
    in_time("the append", waiting).await.expect("two of three have it");
    until_closed(&desk, id, 1).await;
    assert_eq!(desk.closed(id)[0].ledger.id, ledger);
    assert_eq!(desk.write(id, &["b"]).await, 1);
    assert_eq!(desk.bases(id, 0).await, [0, 1]);
}

/// Copies every closed ledger of a partition to other bookies, as repair does, and takes the old ones out of reach.
async fn move_ledgers(desk: &Desk, id: PartitionId, to: u32) {
    let fakes: Vec<FakeBookie> = (to..to + 3).map(FakeBookie::numbered).collect();
    fakes.iter().for_each(|fake| desk.bookies.insert(fake.clone()));
    for item in desk.metadata.peek_all(&prefix::closed_of(id)) {
        let mut page: ClosedPage = decode(&item.value).expect("a page");
        for closed in &mut page.ledgers {
            for fragment in &mut closed.ledger.fragments {
                let source = fragment.ensemble[0];
                let read = ReadEntries {
                    member: source,
                    ledger: closed.ledger.id,
                    first: fragment.first_entry,
                    max_count: 1_000,
                    max_bytes: u32::MAX,
                    fence: None,
                };
                let run = desk.bookies.fake(source.id.0).read_entries(read).await.expect("read");
                for fake in &fakes {
                    for entry in &run.entries {
                        let (member, key) = (fake.member(), closed.ledger.key);
                        let add =
                            protocol::service::bookie::AddEntry { member, key, recovery: true, entry: entry.clone() };
                        fake.add_entry(add).await.expect("copied");
                    }
                }
                fragment.ensemble = fakes.iter().map(FakeBookie::member).collect();
            }
        }
        desk.metadata.put(item.key, &page);
    }
    (0..to).for_each(|id| desk.bookies.set_reachable(id, false));
}

#[tokio::test]
async fn readers_follow_ledgers_that_repair_has_moved_however_often() {
    let desk = cluster(3).await;
    let id = topic(&desk, "orders", &[("segment.bytes", "200"), ("retention.ms", "-1")]).await;
    let value = "x".repeat(300);
    for _ in 0..4 {
        desk.write(id, &[&value]).await;
    }
    // A new owner has nothing of it in memory.
    let next = desk.another_with(2, |config| {
        cluster_config(config);
        config.cache_bytes = 0;
    });
    let next = next.await;
    desk.assign(id, &next).await;
    desk.open(&next, id).await;
    eventually("everything to be closed", || desk.record(id).head.is_none()).await;
    for to in [3, 6, 9] {
        move_ledgers(&desk, id, to).await;
        let mut offset = 0;
        while offset < 4 {
            let found = bases(&fetch_from(&next, id, offset).await.expect("the list is read again"));
            assert_eq!(found.first(), Some(&offset), "after the move to {to}");
            offset += found.len() as i64;
        }
    }
    let of = |fakes: std::ops::Range<u32>| move |m: &BookieMember| fakes.contains(&m.id.0);
    move_ledgers(&desk, id, 12).await;
    next.apply_retention().await;
    let shown = next.partition(id).expect("served").closed_members_for_tests();
    assert!(!shown.is_empty() && shown.iter().all(of(12..15)), "{shown:?}");
    let later = desk.another_with(3, cluster_config).await;
    desk.assign(id, &later).await;
    assert_eq!(append_to(&later, id, batches::plain(&["b"])).await.expect("appended").base_offset, Offset(4));
}

#[tokio::test]
async fn a_small_deployment_writes_as_many_copies_as_it_has_bookies_and_more_when_it_gets_more() {
    let desk = Desk::start().await;
    let cookie = |id| Cookie {
        cluster_id: "c".into(),
        bookie: BookieId(id),
        incarnation: Incarnation(1),
        instance: Uuid::nil(),
    };
    desk.metadata.put(key::cookie(BookieId(0)), &cookie(0));
    let id = topic(&desk, "orders", &[]).await;
    desk.write(id, &["a"]).await;
    let head = desk.record(id).head.expect("written").ledger;
    assert_eq!((head.quorum.write(), head.wanted_write), (1, 3));
    for id in 1..3 {
        desk.bookies.insert(FakeBookie::numbered(id));
        desk.metadata.put(key::cookie(BookieId(id)), &cookie(id));
    }
    until_closed(&desk, id, 1).await;
    assert_eq!(desk.write(id, &["b"]).await, 1);
    let head = desk.record(id).head.expect("written").ledger;
    assert_eq!((head.quorum.write(), head.quorum.ack(), head.wanted_write), (3, 2, 3));
    let holes: Vec<Hole> = desk.closed(id).into_iter().flat_map(|l| l.ledger.holes).collect();
    assert_eq!(holes, []);
}

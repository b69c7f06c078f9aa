//! Copies between bookies in memory: bookies 1 to 3 are sources, bookie 0 is this one.

use super::*;
use crate::store::conformance::entry;
use protocol::{
    id::{Lac, LedgerKey},
    service::bookie::FenceLedger,
    testing::{FakeBookie, FakeDirectory, Fault},
};
use std::sync::Arc;

const L: LedgerId = LedgerId(1);
const KEY: LedgerKey = LedgerKey(7);

struct World {
    peers: Arc<FakeDirectory>,
    ours: FakeBookie,
    service: Arc<dyn BookieService>,
}

impl World {
    /// Entries of these sizes, on these sources.
    async fn new(sizes: &[usize], on: &[u32]) -> Self {
        let peers = FakeDirectory::of(4);
        for id in on {
            let source = peers.fake(*id);
            for (n, size) in (0..).zip(sizes) {
                let entry = entry(L.0, n, &vec![n as u8; *size]);
                let add = AddEntry { member: source.member(), key: KEY, recovery: false, entry };
                source.service().add_entry(add).await.expect("stored");
            }
        }
        let ours = peers.fake(0);
        Self { service: ours.service(), ours, peers }
    }

    fn copy(&self, sources: &[u32]) -> Copy<'_> {
        let sources = sources.iter().map(|id| self.peers.fake(*id).member()).collect();
        let (bookie, member, peers) = (&*self.service, self.ours.member(), &*self.peers);
        Copy::new(Route { bookie, member, peers, ledger: L, key: KEY, sources })
    }

    /// Copies a run to its end; the bytes of its parts.
    async fn run(copy: &mut Copy<'_>, entries: RangeInclusive<u64>) -> Result<Vec<u64>, NoSource> {
        let mut parts = Vec::new();
        copy.begin(entries);
        while let Some(part) = copy.next().await? {
            parts.push(part.bytes());
            copy.store(part).await.expect("stored");
        }
        Ok(parts)
    }

    fn held(&self) -> Vec<u64> {
        self.ours.entries(L).iter().map(|entry| entry.0).collect()
    }
}

#[tokio::test]
async fn a_run_arrives_whole_and_in_small_parts() {
    let sizes = [[10_000; 30].as_slice(), &[300_000], &[10_000; 200]].concat();
    let world = World::new(&sizes, &[1]).await;
    let parts = World::run(&mut world.copy(&[1]), 5..=225).await.expect("copied");
    assert_eq!(world.held(), (5..=225).collect::<Vec<_>>(), "and nothing beside it");
    let large: Vec<_> = parts.iter().filter(|bytes| **bytes > PART as u64).collect();
    assert!(parts.len() > 10);
    assert!(matches!(large[..], [one] if *one < 310_000), "one entry alone may be larger: {parts:?}");
}

#[tokio::test]
async fn a_fenced_ledger_takes_copies() {
    let world = World::new(&[10; 3], &[1]).await;
    let fence = FenceLedger { member: world.ours.member(), ledger: L, key: KEY };
    world.service.fence_ledger(fence).await.expect("fenced");
    World::run(&mut world.copy(&[1]), 0..=2).await.expect("copied (A2)");
    assert_eq!(world.held(), [0, 1, 2]);
}

#[tokio::test]
async fn what_one_source_lacks_another_gives_and_what_none_has_is_named() {
    let world = World::new(&[10; 9], &[1, 2]).await;
    world.peers.fake(1).forget(L, EntryId(3));
    let mut copy = world.copy(&[1, 2]);
    World::run(&mut copy, 0..=8).await.expect("copied");
    assert_eq!(copy.take_detours(), 1, "the second goes on to serve");
    world.peers.fake(2).forget(L, EntryId(3));
    world.peers.set_reachable(1, false);
    let missing = World::run(&mut copy, 2..=8).await.expect_err("nobody has it");
    let problem = BookieError::NoSuchEntry(L, EntryId(3));
    assert_eq!(missing, NoSource { ledger: L, entry: EntryId(3), problem }, "what was said, not who was silent");
    World::run(&mut copy, 4..=8).await.expect("it goes on behind");
}

#[tokio::test]
async fn without_sources_nothing_is_known() {
    let world = World::new(&[10], &[1]).await;
    world.peers.set_reachable(1, false);
    for sources in [&[1][..], &[]] {
        let missing = World::run(&mut world.copy(sources), 0..=0).await.expect_err("nobody is there");
        assert!(matches!(missing.problem, BookieError::Unavailable { .. }));
    }
}

#[tokio::test]
async fn an_answer_ends_where_it_is_not_what_was_asked() {
    let world = World::new(&[], &[]).await;
    let copy = world.copy(&[1]);
    let open = |entries: &[(u64, u64)]| {
        let entries = entries.iter().map(|(ledger, n)| entry(*ledger, *n, b"x")).collect();
        let run = EntryRun { entries, lac: Lac::NONE };
        copy.open(world.ours.member(), &(4..=6), run).map(|sound| sound.len())
    };
    assert_eq!(open(&[(1, 4), (1, 5), (1, 6), (1, 7)]), Ok(3), "no more than was asked for");
    assert_eq!(open(&[(1, 4), (2, 5)]), Ok(1), "another ledger");
    assert_eq!(open(&[(1, 4), (1, 6)]), Ok(1), "a gap");
    assert!(matches!(open(&[(1, 5)]), Err(BookieError::BadEntry { .. })));
    assert!(matches!(open(&[]), Err(BookieError::Unknown { .. })));
}

#[tokio::test]
async fn who_hangs_gives_way() {
    let world = World::new(&[10; 2], &[1, 2]).await;
    world.peers.fake(1).faults().always(Some(Fault::Hang));
    let mut copy = Copy { patience: Duration::from_millis(10), ..world.copy(&[1, 2]) };
    World::run(&mut copy, 0..=1).await.expect("copied");
    assert_eq!((world.held(), copy.take_detours()), (vec![0, 1], 1));
    world.ours.faults().hang_next();
    copy.begin(0..=1);
    let part = copy.next().await.expect("served").expect("a part");
    assert!(matches!(copy.store(part).await, Err(BookieError::OutcomeUnknown { .. })), "and so does this bookie");
}

#[tokio::test]
async fn the_next_run_is_asked_for_before_this_one_is_stored() {
    let world = World::new(&[10_000; 200], &[1]).await;
    let mut copy = world.copy(&[1]);
    copy.begin(0..=199);
    let part = copy.next().await.expect("served").expect("a part");
    copy.store(part).await.expect("stored");
    world.peers.fake(1).forget(L, EntryId(120));
    while let Some(part) = copy.next().await.expect("it was on its way") {
        copy.store(part).await.expect("stored");
    }
    assert_eq!(world.held().len(), 200);
}

#[tokio::test]
async fn what_was_left_of_one_run_does_not_get_into_the_next() {
    let world = World::new(&[10_000; 200], &[1]).await;
    let mut copy = world.copy(&[1]);
    copy.begin(0..=199);
    drop(copy.next().await.expect("served"));
    World::run(&mut copy, 198..=199).await.expect("copied");
    assert_eq!(world.held(), [198, 199]);
}

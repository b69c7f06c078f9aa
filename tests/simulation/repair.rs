//! What a bookie does for the cluster in the background: takes copies that closed ledgers lack, fills what it should hold
//! and does not, heals itself, and deletes dead ledgers. What is lacking and who takes it is judged by the product's
//! repair rules; this file copies entries and makes the compare-and-swaps.

use crate::{
    chain::PARTITION,
    heal, metadata,
    network::{self, Request, Response},
    node,
    trace::tell,
    world::World,
};
use bookie::testing::InlineBookie;
use protocol::{
    id::{BookieId, EntryId},
    ledger::{
        metadata::{BookieMember, LedgerMetadata},
        repair::{Roster, Share, diagnose, extents, gaps, sources},
    },
    model::{ClosedPage, Cookie, DeadLedger, Decommission, PartitionRecord, decode, encode, key, prefix},
    service::{
        bookie::{AddEntry, DeleteLedger, ListEntries, ReadEntries},
        metadata::{Condition, Operation, Outcome, Versioned},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    rc::Rc,
    time::Duration,
};

/// How long a bookie may be away before its copies count as lost.
const GRACE: Duration = Duration::from_secs(10);
/// Every so many rounds a bookie reads all it holds.
const SCRUB_EVERY: u64 = 4;

/// A bookie's rounds.
pub(crate) async fn work(world: &Rc<World>, id: BookieId) {
    let mut away = BTreeMap::new();
    for round in 0.. {
        world.rest(Duration::from_secs(2)).await;
        let Some(bookie) = node::running(world, id).filter(|bookie| !bookie.has_failed()) else { continue };
        if bookie.is_limbo() {
            heal::heal(world, id, &bookie).await;
            continue;
        }
        let Some(page) = page(world).await else { continue };
        let roster = roster(world, &mut away, &page.1);
        for ledger in page.1.ledgers.iter().map(|closed| &closed.ledger) {
            fill(world, &bookie, ledger, round % SCRUB_EVERY == 0).await;
            let diagnosis = diagnose(ledger, &roster);
            let is_first = diagnosis.needs.iter().any(|need| {
                need.takers.first() == Some(&bookie.member()) || need.fills.iter().any(|h| h.member == bookie.member())
            });
            if !is_first && !world.flips(0.2) {
                continue;
            }
            if let Some(share) = Share::of(bookie.member(), &diagnosis, &roster) {
                let share = Share { mutants: world.mutants, ..share };
                take(world, &bookie, ledger, &share).await;
            }
        }
    }
}

/// The page of closed ledgers.
async fn page(world: &Rc<World>) -> Option<(Versioned, ClosedPage)> {
    // There is never more than one in a run, but its number is not always the same.
    let held = metadata::scan(world, prefix::closed_of(PARTITION)).await.ok()?.pop()?;
    let page = decode(&held.value).expect("a page of closed ledgers");
    Some((held, page))
}

/// Every ledger that the partition names, the closed ones after the head, so that none slips through.
pub(crate) async fn ledgers(world: &Rc<World>) -> Option<Vec<LedgerMetadata>> {
    let record = metadata::get(world, key::partition(PARTITION)).await.ok()??;
    let record: PartitionRecord = decode(&record.value).expect("a partition record");
    let closed = metadata::scan(world, prefix::closed_of(PARTITION)).await.ok()?.pop();
    let closed = closed.map(|page| decode::<ClosedPage>(&page.value).expect("a page").ledgers).unwrap_or_default();
    let mut ledgers: Vec<_> = closed.into_iter().map(|closed| closed.ledger).collect();
    let head = record.head.map(|head| head.ledger);
    ledgers.extend(head.filter(|head| ledgers.iter().all(|ledger| ledger.id != head.id)));
    Some(ledgers)
}

/// The bookies as this bookie sees them.
fn roster(world: &World, away: &mut BTreeMap<BookieMember, Duration>, page: &ClosedPage) -> Roster {
    let now = world.engine.now();
    let live: BTreeMap<_, _> = world.live().iter().map(|record| (record.member.id, record.clone())).collect();
    let named = page.ledgers.iter().flat_map(|closed| closed.ledger.fragments.iter());
    let named: BTreeSet<BookieMember> = named.flat_map(|fragment| fragment.ensemble.iter().copied()).collect();
    let is_live = |m: &BookieMember| live.get(&m.id).is_some_and(|record| record.member == *m);
    away.retain(|member, _| named.contains(member) && !is_live(member));
    let absent = named.into_iter().filter(|m| !is_live(m));
    let lost = absent.filter(|m| now >= *away.entry(*m).or_insert(now) + GRACE).collect();
    let cookies =
        world.metadata.scan(prefix::COOKIES).into_iter().filter_map(|item| decode::<Cookie>(&item.value).ok());
    let orders = world.metadata.scan(prefix::DECOMMISSIONS);
    let orders = orders.into_iter().filter_map(|item| decode::<Decommission>(&item.value).ok());
    Roster {
        live,
        cookies: cookies.map(|cookie| (cookie.bookie, cookie.incarnation)).collect(),
        lost,
        leaving: orders.map(|order| order.member).collect(),
    }
}

/// Fetches what this bookie should hold of a closed ledger and does not, or cannot serve.
async fn fill(world: &Rc<World>, bookie: &Rc<InlineBookie>, ledger: &LedgerMetadata, is_scrub: bool) {
    for (fragment, run) in heal::missing(bookie, ledger) {
        world.count("holes found");
        fetch(world, bookie.member(), ledger, fragment, run).await;
    }
    if !is_scrub {
        return;
    }
    for (fragment, extent) in extents(ledger).into_iter().enumerate() {
        let names = ledger.fragments[fragment].ensemble.contains(&bookie.member());
        let Some(extent) = extent.filter(|_| names) else { continue };
        for entry in bookie.damaged(ledger.id, &extent).unwrap_or_default() {
            world.count("damaged entries found");
            fetch(world, bookie.member(), ledger, fragment, entry..=entry).await;
        }
    }
}

/// Takes a share of a repair: first every entry, then the compare-and-swap (A3).
async fn take(world: &Rc<World>, bookie: &Rc<InlineBookie>, ledger: &LedgerMetadata, share: &Share) -> Option<()> {
    // Whoever gives this life of the bookie up changes its cookie, and a swap that comes late meets that.
    let cookie = metadata::get(world, key::cookie(bookie.member().id)).await.ok()??;
    let life = decode::<Cookie>(&cookie.value).expect("a cookie").incarnation;
    if life != bookie.member().incarnation {
        return None;
    }
    for (fragment, wanted) in share.wanted() {
        for run in gaps(wanted, &held(world, bookie, ledger).await) {
            fetch(world, bookie.member(), ledger, fragment, run).await;
        }
    }
    let held = held(world, bookie, ledger).await;
    let (version, mut page) = page(world).await?;
    let closed = page.ledgers.iter_mut().find(|closed| closed.ledger.id == ledger.id)?;
    if closed.ledger != *ledger {
        return None;
    }
    closed.ledger = share.done(&closed.ledger, &held)?;
    for fragment in &closed.ledger.fragments {
        world.oracle.borrow_mut().propose_copies(ledger.id, &fragment.ensemble);
    }
    let conditions =
        vec![Condition::Version(version.key.clone(), version.version), Condition::Version(cookie.key, cookie.version)];
    let operations = vec![Operation::Put { key: version.key, value: encode(&page), session: None }];
    let outcome = metadata::transact(world, conditions, operations).await;
    metadata::told(world, world.here(), "repair", &outcome);
    if matches!(outcome, Ok(Outcome::Committed { .. })) {
        world.count("repairs");
    }
    Some(())
}

/// The entries that a bookie says to hold.
async fn held(world: &Rc<World>, bookie: &InlineBookie, ledger: &LedgerMetadata) -> Vec<RangeInclusive<u64>> {
    let (member, first) = (bookie.member(), EntryId(0));
    let list = ListEntries { member, ledger: ledger.id, first, limit: u32::MAX };
    match network::call(world, Request::List(list)).await {
        Ok(Response::List(list)) => list.runs,
        _ => Vec::new(),
    }
}

/// Copies a run of entries of a closed ledger to a bookie, from whoever has them.
pub(crate) async fn fetch(
    world: &Rc<World>,
    to: BookieMember,
    ledger: &LedgerMetadata,
    fragment: usize,
    run: RangeInclusive<u64>,
) {
    let live = world.live().iter().map(|record| (record.member.id, record.clone())).collect();
    let roster = Roster { live, ..Roster::default() };
    let mut missing = vec![run];
    for source in sources(ledger, fragment, to, &roster) {
        let mut held = Vec::new();
        for run in &missing {
            copy(world, (to, source), ledger, run, &mut held).await;
        }
        missing = missing.iter().flat_map(|run| gaps(run, &held)).collect();
        if missing.is_empty() {
            return;
        }
    }
    tell!(world, "{to} lacks {missing:?} of ledger {} and found nobody to give them", ledger.id);
}

async fn copy(
    world: &Rc<World>,
    (to, source): (BookieMember, BookieMember),
    ledger: &LedgerMetadata,
    run: &RangeInclusive<u64>,
    held: &mut Vec<RangeInclusive<u64>>,
) {
    let mut next = *run.start();
    while next <= *run.end() {
        let (first, max_count) = (EntryId(next), (run.end() - next + 1).min(16) as u32);
        let read = ReadEntries { member: source, ledger: ledger.id, first, max_count, max_bytes: 1 << 20, fence: None };
        let Ok(Response::Run(found)) = network::call(world, Request::Read(read)).await else {
            // A damaged or missing entry hides those behind it from one read.
            next += 1;
            continue;
        };
        for entry in found.entries {
            let at = entry.entry().0;
            let add = AddEntry { member: to, key: ledger.key, recovery: true, entry };
            if network::call(world, Request::Add(add)).await.is_ok() {
                world.count("entries copied");
                held.push(at..=at);
            }
            next = at + 1;
        }
    }
}

/// Deletes dead ledgers that this bookie holds, and signs off.
pub(crate) async fn collect(world: &Rc<World>, id: BookieId) {
    loop {
        world.rest(Duration::from_secs(3)).await;
        let Ok(dead) = metadata::scan(world, prefix::DEAD.into()).await else { continue };
        for item in dead {
            bury(world, id, &item).await;
        }
    }
}

async fn bury(world: &Rc<World>, id: BookieId, item: &Versioned) -> Option<()> {
    let member = node::running(world, id)?.member();
    let mut record: DeadLedger = decode(&item.value).expect("a record of a dead ledger");
    let is_self = |m: &BookieMember| m.id == id && m.incarnation <= member.incarnation;
    if !record.held_by.iter().any(is_self) {
        return None;
    }
    let delete = DeleteLedger { member, ledger: record.ledger };
    network::call(world, Request::Delete(delete)).await.ok()?;
    world.count("ledgers deleted from bookies");
    record.held_by.retain(|m| !is_self(m));
    let operation = match record.held_by.is_empty() {
        true => Operation::Delete(item.key.clone()),
        false => Operation::Put { key: item.key.clone(), value: encode(&record), session: None },
    };
    let conditions = vec![Condition::Version(item.key.clone(), item.version)];
    drop(metadata::transact(world, conditions, vec![operation]).await);
    Some(())
}

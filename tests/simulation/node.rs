//! A bookie's node: the real bookie on a disk in memory, its life and its deaths. Owns what the operating system, the
//! disk and the session with metadata do to it; decides nothing that the bookie decides.

use crate::{
    engine::{ProcessId, Promise, WORLD},
    invariants, metadata,
    network::{self, Answered, Request},
    oracle, repair,
    trace::tell,
    world::{Site, World},
};
use bookie::{
    ledger::LedgerRecord,
    testing::{InlineBookie, MemoryDisk},
};
use protocol::{
    id::{BookieId, EntryId, Incarnation, LedgerId, SessionId},
    ledger::metadata::BookieMember,
    model::{BookieRecord, BookieState, Cookie, Decommission, Sequence, encode, key},
    service::{
        bookie::BookieError,
        metadata::{Operation, Outcome},
    },
};
use std::{collections::BTreeSet, future::Future, rc::Rc, task::Poll, time::Duration};
use uuid::Uuid;

/// How long a session outlives its bookie.
const SESSION: Duration = Duration::from_secs(10);

/// A bookie, its disk and its session.
pub(crate) struct Node {
    /// Who it is in this life of its disk.
    pub(crate) member: BookieMember,
    pub(crate) disk: MemoryDisk,
    pub(crate) process: ProcessId,
    /// Set while the process lives.
    pub(crate) bookie: Option<Rc<InlineBookie>>,
    session: Option<SessionId>,
    /// When the cluster last heard of it.
    seen: Duration,
    /// What the cluster knows of it.
    registered: Option<BookieRecord>,
    /// Until when a sync takes long.
    pub(crate) slow_until: Duration,
    is_syncing: bool,
    /// It was taken out and is not started again.
    pub(crate) is_out: bool,
}

/// Adds a bookie with an empty disk, and starts it.
pub(crate) fn add(world: &Rc<World>, id: BookieId) {
    let member = new_life(world, id);
    let node = Node {
        member,
        disk: MemoryDisk::format(),
        process: WORLD,
        bookie: None,
        session: None,
        seen: world.engine.now(),
        registered: None,
        slow_until: Duration::ZERO,
        is_syncing: false,
        is_out: false,
    };
    let is_known = world.nodes.borrow_mut().insert(id, node).is_some();
    start(world, id);
    if !is_known {
        let inner = Rc::clone(world);
        world.engine.spawn_on(WORLD, async move { keep_session(&inner, id).await });
    }
}

/// A new incarnation, known to the cluster by its cookie.
fn new_life(world: &Rc<World>, id: BookieId) -> BookieMember {
    let take = Operation::Sequence { name: Sequence::Incarnation.name().into(), count: 1 };
    let Ok(Outcome::Committed { sequences, .. }) = metadata::transact_now(world, vec![take]) else {
        panic!("the sequence of incarnations issues numbers")
    };
    let incarnation = Incarnation(sequences[0]);
    let instance = Uuid::from_u128(u128::from(incarnation.0));
    let cookie = Cookie { cluster_id: "simulated".into(), bookie: id, incarnation, instance };
    let put = Operation::Put { key: key::cookie(id), value: encode(&cookie), session: None };
    metadata::transact_now(world, vec![put]).expect("a cookie is written");
    BookieMember { id, incarnation }
}

/// Starts the bookie on its disk.
pub(crate) fn start(world: &Rc<World>, id: BookieId) {
    {
        let mut nodes = world.nodes.borrow_mut();
        let Some(node) = nodes.get_mut(&id).filter(|node| !node.is_out && node.bookie.is_none()) else { return };
        node.process = world.process_at(Site::Bookie(id));
        let clock = std::sync::Arc::new(world.clock.clone());
        let bookie =
            InlineBookie::start(node.member, &node.disk, clock, world.mutants).expect("a store in memory is readable");
        tell!(world, "{} starts, {:?}", node.member, bookie.state());
        if bookie.is_limbo() {
            world.count("bookies in limbo");
        }
        node.bookie = Some(Rc::new(bookie));
        node.is_syncing = false;
    }
    let process = world.nodes.borrow()[&id].process;
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move { keep_watermark(&inner, id).await });
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move { repair::work(&inner, id).await });
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move { repair::collect(&inner, id).await });
}

/// The running bookie of a node.
pub(crate) fn running(world: &World, id: BookieId) -> Option<Rc<InlineBookie>> {
    world.nodes.borrow().get(&id)?.bookie.clone()
}

/// The process dies; what was not synced is gone.
pub(crate) fn crash(world: &Rc<World>, id: BookieId) {
    let (process, bookie) = {
        let mut nodes = world.nodes.borrow_mut();
        let Some(node) = nodes.get_mut(&id) else { return };
        (node.process, node.bookie.take())
    };
    if bookie.is_some() {
        world.engine.kill(process);
        drop(bookie);
        world.nodes.borrow()[&id].disk.store.crash();
        tell!(world, "b{id} crashes");
        world.count("crashes of bookies");
    }
}

/// Starts a node again after a while.
pub(crate) fn start_later(world: &Rc<World>, id: BookieId, after: Duration) {
    let inner = Rc::clone(world);
    world.engine.spawn_on(WORLD, async move {
        inner.sleep(after).await;
        start(&inner, id);
    });
}

/// The disk is gone: when the node starts again, it is with an empty one, in a new life.
pub(crate) fn wipe(world: &Rc<World>, id: BookieId) {
    crash(world, id);
    let old = world.nodes.borrow()[&id].member;
    let member = new_life(world, id);
    let mut nodes = world.nodes.borrow_mut();
    let Some(node) = nodes.get_mut(&id) else { return };
    node.disk = MemoryDisk::format();
    node.member = member;
    drop(nodes);
    world.oracle.borrow_mut().lose_member(old);
    tell!(world, "{old} loses its disk; its next life is {member}");
}

/// Everything that a start needs to find lost data: the journal is cut below what the watermark vouches for.
pub(crate) fn cut_journal(world: &Rc<World>, id: BookieId) -> bool {
    let disk = world.nodes.borrow()[&id].disk.clone();
    let Some(mark) = disk.watermark().filter(|mark| *mark > disk.store.flushed()) else { return false };
    crash(world, id);
    let member = world.nodes.borrow()[&id].member;
    let before = whole(world, member);
    let keep = world.number(disk.store.flushed()..mark);
    disk.store.cut(keep);
    let after = whole(world, member);
    let lost: Vec<_> = before.difference(&after).copied().collect();
    tell!(world, "{member} loses its journal above {keep} of {mark}: {} entries", lost.len());
    let mut oracle = world.oracle.borrow_mut();
    oracle.limbo.insert(member);
    // A deletion may be among what was lost, and nobody names such a ledger any more: its entries are back.
    oracle.lose_tombstones(member, |ledger| disk.store.keeps_ledger(ledger) == Some(LedgerRecord::Deleted));
    lost.into_iter().for_each(|(ledger, entry)| oracle.lose_copy(member, ledger, entry));
    true
}

/// The entries that a bookie could serve, byte for byte.
fn whole(world: &World, member: BookieMember) -> BTreeSet<(LedgerId, EntryId)> {
    let places = world.nodes.borrow()[&member.id].disk.store.entries();
    let is_whole = |(ledger, entry): &(LedgerId, EntryId)| {
        let sent = world.oracle.borrow_mut().truth(*ledger).sent.get(entry.0 as usize).cloned();
        sent.is_some_and(|sent| invariants::keeps(world, member, &sent))
    };
    places.into_iter().filter(is_whole).collect()
}

/// A request arrives.
pub(crate) fn deliver(world: &Rc<World>, from: Site, request: Request, answering: Promise<Answered>) {
    let id = request.member().id;
    let Some((process, bookie)) = running_process(world, id) else {
        if world.flips(0.7) {
            let refused = Err(BookieError::Unavailable { reason: "connection refused".into() });
            network::answer(world, Site::Bookie(id), from, &answering, &refused);
        }
        return;
    };
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move {
        let world = inner;
        let arrived = world.engine.steps();
        let answer = {
            let mut call = std::pin::pin!(request.clone().call(bookie.service()));
            let mut is_called = false;
            std::future::poll_fn(|context| {
                let poll: Poll<Answered> = call.as_mut().poll(context);
                if !std::mem::replace(&mut is_called, true) {
                    sync_soon(&world, id);
                }
                poll
            })
            .await
        };
        tell!(world, "{} -> {from}: {request}: {}", bookie.member(), network::show(&answer));
        oracle::observe(&world, bookie.member(), arrived, &request, &answer);
        network::answer(&world, Site::Bookie(id), from, &answering, &answer);
    });
}

fn running_process(world: &World, id: BookieId) -> Option<(ProcessId, Rc<InlineBookie>)> {
    let nodes = world.nodes.borrow();
    let node = nodes.get(&id)?;
    Some((node.process, node.bookie.clone()?))
}

/// Has what waits synced, unless a sync is under way.
pub(crate) fn sync_soon(world: &Rc<World>, id: BookieId) {
    let mut nodes = world.nodes.borrow_mut();
    let Some(node) = nodes.get_mut(&id) else { return };
    let Some(bookie) = node.bookie.clone() else { return };
    if node.is_syncing || !bookie.is_waiting() {
        return;
    }
    node.is_syncing = true;
    let (process, inner) = (node.process, Rc::clone(world));
    drop(nodes);
    world.engine.spawn_on(process, async move { sync(&inner, id, &bookie).await });
}

async fn sync(world: &Rc<World>, id: BookieId, bookie: &Rc<InlineBookie>) {
    while bookie.is_waiting() {
        let is_slow = world.nodes.borrow().get(&id).is_some_and(|node| world.engine.now() < node.slow_until);
        let takes = if is_slow { world.millis(200, 3000) } else { world.time(micros(100), micros(2000)) };
        world.sleep(takes).await;
        if world.strikes(world.plan.torn_sync) {
            return tear(world, id, bookie);
        }
        bookie.sync();
    }
    if let Some(node) = world.nodes.borrow_mut().get_mut(&id) {
        node.is_syncing = false;
    }
}

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The power goes during a sync: it is whole or absent afterwards, and nobody hears of it from the bookie. What the
/// process did before the disk had it may have been heard of.
fn tear(world: &Rc<World>, id: BookieId, bookie: &Rc<InlineBookie>) {
    world.count("crashes during a sync");
    if world.flips(0.5) {
        bookie.sync();
    } else {
        world.nodes.borrow()[&id].disk.store.fail_writes();
        bookie.sync();
    }
    let inner = Rc::clone(world);
    let after = world.millis(200, 10_000);
    let is_instant = world.flips(0.5);
    world.engine.spawn_on(WORLD, async move {
        if !is_instant {
            inner.sleep(Duration::from_millis(1)).await;
        }
        crash(&inner, id);
        start_later(&inner, id, after);
    });
}

async fn keep_watermark(world: &Rc<World>, id: BookieId) {
    loop {
        world.rest(Duration::from_secs(1)).await;
        if let Some(bookie) = running(world, id) {
            bookie.mark();
        }
    }
}

/// Keeps the cluster's record of the bookie: it appears when the bookie is reachable, and goes when its session ends.
async fn keep_session(world: &Rc<World>, id: BookieId) {
    loop {
        refresh(world, id);
        world.rest(Duration::from_secs(1)).await;
    }
}

/// One heartbeat.
pub(crate) fn refresh(world: &Rc<World>, id: BookieId) {
    let now = world.engine.now();
    let site = Site::Bookie(id);
    let is_cut = world.is_cut(site, Site::Metadata) || world.is_cut(Site::Metadata, site);
    let is_stalled = now < world.metadata.stalled_until.get();
    let (session, record) = {
        let mut nodes = world.nodes.borrow_mut();
        let Some(node) = nodes.get_mut(&id) else { return };
        let bookie = node.bookie.as_ref().filter(|_| world.engine.is_running(node.process) && !is_cut && !is_stalled);
        let Some(bookie) = bookie else {
            let over = now >= node.seen + SESSION && !is_stalled;
            let expired = node.session.take_if(|_| over || node.is_out);
            if expired.is_some() {
                node.registered = None;
            }
            drop(nodes);
            if let Some(session) = expired {
                tell!(world, "the session of b{id} ends");
                metadata::close_session(world, session);
            }
            return;
        };
        node.seen = now;
        let leaving = world.metadata.record::<Decommission>(&key::decommission(id));
        let state = match bookie.state() {
            BookieState::Writable if leaving.is_some_and(|order| order.member == node.member) => BookieState::ReadOnly,
            state => state,
        };
        (node.session, BookieRecord::new(node.member, state))
    };
    if world.nodes.borrow()[&id].registered.as_ref() == Some(&record) {
        return;
    }
    let session = session.unwrap_or_else(|| metadata::open_session(world, SESSION));
    let put = Operation::Put { key: key::bookie(id), value: encode(&record), session: Some(session) };
    metadata::transact_now(world, vec![put]).expect("the session lives");
    tell!(world, "{} is registered, {:?}", record.member, record.state);
    if let Some(node) = world.nodes.borrow_mut().get_mut(&id) {
        (node.session, node.registered) = (Some(session), Some(record));
    }
}

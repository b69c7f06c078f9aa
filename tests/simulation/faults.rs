//! What goes wrong, and the operator who makes things go. Owns the budget of permanent losses: no ensemble ever loses
//! more than Aq - 1 of its members before repair has replaced them; everything else is free to happen at any time.

use crate::{
    broker,
    chain::{self, PARTITION},
    duel,
    engine::WORLD,
    invariants, log, metadata, node,
    plan::HOUR,
    trace::tell,
    world::{Site, World},
};
use protocol::{
    id::{BookieId, EntryId, LedgerId},
    ledger::{metadata::BookieMember, quorum::Quorum},
    model::{BookieRecord, BookieState, Decommission, encode, key},
    service::metadata::Operation,
};
use std::{future::Future, rc::Rc, time::Duration};

/// When the first fault may happen.
pub(crate) const FROM: Duration = Duration::from_secs(5);

/// Starts everything that goes wrong in this run.
pub(crate) fn begin(world: &Rc<World>) {
    let rates = world.plan.rates;
    often(world, rates.crash_bookie, crash_bookies);
    often(world, rates.pause_bookie, pause_bookie);
    often(world, rates.wipe_bookie, wipe_bookie);
    often(world, rates.cut_journal, cut_journal);
    often(world, rates.flip_bit, flip_bit);
    often(world, rates.fail_sync, fail_sync);
    often(world, rates.slow_disk, slow_disk);
    often(world, rates.full_disk, full_disk);
    often(world, rates.crash_broker, crash_broker);
    often(world, rates.pause_broker, pause_broker);
    often(world, rates.cut_network, cut_network);
    often(world, rates.stall_metadata, stall_metadata);
    often(world, rates.trim_log, trim_log);
    often(world, rates.replace_bookie, replace_bookie);
    often(world, rates.jam_network, jam_network);
}

fn later(world: &Rc<World>, after: Duration, then: impl FnOnce(&Rc<World>) + 'static) {
    let inner = Rc::clone(world);
    world.engine.spawn_on(WORLD, async move {
        inner.sleep(after).await;
        then(&inner);
    });
}

/// Lets a fault happen again and again, at random times.
fn often(world: &Rc<World>, every: Option<Duration>, fault: fn(&Rc<World>)) {
    let Some(every) = every else { return };
    let inner = Rc::clone(world);
    world.engine.spawn_on(WORLD, async move {
        let world = inner;
        world.sleep(FROM).await;
        loop {
            world.sleep(world.time(Duration::ZERO, every * 2)).await;
            if let Some((from, to)) = world.plan.lull().filter(|(from, to)| (*from..*to).contains(&world.engine.now()))
            {
                let left = to - world.engine.now();
                world.sleep(left.min(to - from)).await;
            }
            if world.is_calm.get() {
                return;
            }
            fault(&world);
        }
    });
}

fn any_node(world: &World) -> Option<BookieId> {
    let running: Vec<_> =
        world.nodes.borrow().iter().filter(|(_, node)| node.bookie.is_some()).map(|(id, _)| *id).collect();
    world.pick(&running)
}

fn crash_bookies(world: &Rc<World>) {
    let all = world.flips(0.1);
    let ids: Vec<_> =
        if all { world.nodes.borrow().keys().copied().collect() } else { any_node(world).into_iter().collect() };
    for id in ids {
        node::crash(world, id);
        node::start_later(world, id, world.millis(200, if all { 5_000 } else { 30_000 }));
    }
}

/// How long something stands still: seconds, or an hour.
fn pause(world: &World) -> Duration {
    let lull = world.plan.lull().filter(|(from, _)| world.engine.now() < *from);
    if lull.is_some() && world.flips(0.4) { HOUR + world.millis(1_000, 15_000) } else { world.millis(1_000, 20_000) }
}

fn pause_bookie(world: &Rc<World>) {
    let Some(id) = any_node(world) else { return };
    let process = world.nodes.borrow()[&id].process;
    let pause = pause(world);
    tell!(world, "b{id} stands still for {} s", pause.as_secs());
    world.count("pauses of bookies");
    world.engine.pause(process);
    later(world, pause, move |world| world.engine.resume(process));
}

fn pause_broker(world: &Rc<World>) {
    let brokers: Vec<_> = world.brokers.borrow().iter().map(|(number, node)| (*number, node.process)).collect();
    let Some((number, process)) = world.pick(&brokers) else { return };
    let pause = pause(world);
    tell!(world, "broker{number} stands still for {} s", pause.as_secs());
    world.count("pauses of brokers");
    world.engine.pause(process);
    later(world, pause, move |world| {
        tell!(world, "broker{number} goes on");
        world.engine.resume(process);
    });
}

fn crash_broker(world: &Rc<World>) {
    let brokers: Vec<_> = world.brokers.borrow().keys().copied().collect();
    if let Some(number) = world.pick(&brokers) {
        broker::crash(world, number);
    }
}

/// Whether every ensemble can do without one more member. `of` narrows it to one ledger.
fn can_do_without(world: &World, member: BookieMember, of: Option<LedgerId>) -> bool {
    let oracle = world.oracle.borrow();
    // With Aq of 1 no copy may be lost, and a head may be created on a bookie whose loss is not known yet.
    if world.plan.quorum.ack() < 2 {
        return false;
    }
    if oracle.limbo.contains(&member) || oracle.gone.contains(&member) {
        return false;
    }
    // Bookies that a new ensemble may still name because the cluster has not noticed.
    let is_unnoticed = |m: BookieMember| m != member && (oracle.gone.contains(&m) || oracle.limbo.contains(&m));
    let live = world.live();
    let writable = live.iter().filter(|record| record.state == BookieState::Writable);
    if writable.filter(|record| is_unnoticed(record.member)).count() + 1 >= world.plan.quorum.ack() {
        return false;
    }
    // A head can only be recovered onto bookies that are neither leaving nor a later life of a member that is lost.
    let stays = |m: BookieMember| m != member && world.is_current(m) && !oracle.limbo.contains(&m);
    let takes = live.iter().filter(|record| record.state == BookieState::Writable && stays(record.member)).count();
    if of.is_none() && takes < world.plan.quorum.ack() {
        return false;
    }
    let spares = |quorum: Quorum, ledger: LedgerId, ensemble: &[BookieMember]| {
        let damaged = ensemble.iter().filter(|m| **m != member && oracle.is_damaged(**m, ledger)).count();
        !ensemble.contains(&member) || damaged + 1 < quorum.ack()
    };
    let wanted = |ledger: LedgerId| of.is_none_or(|of| of == ledger);
    let named = chain::with(world, |chain| {
        let mut ledgers = chain.ledgers().filter(|ledger| wanted(ledger.id));
        ledgers.all(|ledger| ledger.fragments.iter().all(|f| spares(ledger.quorum, ledger.id, &f.ensemble)))
    });
    let mut candidates = oracle.candidates.iter().filter(|(ledger, _)| wanted(**ledger));
    named && candidates.all(|(ledger, list)| list.iter().all(|ensemble| spares(world.plan.quorum, *ledger, ensemble)))
}

fn wipe_bookie(world: &Rc<World>) {
    let Some(id) = any_node(world) else { return };
    let member = world.nodes.borrow()[&id].member;
    if can_do_without(world, member, None) {
        world.count("disks lost");
        node::wipe(world, id);
        node::start_later(world, id, world.millis(200, 20_000));
    }
}

fn cut_journal(world: &Rc<World>) {
    let Some(id) = any_node(world) else { return };
    let member = world.nodes.borrow()[&id].member;
    if !can_do_without(world, member, None) {
        return;
    }
    if world.flips(0.15) {
        world.count("watermarks lost");
        world.nodes.borrow()[&id].disk.lose_watermark();
        world.oracle.borrow_mut().limbo.insert(member);
        node::crash(world, id);
    } else if node::cut_journal(world, id) {
        world.count("journals cut");
    } else {
        return;
    }
    node::start_later(world, id, world.millis(200, 10_000));
}

fn flip_bit(world: &Rc<World>) {
    let Some(id) = any_node(world) else { return };
    let (member, disk) = {
        let nodes = world.nodes.borrow();
        (nodes[&id].member, nodes[&id].disk.clone())
    };
    let Some((ledger, entry)): Option<(LedgerId, EntryId)> = world.pick(&disk.store.entries()) else { return };
    let sent = world.oracle.borrow_mut().truth(ledger).sent.get(entry.0 as usize).cloned();
    let is_whole = sent.is_some_and(|sent| invariants::keeps(world, member, &sent));
    // A copy that repair is about to count on is not named yet, so the budget does not see it.
    let is_named = invariants::metadata_of(world, ledger).is_some_and(|l| l.ensemble_of(entry).contains(&member));
    if is_whole
        && is_named
        && world.oracle.borrow().has_acked(member, ledger, entry)
        && can_do_without(world, member, Some(ledger))
    {
        tell!(world, "{member}: a bit of {ledger}/{entry} flips");
        world.count("bits flipped");
        disk.store.damage(ledger, entry);
        world.oracle.borrow_mut().lose_copy(member, ledger, entry);
    }
}

fn fail_sync(world: &Rc<World>) {
    let Some(id) = any_node(world) else { return };
    tell!(world, "the disk of b{id} fails");
    world.count("disks that fail");
    let disk = world.nodes.borrow()[&id].disk.clone();
    if world.flips(0.5) {
        disk.store.fail_syncs()
    } else {
        disk.store.fail_writes()
    }
    later(world, world.millis(500, 15_000), move |world| {
        // The calm begins with a restart of everything that has failed; nothing goes down after that (seed 16889).
        if !world.is_calm.get() {
            node::crash(world, id);
            node::start_later(world, id, world.millis(200, 5_000));
        }
    });
}

fn slow_disk(world: &Rc<World>) {
    let Some(id) = any_node(world) else { return };
    world.count("disks slow");
    let until = world.engine.now() + world.millis(2_000, 30_000);
    if let Some(node) = world.nodes.borrow_mut().get_mut(&id) {
        node.slow_until = until;
    }
}

fn full_disk(world: &Rc<World>) {
    let Some(bookie) = any_node(world).and_then(|id| node::running(world, id)) else { return };
    tell!(world, "the disk of {} is full", bookie.member());
    world.count("disks full");
    bookie.set_full(true);
    later(world, world.millis(2_000, 30_000), move |_| bookie.set_full(false));
}

fn sites(world: &World) -> Vec<Site> {
    let bookies = world.nodes.borrow().keys().map(|id| Site::Bookie(*id)).collect::<Vec<_>>();
    let brokers = (0..world.plan.brokers).map(Site::Broker);
    bookies.into_iter().chain(brokers).chain([Site::Metadata, Site::Reader]).collect()
}

fn cut_network(world: &Rc<World>) {
    let sites = sites(world);
    let Some(site) = world.pick(&sites) else { return };
    world.count("networks cut");
    let (in_, out) = (world.flips(0.7), world.flips(0.7));
    let some = world.flips(0.5);
    let mut cuts = Vec::new();
    for other in sites.into_iter().filter(|other| *other != site) {
        if some && world.flips(0.5) {
            continue;
        }
        cuts.extend(in_.then_some((other, site)));
        cuts.extend((out || !in_).then_some((site, other)));
    }
    tell!(world, "{site} is cut off: {} connections", cuts.len());
    world.cuts.borrow_mut().extend(cuts.iter().copied());
    later(world, world.millis(500, 20_000), move |world| {
        world.cuts.borrow_mut().retain(|cut| !cuts.contains(cut));
    });
}

/// Messages overtake each other for a while, and often another broker takes the partition over meanwhile, so that
/// writers and recoverers of one ledger meet at the bookies.
fn jam_network(world: &Rc<World>) {
    let time = if world.plan.duels { world.millis(3_000, 9_000) } else { world.millis(1_000, 10_000) };
    tell!(world, "messages are jammed for {} ms", time.as_millis());
    world.count("networks jammed");
    world.jammed_until.set(world.engine.now() + time);
    if world.plan.duels {
        duel::begin(world, time);
    }
    if world.plan.duels || world.flips(0.6) {
        let soon = if world.plan.duels { time.min(Duration::from_secs(3)) } else { time };
        let (after, inner) = (world.time(Duration::ZERO, soon), Rc::clone(world));
        world.engine.spawn_on(WORLD, async move {
            inner.sleep(after).await;
            // Half of the time the old owner sleeps through it, and then goes on where it was; never in a duel.
            if !inner.plan.duels && inner.flips(0.5) {
                pause_owner(&inner);
            }
            broker::give_away(&inner).await;
        });
    }
}

/// The owner stands still for seconds.
fn pause_owner(world: &Rc<World>) {
    let owner = chain::with(world, |chain| chain.record.as_ref().and_then(|record| record.owner));
    let brokers = world.brokers.borrow();
    let Some(node) = brokers.values().find(|node| owner.is_some() && node.owner == owner) else { return };
    let process = node.process;
    drop(brokers);
    world.engine.pause(process);
    later(world, world.millis(200, 5_000), move |world| world.engine.resume(process));
}

fn stall_metadata(world: &Rc<World>) {
    let until = world.engine.now() + world.millis(500, 15_000);
    tell!(world, "metadata stands still");
    world.count("metadata stalls");
    world.metadata.stalled_until.set(until);
}

fn trim_log(world: &Rc<World>) {
    let count = 1 + usize::from(world.flips(0.3));
    for serving in world.serving.borrow().values() {
        serving.trim.set(count);
    }
}

/// The operator takes a bookie out and brings it back with an empty disk, under its old address.
fn replace_bookie(world: &Rc<World>) {
    let is_one_under_way = !world.metadata.scan(protocol::model::prefix::DECOMMISSIONS).is_empty();
    let is_sound = |record: &&BookieRecord| record.state == BookieState::Writable && world.is_current(record.member);
    let writable = world.live().iter().filter(is_sound).count();
    let heads = chain::with(world, |chain| chain.head().map(|head| head.ledger.fragments.clone())).unwrap_or_default();
    // While the head stands on a lost bookie, the others are needed to recover it.
    if heads.iter().flat_map(|fragment| &fragment.ensemble).any(|m| !world.is_current(*m)) {
        return;
    }
    let Some(id) = any_node(world) else { return };
    if is_one_under_way || writable <= world.plan.quorum.write() {
        return;
    }
    let member = world.nodes.borrow()[&id].member;
    let order = Decommission { member, keeps_id: true, since: world.wall(), total_bytes: None, obstacle: None };
    let put = Operation::Put { key: key::decommission(id), value: encode(&order), session: None };
    if metadata::transact_now(world, vec![put]).is_ok() {
        tell!(world, "the operator takes {member} out");
        world.count("bookies taken out");
    }
}

/// Finishes the operator's orders: a member that nothing names any more is switched off, and replaced.
pub(crate) async fn operate(world: &Rc<World>) {
    loop {
        world.rest(Duration::from_secs(2)).await;
        let orders = world.metadata.scan(protocol::model::prefix::DECOMMISSIONS);
        for item in orders {
            let order: Decommission = protocol::model::decode(&item.value).expect("an order");
            let is_named = |member| {
                let oracle = world.oracle.borrow();
                let waits = oracle.candidates.values().flatten().any(|ensemble| ensemble.contains(&member));
                waits
                    || chain::with(world, |chain| {
                        chain.ledgers().any(|l| l.fragments.iter().any(|f| f.ensemble.contains(&member)))
                    })
            };
            let is_dying = world.metadata.scan(protocol::model::prefix::DEAD).into_iter().any(|item| {
                let record: protocol::model::DeadLedger = protocol::model::decode(&item.value).expect("a record");
                record.held_by.contains(&order.member)
            });
            // Brokers that have not heard of the order yet may still begin a ledger there.
            let is_fresh = world.wall().0 < order.since.0 + 15_000;
            let is_writable =
                |record: &BookieRecord| record.member == order.member && record.state == BookieState::Writable;
            let is_fresh = is_fresh || world.live().iter().any(is_writable);
            if is_fresh || is_named(order.member) || is_dying {
                continue;
            }
            let id = order.member.id;
            metadata::transact_now(world, vec![Operation::Delete(item.key)]).expect("an order is deleted");
            // With Aq of 1 there is no bookie to lose: a broker that has heard nothing for long may begin a head there even
            // now (seed 12358), and nobody could tell where it ends.
            if world.is_current(order.member) && world.plan.quorum.ack() > 1 {
                tell!(world, "{} is switched off and replaced", order.member);
                world.count("bookies replaced");
                node::wipe(world, id);
                node::start_later(world, id, world.millis(200, 10_000));
            }
        }
    }
}

/// Nothing goes wrong any more; what is broken is mended, but for what the cluster must mend itself.
pub(crate) fn end(world: &Rc<World>) {
    tell!(world, "calm");
    world.is_calm.set(true);
    world.cuts.borrow_mut().clear();
    world.metadata.stalled_until.set(Duration::ZERO);
    world.jammed_until.set(Duration::ZERO);
    let nodes: Vec<_> = world.nodes.borrow().iter().map(|(id, node)| (*id, node.process)).collect();
    for (id, process) in nodes {
        world.engine.resume(process);
        if let Some(node) = world.nodes.borrow_mut().get_mut(&id) {
            node.slow_until = Duration::ZERO;
        }
        if let Some(bookie) = node::running(world, id) {
            bookie.set_full(false);
        }
        if node::running(world, id).is_some_and(|bookie| bookie.has_failed()) || is_doomed(world, id) {
            node::crash(world, id);
        }
        node::start(world, id);
    }
    let brokers: Vec<_> = world.brokers.borrow().values().map(|node| node.process).collect();
    brokers.into_iter().for_each(|process| world.engine.resume(process));
}

/// Whether the next sync of this bookie fails.
fn is_doomed(world: &World, id: BookieId) -> bool {
    world.nodes.borrow().get(&id).is_some_and(|node| node.disk.store.is_failing())
}

/// Gives the partition its first owner.
pub(crate) fn found(world: &Rc<World>) -> impl Future<Output = ()> + use<> {
    let world = Rc::clone(world);
    async move {
        let record = protocol::model::PartitionRecord::new(None);
        let put = Operation::Put { key: key::partition(PARTITION), value: encode(&record), session: None };
        metadata::transact_now(&world, vec![put]).expect("a partition record is written");
        loop {
            world.sleep(Duration::from_millis(300)).await;
            let owner = world.brokers.borrow().values().find_map(|node| node.owner);
            if owner.is_some() && log::assign(&world, owner).await.is_ok() {
                return;
            }
        }
    }
}

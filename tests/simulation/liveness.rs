//! What must come true when nothing goes wrong any more, and how far it is. Looks at everything; changes nothing.

use crate::{chain, invariants, node, world::World};
use protocol::{
    id::EntryId,
    ledger::{metadata::LedgerMetadata, repair::extents},
    model::{BookieState, ClosedLedger, prefix},
};
use std::time::Duration;

/// How long a copy may be missing in calm.
const REPAIR_WITHIN: Duration = Duration::from_secs(20);

/// What is not healed yet; none if everything is.
pub(crate) fn obstacle(world: &World) -> Option<String> {
    let record = chain::with(world, |chain| chain.record.clone())?;
    let is_served = record.owner.is_some_and(|owner| {
        world.serving.borrow().get(&(owner.node.0 as usize)).is_some_and(|serving| serving.is_open())
    });
    if !is_served {
        return Some(format!("the partition is not served, its owner is {:?}", record.owner));
    }
    bookies(world).or_else(|| copies(world)).or_else(|| {
        let left = [(prefix::DECOMMISSIONS, "an order of the operator"), (prefix::DEAD, "a dead ledger")];
        let (_, what) = left.into_iter().find(|(prefix, _)| !world.metadata.scan(prefix).is_empty())?;
        Some(format!("{what} is left"))
    })
}

fn bookies(world: &World) -> Option<String> {
    let ids: Vec<_> = world.nodes.borrow().keys().copied().collect();
    ids.into_iter().find_map(|id| {
        let Some(bookie) = node::running(world, id) else { return Some(format!("b{id} does not run")) };
        let state = world.live().iter().find(|record| record.member == bookie.member()).map(|record| record.state);
        let names = |ledger: &&LedgerMetadata| ledger.fragments.iter().any(|f| f.ensemble.contains(&bookie.member()));
        (state != Some(BookieState::Writable)).then(|| {
            let named = chain::with(world, |chain| chain.ledgers().find(names).cloned());
            let (orders, dead) = (world.metadata.scan(prefix::DECOMMISSIONS).len(), world.metadata.scan(prefix::DEAD));
            let member = bookie.member();
            format!(
                "{member} is registered as {state:?} ({orders} orders, {} dead ledgers), named by {named:?}",
                dead.len()
            )
        })
    })
}

/// A closed ledger that lacks copies.
fn copies(world: &World) -> Option<String> {
    let closed = chain::with(world, |chain| chain.closed.clone());
    // A ledger that has just been closed by a writer with a slow member is given the time of a repair.
    let recent = world.wall().0 - i64::try_from(REPAIR_WITHIN.as_millis()).unwrap_or(0);
    let calm = world.wall_at(world.plan.end()).0;
    let is_due = |closed: &ClosedLedger| closed.closed_at.0 < calm.max(recent);
    closed.into_iter().filter(is_due).find_map(|closed| lacks(world, &closed.ledger))
}

fn lacks(world: &World, ledger: &LedgerMetadata) -> Option<String> {
    let wanted = ledger.quorum.write().max(usize::from(ledger.wanted_write));
    for (fragment, extent) in ledger.fragments.iter().zip(extents(ledger)) {
        let members = &fragment.ensemble;
        if members.iter().filter(|m| world.is_current(**m)).count() < wanted {
            return Some(format!("ledger {} has not {wanted} live members: {members:?}", ledger.id));
        }
        for entry in extent.into_iter().flatten() {
            let sent = world.oracle.borrow_mut().truth(ledger.id).sent[entry as usize].clone();
            let whole = members.iter().filter(|m| invariants::keeps(world, **m, &sent)).count();
            if whole < members.len() {
                return Some(format!("{}/{} has {whole} copies on {members:?}", ledger.id, EntryId(entry)));
            }
        }
    }
    None
}

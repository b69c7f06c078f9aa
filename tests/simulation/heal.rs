//! A bookie in limbo finds again what it lost, in the steps of the product's healer: every ledger that metadata says is
//! held here becomes suspect, each closed one is fetched and healed, heads wait for their owners, and limbo ends last.

use crate::{
    metadata,
    network::{Answered, Response},
    node, repair,
    trace::tell,
    world::World,
};
use bookie::testing::InlineBookie;
use protocol::{
    id::{BookieId, LedgerId},
    ledger::{
        metadata::{BookieMember, LedgerMetadata},
        repair::{extents, gaps},
    },
    model::Sequence,
    service::{Answer, bookie::BookieError},
};
use std::{ops::RangeInclusive, rc::Rc};

/// Goes as far as it can now; the rest waits for the next turn.
pub(crate) async fn heal(world: &Rc<World>, id: BookieId, bookie: &Rc<InlineBookie>) -> Option<()> {
    let member = bookie.member();
    let floor = metadata::next_number(world, Sequence::Ledger).await.ok()?;
    let named = ledgers_of(world, member).await?;
    for ledger in &named {
        match done(world, id, bookie.suspect(ledger.id, ledger.key)).await {
            Ok(_) | Err(BookieError::Deleted(_)) => {}
            Err(_) => return None,
        }
    }
    for ledger in bookie.ledgers_in_limbo().ok()? {
        heal_ledger(world, id, bookie, ledger).await?;
    }
    done(world, id, bookie.end_limbo(LedgerId(floor))).await.ok()?;
    bookie.leave_limbo().ok()?;
    world.count("bookies healed");
    tell!(world, "{member} is out of limbo");
    let listed = world.nodes.borrow()[&id].disk.store.entries().into_iter().collect();
    world.oracle.borrow_mut().heal(member, &listed);
    node::refresh(world, id);
    Some(())
}

async fn heal_ledger(world: &Rc<World>, id: BookieId, bookie: &Rc<InlineBookie>, ledger: LedgerId) -> Option<()> {
    let named = ledgers_of(world, bookie.member()).await?;
    if let Some(metadata) = named.iter().find(|named| named.id == ledger) {
        if !metadata.is_closed() {
            return None;
        }
        for (fragment, run) in missing(bookie, metadata) {
            repair::fetch(world, bookie.member(), metadata, fragment, run).await;
        }
        if !missing(bookie, metadata).is_empty() {
            return None;
        }
    }
    done(world, id, bookie.heal(ledger)).await.ok().map(drop)
}

/// The entries of a closed ledger that belong here and are not, by fragment.
pub(crate) fn missing(bookie: &InlineBookie, metadata: &LedgerMetadata) -> Vec<(usize, RangeInclusive<u64>)> {
    let held = bookie.held(metadata.id).map(|list| list.runs).unwrap_or_default();
    let mut missing = Vec::new();
    for (fragment, extent) in extents(metadata).into_iter().enumerate() {
        if let Some(extent) = extent.filter(|_| metadata.fragments[fragment].ensemble.contains(&bookie.member())) {
            missing.extend(gaps(&extent, &held).into_iter().map(|run| (fragment, run)));
        }
    }
    missing
}

/// Every ledger that metadata says is held by this bookie.
async fn ledgers_of(world: &Rc<World>, member: BookieMember) -> Option<Vec<LedgerMetadata>> {
    let mut ledgers = repair::ledgers(world).await?;
    ledgers.retain(|ledger| ledger.fragments.iter().any(|fragment| fragment.ensemble.contains(&member)));
    Some(ledgers)
}

/// Waits until the committer has noted a step.
async fn done(world: &Rc<World>, id: BookieId, answer: Answer<(), BookieError>) -> Answered {
    node::sync_soon(world, id);
    answer.await.map(|()| Response::Done)
}

//! What must be true, as named functions. The first four are those of BookKeeper's TLA+ model, taken from the quorum
//! client itself; the others are promises of a bookie and of a reader. Each compares one thing with the oracle and
//! reports what it finds to the world.

use crate::{
    network::{Answered, Request},
    oracle::{deleted_at, fenced_at},
    world::World,
};
use bookie::ledger::LedgerRecord;
use broker::ledger::invariants as ledger_invariants;
use protocol::{
    id::{EntryId, Lac, LedgerId},
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, LedgerMetadata, LedgerState},
    },
    service::bookie::{BookieError, EntryList, ListEntries},
};
use std::{ops::Range, rc::Rc};

/// The metadata of a ledger as the cluster has it now.
pub(crate) fn metadata_of(world: &World, ledger: LedgerId) -> Option<LedgerMetadata> {
    crate::chain::with(world, |chain| chain.ledger(ledger).cloned())
}

/// Whether a bookie would serve this entry after a crash, byte for byte.
pub(crate) fn keeps(world: &World, member: BookieMember, entry: &SealedEntry) -> bool {
    let nodes = world.nodes.borrow();
    nodes.get(&member.id).is_some_and(|node| node.member == member && !node.is_out && node.disk.store.keeps(entry))
}

/// Entries are confirmed one after the other, and never taken back.
pub(crate) fn no_out_of_order_entries(world: &World, ledger: LedgerId, before: Lac, after: Lac) {
    if after <= before {
        world.violate("no out-of-order entries", format!("ledger {ledger} was confirmed at {before}, now at {after}"));
    }
    let sent = world.oracle.borrow_mut().truth(ledger).sent.len() as u64;
    if after.count() > sent {
        world.violate("no out-of-order entries", format!("ledger {ledger}: {sent} entries sent, confirmed at {after}"));
    }
}

/// No acknowledged entry stands above the end of a closed ledger.
pub(crate) fn no_divergence_between_client_and_metadata(world: &World, ledger: LedgerId) {
    let (acked, end) = {
        let mut oracle = world.oracle.borrow_mut();
        let truth = oracle.truth(ledger);
        (truth.acked, truth.end)
    };
    let Some(last_entry) = end else { return };
    let state = LedgerState::Closed { last_entry, length: 0 };
    if let Err(violation) = ledger_invariants::no_divergence_between_client_and_metadata(acked, &state) {
        world.violate("no divergence of client and metadata", format!("ledger {ledger}: {violation}"));
    }
}

/// Acknowledged entries stand on Aq members that metadata names, not counting what injected faults have destroyed; and
/// at least one copy of each is whole.
pub(crate) fn acked_entries_are_readable(world: &World, ledger: LedgerId, entries: Range<u64>) {
    let rule = "all acked entries are readable";
    let (truth, is_dead) = {
        let mut oracle = world.oracle.borrow_mut();
        let truth = oracle.truth(ledger);
        (truth.sent.get(entries.start as usize..entries.end as usize).map(<[_]>::to_vec), truth.is_dead)
    };
    let Some(sent) = truth.filter(|_| !is_dead) else { return };
    let Some(metadata) = metadata_of(world, ledger) else {
        return world.violate(rule, format!("ledger {ledger} is in no list, but has acknowledged entries"));
    };
    let oracle = world.oracle.borrow();
    for entry in &sent {
        let (mut whole, mut excused) = (0, 0);
        for member in metadata.ensemble_of(entry.entry()) {
            if keeps(world, *member, entry) {
                whole += 1;
            } else if oracle.is_excused(*member, ledger, entry.entry()) {
                excused += 1;
            }
        }
        let needed = metadata.quorum.ack();
        if whole == 0 || whole + excused < needed {
            let (entry, members) = (entry.entry(), metadata.ensemble_of(entry.entry()));
            let what = format!(
                "ledger {ledger}, entry {entry}: {whole} of {needed} copies ({excused} destroyed) on {members:?}"
            );
            world.violate(rule, what);
            return;
        }
    }
}

/// Every acknowledged entry of every ledger that the partition names.
pub(crate) fn all_acked_entries_are_readable(world: &World) {
    let acked: Vec<(LedgerId, u64)> = {
        let oracle = world.oracle.borrow();
        oracle
            .ledgers
            .iter()
            .filter(|(_, truth)| !truth.is_dead)
            .map(|(id, truth)| (*id, truth.acked.count()))
            .collect()
    };
    acked
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .for_each(|(id, count)| acked_entries_are_readable(world, id, 0..count));
}

/// What a bookie acknowledges is on its disk (B1).
pub(crate) fn an_ack_is_durable(world: &World, by: BookieMember, entry: &SealedEntry) {
    // A deletion that was synced together with it may have taken it away again.
    let record = world.nodes.borrow().get(&by.id).and_then(|node| node.disk.store.keeps_ledger(entry.ledger()));
    if record != Some(LedgerRecord::Deleted) && !keeps(world, by, entry) {
        world
            .violate("an ack is durable", format!("{by} acknowledged {}/{} without it", entry.ledger(), entry.entry()));
    }
}

/// A fence is on the disk before it is answered, also for a ledger never seen (R3, B3).
pub(crate) fn a_fence_is_durable(world: &World, by: BookieMember, ledger: LedgerId) {
    let record = world.nodes.borrow().get(&by.id).and_then(|node| node.disk.store.keeps_ledger(ledger));
    let holds = match record {
        Some(LedgerRecord::Known(known)) => known.fenced,
        Some(LedgerRecord::Deleted) => true,
        None => false,
    };
    if !holds {
        world.violate(
            "a fence is durable",
            format!("{by} says that ledger {ledger} is fenced, its disk has {record:?}"),
        );
    }
}

/// After a fence was answered, no ordinary add that arrives is acknowledged (R3).
pub(crate) fn a_fence_holds(world: &World, by: BookieMember, arrived: u64, request: &Request) {
    if let Some(at) = fenced_at(world, by, request.ledger()).filter(|at| *at < arrived) {
        world.violate("a fence holds", format!("{by} fenced at step {at} and then took: {request} (step {arrived})"));
    }
}

/// After a deletion was answered, nothing of the ledger is taken or served (B8).
pub(crate) fn deleted_stays_deleted(world: &World, by: BookieMember, arrived: u64, request: &Request) {
    if let Some(at) = deleted_at(world, by, request.ledger()).filter(|at| *at < arrived) {
        world.violate("deleted stays deleted", format!("{by} deleted at step {at} and then did: {request}"));
    }
}

/// A tombstone that a fault has destroyed lets no writer in again (B8): whether or not the bookie still knows the ledger.
pub(crate) fn a_forgotten_ledger_stays_closed(world: &World, by: BookieMember, request: &Request) {
    if world.oracle.borrow().forgotten.contains(&(by, request.ledger())) {
        world.violate("deleted stays deleted", format!("{by} lost the tombstone and then took: {request}"));
    }
}

/// A bookie answers only what is meant for this life of its disk (B11).
pub(crate) fn no_answer_for_another_life(world: &World, by: BookieMember, request: &Request, answer: &Answered) {
    let named = request.member();
    if named != by && !matches!(answer, Err(BookieError::WrongMember { .. })) {
        world.violate("no answer for another life", format!("{by} answered for {named}: {request}"));
    }
}

/// A bookie never denies what it acknowledged, as long as metadata names it for that (R9, B12).
pub(crate) fn no_false_negative(world: &World, by: BookieMember, ledger: LedgerId, entry: EntryId) {
    if !world.oracle.borrow().has_acked(by, ledger, entry) {
        return;
    }
    let Some(metadata) = metadata_of(world, ledger) else { return };
    let is_over = matches!(metadata.state, LedgerState::Closed { last_entry, .. } if Some(entry) > last_entry);
    if !is_over && metadata.ensemble_of(entry).contains(&by) {
        world.violate("no false negative", format!("{by} denies {ledger}/{entry}, which it acknowledged"));
    }
}

/// A list leaves nothing out that was acknowledged.
pub(crate) fn a_list_is_complete(world: &World, by: BookieMember, asked: &ListEntries, found: &EntryList) {
    if found.more {
        return;
    }
    let sent = world.oracle.borrow_mut().truth(asked.ledger).sent.len() as u64;
    let listed = |entry: u64| found.runs.iter().any(|run| run.contains(&entry));
    for entry in (asked.first.0..sent).filter(|entry| !listed(*entry)) {
        no_false_negative(world, by, asked.ledger, EntryId(entry));
    }
}

/// A bookie's last-add-confirmed is never above the writer's.
pub(crate) fn nobody_confirms_more_than_the_writer(world: &World, by: BookieMember, ledger: LedgerId, lac: Lac) {
    let acked = world.oracle.borrow_mut().truth(ledger).acked;
    if lac > acked {
        world.violate(
            "readers never see beyond last-add-confirmed",
            format!("{by} says {lac} of ledger {ledger}, the writer {acked}"),
        );
    }
}

/// A bookie that has lost synced state does not know what was confirmed (B12).
pub(crate) fn limbo_confirms_nothing(world: &World, by: BookieMember, ledger: LedgerId) {
    if world.oracle.borrow().limbo.contains(&by) {
        world.violate("limbo confirms nothing", format!("{by} has lost state and tells what is confirmed of {ledger}"));
    }
}

/// What is served is what was sent, byte for byte (B7).
pub(crate) fn what_is_served_was_sent(world: &World, by: BookieMember, entry: &SealedEntry) {
    let (ledger, id) = (entry.ledger(), entry.entry());
    let mut oracle = world.oracle.borrow_mut();
    if oracle.truth(ledger).sent.get(id.0 as usize) != Some(entry) {
        drop(oracle);
        world.violate("what is served was sent", format!("{by} serves other bytes for {ledger}/{id}"));
    }
}

/// A reader sees what is confirmed, one value at each place for ever.
pub(crate) fn a_reader_sees(world: &Rc<World>, entry: &SealedEntry, bound: Option<EntryId>) {
    let (ledger, id) = (entry.ledger(), entry.entry());
    if Some(id) > bound {
        let what = format!("{ledger}/{id} was shown, the bound is {bound:?}");
        world.violate("readers never see beyond last-add-confirmed", what);
    }
    let before = world.oracle.borrow_mut().shown.insert((ledger, id), entry.clone());
    if before.is_some_and(|before| before != *entry) {
        world.violate("one value at each place", format!("{ledger}/{id} was shown with two values"));
    }
    // What was shown is part of the log: it may not lie above the ledger's end.
    let end = world.oracle.borrow_mut().truth(ledger).end;
    if end.is_some_and(|end| Some(id) > end) {
        world
            .violate("readers never see beyond the last entry", format!("{ledger}/{id} was shown, the end is {end:?}"));
    }
}

//! The partition's log as metadata has it, watched over every change: the head, the closed ledgers in order, and the dead
//! ones. Owns the invariants of the chain; changes nothing.

use crate::{invariants, trace::tell, world::World};
use protocol::{
    id::{LedgerId, Offset, Revision},
    ledger::metadata::{LedgerMetadata, LedgerState},
    model::{ClosedLedger, ClosedPage, HeadLedger, PartitionRecord, decode, key, prefix},
    topic::{PartitionId, TopicId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};
use uuid::Uuid;

/// The one partition of a run.
pub(crate) const PARTITION: PartitionId = PartitionId { topic: TopicId(Uuid::from_u128(7)), index: 0 };

/// The log as it was last seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    versions: BTreeMap<String, Revision>,
    pub(crate) record: Option<PartitionRecord>,
    pub(crate) closed: Vec<ClosedLedger>,
    last_head: Option<LedgerId>,
}

impl Chain {
    /// A ledger that the partition names.
    pub(crate) fn ledger(&self, id: LedgerId) -> Option<&LedgerMetadata> {
        let head = self.head().map(|head| &head.ledger);
        self.closed.iter().map(|closed| &closed.ledger).chain(head).find(|ledger| ledger.id == id)
    }

    pub(crate) fn head(&self) -> Option<&HeadLedger> {
        self.record.as_ref()?.head.as_ref()
    }

    /// Every ledger that the partition names.
    pub(crate) fn ledgers(&self) -> impl Iterator<Item = &LedgerMetadata> {
        self.closed.iter().map(|closed| &closed.ledger).chain(self.head().map(|head| &head.ledger))
    }
}

/// Looks at the chain as it is now.
pub(crate) fn with<T>(world: &World, look: impl FnOnce(&Chain) -> T) -> T {
    look(&world.chain.borrow())
}

/// Metadata has changed: compares the log with what it was before.
pub(crate) fn check(world: &Rc<World>) {
    let items: Vec<_> = [key::partition(PARTITION)]
        .iter()
        .filter_map(|key| world.metadata.peek(key))
        .chain(world.metadata.scan(&prefix::closed_of(PARTITION)))
        .collect();
    let versions: BTreeMap<_, _> = items.iter().map(|item| (item.key.clone(), item.version)).collect();
    if world.chain.borrow().versions == versions {
        return;
    }
    let Some((record, pages)) = items.split_first() else { return };
    let record: PartitionRecord = decode(&record.value).expect("a partition record");
    let pages = pages.iter().map(|item| decode::<ClosedPage>(&item.value).expect("a page of closed ledgers"));
    let closed: Vec<ClosedLedger> = pages.flat_map(|page| page.ledgers).collect();
    let last_head = record.head.as_ref().map(|head| head.ledger.id);
    let before = world.chain.borrow().clone();
    let last_head = last_head.max(before.last_head);
    let now = Chain { versions, record: Some(record), closed, last_head };
    tell!(world, "the log is now {}", show(&now));
    *world.chain.borrow_mut() = now.clone();
    compare(world, &before, &now);
}

fn compare(world: &Rc<World>, before: &Chain, now: &Chain) {
    if let (Some(was), Some(is)) = (&before.record, &now.record)
        && (is.epoch < was.epoch || is.log_start < was.log_start || is.closed_end < was.closed_end)
    {
        world.violate("the partition goes only forward", format!("{was:?} became {is:?}"));
    }
    forget_candidates(world, now);
    check_head(world, before, now);
    check_order(world, now);
    check_left_out(world, before, now);
    for closed in &now.closed {
        match before.closed.iter().find(|was| was.ledger.id == closed.ledger.id) {
            None => ends(world, &closed.ledger),
            Some(was) if was == closed => {}
            Some(was) => check_repaired(world, was, closed),
        }
    }
    if let Some(head) = now.head().filter(|head| before.head() != Some(head)) {
        let acked = world.oracle.borrow_mut().truth(head.ledger.id).acked.count();
        invariants::acked_entries_are_readable(world, head.ledger.id, 0..acked);
    }
}

/// Every change on its way was conditional on what has just changed: ensembles that were proposed for closed ledgers, and
/// for ledgers that never became the head, can never be used any more.
fn forget_candidates(world: &Rc<World>, now: &Chain) {
    let last = now.last_head.unwrap_or_default();
    world.oracle.borrow_mut().candidates.retain(|ledger, _| *ledger >= last);
}

/// One ledger is open at a time: a new one is newer than all before, and a ledger never goes back to OPEN.
fn check_head(world: &Rc<World>, before: &Chain, now: &Chain) {
    let Some(head) = now.head() else { return };
    if matches!(head.ledger.state, LedgerState::Closed { .. }) {
        world.violate("one ledger open at a time", format!("the head {} is closed", head.ledger.id));
    }
    match before.head() {
        Some(was) if was.ledger.id == head.ledger.id => {
            let (was, is) = (was.ledger.state, head.ledger.state);
            if (was, is) == (LedgerState::InRecovery, LedgerState::Open) {
                world.violate("a ledger goes only forward", format!("{} is OPEN again", head.ledger.id));
            }
        }
        _ if before.last_head >= Some(head.ledger.id) => {
            world.violate("one ledger open at a time", format!("{} is a head again", head.ledger.id));
        }
        _ => {}
    }
    check_fragments(world, &head.ledger);
}

/// The closed ledgers follow each other without a gap, in the order of ids and epochs.
fn check_order(world: &Rc<World>, now: &Chain) {
    let rule = "entry order is maintained over the chain";
    for (first, second) in now.closed.iter().zip(now.closed.iter().skip(1)) {
        let in_order =
            first.end_offset == second.base_offset && first.ledger.id < second.ledger.id && first.epoch <= second.epoch;
        if !in_order {
            world.violate(rule, format!("ledger {} is followed by {}", first.ledger.id, second.ledger.id));
        }
    }
    for closed in &now.closed {
        let LedgerState::Closed { last_entry: Some(last), length } = closed.ledger.state else {
            return world.violate(rule, format!("ledger {} is listed and not closed, or empty", closed.ledger.id));
        };
        let mut oracle = world.oracle.borrow_mut();
        let sent = oracle.truth(closed.ledger.id).sent.get(last.0 as usize).map(|entry| entry.length());
        drop(oracle);
        if sent != Some(length) || closed.end_offset.0 - closed.base_offset.0 != last.0 as i64 + 1 {
            world.violate(
                rule,
                format!("ledger {} ends at {last} with length {length}, sent {sent:?}", closed.ledger.id),
            );
        }
        check_fragments(world, &closed.ledger);
    }
    let end = now.closed.last().map(|closed| closed.end_offset);
    let known = now.record.as_ref().map_or(Offset(0), |record| record.closed_end);
    let head = now.head().map_or(known, |head| head.base_offset);
    if end.is_some_and(|end| end != known) || head != known {
        world.violate(
            rule,
            format!("closed ledgers end at {end:?}, the record says {known}, the head begins at {head}"),
        );
    }
}

fn check_fragments(world: &Rc<World>, ledger: &LedgerMetadata) {
    let ascending = ledger.fragments.windows(2).all(|pair| pair[0].first_entry < pair[1].first_entry);
    let starts = ledger.fragments.first().is_some_and(|fragment| fragment.first_entry.0 == 0);
    let distinct = |fragment: &protocol::ledger::metadata::Fragment| {
        let ids: BTreeSet<_> = fragment.ensemble.iter().map(|member| member.id).collect();
        ids.len() == fragment.ensemble.len()
    };
    if !ascending || !starts || !ledger.fragments.iter().all(distinct) {
        world.violate("fragments are legal", format!("ledger {}: {:?}", ledger.id, ledger.fragments));
    }
}

/// A ledger leaves the list only as the head that was empty, or from the front when the log start has passed it.
fn check_left_out(world: &Rc<World>, before: &Chain, now: &Chain) {
    let named: BTreeSet<_> = now.ledgers().map(|ledger| ledger.id).collect();
    let log_start = now.record.as_ref().map_or(Offset(0), |record| record.log_start);
    for closed in before.closed.iter().filter(|closed| !named.contains(&closed.ledger.id)) {
        if closed.end_offset > log_start {
            world.violate("all non-empty ledgers are in the list", format!("ledger {} is left out", closed.ledger.id));
        }
        dies(world, &closed.ledger);
    }
    if let Some(head) = before.head().filter(|head| !named.contains(&head.ledger.id)) {
        let mut oracle = world.oracle.borrow_mut();
        let truth = oracle.truth(head.ledger.id);
        truth.end = Some(None);
        drop(oracle);
        // Without any entry that was acknowledged, or this is reported.
        invariants::no_divergence_between_client_and_metadata(world, head.ledger.id);
        dies(world, &head.ledger);
    }
}

fn dies(world: &Rc<World>, ledger: &LedgerMetadata) {
    let mut oracle = world.oracle.borrow_mut();
    oracle.truth(ledger.id).is_dead = true;
    oracle.candidates.remove(&ledger.id);
    if world.metadata.peek(&key::dead(ledger.id)).is_none() {
        drop(oracle);
        world.violate("what nobody names is deleted", format!("ledger {} has gone without a record", ledger.id));
    }
}

/// A ledger is closed.
fn ends(world: &Rc<World>, ledger: &LedgerMetadata) {
    let LedgerState::Closed { last_entry, .. } = ledger.state else { return };
    let acked = {
        let mut oracle = world.oracle.borrow_mut();
        oracle.candidates.remove(&ledger.id);
        let truth = oracle.truth(ledger.id);
        truth.end = Some(last_entry);
        truth.acked
    };
    world.count("ledgers closed");
    invariants::no_divergence_between_client_and_metadata(world, ledger.id);
    let count = last_entry.map_or(0, |last| last.0 + 1);
    // Everything up to the end counts as acknowledged from now on: readers see it.
    invariants::acked_entries_are_readable(world, ledger.id, 0..count.max(acked.count()));
}

/// Repair may change where copies are, and nothing else.
fn check_repaired(world: &Rc<World>, was: &ClosedLedger, is: &ClosedLedger) {
    let mut same = is.clone();
    same.ledger.fragments.clone_from(&was.ledger.fragments);
    same.ledger.holes.clone_from(&was.ledger.holes);
    let starts = |closed: &ClosedLedger| closed.ledger.fragments.iter().map(|f| f.first_entry).collect::<Vec<_>>();
    if same != *was || starts(is) != starts(was) {
        world.violate("a closed ledger does not change", format!("{was:?} became {is:?}"));
    }
    let LedgerState::Closed { last_entry: Some(last), .. } = is.ledger.state else { return };
    invariants::acked_entries_are_readable(world, is.ledger.id, 0..last.0 + 1);
}

fn show(chain: &Chain) -> String {
    let members = |ledger: &LedgerMetadata| {
        let fragments = ledger.fragments.iter().map(|fragment| {
            let members: Vec<String> = fragment.ensemble.iter().map(ToString::to_string).collect();
            format!("{}:[{}]", fragment.first_entry, members.join(" "))
        });
        fragments.collect::<Vec<_>>().join(" ")
    };
    let closed = chain.closed.iter().map(|c| format!("{}@{} {}", c.ledger.id, c.base_offset, members(&c.ledger)));
    let closed: Vec<String> = closed.collect();
    let closed = closed[closed.len().saturating_sub(3)..].join(", ");
    let epoch = chain.record.as_ref().map_or(0, |record| record.epoch.0);
    match chain.head() {
        Some(h) => {
            format!(
                "epoch {epoch}, ..{closed}, head {}@{} {:?} {}",
                h.ledger.id,
                h.base_offset,
                h.ledger.state,
                members(&h.ledger)
            )
        }
        None => format!("epoch {epoch}, ..{closed}, no head"),
    }
}

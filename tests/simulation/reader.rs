//! Readers of other brokers: they read what metadata names, from whichever bookie answers, bounded by last-add-confirmed
//! of the head and by the last entry of closed ledgers. Their view of metadata may be old.

use crate::{
    chain::{self, Chain},
    invariants,
    network::{self, Request, Response},
    world::{Site, World},
};
use protocol::{
    id::{EntryId, LedgerId},
    ledger::metadata::{LedgerMetadata, LedgerState},
    service::bookie::ReadEntries,
};
use std::{rc::Rc, time::Duration};

/// Starts a reader.
pub(crate) fn start(world: &Rc<World>) {
    let process = world.process_at(Site::Reader);
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move { read_on(&inner).await });
}

async fn read_on(world: &Rc<World>) {
    let mut view = Chain::default();
    loop {
        world.rest(Duration::from_millis(400)).await;
        if world.flips(0.5) {
            view = chain::with(world, Clone::clone);
        }
        let ledgers: Vec<LedgerMetadata> = view.ledgers().cloned().collect();
        // Half of the reads go to the tail.
        let ledger = if world.flips(0.5) { ledgers.last().cloned() } else { world.pick(&ledgers) };
        if let Some(ledger) = ledger {
            read_some(world, &ledger).await;
        }
    }
}

/// Reads from some place of a ledger.
async fn read_some(world: &Rc<World>, ledger: &LedgerMetadata) {
    let sent = world.oracle.borrow_mut().truth(ledger.id).sent.len() as u64;
    let first = EntryId(world.number(0..sent + 2));
    let Some(member) = world.pick(ledger.ensemble_of(first)) else { return };
    let read = ReadEntries { member, ledger: ledger.id, first, max_count: 8, max_bytes: 1 << 20, fence: None };
    let Ok(Response::Run(run)) = network::call(world, Request::Read(read)).await else { return };
    let bound = match ledger.state {
        LedgerState::Closed { last_entry, .. } => last_entry,
        LedgerState::Open | LedgerState::InRecovery => run.lac.entry(),
    };
    for entry in run.entries.iter().filter(|entry| Some(entry.entry()) <= bound) {
        world.count("entries read");
        invariants::a_reader_sees(world, entry, bound);
    }
}

/// Reads every entry that was acknowledged and is not trimmed, in order, from bookies that metadata names.
pub(crate) async fn read_all(world: &Rc<World>) -> Result<u64, String> {
    let ledgers: Vec<LedgerMetadata> = chain::with(world, |chain| chain.ledgers().cloned().collect());
    let mut count = 0;
    for ledger in ledgers {
        let end = match ledger.state {
            LedgerState::Closed { last_entry, .. } => last_entry.map_or(0, |last| last.0 + 1),
            LedgerState::Open | LedgerState::InRecovery => world.oracle.borrow_mut().truth(ledger.id).acked.count(),
        };
        for entry in (0..end).map(EntryId) {
            read_one(world, &ledger, entry).await?;
            count += 1;
        }
    }
    Ok(count)
}

async fn read_one(world: &Rc<World>, ledger: &LedgerMetadata, entry: EntryId) -> Result<(), String> {
    let id: LedgerId = ledger.id;
    for member in ledger.ensemble_of(entry) {
        let read =
            ReadEntries { member: *member, ledger: id, first: entry, max_count: 1, max_bytes: 1 << 20, fence: None };
        if let Ok(Response::Run(run)) = network::call(world, Request::Read(read)).await {
            let sent = world.oracle.borrow_mut().truth(id).sent.get(entry.0 as usize).cloned();
            if run.entries.first() == sent.as_ref() {
                return Ok(());
            }
        }
    }
    Err(format!("{id}/{entry} cannot be read from {:?}", ledger.ensemble_of(entry)))
}

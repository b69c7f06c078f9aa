//! Drives the quorum client's recovery over the simulated network.

use crate::{
    engine::promise,
    log::Log,
    network::{self, Answered, Request, Response},
    trace::tell,
    world::World,
    writer::{limits, may_pass, spares},
};
use broker::ledger::recovery_machine::{Command, End, Event, Found, LedgerRecovery, RecoveryError};
use protocol::{
    id::EntryId,
    ledger::{entry::SealedEntry, metadata::LedgerMetadata},
    mutant::Mutant,
    service::bookie::{AddEntry, BookieError, FenceLedger, ReadEntries},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// How often a fence or a read is tried in all.
const ATTEMPTS: u32 = 2;

struct Recovery {
    metadata: LedgerMetadata,
    machine: RefCell<LedgerRecovery>,
    found: RefCell<BTreeMap<EntryId, SealedEntry>>,
    ended: crate::engine::Promise<Result<End, RecoveryError>>,
    is_over: Cell<bool>,
    log: Rc<Log>,
}

/// Finds out where a ledger ends, and makes every entry up to there safe.
pub(crate) async fn recover(world: &Rc<World>, metadata: &LedgerMetadata, log: &Rc<Log>) -> Result<End, RecoveryError> {
    world.count("recoveries");
    tell!(world, "{} recovers ledger {}", world.here(), metadata.id);
    let (ended, end) = promise();
    let machine = RefCell::new(LedgerRecovery::new(metadata.clone(), limits(world)));
    let is_over = Cell::default();
    let (log, found, metadata) = (Rc::clone(log), RefCell::default(), metadata.clone());
    let recovery = Rc::new(Recovery { metadata, machine, found, ended, is_over, log });
    recovery.step(world, Event::Start);
    let end = end.await;
    recovery.is_over.set(true);
    match &end {
        Ok(end) => tell!(world, "{}: ledger {} ends at {:?}", world.here(), recovery.metadata.id, end.last_entry),
        Err(problem) => tell!(world, "{}: ledger {} is not recovered: {problem}", world.here(), recovery.metadata.id),
    }
    end
}

impl Recovery {
    fn step(self: &Rc<Self>, world: &Rc<World>, event: Event) {
        if self.is_over.get() {
            return;
        }
        let mut commands = Vec::new();
        self.machine.borrow_mut().on_event(event, &mut commands);
        let ensemble = self.machine.borrow().ensemble();
        world.oracle.borrow_mut().propose(self.metadata.id, &ensemble);
        if world.mutants.has(Mutant::PublishInRecovery) {
            self.publish(world);
        }
        for command in commands {
            match command {
                Command::Fence { member } => {
                    let fence = FenceLedger { member, ledger: self.metadata.id, key: self.metadata.key };
                    self.ask(world, Request::Fence(fence), move |_, _, answer| {
                        let result = answer.map(|said| match said {
                            Response::Lac(lac) => lac,
                            other => panic!("a fence was answered with {other:?}"),
                        });
                        Event::Fenced { member, result }
                    });
                }
                Command::Read { member, entry, fence } => {
                    let (ledger, fence) = (self.metadata.id, fence.then_some(self.metadata.key));
                    let read = ReadEntries { member, ledger, first: entry, max_count: 1, max_bytes: u32::MAX, fence };
                    self.ask(world, Request::Read(read), move |recovery, _, answer| {
                        let result = answer.and_then(|said| recovery.take(entry, said));
                        Event::Read { member, entry, result }
                    });
                }
                Command::Write { member, entry } => {
                    let sealed = self.found.borrow().get(&entry).expect("it was found").clone();
                    let add = AddEntry { member, key: self.metadata.key, recovery: true, entry: sealed };
                    self.ask(world, Request::Add(add), move |recovery, world, answer| {
                        let ensemble = recovery.machine.borrow().ensemble();
                        let spares = spares(world, &ensemble, recovery.metadata.id.0);
                        Event::Written { member, entry, result: answer.map(drop), spares }
                    });
                }
                Command::Done(end) => self.ended.give(Ok(end)),
                Command::Fail(error) => self.ended.give(Err(error)),
            }
        }
    }

    /// What no recovery of ours does (R11). The product's driver could not: it has no way to metadata.
    fn publish(self: &Rc<Self>, world: &Rc<World>) {
        let fragments = self.machine.borrow().fragments().to_vec();
        if fragments != self.metadata.fragments {
            let changed = LedgerMetadata { fragments, ..self.metadata.clone() };
            let (recovery, inner) = (Rc::clone(self), Rc::clone(world));
            world.engine.spawn(async move {
                drop(recovery.log.replace(&inner, &recovery.metadata, &changed).await);
            });
        }
    }

    /// The entry that was read, if it is the one that was asked for.
    fn take(&self, entry: EntryId, said: Response) -> Result<Found, BookieError> {
        let Response::Run(run) = said else { panic!("a read was answered with {said:?}") };
        let first = run.entries.into_iter().next().filter(|e| (e.ledger(), e.entry()) == (self.metadata.id, entry));
        let Some(sealed) = first else {
            return Err(BookieError::Unknown { reason: "answered with another entry, or none".into() });
        };
        let found = Found { size: sealed.bytes().len() as u32, length: sealed.length() };
        self.found.borrow_mut().entry(entry).or_insert(sealed);
        Ok(found)
    }

    fn ask(
        self: &Rc<Self>,
        world: &Rc<World>,
        request: Request,
        event: impl FnOnce(&Self, &World, Answered) -> Event + 'static,
    ) {
        let (recovery, inner) = (Rc::clone(self), Rc::clone(world));
        let attempts = if matches!(request, Request::Add(_)) { 1 } else { ATTEMPTS };
        world.engine.spawn(async move {
            let mut answer = network::call(&inner, request.clone()).await;
            for _ in 1..attempts {
                if !answer.as_ref().is_err_and(may_pass) {
                    break;
                }
                inner.sleep(inner.millis(50, 500)).await;
                answer = network::call(&inner, request.clone()).await;
            }
            let event = event(&recovery, &inner, answer);
            recovery.step(&inner, event);
        });
    }
}

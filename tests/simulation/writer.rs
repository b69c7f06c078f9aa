//! Drives the quorum client's writer over the simulated network: carries out what the machine wants, and tells clients
//! and the oracle what it confirms.

use crate::{
    engine::{Promise, Promised, promise},
    log::{Log, LogError},
    network::{self, Request},
    oracle,
    trace::tell,
    world::World,
};
use broker::ledger::{
    machine::{Command, Event, LedgerWriter, Limits, ReplaceError, WriteError},
    placement,
};
use bytes::{BufMut, BytesMut};
use protocol::{
    id::{EntryId, Lac},
    ledger::{
        entry::{SEAL_LEN, SealedEntry},
        metadata::{BookieMember, LedgerMetadata},
    },
    model::HeadLedger,
    service::{
        bookie::{AddEntry, BookieError, ConfirmLac},
        metadata::MetadataError,
    },
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

/// After how long an idle writer tells its bookies what is confirmed.
const IDLE: Duration = Duration::from_millis(30);

/// Where a ledger ends that its own writer has finished.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) last_entry: Option<EntryId>,
    pub(crate) length: u64,
    pub(crate) ledger: LedgerMetadata,
}

/// A ledger that is being written.
pub(crate) struct Writer {
    pub(crate) head: HeadLedger,
    log: Rc<Log>,
    machine: RefCell<LedgerWriter>,
    sent: RefCell<BTreeMap<EntryId, SealedEntry>>,
    clients: RefCell<BTreeMap<EntryId, Promise<bool>>>,
    ended: Promise<Result<Ended, WriteError>>,
    end: Cell<Option<Promised<Result<Ended, WriteError>>>>,
    told: Cell<Lac>,
    is_ticking: Cell<bool>,
    pub(crate) is_over: Cell<bool>,
}

/// The limits of every machine of a run.
pub(crate) fn limits(world: &World) -> Limits {
    Limits { owed_entries: world.plan.owed_entries, mutants: world.mutants, ..Limits::default() }
}

/// Bookies that could take the place of a failed member.
pub(crate) fn spares(world: &World, ensemble: &[BookieMember], seed: u64) -> Vec<BookieMember> {
    placement::spares(&world.live(), ensemble, seed)
}

impl Writer {
    pub(crate) fn new(world: &World, head: HeadLedger, log: Rc<Log>) -> Rc<Self> {
        let machine = LedgerWriter::new(head.ledger.clone(), limits(world));
        let (ended, end) = promise();
        Rc::new(Self {
            head,
            log,
            machine: RefCell::new(machine),
            sent: RefCell::default(),
            clients: RefCell::default(),
            ended,
            end: Cell::new(Some(end)),
            told: Cell::default(),
            is_ticking: Cell::default(),
            is_over: Cell::default(),
        })
    }

    /// How many entries were appended.
    pub(crate) fn appended(&self) -> u64 {
        self.machine.borrow().next_entry().0
    }

    /// The metadata as last committed.
    pub(crate) fn metadata(&self) -> LedgerMetadata {
        self.machine.borrow().metadata().clone()
    }

    /// Members that were left behind.
    pub(crate) fn is_degraded(&self) -> bool {
        !self.machine.borrow().holes().is_empty()
    }

    /// Whether entries are appended and not confirmed.
    pub(crate) fn is_busy(&self) -> bool {
        self.machine.borrow().in_flight() > 0
    }

    /// Refuses further appends; the ledger ends when all is confirmed.
    pub(crate) fn close(self: &Rc<Self>, world: &Rc<World>) {
        self.step(world, Event::Close);
    }

    /// The end of the ledger, once.
    pub(crate) fn end(&self) -> Option<Promised<Result<Ended, WriteError>>> {
        self.end.take()
    }

    /// Appends a value; false if the writer takes no more. The client hears when it is durable.
    pub(crate) fn append(self: &Rc<Self>, world: &Rc<World>, value: u64, client: Promise<bool>) -> bool {
        let (entry, sealed, length) = {
            let machine = self.machine.borrow();
            if machine.accepts().is_err() {
                return false;
            }
            let payload = 8 + (value % 32) as usize;
            let mut buffer = BytesMut::with_capacity(SEAL_LEN + payload);
            buffer.put_bytes(0, SEAL_LEN);
            buffer.put_u64(value);
            buffer.put_bytes(0xee, payload - 8);
            let (entry, length) = (machine.next_entry(), machine.appended_length() + payload as u64);
            (entry, SealedEntry::seal(buffer, self.head.ledger.id, entry, machine.lac(), length), length)
        };
        let size = u32::try_from(sealed.bytes().len()).expect("small");
        let mut oracle = world.oracle.borrow_mut();
        let truth = oracle.truth(sealed.ledger());
        assert_eq!(truth.sent.len() as u64, entry.0, "a ledger has one writer, and ids are dense");
        truth.sent.push(sealed.clone());
        drop(oracle);
        self.sent.borrow_mut().insert(entry, sealed);
        self.clients.borrow_mut().insert(entry, client);
        self.step(world, Event::Append { size, length });
        true
    }

    fn step(self: &Rc<Self>, world: &Rc<World>, event: Event) {
        let mut commands = Vec::new();
        self.machine.borrow_mut().on_event(event, &mut commands);
        for command in commands {
            match command {
                Command::Send { member, entry } => self.send(world, member, entry),
                Command::Confirm { lac } => self.confirm(world, lac),
                Command::ChangeEnsemble { new } => self.change(world, new),
                Command::Fail(error) => {
                    tell!(world, "{}: ledger {} cannot be written: {error}", world.here(), self.head.ledger.id);
                    world.count("writers stopped");
                    self.is_over.set(true);
                    self.clients.borrow_mut().values().for_each(|client| client.give(false));
                    self.ended.give(Err(error));
                }
                Command::Closed { last_entry, length } => {
                    let ledger = self.metadata();
                    self.is_over.set(true);
                    let holes = self.machine.borrow().holes();
                    self.ended.give(Ok(Ended { last_entry, length, ledger: LedgerMetadata { holes, ..ledger } }));
                }
            }
        }
    }

    fn send(self: &Rc<Self>, world: &Rc<World>, member: BookieMember, entry: EntryId) {
        let Some(sealed) = self.sent.borrow().get(&entry).cloned() else { return };
        let add = AddEntry { member, key: self.head.ledger.key, recovery: false, entry: sealed };
        let (writer, inner) = (Rc::clone(self), Rc::clone(world));
        world.engine.spawn(async move {
            let answer = network::call(&inner, Request::Add(add)).await;
            let event = match answer {
                Ok(_) => Event::Acked { member, entry },
                Err(error) => {
                    let ensemble = writer.metadata().last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default();
                    let spares = spares(&inner, &ensemble, writer.head.ledger.id.0);
                    Event::Failed { member, entry, error, spares }
                }
            };
            writer.step(&inner, event);
        });
    }

    fn confirm(self: &Rc<Self>, world: &Rc<World>, lac: Lac) {
        tell!(world, "{}: ledger {} is confirmed through {lac}", world.here(), self.head.ledger.id);
        oracle::confirmed(world, self.head.ledger.id, lac);
        let mut clients = self.clients.borrow_mut();
        while let Some(first) = clients.first_entry().filter(|first| lac.covers(*first.key())) {
            first.remove().give(true);
        }
        if !self.is_ticking.replace(true) {
            let (writer, inner) = (Rc::clone(self), Rc::clone(world));
            world.engine.spawn(async move {
                inner.sleep(IDLE).await;
                writer.is_ticking.set(false);
                writer.tell_lac(&inner);
            });
        }
    }

    /// Rule P9: what is confirmed is told to the bookies when no entry is on its way that would carry it.
    fn tell_lac(self: &Rc<Self>, world: &Rc<World>) {
        let (lac, is_idle, metadata) = {
            let machine = self.machine.borrow();
            (machine.lac(), machine.in_flight() == 0, machine.metadata().clone())
        };
        if !is_idle || self.told.replace(lac) == lac {
            return;
        }
        let ensemble = metadata.last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default();
        for member in ensemble {
            let confirm = ConfirmLac { member, ledger: metadata.id, key: metadata.key, lac };
            let inner = Rc::clone(world);
            world.engine.spawn(async move { drop(network::call(&inner, Request::Confirm(confirm)).await) });
        }
    }

    fn change(self: &Rc<Self>, world: &Rc<World>, new: LedgerMetadata) {
        world.count("ensemble changes");
        let ensemble = new.last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default();
        world.oracle.borrow_mut().propose(new.id, &ensemble);
        let (writer, inner) = (Rc::clone(self), Rc::clone(world));
        world.engine.spawn(async move {
            let expected = writer.metadata();
            let result = match writer.log.replace(&inner, &expected, &new).await {
                Ok(()) => Ok(()),
                Err(LogError::Lost) => Err(ReplaceError::Lost),
                Err(LogError::Metadata(MetadataError::OutcomeUnknown { reason })) => {
                    Err(ReplaceError::OutcomeUnknown { reason })
                }
                Err(LogError::Metadata(problem)) => Err(ReplaceError::Unavailable { reason: problem.to_string() }),
            };
            let spares = spares(&inner, &ensemble, new.id.0);
            writer.step(&inner, Event::EnsembleChanged { result, spares });
        });
    }
}

/// Whether a bookie may be asked again: nothing happened, or nobody knows.
pub(crate) const fn may_pass(error: &BookieError) -> bool {
    matches!(error, BookieError::Unavailable { .. } | BookieError::OutcomeUnknown { .. })
}

//! A broker: finds out that it owns the partition, takes it over, writes its head, rolls it, and recovers its own ledger
//! after a failed write. The steps and their order are those of the product's partition; the protocol is the quorum
//! client's.

use crate::{
    chain::PARTITION,
    engine::{ProcessId, Promise, WORLD},
    log::{Log, LogError},
    metadata, network, recovery,
    trace::tell,
    world::{Site, World},
    writer::{Ended, Writer},
};
use broker::ledger::{NewLedger, new_ledger};
use protocol::{
    id::{LedgerId, LedgerKey, NodeId, Offset, Registration, Timestamp},
    ledger::metadata::{LedgerMetadata, LedgerState},
    model::{BookieState, ClosedLedger, HeadLedger, Owner, PartitionRecord, Sequence, decode, key},
    service::metadata::MetadataError,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

/// Appends that wait while there is no head.
const MAX_WAITING: usize = 20;
/// How long a member of the head may be away before the head is rolled.
const GRACE: Duration = Duration::from_secs(5);
/// How often the broker looks after its head.
const TICK: Duration = Duration::from_millis(100);

/// A broker process and the name under which it owns partitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BrokerNode {
    pub(crate) process: ProcessId,
    pub(crate) owner: Option<Owner>,
    pub(crate) seen: Duration,
}

/// The partition in the hands of a broker, at one epoch.
pub(crate) struct Serving {
    log: Rc<Log>,
    is_open: Cell<bool>,
    is_over: Cell<bool>,
    writer: RefCell<Option<Rc<Writer>>>,
    waiting: RefCell<VecDeque<(u64, Promise<bool>)>>,
    /// How many ledgers of the front are to be given up.
    pub(crate) trim: Cell<usize>,
    away_since: Cell<Option<Duration>>,
}

/// Starts a broker.
pub(crate) fn start(world: &Rc<World>, number: usize) {
    let process = world.process_at(Site::Broker(number));
    tell!(world, "broker{number} starts");
    let node = BrokerNode { process, owner: None, seen: world.engine.now() };
    world.brokers.borrow_mut().insert(number, node);
    world.serving.borrow_mut().remove(&number);
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move { run(&inner, number).await });
}

/// The process dies.
pub(crate) fn crash(world: &Rc<World>, number: usize) {
    let Some(node) = world.brokers.borrow().get(&number).copied() else { return };
    if world.engine.is_alive(node.process) {
        tell!(world, "broker{number} crashes");
        world.count("crashes of brokers");
        world.engine.kill(node.process);
        world.serving.borrow_mut().remove(&number);
        let (inner, after) = (Rc::clone(world), world.millis(200, 10_000));
        world.engine.spawn_on(WORLD, async move {
            inner.sleep(after).await;
            start(&inner, number);
        });
    }
}

/// Follows the partition record and serves the partition while it is ours.
async fn run(world: &Rc<World>, number: usize) {
    let owner = loop {
        if let Ok(registration) = metadata::next_number(world, Sequence::Registration).await {
            break Owner { node: NodeId(number as i32), registration: Registration(registration) };
        }
        world.rest(Duration::from_millis(500)).await;
    };
    if let Some(node) = world.brokers.borrow_mut().get_mut(&number) {
        node.owner = Some(owner);
    }
    loop {
        world.rest(Duration::from_millis(300)).await;
        let Ok(Some(held)) = metadata::get(world, key::partition(PARTITION)).await else { continue };
        if let Some(node) = world.brokers.borrow_mut().get_mut(&number) {
            node.seen = world.engine.now();
        }
        let record: PartitionRecord = decode(&held.value).expect("a partition record");
        let current = world.serving.borrow().get(&number).cloned();
        let is_ours = record.owner == Some(owner);
        match current {
            Some(serving) if is_ours && serving.log.epoch >= record.epoch => continue,
            // Sometimes it notices only when it is fenced.
            Some(serving) if !is_ours && world.flips(0.3) => serving.is_over.set(true),
            _ => {}
        }
        if is_ours {
            let serving = Rc::new(Serving {
                log: Rc::new(Log::new(owner, record.epoch)),
                is_open: Cell::default(),
                is_over: Cell::default(),
                writer: RefCell::default(),
                waiting: RefCell::default(),
                trim: Cell::default(),
                away_since: Cell::default(),
            });
            world.serving.borrow_mut().insert(number, Rc::clone(&serving));
            let inner = Rc::clone(world);
            world.engine.spawn(async move {
                serving.serve(&inner).await;
                tell!(inner, "{}: epoch {} is over", inner.here(), serving.log.epoch);
                serving.is_over.set(true);
                serving.refuse();
            });
        }
    }
}

impl Serving {
    /// Whether it takes appends now.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.get() && !self.is_over.get()
    }

    /// A client's append.
    pub(crate) fn append(&self, world: &Rc<World>, value: u64, client: Promise<bool>) {
        if !self.is_open() {
            return client.give(false);
        }
        let writer = self.writer.borrow().clone();
        if writer.is_some_and(|writer| writer.append(world, value, client.clone())) {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < MAX_WAITING { waiting.push_back((value, client)) } else { client.give(false) }
    }

    fn refuse(&self) {
        self.waiting.borrow_mut().drain(..).for_each(|(_, client)| client.give(false));
    }

    /// Until the partition is lost.
    async fn serve(&self, world: &Rc<World>) {
        while !self.is_over.get() {
            match self.open(world).await {
                Ok(()) => {}
                Err(LogError::Lost) => return,
                Err(LogError::Metadata(_)) => {
                    world.rest(Duration::from_millis(300)).await;
                    continue;
                }
            }
            tell!(world, "{}: epoch {} is served", world.here(), self.log.epoch);
            self.is_open.set(true);
            let served = self.write(world).await;
            self.is_open.set(false);
            *self.writer.borrow_mut() = None;
            self.refuse();
            if served == Err(LogError::Lost) {
                return;
            }
        }
    }

    /// Takes the log over: the head is put IN_RECOVERY, recovered and closed (L1).
    async fn open(&self, world: &Rc<World>) -> Result<(), LogError> {
        let Some(head) = self.log.mark_recovering(world).await? else { return Ok(()) };
        let unavailable = |reason| LogError::Metadata(MetadataError::Unavailable { reason });
        let recovered = recovery::recover(world, &head.ledger, &self.log).await;
        let end = recovered.map_err(|problem| unavailable(problem.to_string()))?;
        let state = LedgerState::Closed { last_entry: end.last_entry, length: end.length };
        let ledger = LedgerMetadata { state, fragments: end.fragments, ..head.ledger.clone() };
        self.log.close_head(world, head.ledger.id, closed(&head, ledger, world.wall()).as_ref()).await
    }

    /// Writes until the head fails or the partition is lost.
    async fn write(&self, world: &Rc<World>) -> Result<(), LogError> {
        let mut end = None;
        while !self.is_over.get() {
            world.rest(TICK).await;
            let count = self.trim.take();
            if count > 0 {
                self.log.drop_front(world, count).await?;
            }
            let writer = self.writer.borrow().clone();
            let Some(writer) = writer else {
                if !self.waiting.borrow().is_empty() {
                    let writer = self.create(world).await?;
                    end = writer.end();
                    let waiting: Vec<_> = self.waiting.borrow_mut().drain(..).collect();
                    for (value, client) in waiting {
                        if !writer.append(world, value, client.clone()) {
                            client.give(false);
                        }
                    }
                    *self.writer.borrow_mut() = Some(writer);
                }
                continue;
            };
            if writer.is_over.get() {
                let Some(ended) = end.take() else { return Ok(()) };
                match ended.await {
                    Ok(ended) => self.close(world, &writer.head, ended).await?,
                    // The ledger is recovered, never closed (R14).
                    Err(_) => return Ok(()),
                }
                *self.writer.borrow_mut() = None;
            } else if self.must_roll(world, &writer) {
                writer.close(world);
            }
        }
        Ok(())
    }

    /// A new head (L4: an unknown outcome is asked again, and the own attempt is no conflict).
    async fn create(&self, world: &Rc<World>) -> Result<Rc<Writer>, LogError> {
        let id = LedgerId(metadata::next_number(world, Sequence::Ledger).await?);
        let key = LedgerKey(world.number(1..u64::MAX));
        let (bookies, now) = (world.live(), world.wall());
        let new = NewLedger { id, key, wanted: world.plan.quorum, bookies: &bookies, now };
        let ledger = new_ledger(&new)
            .map_err(|problem| LogError::Metadata(MetadataError::Unavailable { reason: problem.to_string() }))?;
        let ensemble = ledger.last_fragment().expect("a fragment").ensemble.clone();
        world.oracle.borrow_mut().propose(id, &ensemble);
        let base_offset = self.log.load(world).await?.record().closed_end;
        let head = HeadLedger { ledger, base_offset, epoch: self.log.epoch };
        for _ in 0..3 {
            match self.log.install_head(world, &head).await {
                Err(LogError::Metadata(MetadataError::OutcomeUnknown { .. })) => {
                    world.rest(Duration::from_millis(50)).await;
                }
                Ok(()) => return Ok(Writer::new(world, head, Rc::clone(&self.log))),
                Err(problem) => return Err(problem),
            }
        }
        Err(LogError::Metadata(MetadataError::OutcomeUnknown { reason: "a new head".into() }))
    }

    async fn close(&self, world: &Rc<World>, head: &HeadLedger, ended: Ended) -> Result<(), LogError> {
        let state = LedgerState::Closed { last_entry: ended.last_entry, length: ended.length };
        let ledger = LedgerMetadata { state, ..ended.ledger };
        let closed = closed(head, ledger, world.wall());
        for _ in 0..3 {
            match self.log.close_head(world, head.ledger.id, closed.as_ref()).await {
                Err(LogError::Metadata(MetadataError::OutcomeUnknown { .. })) => {
                    world.rest(Duration::from_millis(50)).await;
                }
                result => return result,
            }
        }
        Err(LogError::Metadata(MetadataError::OutcomeUnknown { reason: "close".into() }))
    }

    /// Whether the head is full, or stands on a bookie that is lost, in limbo or leaving while there are better ones.
    fn must_roll(&self, world: &World, writer: &Writer) -> bool {
        if writer.appended() >= world.plan.ledger_entries {
            return true;
        }
        let metadata = writer.metadata();
        let ensemble = metadata.last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default();
        let live = world.live();
        let is_writable = |m| live.iter().any(|record| record.member == m && record.state == BookieState::Writable);
        let is_leaving = |m| live.iter().any(|record| record.member == m && record.state == BookieState::Limbo);
        let writable = live.iter().filter(|record| record.state == BookieState::Writable).count();
        let is_short = ensemble.len() < world.plan.quorum.write() && writable > ensemble.len();
        if ensemble.iter().all(|m| is_writable(*m)) && !is_short && !writer.is_degraded() {
            self.away_since.set(None);
            return false;
        }
        if ensemble.iter().any(|m| is_leaving(*m)) {
            return true;
        }
        let now = world.engine.now();
        let since = self.away_since.get().unwrap_or(now);
        self.away_since.set(Some(since));
        let is_better = writable > ensemble.iter().filter(|m| is_writable(**m)).count() || writable >= ensemble.len();
        if now >= since + GRACE && is_better && !writer.is_busy() {
            self.away_since.set(None);
            return true;
        }
        false
    }
}

/// The head as a closed ledger, or nothing if nothing was written to it.
fn closed(head: &HeadLedger, ledger: LedgerMetadata, closed_at: Timestamp) -> Option<ClosedLedger> {
    let LedgerState::Closed { last_entry: Some(last), .. } = ledger.state else { return None };
    let end_offset = Offset(head.base_offset.0 + last.0 as i64 + 1);
    let (epoch, base_offset, max_timestamp) = (head.epoch, head.base_offset, Timestamp::NONE);
    Some(ClosedLedger { ledger, epoch, base_offset, end_offset, max_timestamp, last_index: None, closed_at })
}

/// The controller: gives the partition to a live broker when its owner is silent, and sometimes for no reason.
pub(crate) async fn control(world: &Rc<World>) {
    loop {
        world.rest(Duration::from_secs(1)).await;
        let owner = crate::chain::with(world, |chain| chain.record.as_ref().and_then(|record| record.owner));
        let is_served = owner.is_some_and(|owner| live(world).contains(&owner));
        let moves = world.plan.rates.move_partition.is_some_and(|every| world.strikes(1.0 / every.as_secs_f64()));
        if !is_served || moves {
            give_away(world).await;
        }
    }
}

/// The brokers that the cluster takes for alive.
fn live(world: &World) -> Vec<Owner> {
    let (now, brokers) = (world.engine.now(), world.brokers.borrow());
    let is_live = |node: &&BrokerNode| now < node.seen + Duration::from_secs(9).max(world.silence());
    brokers.values().filter(is_live).filter_map(|node| node.owner).collect()
}

/// Gives the partition to another broker, if there is one.
pub(crate) async fn give_away(world: &Rc<World>) {
    let Some(record) = crate::chain::with(world, |chain| chain.record.clone()) else { return };
    let others: Vec<Owner> = live(world).into_iter().filter(|owner| Some(*owner) != record.owner).collect();
    if let Some(owner) = world.pick(&others) {
        world.count("owners changed");
        drop(crate::log::assign(world, Some(owner)).await);
    }
}

/// Clients: each appends, waits for the answer, and appends again.
pub(crate) async fn produce(world: &Rc<World>, client: u64) {
    for sequence in 1.. {
        world.rest(world.plan.think).await;
        let value = client << 32 | sequence;
        let is_fair = world.is_fair();
        world.count("appends");
        if is_fair {
            world.count("appends without faults");
        }
        if append(world, value).await {
            world.count("appends acknowledged");
            if is_fair {
                world.count("appends without faults acknowledged");
            }
        }
    }
}

/// One append; whether it was acknowledged.
pub(crate) async fn append(world: &Rc<World>, value: u64) -> bool {
    // Mostly the owner, sometimes whoever believes to be it.
    let owner = crate::chain::with(world, |chain| chain.record.as_ref().and_then(|record| record.owner));
    let number = owner.map(|owner| owner.node.0 as usize).filter(|_| !world.strikes(0.2));
    let serving: Vec<_> = world.serving.borrow().iter().map(|(n, serving)| (*n, Rc::clone(serving))).collect();
    let target = match number {
        Some(number) => serving.into_iter().find(|(n, _)| *n == number),
        None => world.pick(&serving),
    };
    let Some((number, serving)) = target else { return false };
    let Some(process) = world.brokers.borrow().get(&number).map(|node| node.process) else { return false };
    let (client, answer) = crate::engine::promise();
    world.sleep(network::delay(world)).await;
    let inner = Rc::clone(world);
    world.engine.spawn_on(process, async move { serving.append(&inner, value, client) });
    crate::engine::within(world.sleep(Duration::from_secs(10)), answer).await.unwrap_or(false)
}

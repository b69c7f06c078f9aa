//! The metadata service: the real state machine, reached over calls that are slow, lost before or after they take effect,
//! or take effect long after their caller has given them up. Every change is shown to the oracle.

use crate::{
    engine::{WORLD, promise, within},
    network,
    plan::HOUR,
    trace::tell,
    world::{Site, World},
};
use metadata::state::{Command, State};
use protocol::{
    id::SessionId,
    model::{BookieRecord, Record, decode, prefix},
    service::metadata::{Condition, MetadataError, Operation, Outcome, RequestId, Transaction, Versioned},
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

/// How long a caller waits for one answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often a transaction is tried under its request id.
const ATTEMPTS: u32 = 3;

/// The state, and what is wrong with the service.
#[derive(Default)]
pub(crate) struct Metadata {
    state: RefCell<State>,
    /// The live bookies, decoded; none after a change.
    live: RefCell<Option<Rc<Vec<BookieRecord>>>>,
    /// Nothing takes effect before this time.
    pub(crate) stalled_until: Cell<Duration>,
    requests: Cell<u64>,
}

impl Metadata {
    /// The bookies that are registered.
    pub(crate) fn live(&self) -> Rc<Vec<BookieRecord>> {
        let mut live = self.live.borrow_mut();
        if live.is_none() {
            let records = self.scan(prefix::BOOKIES).into_iter().filter_map(|item| decode(&item.value).ok());
            *live = Some(Rc::new(records.collect()));
        }
        live.clone().unwrap_or_default()
    }

    /// What a key holds now, without a call.
    pub(crate) fn peek(&self, key: &str) -> Option<Versioned> {
        self.state.borrow().get(key)
    }

    /// The record of a key now, without a call.
    pub(crate) fn record<R: Record>(&self, key: &str) -> Option<R> {
        decode(&self.peek(key)?.value).ok()
    }

    /// Everything below a prefix now, without a call.
    pub(crate) fn scan(&self, prefix: &str) -> Vec<Versioned> {
        self.state.borrow().scan(prefix, None, usize::MAX, usize::MAX).0
    }

    fn apply(&self, command: Command) -> metadata::state::Reply {
        *self.live.borrow_mut() = None;
        self.state.borrow_mut().apply(command)
    }
}

/// A command takes effect now.
pub(crate) fn apply_now(world: &Rc<World>, command: Command) -> metadata::state::Reply {
    let reply = world.metadata.apply(command);
    crate::chain::check(world);
    reply
}

/// A transaction takes effect now, without a call: the world's own bookkeeping.
pub(crate) fn transact_now(world: &Rc<World>, operations: Vec<Operation>) -> Result<Outcome, MetadataError> {
    let transaction = Transaction { operations, ..Transaction::default() };
    apply_now(world, transaction.into()).into_outcome()
}

/// A session is opened now.
pub(crate) fn open_session(world: &Rc<World>, ttl: Duration) -> SessionId {
    apply_now(world, Command::OpenSession { ttl_ms: ttl.as_millis() as u64 }).into_session().expect("a session")
}

/// A session ends now.
pub(crate) fn close_session(world: &Rc<World>, session: SessionId) {
    drop(apply_now(world, Command::CloseSession { session }));
}

/// Conditions and effects, all or nothing; tried again under one request id while its outcome is unknown.
pub(crate) async fn transact(
    world: &Rc<World>,
    conditions: Vec<Condition>,
    operations: Vec<Operation>,
) -> Result<Outcome, MetadataError> {
    let sequence = world.metadata.requests.get() + 1;
    world.metadata.requests.set(sequence);
    let request = Some(RequestId { client: u128::from(sequence), sequence: 1 });
    let transaction = Transaction { conditions, operations, request };
    let mut unknown = None;
    for attempt in 1.. {
        let problem = match submit(world, &transaction).await {
            Ok(outcome) => return Ok(outcome),
            Err(problem @ MetadataError::OutcomeUnknown { .. }) => {
                unknown = Some(problem.clone());
                problem
            }
            Err(problem @ MetadataError::Unavailable { .. }) => unknown.clone().unwrap_or(problem),
            Err(problem) => return Err(problem),
        };
        // Some callers give up early, so that unknown outcomes happen.
        if attempt == ATTEMPTS || world.strikes(0.3) {
            return Err(problem);
        }
        world.sleep(world.millis(10, 200)).await;
    }
    unreachable!("the loop ends with its last attempt")
}

/// One attempt.
async fn submit(world: &Rc<World>, transaction: &Transaction) -> Result<Outcome, MetadataError> {
    let faults = world.plan.metadata;
    let (answering, answer) = promise();
    let site = world.here();
    if world.is_cut(site, Site::Metadata) || world.strikes(faults.lose_call) {
        world.count("metadata calls lost");
        if world.flips(0.5) {
            world.sleep(world.millis(1, 50)).await;
            return Err(MetadataError::Unavailable { reason: "not reachable".into() });
        }
        world.sleep(PATIENCE).await;
        return Err(unknown());
    }
    let is_late = world.strikes(faults.late);
    let (there, back) = (network::delay(world), network::delay(world));
    let loses_answer = world.strikes(faults.lose_answer);
    let (inner, transaction) = (Rc::clone(world), transaction.clone());
    world.engine.spawn_on(WORLD, async move {
        let world = inner;
        world.sleep(there).await;
        if is_late {
            world.count("metadata calls hours late");
            let late = if world.flips(0.5) { HOUR } else { PATIENCE };
            world.sleep(world.time(late, late + Duration::from_secs(20))).await;
        }
        while world.engine.now() < world.metadata.stalled_until.get() {
            let left = world.metadata.stalled_until.get() - world.engine.now();
            world.sleep(left).await;
        }
        let outcome = apply_now(&world, transaction.into()).into_outcome();
        if loses_answer || world.is_cut(Site::Metadata, site) {
            world.count("metadata answers lost");
            return;
        }
        world.sleep(back).await;
        answering.give(outcome);
    });
    // A broken connection is noticed earlier than a silent one.
    let patience = if loses_answer && world.flips(0.7) { world.millis(5, 100) } else { PATIENCE };
    within(world.sleep(patience), answer).await.unwrap_or_else(|| Err(unknown()))
}

fn unknown() -> MetadataError {
    MetadataError::OutcomeUnknown { reason: "no answer".into() }
}

/// What keys hold, all at one moment between the call and its answer.
async fn read<T: 'static>(world: &Rc<World>, read: impl FnOnce(&Metadata) -> T) -> Result<T, MetadataError> {
    let unavailable = || MetadataError::Unavailable { reason: "not reachable".into() };
    world.sleep(network::delay(world)).await;
    let here = world.here();
    let is_stalled = world.engine.now() < world.metadata.stalled_until.get();
    let is_cut = world.is_cut(here, Site::Metadata) || world.is_cut(Site::Metadata, here);
    if is_stalled || is_cut || world.strikes(world.plan.metadata.lose_call) {
        world.sleep(world.millis(10, 1000)).await;
        return Err(unavailable());
    }
    let value = read(&world.metadata);
    world.sleep(network::delay(world)).await;
    Ok(value)
}

/// What a key holds.
pub(crate) async fn get(world: &Rc<World>, key: String) -> Result<Option<Versioned>, MetadataError> {
    read(world, move |metadata| metadata.peek(&key)).await
}

/// Everything below a prefix.
pub(crate) async fn scan(world: &Rc<World>, prefix: String) -> Result<Vec<Versioned>, MetadataError> {
    read(world, move |metadata| metadata.scan(&prefix)).await
}

/// The next number of a sequence.
pub(crate) async fn next_number(world: &Rc<World>, sequence: protocol::model::Sequence) -> Result<u64, MetadataError> {
    let take = Operation::Sequence { name: sequence.name().into(), count: 1 };
    match transact(world, Vec::new(), vec![take]).await? {
        Outcome::Committed { sequences, .. } => Ok(sequences[0]),
        Outcome::Conflict { .. } => Err(unknown()),
    }
}

/// Tells what became of a change.
pub(crate) fn told(world: &World, who: Site, what: &str, outcome: &Result<Outcome, MetadataError>) {
    match outcome {
        Ok(Outcome::Committed { revision, .. }) => tell!(world, "{who}: {what}: committed at {revision}"),
        Ok(Outcome::Conflict { condition, .. }) => tell!(world, "{who}: {what}: conflict in condition {condition}"),
        Err(problem) => tell!(world, "{who}: {what}: {problem}"),
    }
}

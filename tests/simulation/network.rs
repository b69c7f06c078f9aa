//! The network between everybody and the bookies. A call is a request and an answer, each of which can be lost, repeated,
//! overtaken, or come an hour late; a caller that hears nothing gives up at its deadline and knows nothing.

use crate::{
    duel::{self, Fate},
    engine::{Promise, WORLD, promise, within},
    node,
    plan::HOUR,
    world::{Site, World},
};
use protocol::{
    id::{EntryId, Lac, LedgerId},
    ledger::metadata::BookieMember,
    service::bookie::{
        AddEntry, BookieError, BookieService, ConfirmLac, DeleteLedger, EntryList, EntryRun, FenceLedger, ListEntries,
        ReadEntries,
    },
};
use std::{rc::Rc, time::Duration};

/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a bookie is asked.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Add(AddEntry),
    Read(ReadEntries),
    Fence(FenceLedger),
    List(ListEntries),
    Delete(DeleteLedger),
    Confirm(ConfirmLac),
}

/// What it answers if it did what it was asked.
#[derive(Debug, Clone)]
pub(crate) enum Response {
    Done,
    Run(EntryRun),
    Lac(Lac),
    List(EntryList),
}

/// The answer to a call.
pub(crate) type Answered = Result<Response, BookieError>;

impl Request {
    pub(crate) const fn member(&self) -> BookieMember {
        match self {
            Self::Add(add) => add.member,
            Self::Read(read) => read.member,
            Self::Fence(fence) => fence.member,
            Self::List(list) => list.member,
            Self::Delete(delete) => delete.member,
            Self::Confirm(confirm) => confirm.member,
        }
    }

    pub(crate) fn ledger(&self) -> LedgerId {
        match self {
            Self::Add(add) => add.entry.ledger(),
            Self::Read(read) => read.ledger,
            Self::Fence(fence) => fence.ledger,
            Self::List(list) => list.ledger,
            Self::Delete(delete) => delete.ledger,
            Self::Confirm(confirm) => confirm.ledger,
        }
    }

    pub(crate) fn entry(&self) -> Option<EntryId> {
        match self {
            Self::Add(add) => Some(add.entry.entry()),
            Self::Read(read) => Some(read.first),
            _ => None,
        }
    }

    /// Calls the bookie.
    pub(crate) async fn call(self, service: &dyn BookieService) -> Answered {
        match self {
            Self::Add(add) => service.add_entry(add).await.map(|()| Response::Done),
            Self::Read(read) => service.read_entries(read).await.map(Response::Run),
            Self::Fence(fence) => service.fence_ledger(fence).await.map(Response::Lac),
            Self::List(list) => service.list_entries(list).await.map(Response::List),
            Self::Delete(delete) => service.delete_ledger(delete).await.map(|()| Response::Done),
            Self::Confirm(confirm) => service.confirm_lac(confirm).await.map(|()| Response::Done),
        }
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self {
            Self::Add(add) if add.recovery => "rewrite",
            Self::Add(_) => "add",
            Self::Read(read) if read.fence.is_some() => "fencing read",
            Self::Read(_) => "read",
            Self::Fence(_) => "fence",
            Self::List(_) => "list",
            Self::Delete(_) => "delete",
            Self::Confirm(_) => "confirm",
        };
        write!(f, "{what} {}", self.ledger())?;
        self.entry().map_or(Ok(()), |entry| write!(f, "/{entry}"))
    }
}

/// What an answer says, in a few words.
pub(crate) fn show(answer: &Answered) -> String {
    match answer {
        Ok(Response::Done) => "done".into(),
        Ok(Response::Run(run)) => format!("{} entries, confirmed {}", run.entries.len(), run.lac),
        Ok(Response::Lac(lac)) => format!("confirmed {lac}"),
        Ok(Response::List(list)) => format!("{:?}", list.runs),
        Err(problem) => problem.to_string(),
    }
}

/// How long a message takes.
pub(crate) fn delay(world: &World) -> Duration {
    if world.strikes(world.plan.wire.slow) {
        return world.millis(10, 500);
    }
    world.time(Duration::from_micros(100), Duration::from_micros(1500))
}

/// How long a message takes in a jam: any time from a moment to seconds, so that everything overtakes everything.
fn delay_in_jam(world: &World) -> Duration {
    Duration::from_micros(200 << world.number(0..14)) + world.millis(0, 20)
}

/// When copies of a message arrive: once, as a rule.
fn arrivals(world: &World, from: Site, to: Site) -> Vec<Duration> {
    let wire = world.plan.wire;
    if world.is_cut(from, to) {
        return Vec::new();
    }
    if world.strikes(wire.lose) {
        world.count("messages lost");
        return Vec::new();
    }
    if world.strikes(wire.late) {
        world.count("messages an hour late");
        return vec![world.time(HOUR, HOUR + Duration::from_secs(10))];
    }
    let is_jammed = world.engine.now() < world.jammed_until.get();
    let first = if is_jammed && !world.plan.duels { delay_in_jam(world) } else { delay(world) };
    let mut arrivals = vec![first];
    if world.strikes(wire.repeat) {
        world.count("messages repeated");
        arrivals.push(world.millis(1, 5000));
    }
    arrivals
}

/// Calls a bookie; the outcome is unknown if no answer comes in time.
pub(crate) async fn call(world: &Rc<World>, request: Request) -> Answered {
    let (answering, answer) = promise();
    let (from, to) = (world.here(), Site::Bookie(request.member().id));
    let arrivals = match duel::fate(world, &request) {
        Some(Fate::After(delay)) => vec![delay],
        Some(Fate::Refused(after)) => {
            world.sleep(after).await;
            return Err(BookieError::Unavailable { reason: "connection refused".into() });
        }
        None => arrivals(world, from, to),
    };
    // Sometimes a broken connection is noticed; it does not say whether the request arrived.
    let notices = arrivals.is_empty() && world.flips(0.5);
    for after in arrivals {
        let (inner, request, answering) = (Rc::clone(world), request.clone(), answering.clone());
        world.engine.spawn_on(WORLD, async move {
            inner.sleep(after).await;
            node::deliver(&inner, from, request, answering);
        });
    }
    let patience = if notices { world.millis(1, 200) } else { PATIENCE };
    let silent = || Err(BookieError::OutcomeUnknown { reason: "no answer".into() });
    within(world.sleep(patience), answer).await.unwrap_or_else(silent)
}

/// Sends an answer back.
pub(crate) fn answer(world: &Rc<World>, from: Site, to: Site, answering: &Promise<Answered>, answer: &Answered) {
    for after in arrivals(world, from, to) {
        let (inner, answering, answer) = (Rc::clone(world), answering.clone(), answer.clone());
        world.engine.spawn_on(WORLD, async move {
            inner.sleep(after).await;
            answering.give(answer);
        });
    }
}

//! Schedules drawn at random: calls, connections that are lost at any moment, servers that wake up late and still carry
//! out what they were sent, answers that say "unavailable" or "unknown", callers who give up. Whatever happens, a
//! transaction takes effect at most once and in call order, and what its caller is told is true.

use super::super::{
    buffer::Dropped,
    calls::{Calls, Outgoing},
    machine::Machine,
    room::Room,
    waiting::Waiting,
    watches::{Request, Watches},
};
use crate::{
    id::Revision,
    service::{
        Answer,
        metadata::{MetadataError, MetadataService, Operation, Outcome, Transaction, WatchStream},
        reply,
    },
    testing::FakeMetadata,
    wire::metadata::proto::{self, call::Kind, call_answer::Result as Done},
};
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How long callers wait, in steps of the schedule.
const PATIENCE: u64 = 40;

/// One step of a schedule.
#[derive(Debug, Clone)]
enum Step {
    /// A transaction is called.
    Put,
    /// A server is reached.
    Connect,
    /// The server is lost.
    Lose,
    /// The client sends the next message.
    Send,
    /// A server carries out the oldest message that it has, which may be from long ago: the chosen one of all servers.
    Work(usize),
    /// So it does, and the answer says that the outcome is unknown.
    WorkUnknown(usize),
    /// A server refuses its oldest message.
    Refuse(usize),
    /// The next answer arrives.
    Answer,
    /// Time passes.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Put),
        3 => Just(Step::Connect),
        1 => Just(Step::Lose),
        6 => Just(Step::Send),
        6 => (0..4_usize).prop_map(Step::Work),
        1 => (0..4_usize).prop_map(Step::WorkUnknown),
        1 => (0..4_usize).prop_map(Step::Refuse),
        6 => Just(Step::Answer),
        2 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 0..250)
}

/// A connection, as its server sees it.
#[derive(Default)]
struct Socket {
    calls: VecDeque<proto::Call>,
}

struct World {
    calls: Calls,
    room: Arc<Room>,
    service: FakeMetadata,
    /// All connections there ever were; the last may be the one in use.
    sockets: Vec<Socket>,
    connected: bool,
    answers: VecDeque<proto::CallAnswer>,
    now: u64,
    told: Vec<Answer<Outcome, MetadataError>>,
}

fn time(steps: u64) -> Duration {
    Duration::from_secs(steps)
}

impl World {
    fn new() -> Self {
        Self {
            calls: Calls::new(7, true),
            room: Arc::new(Room::new(1 << 30)),
            service: FakeMetadata::new(),
            sockets: Vec::new(),
            connected: false,
            answers: VecDeque::new(),
            now: 0,
            told: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put => self.put(),
            Step::Connect if !self.connected => {
                self.connected = true;
                self.sockets.push(Socket::default());
            }
            Step::Lose if self.connected => self.lose(),
            Step::Send if self.connected => {
                if let (Some(socket), Some(call)) = (self.sockets.last_mut(), self.calls.next()) {
                    socket.calls.push_back(call);
                }
            }
            Step::Work(which) => self.work(*which, |done| done),
            Step::WorkUnknown(which) => self.work(*which, |_| {
                Done::Failed(MetadataError::OutcomeUnknown { reason: "the leader went away".into() }.into())
            }),
            Step::Refuse(which) => self.refuse(*which),
            Step::Answer => {
                let left = self.answers.pop_front().map(|answer| self.calls.answer(answer));
                if let Some(Err(_)) = left {
                    self.lose();
                }
            }
            Step::Wait => {
                self.now += 1;
                self.calls.expire(time(self.now));
            }
            Step::Connect | Step::Lose | Step::Send => {}
        }
    }

    /// Every call writes a key of its own and takes a number of the same sequence: that counts the effects.
    fn put(&mut self) {
        let put = Operation::Put { key: format!("{:04}", self.told.len()), value: Default::default(), session: None };
        let operations = vec![put, Operation::Sequence { name: "effects".into(), count: 1 }];
        let (caller, answer) = reply();
        let kind = Kind::Transact(Transaction { operations, ..Transaction::default() }.into());
        let room = self.room.take(1).expect("room");
        let deadline = time(self.now + PATIENCE);
        self.calls.request(Outgoing { kind, waiting: Waiting::Outcome(caller), deadline, _room: room });
        self.told.push(answer);
    }

    /// The client hangs up. What was sent stays in the server's socket.
    fn lose(&mut self) {
        self.connected = false;
        self.answers.clear();
        self.calls.lost("the cable");
    }

    fn take(&mut self, which: usize) -> Option<(usize, proto::Call)> {
        let last = self.sockets.len().checked_sub(1)?;
        let which = last.saturating_sub(which);
        Some((which, self.sockets[which].calls.pop_front()?))
    }

    fn answer(&mut self, which: usize, id: u64, result: Done) {
        if self.connected && which + 1 == self.sockets.len() {
            self.answers.push_back(proto::CallAnswer { id, result: Some(result) });
        }
    }

    fn work(&mut self, which: usize, say: fn(Done) -> Done) {
        let Some((which, call)) = self.take(which) else { return };
        let Some(Kind::Transact(transaction)) = call.kind else { panic!("only transactions are called") };
        let transaction = transaction.try_into().expect("whole");
        let outcome = self.service.transact(transaction).now_or_never().expect("fakes answer at once");
        let done = outcome.map_or_else(|error| Done::Failed(error.into()), Done::from);
        self.answer(which, call.id, say(done));
    }

    fn refuse(&mut self, which: usize) {
        let Some((which, call)) = self.take(which) else { return };
        let refusal = MetadataError::Unavailable { reason: "no leader".into() };
        self.answer(which, call.id, Done::Failed(refusal.into()));
    }

    /// The cables hold from now on; every server works off what it has, the oldest first.
    fn calm(&mut self) {
        for _ in 0..10_000 {
            self.step(&Step::Connect);
            self.step(&Step::Send);
            for which in 0..self.sockets.len() {
                self.step(&Step::Work(which));
            }
            self.step(&Step::Answer);
            if self.calls.is_idle() && self.sockets.iter().all(|socket| socket.calls.is_empty()) {
                return;
            }
        }
        panic!("calls are left without an answer");
    }

    fn check(mut self) -> Result<(), TestCaseError> {
        let mut last = Revision(0);
        let mut effects = 0;
        for (number, told) in self.told.iter_mut().enumerate() {
            let effect = self.service.peek(&format!("{number:04}")).map(|item| item.version);
            if let Some(revision) = effect {
                prop_assert!(revision > last, "call {number} took effect out of order");
                last = revision;
                effects += 1;
            }
            match told.now_or_never() {
                Some(Ok(Outcome::Committed { revision, .. })) => prop_assert_eq!(Some(revision), effect),
                Some(Err(MetadataError::Unavailable { .. })) => prop_assert_eq!(None, effect, "call {}", number),
                Some(Err(MetadataError::OutcomeUnknown { .. })) => {}
                other => prop_assert!(false, "call {number} was told {other:?}"),
            }
        }
        prop_assert_eq!(self.service.revision(), Revision(effects), "every call took effect at most once");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn transactions_take_effect_once_and_in_order_and_callers_are_told_the_truth(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.calm();
        world.check()?;
    }
}

/// Cuts a watch into pieces: for each, how many events its server sends, and how many of them it repeats.
fn pieces() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((0..6_u64, 0..6_u64), 1..20)
}

proptest! {
    #[test]
    fn watches_lose_and_repeat_nothing_however_often_they_are_cut(pieces in pieces()) {
        let mut watches = Watches::new(true);
        let (caller, opening) = reply();
        let dropped: Dropped = Arc::new(|_| {});
        let deadline = time(PATIENCE);
        watches.request(Request::Open { prefix: String::new(), after: Revision(0), caller, deadline, dropped });
        let tell = |watches: &mut Watches, kind| watches.answer(proto::WatchAnswer { id: 1, kind: Some(kind) });
        let mut given = 0;
        for (events, repeats) in pieces {
            let asked = watches.next().expect("it is asked for again");
            let Some(proto::watch_call::Kind::Open(open)) = asked.kind else { panic!("{asked:?}") };
            prop_assert_eq!(open.after, given, "after the last that was given");
            tell(&mut watches, proto::watch_answer::Kind::Opened(proto::Done {})).expect("stays");
            // A careless server begins too early.
            for revision in open.after.saturating_sub(repeats) + 1..=open.after + events {
                let changes = Vec::new();
                let event = proto::Event { revision, changes };
                tell(&mut watches, proto::watch_answer::Kind::Event(event)).expect("stays");
            }
            given += events;
            watches.lost("the cable");
        }
        let mut watch: WatchStream = opening.now_or_never().expect("it was opened").expect("without an error");
        let mut seen = Vec::new();
        while let Some(Some(event)) = watch.next().now_or_never() {
            seen.push(event.expect("no error").revision.0);
        }
        prop_assert_eq!(seen, (1..=given).collect::<Vec<_>>());
    }
}

//! The world: one ledger, its writer, any number of recoverers, bookies, metadata, and messages on their way.
//!
//! Nothing happens by itself: every message is delivered, answered or lost by whoever plays the world. The invariants
//! are checked after every step.

use super::bookie::{Call, Content, ModelBookie, Said};
use crate::ledger::{
    invariants,
    machine::{self, LedgerWriter, Limits, ReplaceError},
    recovery_machine::{self, Found, LedgerRecovery},
};
use protocol::{
    id::{BookieId, EntryId, Incarnation, Lac, LedgerId, LedgerKey, Timestamp},
    ledger::{
        metadata::{BookieMember, LedgerMetadata, LedgerState},
        quorum::Quorum,
    },
    service::bookie::BookieError,
};
use std::collections::BTreeMap;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Actor {
    Writer,
    Recovery(usize),
}

/// A request on its way to a bookie, or the answer on its way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) from: Actor,
    pub(super) to: BookieMember,
    pub(super) call: Call,
    /// Set when the bookie has acted on it.
    pub(super) answer: Option<Result<Said, BookieError>>,
}

/// What metadata does with the writer's compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swap {
    Applied,
    Unavailable,
    AppliedUnknown,
    NotAppliedUnknown,
}

pub(super) struct Recoverer {
    machine: LedgerRecovery,
    found: BTreeMap<EntryId, Content>,
    /// The version of metadata that it may close.
    version: u64,
    pub(super) ended: bool,
}

pub(super) struct World {
    pub(super) bookies: BTreeMap<BookieMember, ModelBookie>,
    pub(super) metadata: LedgerMetadata,
    version: u64,
    pub(super) writer: LedgerWriter,
    written: BTreeMap<EntryId, Content>,
    /// What the client was told.
    pub(super) acked: Lac,
    /// The writer's compare-and-swap on its way.
    pub(super) change: Option<LedgerMetadata>,
    pub(super) recoverers: Vec<Recoverer>,
    pub(super) wire: Vec<Message>,
    pub(super) trace: Vec<String>,
    /// The first invariant that was broken.
    pub(super) violation: Option<String>,
}

pub(super) fn member(id: u32) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
}

pub(super) fn show(call: &Call) -> String {
    match call {
        Call::Add { entry, recovery: false, .. } => format!("add {entry}"),
        Call::Add { entry, recovery: true, .. } => format!("rewrite {entry}"),
        Call::Fence => "fence".into(),
        Call::Read { entry, .. } => format!("read {entry}"),
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Writer => f.write_str("writer"),
            Self::Recovery(n) => write!(f, "recovery{}", n + 1),
        }
    }
}

impl World {
    /// Bookies b1, b2, ...; the first Wq are the ensemble.
    pub(super) fn new(quorum: Quorum, bookies: u32, limits: Limits) -> Self {
        let members: Vec<_> = (1..=bookies).map(member).collect();
        let ensemble = members[..quorum.ensemble()].to_vec();
        let metadata = LedgerMetadata::open(LedgerId(1), LedgerKey(1), quorum, ensemble, Timestamp(0));
        Self {
            bookies: members.iter().map(|m| (*m, ModelBookie::default())).collect(),
            writer: LedgerWriter::new(metadata.clone(), limits),
            metadata,
            version: 0,
            written: BTreeMap::new(),
            acked: Lac::NONE,
            change: None,
            recoverers: Vec::new(),
            wire: Vec::new(),
            trace: Vec::new(),
            violation: None,
        }
    }

    fn spares(&self, ensemble: &[BookieMember]) -> Vec<BookieMember> {
        let up = self.bookies.iter().filter(|(m, b)| !b.down && !ensemble.contains(m));
        up.map(|(m, _)| *m).collect()
    }

    fn writer_spares(&self) -> Vec<BookieMember> {
        self.spares(&self.writer.metadata().last_fragment().expect("a fragment").ensemble)
    }

    pub(super) fn append(&mut self, size: u32) {
        let (entry, lac) = (self.writer.next_entry(), self.writer.lac());
        let length = self.writer.appended_length() + u64::from(size);
        self.written.insert(entry, Content { lac, size, length });
        self.step_writer(machine::Event::Append { size, length });
    }

    pub(super) fn close(&mut self) {
        self.step_writer(machine::Event::Close);
    }

    fn step_writer(&mut self, event: machine::Event) {
        let mut commands = Vec::new();
        self.writer.on_event(event, &mut commands);
        for command in commands {
            match command {
                machine::Command::Send { member, entry } => {
                    let content = self.written[&entry];
                    self.send(Actor::Writer, member, Call::Add { entry, content, recovery: false });
                }
                machine::Command::Confirm { lac } => {
                    self.acked = lac;
                    self.trace.push(format!("writer: confirmed through {lac}"));
                }
                machine::Command::ChangeEnsemble { new } => {
                    self.trace.push(format!("writer -> metadata: change to {}", fragments(&new)));
                    self.change = Some(new);
                }
                machine::Command::Fail(error) => self.trace.push(format!("writer: stopped: {error}")),
                machine::Command::Closed { last_entry, length } => self.close_by_writer(last_entry, length),
            }
        }
        self.check();
    }

    /// Rule W11: the writer closes only what is OPEN.
    fn close_by_writer(&mut self, last_entry: Option<EntryId>, length: u64) {
        let closed = LedgerState::Closed { last_entry, length };
        let end = last_entry.map_or(Lac::NONE, Lac::at);
        let outcome = match self.metadata.state {
            LedgerState::Open => {
                self.metadata.state = closed;
                self.version += 1;
                "closed"
            }
            _ => "lost to a recovery",
        };
        self.trace.push(format!("writer -> metadata: close at {end}, length {length}: {outcome}"));
    }

    /// Metadata answers the writer's ensemble change.
    pub(super) fn swap(&mut self, swap: Swap) {
        let Some(new) = self.change.take() else { return };
        let unknown = || ReplaceError::OutcomeUnknown { reason: "answer lost".into() };
        let is_open = self.metadata.state == LedgerState::Open;
        if is_open && matches!(swap, Swap::Applied | Swap::AppliedUnknown) {
            self.metadata = new;
            self.version += 1;
        }
        let result = match swap {
            Swap::Applied if is_open => Ok(()),
            Swap::Applied => Err(ReplaceError::Lost),
            Swap::Unavailable => Err(ReplaceError::Unavailable { reason: "no leader".into() }),
            Swap::AppliedUnknown | Swap::NotAppliedUnknown => Err(unknown()),
        };
        let answer = result.as_ref().map_or_else(ToString::to_string, |()| "changed".into());
        self.trace.push(format!("metadata -> writer: {answer}"));
        let spares = self.writer_spares();
        self.step_writer(machine::Event::EnsembleChanged { result, spares });
    }

    /// A broker takes the ledger over: IN_RECOVERY first, by compare-and-swap, then the recovery starts (rule R1).
    pub(super) fn take_over(&mut self) {
        if self.metadata.is_closed() {
            return;
        }
        self.metadata.state = LedgerState::InRecovery;
        self.version += 1;
        let machine = LedgerRecovery::new(self.metadata.clone(), Limits::default());
        let (found, version) = (BTreeMap::new(), self.version);
        self.recoverers.push(Recoverer { machine, found, version, ended: false });
        let n = self.recoverers.len() - 1;
        self.trace.push(format!("{} -> metadata: in recovery", Actor::Recovery(n)));
        self.step_recovery(n, recovery_machine::Event::Start);
    }

    /// An operator has what is gone of the ledger given up; acknowledgements that go with it count no longer.
    pub(super) fn give_up(&mut self, left: LedgerMetadata) {
        let (all, one) = (left.quorum.write(), left.quorum.ack());
        self.trace.push(format!("operator -> metadata: {}, quorum {all}/{all}/{one}", fragments(&left)));
        (self.metadata, self.acked) = (left, Lac::NONE);
        self.version += 1;
    }

    fn step_recovery(&mut self, n: usize, event: recovery_machine::Event) {
        let mut commands = Vec::new();
        self.recoverers[n].machine.on_event(event, &mut commands);
        for command in commands {
            let actor = Actor::Recovery(n);
            match command {
                recovery_machine::Command::Fence { member } => self.send(actor, member, Call::Fence),
                recovery_machine::Command::Read { member, entry, fence } => {
                    self.send(actor, member, Call::Read { entry, fence });
                }
                recovery_machine::Command::Write { member, entry } => {
                    let content = self.recoverers[n].found[&entry];
                    self.send(actor, member, Call::Add { entry, content, recovery: true });
                }
                recovery_machine::Command::Done(end) => self.close_by_recovery(n, end),
                recovery_machine::Command::Fail(error) => {
                    self.recoverers[n].ended = true;
                    self.trace.push(format!("{actor}: stopped: {error}"));
                }
            }
        }
        self.check();
    }

    /// Rule R12: only the recovery that metadata knows as the latest closes the ledger.
    fn close_by_recovery(&mut self, n: usize, end: recovery_machine::End) {
        self.recoverers[n].ended = true;
        let shown = end.last_entry.map_or(Lac::NONE, Lac::at);
        let outcome = if self.version == self.recoverers[n].version {
            self.version += 1;
            self.metadata.fragments = end.fragments;
            self.metadata.state = LedgerState::Closed { last_entry: end.last_entry, length: end.length };
            format!("closed, {}", fragments(&self.metadata))
        } else {
            "overtaken by another recovery".into()
        };
        let length = end.length;
        self.trace.push(format!("{} -> metadata: close at {shown}, length {length}: {outcome}", Actor::Recovery(n)));
    }

    fn send(&mut self, from: Actor, to: BookieMember, call: Call) {
        self.trace.push(format!("{from} -> b{}: {}", to.id, show(&call)));
        self.wire.push(Message { from, to, call, answer: None });
    }

    /// The request at this place of the wire reaches its bookie.
    pub(super) fn reach(&mut self, at: usize) {
        let message = &mut self.wire[at];
        if message.answer.is_none() {
            let bookie = self.bookies.get_mut(&message.to).expect("a known bookie");
            message.answer = Some(bookie.take(message.call));
        }
    }

    /// The request never reaches its bookie, or its answer never comes back: the sender is told this error.
    pub(super) fn fail(&mut self, at: usize, error: BookieError) {
        self.wire[at].answer = Some(Err(error));
        self.answer(at);
    }

    /// The answer at this place of the wire comes back.
    pub(super) fn answer(&mut self, at: usize) {
        let Message { from, to, call, answer } = self.wire.remove(at);
        let answer = answer.expect("the bookie has acted");
        let said = match &answer {
            Ok(Said::Added) => "done".into(),
            Ok(Said::Fenced(lac)) => format!("fenced, last-add-confirmed {lac}"),
            Ok(Said::Holds(content)) => format!("holds it, length {}", content.length),
            Err(error) => error.to_string(),
        };
        self.trace.push(format!("b{} -> {from}: {}: {said}", to.id, show(&call)));
        match from {
            Actor::Writer => self.answer_writer(to, call, answer),
            Actor::Recovery(n) => self.answer_recovery(n, to, call, answer),
        }
    }

    fn answer_writer(&mut self, member: BookieMember, call: Call, answer: Result<Said, BookieError>) {
        let Call::Add { entry, .. } = call else { panic!("a writer only adds") };
        let event = match answer {
            Ok(_) => machine::Event::Acked { member, entry },
            Err(error) => machine::Event::Failed { member, entry, error, spares: self.writer_spares() },
        };
        self.step_writer(event);
    }

    fn answer_recovery(&mut self, n: usize, member: BookieMember, call: Call, answer: Result<Said, BookieError>) {
        let event = match call {
            Call::Fence => {
                let result = answer.map(|said| match said {
                    Said::Fenced(lac) => lac,
                    other => panic!("a fence was answered with {other:?}"),
                });
                recovery_machine::Event::Fenced { member, result }
            }
            Call::Read { entry, .. } => {
                let result = answer.map(|said| match said {
                    Said::Holds(content) => {
                        self.recoverers[n].found.insert(entry, content);
                        Found { size: content.size, length: content.length }
                    }
                    other => panic!("a read was answered with {other:?}"),
                });
                recovery_machine::Event::Read { member, entry, result }
            }
            Call::Add { entry, .. } => {
                let spares = self.spares(&self.recoverers[n].machine.ensemble());
                recovery_machine::Event::Written { member, entry, result: answer.map(drop), spares }
            }
        };
        self.step_recovery(n, event);
    }

    /// The invariants that must hold at every moment.
    pub(super) fn check(&mut self) {
        let holds = |member: BookieMember, entry: EntryId| {
            let bookie = &self.bookies[&member];
            bookie.entries.get(&entry).is_some_and(|held| Some(held) == self.written.get(&entry))
        };
        self.assert_length();
        let verdict = invariants::no_divergence_between_client_and_metadata(self.acked, &self.metadata.state)
            .and(invariants::all_acked_entries_are_readable(self.acked, &self.metadata, holds));
        if let Err(violation) = verdict {
            self.violation.get_or_insert(violation.to_string());
        }
    }

    /// A closed ledger knows its length.
    fn assert_length(&self) {
        if let LedgerState::Closed { last_entry: Some(last), length } = self.metadata.state {
            assert_eq!(self.written.get(&last).map(|c| c.length), Some(length), "the length at entry {last}");
        }
    }
}

/// Fragments as `first:[bookies]`.
pub(super) fn fragments(metadata: &LedgerMetadata) -> String {
    let shown = metadata.fragments.iter().map(|f| {
        let names: Vec<String> = f.ensemble.iter().map(|m| format!("b{}", m.id)).collect();
        format!("{}:[{}]", f.first_entry, names.join(" "))
    });
    shown.collect::<Vec<_>>().join(" ")
}

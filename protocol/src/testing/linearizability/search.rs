//! The search for an order of one key's calls: Lowe's just-in-time linearization ("Testing for linearizability", 2017).
//!
//! Walks along invocations and returns and keeps every configuration that explains the answers so far: what the key holds,
//! and which open calls have taken effect already. When a call returns, each configuration is continued by open calls
//! until that call has taken effect; if none can be, the history up to there has no order. Memory is that of the open
//! calls, not of the history.
//!
//! Four rules keep the configurations few, and hide none that matters. A read that fits takes effect at once: it changes
//! nothing, and a value is there only once. Writes that certainly happened do so in the order of their revisions; what
//! somebody saw did happen, even if its client was not told. Any other write without a known outcome takes effect only
//! while somebody who has not returned sees what it writes; unseen it makes no difference. Deletes without a known
//! outcome are alike, so they are used in the order in which they were invoked.

use super::{
    Action, Call, NotProven, Outcome, When,
    register::{Register, Step, Value},
    table::{Impossible, Table},
};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};

/// One call on the key.
#[derive(Debug, Clone, Copy)]
struct Op<'a> {
    call: &'a Call,
    step: Step,
    /// Where it must have taken effect; `None` if its outcome is unknown.
    returned: Option<u64>,
    /// Up to here somebody sees what it wrote; of no meaning if the outcome is known.
    useful_until: u64,
}

impl Op<'_> {
    /// The revision of a write that certainly happened.
    const fn revision(&self) -> Option<u64> {
        if let Step::Write { revision, .. } = self.step { revision } else { None }
    }

    /// Whether it is one of the deletes that are alike.
    const fn is_unknown_delete(&self) -> bool {
        matches!(self.step, Step::Write { when: When::Always, value: None, revision: None })
    }
}

/// What happens along a history. At one position calls begin before others return, which allows more orders rather than
/// fewer, and nothing is forgotten before whoever needs it has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin,
    Return,
    /// A call without a known outcome is of no more use.
    Forget,
}

/// What may be true at one position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Configuration {
    register: Register,
    /// The open calls that have taken effect, by number, ascending.
    done: Vec<usize>,
}

impl Configuration {
    fn has(&self, op: usize) -> bool {
        self.done.binary_search(&op).is_ok()
    }

    fn with(&self, op: usize, register: Register) -> Self {
        let mut done = self.done.clone();
        if let Err(at) = done.binary_search(&op) {
            done.insert(at, op);
        }
        Self { register, done }
    }

    fn forget(&mut self, op: usize) {
        if let Ok(at) = self.done.binary_search(&op) {
            self.done.remove(at);
        }
    }
}

/// Finds an order of the calls on a key.
///
/// # Errors
/// There is none, or more than `bound` configurations would have to be looked at for one call.
pub(super) fn linearize(key: &str, calls: &[&Call], bound: usize) -> Result<(), NotProven> {
    let ops = project(key, calls);
    let mut events = Vec::with_capacity(ops.len() * 2);
    for (number, op) in ops.iter().enumerate() {
        events.push((op.call.invoked, Event::Begin, number));
        events.push(match op.returned {
            Some(returned) => (returned, Event::Return, number),
            None => (op.useful_until, Event::Forget, number),
        });
    }
    events.sort_unstable();
    let start = Configuration { register: Register::default(), done: Vec::new() };
    let mut search = Search { ops: &ops, open: BTreeSet::new(), frontier: HashSet::from([start]), bound };
    for (position, event, op) in events {
        match event {
            Event::Begin => search.begin(op),
            Event::Forget => search.end(op),
            Event::Return => {
                let Some(next) = search.linearize(op) else {
                    return Err(NotProven::Undecided { key: key.into(), position, bound });
                };
                if next.is_empty() {
                    return Err(NotProven::Impossible(Box::new(search.explain(key, position, op))));
                }
                search.frontier = next;
                search.end(op);
            }
        }
    }
    Ok(())
}

struct Search<'a> {
    ops: &'a [Op<'a>],
    /// Invoked, and not ended.
    open: BTreeSet<usize>,
    frontier: HashSet<Configuration>,
    bound: usize,
}

impl Search<'_> {
    fn begin(&mut self, op: usize) {
        self.open.insert(op);
        if self.ops[op].step.is_read() {
            let before = std::mem::take(&mut self.frontier);
            self.frontier = before.into_iter().map(|configuration| self.settled(configuration)).collect();
        }
    }

    fn end(&mut self, op: usize) {
        self.open.remove(&op);
        let before = std::mem::take(&mut self.frontier);
        self.frontier = before
            .into_iter()
            .map(|mut configuration| {
                configuration.forget(op);
                configuration
            })
            .collect();
    }

    /// Lets open reads take effect that fit.
    fn settled(&self, mut configuration: Configuration) -> Configuration {
        // A read may tell the version, which decides about the others, so all are asked again after each.
        let fits = |configuration: &Configuration| {
            let reads = self.open.iter().filter(|op| self.ops[**op].step.is_read() && !configuration.has(**op));
            reads.map(|op| (*op, configuration.register.after(self.ops[*op].step))).find(|(_, after)| after.is_some())
        };
        while let Some((op, Some(after))) = fits(&configuration) {
            configuration = configuration.with(op, after);
        }
        configuration
    }

    /// Every configuration in which `wanted` has taken effect, or none at all if that is too much work.
    fn linearize(&self, wanted: usize) -> Option<HashSet<Configuration>> {
        let (mut next, mut seen): (HashSet<_>, HashSet<_>) =
            self.frontier.iter().cloned().partition(|configuration| configuration.has(wanted));
        let mut ahead: Vec<_> = seen.iter().cloned().collect();
        while let Some(configuration) = ahead.pop() {
            for (op, register) in self.continuations(&configuration) {
                let after = self.settled(configuration.with(op, register));
                if after.has(wanted) {
                    next.insert(after);
                } else if seen.insert(after.clone()) {
                    ahead.push(after);
                }
                if next.len() + seen.len() > self.bound {
                    return None;
                }
            }
        }
        Some(next)
    }

    /// The open writes that can take effect next, and what the key then holds.
    fn continuations(&self, configuration: &Configuration) -> Vec<(usize, Register)> {
        let open = || self.open.iter().copied().filter(|op| !configuration.has(*op));
        let earliest = open().filter_map(|op| self.ops[op].revision()).min();
        let mut deletes = false;
        let mut found = Vec::new();
        for op in open() {
            if self.ops[op].step.is_read() || self.ops[op].revision() > earliest {
                continue;
            }
            if self.ops[op].is_unknown_delete() {
                // Only the first one; and none where there is nothing to delete.
                let first = !std::mem::replace(&mut deletes, true);
                if !first || configuration.register.held.is_none() {
                    continue;
                }
            }
            found.extend(configuration.register.after(self.ops[op].step).map(|register| (op, register)));
        }
        found
    }

    fn explain(&self, key: &str, position: u64, refused: usize) -> Impossible {
        let mut table = Table::default();
        let recent = |op: &&Op<'_>| op.returned.is_some_and(|returned| returned < position);
        let mut before: Vec<_> = self.ops.iter().filter(recent).collect();
        before.sort_unstable_by_key(|op| std::cmp::Reverse(op.returned));
        before.iter().take(Table::BEFORE).for_each(|op| table.add(op.call, "over"));
        for op in self.open.iter().filter(|op| **op != refused) {
            table.add(self.ops[*op].call, "open");
        }
        table.add(self.ops[refused].call, "IMPOSSIBLE");
        let values = values(self.ops.iter().map(|op| op.call), key);
        let names: HashMap<Value, &Bytes> = values.into_iter().map(|(value, number)| (number, value)).collect();
        let held: BTreeSet<_> = self.frontier.iter().map(|configuration| configuration.register.held).collect();
        let shown = |(value, version): (Value, Option<u64>)| (names.get(&value).copied().cloned(), version);
        let possible = held.into_iter().map(|held| held.map(shown)).collect();
        Impossible::new(key, position, possible, table)
    }
}

/// Every value of a key by number, in the order in which the history first names it.
fn values<'a>(calls: impl Iterator<Item = &'a Call>, key: &str) -> HashMap<&'a Bytes, Value> {
    let mut numbers = HashMap::new();
    let mut number = |value: &'a Bytes| {
        let next = Value::try_from(numbers.len()).unwrap_or(Value::MAX);
        numbers.entry(value).or_insert(next);
    };
    for call in calls {
        if let Action::Write { effects, .. } = &call.action {
            effects.iter().filter(|effect| effect.key == key).filter_map(|e| e.value.as_ref()).for_each(&mut number);
        }
        if let (Some(Some(held)), true) = (call.seen(), call.asked() == Some(key)) {
            number(&held.value);
        }
    }
    numbers
}

/// What each call does to this key. What certainly did not happen, and reads without an answer, say nothing.
fn project<'a>(key: &str, calls: &[&'a Call]) -> Vec<Op<'a>> {
    let numbers = values(calls.iter().copied(), key);
    let mut ops = Vec::with_capacity(calls.len());
    for &call in calls {
        let ours = call.asked() == Some(key);
        let seen = call.seen().filter(|_| ours);
        let seen = seen.map(|held| held.as_ref().map(|held| (numbers[&held.value], held.version.0)));
        let step = match (&call.action, &call.outcome) {
            (_, Outcome::Failed) | (Action::Get(_), _) if seen.is_none() => continue,
            (Action::Get(_), _) => Step::Read(seen.flatten()),
            (Action::Write { when, .. }, Outcome::Conflict(_)) if ours => {
                Step::Refused { when: *when, seen: seen.flatten() }
            }
            (Action::Write { .. }, Outcome::Conflict(_)) => continue,
            (Action::Write { when, effects }, outcome) => {
                let when = if ours { *when } else { When::Always };
                let effect = effects.iter().find(|effect| effect.key == key);
                let value = effect.and_then(|effect| effect.value.as_ref()).map(|value| numbers[value]);
                let revision = if let Outcome::Written(revision) = outcome { Some(revision.0) } else { None };
                Step::Write { when, value, revision }
            }
        };
        let returned = (call.outcome != Outcome::Unknown).then_some(call.returned);
        ops.push(Op { call, step, returned, useful_until: u64::MAX });
    }
    bound_unknowns(&mut ops);
    ops
}

/// Gives the writes without a known outcome the revisions that somebody saw, finds out until when each is of use, and
/// drops those that are of none.
fn bound_unknowns(ops: &mut Vec<Op<'_>>) {
    let mut seen = Seen::by(ops);
    // A write that is itself unknown sees what its condition names for as long as it is of use.
    while ops.iter().filter(|op| op.returned.is_none()).any(|op| seen.extend(op)) {}
    let versions = first_seen(ops);
    ops.retain_mut(|op| {
        let Step::Write { value, revision, .. } = &mut op.step else { return true };
        if op.returned.is_some() {
            return true;
        }
        *revision = value.and_then(|value| versions.get(&value)).map(|(_, version)| *version);
        let until = seen.until(*value);
        op.useful_until = until.unwrap_or(0);
        until.is_some_and(|until| until > op.call.invoked)
    });
}

/// Where each value was seen first, and at which version.
fn first_seen(ops: &[Op<'_>]) -> HashMap<Value, (u64, u64)> {
    let mut first = HashMap::<Value, (u64, u64)>::new();
    for op in ops {
        let (Step::Read(Some((value, version))) | Step::Refused { seen: Some((value, version)), .. }) = op.step else {
            continue;
        };
        let seen = (op.returned.unwrap_or(u64::MAX), version);
        let first = first.entry(value).or_insert(seen);
        *first = seen.min(*first);
    }
    first
}

/// Up to which position each value, or the lack of one, is seen.
struct Seen {
    until: HashMap<Option<Value>, u64>,
    /// The same for values that nobody can name.
    anything: Option<u64>,
    /// Who wrote a version, as far as anybody knows.
    versions: HashMap<u64, Value>,
}

impl Seen {
    /// What calls with a known outcome see.
    fn by(ops: &[Op<'_>]) -> Self {
        let versions = ops.iter().filter_map(|op| match op.step {
            Step::Read(seen) | Step::Refused { seen, .. } => seen.map(|(value, version)| (version, value)),
            Step::Write { value, revision, .. } => revision.zip(value),
        });
        let mut seen = Self { until: HashMap::new(), anything: None, versions: versions.collect() };
        for op in ops {
            if let Some(returned) = op.returned {
                seen.mark(op.step, returned);
            }
        }
        seen
    }

    /// Adds what a write without a known outcome sees; whether that is longer than was known.
    fn extend(&mut self, op: &Op<'_>) -> bool {
        let Step::Write { value, .. } = op.step else { return false };
        self.until(value).is_some_and(|until| self.mark(op.step, until))
    }

    fn until(&self, value: Option<Value>) -> Option<u64> {
        self.until.get(&value).copied().max(self.anything.filter(|_| value.is_some()))
    }

    fn mark(&mut self, step: Step, position: u64) -> bool {
        let seen = match step {
            Step::Read(seen) | Step::Refused { seen, .. } => seen.map(|(value, _)| value),
            Step::Write { when: When::Always, .. } => return false,
            Step::Write { when: When::Absent, .. } => None,
            Step::Write { when: When::Version(version), .. } => match self.versions.get(&version.0) {
                Some(value) => Some(*value),
                // It may be anybody's.
                None => return grow(self.anything.get_or_insert(0), position),
            },
        };
        grow(self.until.entry(seen).or_default(), position)
    }
}

fn grow(known: &mut u64, position: u64) -> bool {
    let grows = position > *known;
    *known = position.max(*known);
    grows
}

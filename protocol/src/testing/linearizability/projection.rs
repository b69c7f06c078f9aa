//! A history as one key sees it: what each call does to the key, by numbers instead of values. Owns what is left out, and
//! until when a write without a known outcome is of use; never orders anything.

use super::{
    Action, Call, Outcome, When,
    register::{Step, Value},
};
use bytes::Bytes;
use std::collections::HashMap;

/// One call on the key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op<'a> {
    pub(super) call: &'a Call,
    pub(super) step: Step,
    /// Where it must have taken effect; `None` if its outcome is unknown.
    pub(super) returned: Option<u64>,
    /// Up to here somebody sees what it wrote; of no meaning if the outcome is known.
    pub(super) useful_until: u64,
}

impl Op<'_> {
    /// The revision of a write that certainly happened.
    pub(super) const fn revision(&self) -> Option<u64> {
        if let Step::Write { revision, .. } = self.step { revision } else { None }
    }

    /// Whether it is one of the deletes that are alike.
    pub(super) const fn is_unknown_delete(&self) -> bool {
        matches!(self.step, Step::Write { when: When::Always, value: None, revision: None })
    }
}

/// Every value of a key by number, in the order in which the history first names it.
pub(super) fn values<'a>(calls: impl Iterator<Item = &'a Call>, key: &str) -> HashMap<&'a Bytes, Value> {
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
pub(super) fn project<'a>(key: &str, calls: &[&'a Call]) -> Vec<Op<'a>> {
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

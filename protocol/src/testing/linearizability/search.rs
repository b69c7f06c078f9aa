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
    Call, NotProven,
    projection::{Op, project, values},
    register::{Register, Value},
    table::{Impossible, Table},
};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};

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
    let mut search = Search { calls, ops: &ops, open: BTreeSet::new(), frontier: HashSet::from([start]), bound };
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
    /// All of the history that concerns the key.
    calls: &'a [&'a Call],
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
        let values = values(self.calls.iter().copied(), key);
        let names: HashMap<Value, &Bytes> = values.into_iter().map(|(value, number)| (number, value)).collect();
        let held: BTreeSet<_> = self.frontier.iter().map(|configuration| configuration.register.held).collect();
        let shown = |(value, version): (Value, Option<u64>)| (names.get(&value).copied().cloned(), version);
        let possible = held.into_iter().map(|held| held.map(shown)).collect();
        Impossible::new(key, position, possible, table)
    }
}

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
    frontier::{Configuration, Frontier},
    projection::{Op, project, values},
    register::Value,
    table::{Impossible, Table},
};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};

/// What happens along a history. At one position calls begin before others return, which allows more orders rather than
/// fewer, and nothing is forgotten before whoever needs it has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin,
    Return,
    /// A call without a known outcome is of no more use.
    Forget,
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
    let mut search =
        Search { calls, ops: &ops, open: BTreeSet::new(), deletes: Vec::new(), frontier: Frontier::default(), bound };
    search.frontier.insert(Configuration::default(), 0);
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
    /// Invoked, and not ended; without the deletes that are alike.
    open: BTreeSet<usize>,
    /// Those deletes, as far as they have been invoked and are of use.
    deletes: Vec<usize>,
    frontier: Frontier,
    bound: usize,
}

impl Search<'_> {
    fn begin(&mut self, op: usize) {
        if self.ops[op].is_unknown_delete() {
            return self.deletes.push(op);
        }
        self.open.insert(op);
        if self.ops[op].step.is_read() {
            let before = std::mem::take(&mut self.frontier);
            self.frontier = before.map(|configuration| self.settled(configuration));
        }
    }

    fn end(&mut self, op: usize) {
        if self.ops[op].is_unknown_delete() {
            // All of them are of use for the same time.
            return self.deletes.clear();
        }
        self.open.remove(&op);
        let before = std::mem::take(&mut self.frontier);
        self.frontier = before.map(|configuration| configuration.without(op));
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
    fn linearize(&self, wanted: usize) -> Option<Frontier> {
        let (mut next, mut seen, mut ahead) = (Frontier::default(), Frontier::default(), Vec::new());
        let mut reach = |configuration: Configuration, deletes: usize, ahead: &mut Vec<_>| {
            if configuration.has(wanted) {
                next.insert(configuration, deletes);
            } else if seen.insert(configuration.clone(), deletes) {
                ahead.push((configuration, deletes));
            }
            next.len() + seen.len() <= self.bound
        };
        for (configuration, deletes) in self.frontier.iter() {
            reach(configuration.clone(), deletes, &mut ahead);
        }
        while let Some((configuration, deletes)) = ahead.pop() {
            for (after, deletes) in self.continuations(&configuration, deletes) {
                if !reach(self.settled(after), deletes, &mut ahead) {
                    return None;
                }
            }
        }
        Some(next)
    }

    /// What can be true after the next open write, and how many deletes are used then.
    fn continuations(&self, configuration: &Configuration, deletes: usize) -> Vec<(Configuration, usize)> {
        let register = configuration.register;
        let open = || self.open.iter().copied().filter(|op| !configuration.has(*op));
        let earliest = open().filter_map(|op| self.ops[op].revision()).min();
        let writes = open().filter(|op| !self.ops[*op].step.is_read() && self.ops[*op].revision() <= earliest);
        let written =
            writes.filter_map(|op| Some((configuration.with(op, register.after(self.ops[op].step)?), deletes)));
        let mut found: Vec<_> = written.collect();
        // A delete of nothing changes nothing.
        if let Some(delete) = self.deletes.get(deletes).filter(|_| register.held.is_some()) {
            let deleted = register.after(self.ops[*delete].step).map(|register| configuration.deleted(register));
            found.extend(deleted.map(|configuration| (configuration, deletes + 1)));
        }
        found
    }

    fn explain(&self, key: &str, position: u64, refused: usize) -> Impossible {
        let mut table = Table::default();
        let recent = |op: &&Op<'_>| op.returned.is_some_and(|returned| returned < position);
        let mut before: Vec<_> = self.ops.iter().filter(recent).collect();
        before.sort_unstable_by_key(|op| std::cmp::Reverse(op.returned));
        before.iter().take(Table::BEFORE).for_each(|op| table.add(op.call, "over"));
        for op in self.open.iter().chain(&self.deletes).filter(|op| **op != refused) {
            table.add(self.ops[*op].call, "open");
        }
        table.add(self.ops[refused].call, "IMPOSSIBLE");
        let values = values(self.calls.iter().copied(), key);
        let names: HashMap<Value, &Bytes> = values.into_iter().map(|(value, number)| (number, value)).collect();
        let held: BTreeSet<_> = self.frontier.iter().map(|(configuration, _)| configuration.register.held).collect();
        let shown = |(value, version): (Value, Option<u64>)| (names.get(&value).copied().cloned(), version);
        let possible = held.into_iter().map(|held| held.map(shown)).collect();
        Impossible::new(key, position, possible, table)
    }
}

//! What may be true at one position of a history. Owns that of configurations which differ only in how many deletes
//! without a known outcome they have used, the one with the fewest is kept: it can do whatever the others can.

use super::register::Register;
use std::collections::HashMap;

/// What the key holds, and which open calls have taken effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Configuration {
    pub(super) register: Register,
    /// The open calls that have taken effect, by number, ascending; without the deletes that are alike.
    done: Vec<usize>,
}

impl Configuration {
    pub(super) fn has(&self, op: usize) -> bool {
        self.done.binary_search(&op).is_ok()
    }

    /// After a call has taken effect.
    pub(super) fn with(&self, op: usize, register: Register) -> Self {
        let mut done = self.done.clone();
        if let Err(at) = done.binary_search(&op) {
            done.insert(at, op);
        }
        Self { register, done }
    }

    /// After one of the deletes has.
    pub(super) fn deleted(&self, register: Register) -> Self {
        Self { register, done: self.done.clone() }
    }

    /// Without a call that is not open any more.
    pub(super) fn without(mut self, op: usize) -> Self {
        if let Ok(at) = self.done.binary_search(&op) {
            self.done.remove(at);
        }
        self
    }
}

/// Configurations, each with the fewest deletes that lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Frontier(HashMap<Configuration, usize>);

impl Frontier {
    /// Adds a configuration; whether it is new, or needs fewer deletes than before.
    pub(super) fn insert(&mut self, configuration: Configuration, deletes: usize) -> bool {
        let mut better = false;
        let fewest = self.0.entry(configuration).or_insert_with(|| {
            better = true;
            deletes
        });
        if deletes < *fewest {
            *fewest = deletes;
            better = true;
        }
        better
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Configuration, usize)> {
        self.0.iter().map(|(configuration, deletes)| (configuration, *deletes))
    }

    /// Changes every configuration.
    pub(super) fn map(self, change: impl Fn(Configuration) -> Configuration) -> Self {
        let mut changed = Self::default();
        for (configuration, deletes) in self.0 {
            changed.insert(change(configuration), deletes);
        }
        changed
    }
}

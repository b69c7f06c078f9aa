//! What a run did, and why it failed if it did.

use std::{collections::BTreeMap, fmt};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The invariant.
    pub(crate) rule: &'static str,
    /// What was found.
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// What happened in a run, or in many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Counts by name.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Simulated seconds.
    pub(crate) seconds: u64,
}

impl Report {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// Joins what another run did.
    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.seconds += other.seconds;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<44}{:>14.1}", "simulated hours", self.seconds as f64 / 3600.0)?;
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "  {what:<44}{count:>14}"))
    }
}

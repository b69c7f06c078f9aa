//! A refuted history as a person reads it: the calls around the one that nothing explains, and what the key may have
//! held by then. Owns wording and layout only.

use super::{Action, Call, Effect, Held, Outcome, When};
use bytes::Bytes;
use std::fmt;

/// The most that is shown of a value, in characters.
const VALUE: usize = 40;
/// The most contents of the key that are listed.
const POSSIBLE: usize = 8;

/// The shortest beginning of a history of one key that has no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    /// The key.
    pub key: String,
    /// Where the beginning ends: the return of the call that nothing explains.
    pub position: u64,
    /// What the key may have held before that call, as far as all others say.
    possible: Vec<String>,
    table: Table,
}

/// Calls in the order of their invocations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Table(Vec<(u64, [String; 5])>);

impl Table {
    /// How many calls are shown that were over before.
    pub(super) const BEFORE: usize = 8;

    pub(super) fn add(&mut self, call: &Call, role: &str) {
        let returned = if call.outcome == Outcome::Unknown { "never".into() } else { call.returned.to_string() };
        let times = format!("{}..{returned}", call.invoked);
        let row = [role.into(), call.client.to_string(), times, asked(&call.action), answered(&call.outcome)];
        self.0.push((call.invoked, row));
        self.0.sort_by_key(|(invoked, _)| *invoked);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["", "CLIENT", "POSITIONS", "ASKED", "ANSWERED"].map(String::from);
        let rows = || std::iter::once(&heads).chain(self.0.iter().map(|(_, row)| row));
        let mut widths = [0; 5];
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in rows() {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "  {}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

impl Impossible {
    pub(super) fn new(
        key: &str,
        position: u64,
        possible: Vec<Option<(Option<Bytes>, Option<u64>)>>,
        table: Table,
    ) -> Self {
        let shown = |held: Option<(Option<Bytes>, Option<u64>)>| match held {
            None => "nothing".into(),
            Some((value, version)) => {
                let version = version.map_or_else(|| "?".into(), |version| version.to_string());
                format!("{}@{version}", value.as_ref().map_or_else(String::new, shown_value))
            }
        };
        Self { key: key.into(), position, possible: possible.into_iter().map(shown).collect(), table }
    }
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, position, possible, table } = self;
        writeln!(f, "key \"{key}\" is not linearizable up to position {position}")?;
        write!(f, "{table}  before the impossible answer the key may have held: ")?;
        write!(f, "{}", possible.iter().take(POSSIBLE).cloned().collect::<Vec<_>>().join(", "))?;
        if possible.len() > POSSIBLE { write!(f, " and {} more", possible.len() - POSSIBLE) } else { Ok(()) }
    }
}

/// A call on one line.
pub(super) fn sentence(call: &Call) -> String {
    let Call { client, invoked, returned, action, outcome } = call;
    format!("client {client} at {invoked}..{returned}: {} -> {}", asked(action), answered(outcome))
}

fn asked(action: &Action) -> String {
    let effect = |effect: &Effect| match &effect.value {
        Some(value) => format!("put {} {}", effect.key, shown_value(value)),
        None => format!("delete {}", effect.key),
    };
    match action {
        Action::Get(key) => format!("get {key}"),
        Action::Write { when, effects } => {
            let effects = effects.iter().map(effect).collect::<Vec<_>>().join(", ");
            match when {
                When::Always => effects,
                When::Absent => format!("{effects} if absent"),
                When::Version(version) => format!("{effects} if @{version}"),
            }
        }
    }
}

fn answered(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Written(revision) => format!("written @{revision}"),
        Outcome::Read(held) => shown_held(held.as_ref()),
        Outcome::Conflict(held) => format!("conflict with {}", shown_held(held.as_ref())),
        Outcome::Failed => "did not happen".into(),
        Outcome::Unknown => "unknown".into(),
    }
}

fn shown_held(held: Option<&Held>) -> String {
    held.map_or_else(|| "nothing".into(), |held| format!("{}@{}", shown_value(&held.value), held.version))
}

fn shown_value(value: &Bytes) -> String {
    String::from_utf8_lossy(value).chars().take(VALUE).collect()
}

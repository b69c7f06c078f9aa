//! Whether what concurrent clients saw could have come from a single copy of the data, on which every call took effect
//! at one instant between its invocation and its return.
//!
//! Owns the vocabulary of histories and the verdict. Each key is searched by itself ([`search`], Lowe's just-in-time
//! linearization), then the revisions of all keys are laid along one line ([`timeline`]). It never says "fine" when it
//! gave up: every other answer than a proof is a [`NotProven`].
//!
//! A history must write every value once, so that a value names the call that wrote it.

mod frontier;
mod projection;
mod register;
mod search;
mod table;
mod timeline;

#[cfg(test)]
mod tests;

pub use table::Impossible;

use crate::id::Revision;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};

/// How many configurations of one key are looked at for one call before the search gives up, unless the caller has a
/// reason for another number. A configuration takes about 100 bytes.
pub const CONFIGURATIONS: usize = 200_000;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A linearizable read of a key.
    Get(String),
    /// A transaction: every effect, at one revision, if the condition holds.
    Write {
        /// The condition, on the key of the first effect.
        when: When,
        /// The effects, 1 or more, on different keys.
        effects: Vec<Effect>,
    },
}

/// The condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// There is none.
    Always,
    /// The key does not exist.
    Absent,
    /// The key was last written at this revision.
    Version(Revision),
}

/// What a write does to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The key.
    pub key: String,
    /// What it then holds; `None` deletes it.
    pub value: Option<Bytes>,
}

/// A value as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub value: Bytes,
    /// The revision that wrote it.
    pub version: Revision,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The write happened, at this revision.
    Written(Revision),
    /// What the key held; `None` if it did not exist.
    Read(Option<Held>),
    /// The condition did not hold, and nothing happened; what its key held.
    Conflict(Option<Held>),
    /// It certainly did not happen.
    Failed,
    /// It happened at any time after it was invoked, or never.
    Unknown,
}

/// One call of a history. Positions come from one counter that all clients share, so that a call which returned at a
/// lower position than another was invoked at was certainly over by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who called.
    pub client: u32,
    /// The position at which it was made.
    pub invoked: u64,
    /// The position at which its outcome was known; of no meaning if that is [`Outcome::Unknown`].
    pub returned: u64,
    /// What was asked for.
    pub action: Action,
    /// What was answered.
    pub outcome: Outcome,
}

impl Call {
    /// The keys it reads or writes.
    fn keys(&self) -> Vec<&str> {
        match &self.action {
            Action::Get(key) => vec![key],
            Action::Write { effects, .. } => effects.iter().map(|effect| effect.key.as_str()).collect(),
        }
    }

    /// The key that the answer speaks of, if it does.
    fn asked(&self) -> Option<&str> {
        self.keys().first().copied()
    }

    /// What the client learnt about that key, if anything.
    fn seen(&self) -> Option<&Option<Held>> {
        match &self.outcome {
            Outcome::Read(held) | Outcome::Conflict(held) => Some(held),
            Outcome::Written(_) | Outcome::Failed | Outcome::Unknown => None,
        }
    }
}

/// Why a history is not known to be linearizable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    /// One key has no order of its calls that explains every answer.
    #[error("{0}")]
    Impossible(Box<Impossible>),
    /// Two transactions have the same revision.
    #[error("two writes have revision {revision}:\n  {first}\n  {second}")]
    OneRevisionTwice {
        /// The revision.
        revision: Revision,
        /// A write.
        first: String,
        /// Another one.
        second: String,
    },
    /// The effects of one transaction were seen at different revisions.
    #[error("a transaction took effect at revisions {first} and {second}:\n  {call}")]
    Torn {
        /// A revision at which one of its effects was seen.
        first: Revision,
        /// A revision at which another was.
        second: Revision,
        /// The transaction.
        call: String,
    },
    /// A call took effect before another one that was over when it began.
    #[error(
        "revision {floor} was known:\n  {known}\nbut a call that began later took effect at most at {most}:\n  {call}"
    )]
    Backwards {
        /// The lowest revision at which the call can have taken effect.
        floor: Revision,
        /// The call that showed it.
        known: String,
        /// The highest one that explains what the later call was told.
        most: Revision,
        /// The later call.
        call: String,
    },
    /// The search gave up. Shorter histories, fewer clients or fewer unknown outcomes need fewer configurations.
    #[error("undecided: key \"{key}\" needs more than {bound} configurations for the call that returned at {position}")]
    Undecided {
        /// The key.
        key: String,
        /// Where the search stood.
        position: u64,
        /// How many configurations were allowed.
        bound: usize,
    },
    /// The history breaks the rules for histories.
    #[error("not a history: {0}")]
    Unfit(String),
}

/// Proves a history linearizable: each key by itself, then all revisions together.
///
/// `bound` is how many configurations of one key are looked at for one call; [`CONFIGURATIONS`] is a good number.
///
/// # Errors
/// Whatever is not a proof.
pub fn check(history: &[Call], bound: usize) -> Result<(), NotProven> {
    fit(history)?;
    let mut keys = BTreeMap::<&str, Vec<&Call>>::new();
    for call in history {
        for key in call.keys() {
            keys.entry(key).or_default().push(call);
        }
    }
    for (key, calls) in keys {
        search::linearize(key, &calls, bound)?;
    }
    timeline::check(history)
}

/// The revision of each write that is known to have happened, by its place in the history: from its answer, or because
/// somebody saw what it wrote.
///
/// # Errors
/// The effects of a write were seen at different revisions.
pub fn known_revisions(history: &[Call]) -> Result<HashMap<usize, Revision>, NotProven> {
    let known = timeline::revisions(history)?;
    Ok(known.into_iter().map(|(call, revision)| (call, Revision(revision))).collect())
}

/// Checks what the rest relies on.
fn fit(history: &[Call]) -> Result<(), NotProven> {
    let unfit = |call: &Call, why: &str| Err(NotProven::Unfit(format!("{why}: {}", table::sentence(call))));
    let mut written = HashSet::new();
    for call in history {
        let answers = match (&call.action, &call.outcome) {
            (_, Outcome::Failed | Outcome::Unknown)
            | (Action::Get(_), Outcome::Read(_))
            | (Action::Write { .. }, Outcome::Written(_) | Outcome::Conflict(_)) => true,
            (Action::Get(_), _) | (Action::Write { .. }, Outcome::Read(_)) => false,
        };
        if !answers {
            return unfit(call, "the outcome answers another question");
        }
        if call.returned <= call.invoked && call.outcome != Outcome::Unknown {
            return unfit(call, "a call returns after it was invoked");
        }
        let Action::Write { effects, .. } = &call.action else { continue };
        let keys: HashSet<_> = effects.iter().map(|effect| &effect.key).collect();
        if effects.is_empty() || keys.len() != effects.len() {
            return unfit(call, "a write has effects on different keys");
        }
        for effect in effects {
            if effect.value.as_ref().is_some_and(|value| !written.insert((&effect.key, value))) {
                return unfit(call, "a value is written once");
            }
        }
    }
    Ok(())
}

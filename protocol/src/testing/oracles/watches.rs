//! Whether a watch lost, repeated or invented a change, over all its resumes. Owns the comparison of what a watcher was
//! told, in order, with what is known to have been committed; what it was told is folded as the watcher would do it.
//!
//! A write whose outcome is unknown may show or not, but if it shows, it shows whole.

use crate::{
    id::Revision,
    service::metadata::{Change, Versioned, WatchEvent},
    testing::linearizability::{Action, Call, Effect, NotProven, Outcome, known_revisions},
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};

/// One thing that a watcher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Everything under the prefix as of a revision: where it begins, and begins again after "compacted".
    Listed {
        /// All pages together.
        items: Vec<Versioned>,
        /// The revision to watch from.
        revision: Revision,
    },
    /// An event.
    Event(WatchEvent),
}

/// What a watcher must not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenWatch {
    /// A revision that was over.
    #[error("told of revision {revision} when everything up to {at} had been told")]
    Repeated {
        /// The revision.
        revision: Revision,
        /// How far the watcher was.
        at: Revision,
    },
    /// Too late: later revisions came, or the end, and this one did not.
    #[error("revision {revision} was committed and not told; the watcher was at {at} and went on to {next}")]
    Lost {
        /// What was not told.
        revision: Revision,
        /// How far the watcher was.
        at: Revision,
        /// What it was told next.
        next: Revision,
    },
    /// Other changes than those that were committed.
    #[error("revision {revision} was told as {told:?}, but was {expected:?}")]
    Wrong {
        /// The revision.
        revision: Revision,
        /// What was told.
        told: Vec<Change>,
        /// What was committed.
        expected: Vec<Change>,
    },
    /// Changes that nobody asked for.
    #[error("revision {revision} was told as {told:?}, which nobody asked for")]
    Invented {
        /// The revision.
        revision: Revision,
        /// What was told.
        told: Vec<Change>,
    },
    /// A list that does not hold what was committed by its revision, or more.
    #[error("the list at {revision} has {found:?} for {key}, last written at {written}")]
    WrongList {
        /// The revision of the list.
        revision: Revision,
        /// The key.
        key: String,
        /// The version in the list; `None` if the key is not there.
        found: Option<Revision>,
        /// The revision of the last write that is known.
        written: Revision,
    },
    /// The watcher was told of events before any list.
    #[error("a watcher begins with a list")]
    NoList,
}

/// What is known about the writes of a history under a prefix.
#[derive(Debug)]
pub struct Commits<'a> {
    prefix: &'a str,
    known: BTreeMap<Revision, Vec<&'a Effect>>,
    /// Who may have written a value.
    possible: HashMap<(&'a str, &'a Bytes), Vec<&'a Effect>>,
    /// Keys that may have been deleted.
    deleted: HashSet<&'a str>,
}

impl<'a> Commits<'a> {
    /// The writes of a history, which must hold every write under the prefix.
    ///
    /// # Errors
    /// The effects of a write were seen at different revisions.
    pub fn of(history: &'a [Call], prefix: &'a str) -> Result<Self, NotProven> {
        let revisions = known_revisions(history)?;
        let mut commits = Self { prefix, known: BTreeMap::new(), possible: HashMap::new(), deleted: HashSet::new() };
        for (number, call) in history.iter().enumerate() {
            let Action::Write { effects, .. } = &call.action else { continue };
            let ours: Vec<_> = effects.iter().filter(|effect| effect.key.starts_with(prefix)).collect();
            if let Some(revision) = revisions.get(&number) {
                commits.known.insert(*revision, ours);
            } else if call.outcome == Outcome::Unknown {
                for effect in &ours {
                    match &effect.value {
                        Some(value) => drop(commits.possible.insert((&effect.key, value), ours.clone())),
                        None => drop(commits.deleted.insert(&effect.key)),
                    }
                }
            }
        }
        Ok(commits)
    }

    /// Checks everything that a watcher of the prefix was told, in order, up to `until`, which it must have reached if
    /// anything was committed by then.
    ///
    /// # Errors
    /// The first thing that it should not have been told, or should have.
    pub fn check(&self, told: &[Told], until: Revision) -> Result<(), BrokenWatch> {
        let mut view = View::default();
        for (number, part) in told.iter().enumerate() {
            match part {
                Told::Listed { items, revision } => {
                    if *revision < view.at {
                        return Err(BrokenWatch::Repeated { revision: *revision, at: view.at });
                    }
                    self.check_list(items, *revision)?;
                    let items = items.iter().map(|item| item.key.clone());
                    view = View { at: *revision, keys: items.collect() };
                }
                Told::Event(_) if number == 0 => return Err(BrokenWatch::NoList),
                Told::Event(event) => self.check_event(&mut view, event)?,
            }
        }
        self.check_gap(&view, Revision(until.0.saturating_add(1)))
    }

    /// Nothing that shows was committed between where the watcher is and `next`.
    fn check_gap(&self, view: &View, next: Revision) -> Result<(), BrokenWatch> {
        if next <= view.at {
            return Ok(());
        }
        let between = self.known.range(Revision(view.at.0 + 1)..next);
        match between.into_iter().find(|(_, effects)| effects.iter().any(|effect| view.shows(effect))) {
            Some((&revision, _)) => Err(BrokenWatch::Lost { revision, at: view.at, next }),
            None => Ok(()),
        }
    }

    fn check_event(&self, view: &mut View, event: &WatchEvent) -> Result<(), BrokenWatch> {
        let WatchEvent { revision, changes } = event;
        if changes.is_empty() {
            // Progress; it may repeat where the watcher is, and claims everything up to and with its revision.
            if *revision < view.at {
                return Err(BrokenWatch::Repeated { revision: *revision, at: view.at });
            }
            self.check_gap(view, Revision(revision.0 + 1))?;
            view.at = *revision;
            return Ok(());
        }
        if *revision <= view.at {
            return Err(BrokenWatch::Repeated { revision: *revision, at: view.at });
        }
        self.check_gap(view, *revision)?;
        match self.known.get(revision) {
            Some(effects) => {
                let expected = view.changes(effects, *revision);
                if *changes != expected {
                    return Err(BrokenWatch::Wrong { revision: *revision, told: changes.clone(), expected });
                }
            }
            None => self.check_unknown(view, event)?,
        }
        view.fold(event);
        Ok(())
    }

    /// The changes of a write whose outcome nobody was told.
    fn check_unknown(&self, view: &View, event: &WatchEvent) -> Result<(), BrokenWatch> {
        let writer = event.changes.iter().find_map(|change| match change {
            Change::Put(item) => self.possible.get(&(item.key.as_str(), &item.value)),
            Change::Deleted(_) => None,
        });
        let explained = match writer {
            Some(effects) => view.changes(effects, event.revision) == event.changes,
            None => event.changes.iter().all(|change| match change {
                Change::Put(_) => false,
                Change::Deleted(key) => view.keys.contains(key) && self.deleted.contains(key.as_str()),
            }),
        };
        if explained {
            return Ok(());
        }
        Err(BrokenWatch::Invented { revision: event.revision, told: event.changes.clone() })
    }

    /// The list holds the last write of each key that is known, or a later one that is not.
    fn check_list(&self, items: &[Versioned], revision: Revision) -> Result<(), BrokenWatch> {
        let listed: HashMap<_, _> = items.iter().map(|item| (item.key.as_str(), item.version)).collect();
        let mut last = BTreeMap::new();
        for (&written, effects) in self.known.range(..=revision) {
            last.extend(effects.iter().map(|effect| (effect.key.as_str(), (written, effect.value.is_some()))));
        }
        for (&key, &version) in &listed {
            if version > revision || !key.starts_with(self.prefix) {
                let (key, found) = (key.into(), Some(version));
                return Err(BrokenWatch::WrongList { revision, key, found, written: revision });
            }
        }
        for (key, (written, exists)) in last {
            let found = listed.get(key).copied();
            let fine = match found {
                Some(version) if exists => version >= written,
                Some(version) => version > written,
                None => !exists || self.deleted.contains(key),
            };
            if !fine {
                return Err(BrokenWatch::WrongList { revision, key: key.into(), found, written });
            }
        }
        Ok(())
    }
}

/// What a watcher knows by what it was told.
#[derive(Debug, Default)]
struct View {
    at: Revision,
    keys: HashSet<String>,
}

impl View {
    /// Whether an effect can be seen: a delete of nothing cannot.
    fn shows(&self, effect: &Effect) -> bool {
        effect.value.is_some() || self.keys.contains(&effect.key)
    }

    fn changes(&self, effects: &[&Effect], version: Revision) -> Vec<Change> {
        let shown = effects.iter().filter(|effect| self.shows(effect));
        let change = |effect: &&Effect| match &effect.value {
            Some(value) => {
                let (key, value) = (effect.key.clone(), value.clone());
                Change::Put(Versioned { key, value, version, session: None })
            }
            None => Change::Deleted(effect.key.clone()),
        };
        shown.map(change).collect()
    }

    fn fold(&mut self, event: &WatchEvent) {
        for change in &event.changes {
            match change {
                Change::Put(item) => drop(self.keys.insert(item.key.clone())),
                Change::Deleted(key) => drop(self.keys.remove(key)),
            }
        }
        self.at = event.revision;
    }
}

#[cfg(test)]
mod tests;

//! The revisions of all keys on one line. A revision is a place in the one history of the service, so a write takes
//! effect at its revision and a read between that of what it saw and the next one of the same key. A call that began
//! after another was over must have a place that is not before the other's.
//!
//! This finds what no key shows alone: a transaction of which only a part is seen, and a replica that is behind. Places
//! are chosen as early as possible, which is exact, because all rules are lower bounds. Deletes without a known outcome
//! may be anywhere, so a key that has one says nothing when it is absent.

use super::{Action, Call, Held, NotProven, Outcome, table::sentence};
use crate::id::Revision;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Checks the revisions of a history whose keys are linearizable one by one.
///
/// # Errors
/// What does not fit, and with what.
pub(super) fn check(history: &[Call]) -> Result<(), NotProven> {
    let line = Line::of(history)?;
    let mut events = Vec::with_capacity(history.len() * 2);
    for (number, call) in history.iter().enumerate() {
        events.push((call.invoked, false, number));
        if call.outcome != Outcome::Unknown {
            events.push((call.returned, true, number));
        }
    }
    events.sort_unstable();
    // The latest place of a call that is over, and which call that is.
    let mut floor = (0, None);
    let mut floors = vec![floor; history.len()];
    for (_, returns, number) in events {
        let call = &history[number];
        if !returns {
            floors[number] = floor;
        }
        // Where an unknown write took effect is sometimes known, but never when.
        if returns == (call.outcome == Outcome::Unknown) {
            continue;
        }
        let (lowest, known) = floors[number];
        let known = known.map(|known: usize| &history[known]);
        match line.place(number, call, lowest) {
            Place::At(place) if place > floor.0 && returns => floor = (place, Some(number)),
            Place::At(_) | Place::Anywhere => {}
            Place::NotAfter(most) => {
                return Err(NotProven::Backwards {
                    floor: Revision(lowest),
                    known: known.map_or_else(String::new, sentence),
                    most: Revision(most),
                    call: sentence(call),
                });
            }
        }
    }
    Ok(())
}

/// The revision of each write that is known to have happened, by number of the call: from its answer, or because
/// somebody saw what it wrote.
///
/// # Errors
/// The effects of a write were seen at different revisions.
pub(super) fn revisions(history: &[Call]) -> Result<HashMap<usize, u64>, NotProven> {
    let mut writers = HashMap::<(&str, &Bytes), usize>::new();
    let mut revisions = HashMap::new();
    for (number, call) in history.iter().enumerate() {
        let Action::Write { effects, .. } = &call.action else { continue };
        writers.extend(effects.iter().filter_map(|e| Some(((e.key.as_str(), e.value.as_ref()?), number))));
        if let Outcome::Written(revision) = call.outcome {
            revisions.insert(number, revision.0);
        }
    }
    for call in history {
        let Some((key, Some(Held { value, version }))) = call.asked().zip(call.seen()) else { continue };
        let Some(&writer) = writers.get(&(key, value)) else { continue };
        let first = *revisions.entry(writer).or_insert(version.0);
        if first != version.0 {
            let call = sentence(&history[writer]);
            return Err(NotProven::Torn { first: Revision(first), second: *version, call });
        }
    }
    Ok(revisions)
}

/// Where a call can have taken effect.
enum Place {
    /// Here at the earliest.
    At(u64),
    /// Nothing is known.
    Anywhere,
    /// Nowhere from the lowest place on; at most here.
    NotAfter(u64),
}

/// What happened at which revision, as far as anybody knows.
struct Line<'a> {
    /// By key and revision, whether it exists from then on.
    keys: HashMap<&'a str, BTreeMap<u64, bool>>,
    /// The revision of each write that is known to have happened, by number of the call.
    writes: HashMap<usize, u64>,
    /// Keys that may have been deleted at an unknown revision.
    vague: HashSet<&'a str>,
}

impl<'a> Line<'a> {
    fn of(history: &'a [Call]) -> Result<Self, NotProven> {
        let writes = revisions(history)?;
        let mut line = Self { keys: HashMap::new(), writes, vague: HashSet::new() };
        line.lay(history)?;
        Ok(line)
    }

    /// Lays the effects of all writes along the line.
    fn lay(&mut self, history: &'a [Call]) -> Result<(), NotProven> {
        let mut taken = HashMap::new();
        for (number, call) in history.iter().enumerate() {
            let Action::Write { effects, .. } = &call.action else { continue };
            let Some(&revision) = self.writes.get(&number) else {
                if call.outcome == Outcome::Unknown {
                    let deleted = effects.iter().filter(|effect| effect.value.is_none());
                    self.vague.extend(deleted.map(|effect| effect.key.as_str()));
                }
                continue;
            };
            if let Some(other) = taken.insert(revision, number) {
                let (first, second) = (sentence(&history[other]), sentence(call));
                return Err(NotProven::OneRevisionTwice { revision: Revision(revision), first, second });
            }
            for effect in effects {
                self.keys.entry(&effect.key).or_default().insert(revision, effect.value.is_some());
            }
        }
        Ok(())
    }

    /// The first place of a call that is not before `lowest`; for a write, after it.
    fn place(&self, number: usize, call: &Call, lowest: u64) -> Place {
        if let Some(&revision) = self.writes.get(&number) {
            return if revision > lowest { Place::At(revision) } else { Place::NotAfter(revision) };
        }
        match (call.asked(), call.seen()) {
            (Some(key), Some(Some(held))) => self.present(key, held.version.0, lowest),
            (Some(key), Some(None)) if !self.vague.contains(key) => self.absent(key, lowest),
            _ => Place::Anywhere,
        }
    }

    fn present(&self, key: &str, version: u64, lowest: u64) -> Place {
        let next = self.keys.get(key).and_then(|line| line.range(version + 1..).next());
        match next {
            Some((&next, _)) if next <= lowest => Place::NotAfter(next - 1),
            _ => Place::At(version.max(lowest)),
        }
    }

    fn absent(&self, key: &str, lowest: u64) -> Place {
        let Some(line) = self.keys.get(key) else { return Place::At(lowest) };
        let exists = line.range(..=lowest).next_back().is_some_and(|(_, exists)| *exists);
        if !exists {
            return Place::At(lowest);
        }
        match line.range(lowest + 1..).find(|(_, exists)| !**exists) {
            Some((&deleted, _)) => Place::At(deleted),
            None => {
                let since = line.range(..=lowest).rev().take_while(|(_, exists)| **exists).last();
                Place::NotAfter(since.map_or(0, |(&since, _)| since.saturating_sub(1)))
            }
        }
    }
}

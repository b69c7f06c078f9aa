//! One key as a machine: a value with its version, or nothing. Pure; knows no history and no order of calls.
//!
//! The revision of a write whose outcome is unknown is unknown, too, until somebody sees the value. Invariant: whatever
//! is written later has a higher revision than `floor`.

use super::When;

/// A value, by number.
pub(super) type Value = u32;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Register {
    /// The value, and its version as far as it is known; `None` if the key does not exist.
    pub(super) held: Option<(Value, Option<u64>)>,
    /// The latest write has at least this revision.
    pub(super) floor: u64,
}

/// What a call does to the key, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Saw this.
    Read(Option<(Value, u64)>),
    /// Saw this, and that the condition did not hold.
    Refused { when: When, seen: Option<(Value, u64)> },
    /// Wrote or deleted, at a revision if it is known.
    Write { when: When, value: Option<Value>, revision: Option<u64> },
}

impl Step {
    /// Whether it changes nothing.
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::Read(_) | Self::Refused { .. })
    }
}

impl Register {
    /// The register after the step; `None` if the step cannot have happened here.
    pub(super) fn after(self, step: Step) -> Option<Self> {
        match step {
            Step::Read(seen) => self.showing(seen),
            Step::Refused { when, seen } => {
                let holds = match when {
                    When::Always => true,
                    When::Absent => seen.is_none(),
                    When::Version(version) => seen.is_some_and(|(_, seen)| seen == version.0),
                };
                if holds { None } else { self.showing(seen) }
            }
            Step::Write { when, value, revision } => {
                let before = match when {
                    When::Always => self,
                    When::Absent => self.showing(None)?,
                    When::Version(version) => self.showing(self.held.map(|(value, _)| (value, version.0)))?,
                };
                // A delete of nothing has a condition that held, or none; one that names a version needs a value.
                if matches!(when, When::Version(_)) && before.held.is_none() {
                    return None;
                }
                let floor = match revision {
                    Some(revision) if revision <= before.floor => return None,
                    Some(revision) => revision,
                    None => before.floor + 1,
                };
                Some(Self { held: value.map(|value| (value, revision)), floor })
            }
        }
    }

    /// The register, if this is what it shows; the version is known from then on.
    fn showing(self, seen: Option<(Value, u64)>) -> Option<Self> {
        match (self.held, seen) {
            (None, None) => Some(self),
            (Some((held, version)), Some((value, seen))) if held == value => match version {
                Some(version) => (version == seen).then_some(self),
                None => (seen >= self.floor).then_some(Self { held: Some((value, Some(seen))), floor: seen }),
            },
            (None, Some(_)) | (Some(_), None | Some(_)) => None,
        }
    }
}

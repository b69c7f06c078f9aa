//! Digests of the state at fixed log positions, and what comparing them with the leader's has shown.
//!
//! Not replicated: each voter notes its own. Decides nothing; whoever sees a [`Divergence`] must stop the node, because
//! what a voter that has applied something else answers is wrong.

use crate::state::Agreement;
use std::collections::VecDeque;

/// The digest is noted after log entries whose index is a multiple of this.
const EVERY: u64 = 256;
/// The most digests kept: an audit may come this many positions late.
const KEPT: usize = 64;

/// This voter's state is not the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// After this log entry.
    pub index: u64,
    /// This voter's digest.
    pub ours: u64,
    /// The leader's digest.
    pub leaders: u64,
}

/// The digests of one voter.
#[derive(Debug, Default)]
pub(super) struct Audits {
    noted: VecDeque<(u64, u64)>,
    agreed: Option<(u64, u64)>,
    divergence: Option<Divergence>,
}

impl Audits {
    /// Takes the digest after a log entry, if it is one to note.
    pub(super) fn note(&mut self, index: u64, digest: impl FnOnce() -> u64) {
        if !index.is_multiple_of(EVERY) {
            return;
        }
        if self.noted.len() == KEPT {
            self.noted.pop_front();
        }
        self.noted.push_back((index, digest()));
    }

    /// Compares with the leader.
    pub(super) fn compare(&mut self, index: u64, leaders: u64) -> Agreement {
        let Some((_, ours)) = self.noted.iter().copied().find(|(at, _)| *at == index) else {
            return Agreement::Unknown;
        };
        if ours == leaders {
            self.agreed = self.agreed.max(Some((index, ours)));
            return Agreement::Agrees;
        }
        // The first one is the nearest to the cause.
        self.divergence.get_or_insert(Divergence { index, ours, leaders });
        Agreement::Differs
    }

    /// The state was replaced; the digests were those of another one.
    pub(super) fn forget(&mut self) {
        self.noted.clear();
    }

    /// The latest position noted, and the digest there; what a leader asks its followers to compare.
    pub(super) fn noted(&self) -> Option<(u64, u64)> {
        self.noted.back().copied()
    }

    /// The latest position at which this voter agreed with the leader; before the first, the latest noted.
    pub(super) fn audited(&self) -> Option<(u64, u64)> {
        self.agreed.or_else(|| self.noted())
    }

    pub(super) const fn divergence(&self) -> Option<Divergence> {
        self.divergence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fixed_positions_are_noted_and_compared() {
        let mut audits = Audits::default();
        audits.note(255, || panic!("not one of them"));
        audits.note(256, || 7);
        assert_eq!(audits.audited(), Some((256, 7)));
        assert_eq!(audits.compare(512, 7), Agreement::Unknown);
        audits.note(512, || 8);
        assert_eq!(audits.compare(256, 7), Agreement::Agrees);
        assert_eq!((audits.audited(), audits.noted(), audits.divergence()), (Some((256, 7)), Some((512, 8)), None));
        assert_eq!(audits.compare(512, 9), Agreement::Differs);
        assert_eq!(audits.compare(256, 1), Agreement::Differs);
        assert_eq!(audits.divergence(), Some(Divergence { index: 512, ours: 8, leaders: 9 }));
        assert_eq!(audits.audited(), Some((256, 7)), "what differed was not audited");
    }

    #[test]
    fn old_positions_and_those_of_a_replaced_state_are_unknown() {
        let mut audits = Audits::default();
        for n in 1..=KEPT as u64 + 1 {
            audits.note(n * EVERY, || n);
        }
        assert_eq!(audits.compare(EVERY, 1), Agreement::Unknown);
        assert_eq!(audits.compare(2 * EVERY, 2), Agreement::Agrees);
        audits.forget();
        assert_eq!(audits.compare(3 * EVERY, 0), Agreement::Unknown);
        assert_eq!(audits.divergence(), None);
    }
}

//! Who leads: when a node stands for election, and how a leader shows that it lives.
//!
//! openraft decides elections; this folder decides when there is one. A follower stands only after it has heard no
//! leader for a while *and* a majority says that it would vote for it (pre-vote, section 9.6 of Ongaro's thesis), so that
//! a node that was cut off does not depose a leader that the others can hear. A leader's signs of life travel beside the
//! log, so that a slow disk or a full queue is not taken for a dead leader; a leader that no majority answers falls
//! silent by itself (check-quorum) until answers come again, so that the others can elect one that is heard in both
//! directions.
//!
//! * [`standing`]: when to ask and when to stand; pure. [`contacts`]: who answered the leader, and when; pure.
//! * [`ear`]: which leader was heard last. [`campaign`]: the tasks that drive both.

pub(crate) mod campaign;
pub(crate) mod contacts;
pub(crate) mod ear;
pub(crate) mod standing;

use crate::raft::{LogId, Vote};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// How long a follower keeps to a leader that it heard: as long, nobody gets its vote.
pub(crate) const LEASE: Duration = Duration::from_millis(700);
/// How often a leader shows that it lives.
pub(crate) const BEAT: Duration = Duration::from_millis(100);

/// Would you vote for me?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Canvass {
    /// Where the candidate's log ends.
    pub(crate) last_log: Option<LogId>,
}

/// The answer to [`Canvass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Promise {
    /// Whether a vote would be given, as things stand.
    pub(crate) granted: bool,
    /// Whether whoever asks is a member, as far as the answering one knows.
    pub(crate) is_member: bool,
}

/// The leader lives; and its answer: whom the peer knows to lead, or to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// The term and the leader.
    pub(crate) vote: Vote,
    /// Only whether an answer comes back is of interest; whoever hears this may stand for election all the same.
    pub(crate) is_probe: bool,
}

/// Whether these members are a majority of each of these sets of voters; there are two during a change.
pub(crate) fn is_majority(members: &BTreeSet<u64>, voters: &[BTreeSet<u64>]) -> bool {
    !voters.is_empty() && voters.iter().all(|set| set.intersection(members).count() > set.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_of_every_set() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        assert!(is_majority(&set(&[1]), &[set(&[1])]));
        assert!(!is_majority(&set(&[1]), &[set(&[1, 2])]), "half is not a majority");
        assert!(is_majority(&set(&[1, 3]), &[set(&[1, 2, 3])]));
        assert!(!is_majority(&set(&[1, 9, 8]), &[set(&[1, 2, 3])]), "strangers do not count");
        assert!(!is_majority(&set(&[1, 2]), &[set(&[1, 2, 3]), set(&[3, 4, 5])]), "both sets, during a change");
        assert!(!is_majority(&set(&[1]), &[]), "nobody votes where nothing is known");
    }
}

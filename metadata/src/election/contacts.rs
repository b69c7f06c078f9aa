//! Who answered the leader's beats, and when: whether a majority still hears it. Pure.

use super::is_majority;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long a voter that has not answered still counts.
pub(crate) const TOUCH: Duration = Duration::from_millis(1_000);

/// The last answer of each member.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    since: Duration,
    answered: BTreeMap<u64, Duration>,
}

impl Contacts {
    /// Starts anew: everyone counts for one more while.
    pub(crate) fn reset(&mut self, now: Duration) {
        self.since = now;
        self.answered.clear();
    }

    /// A member has answered a beat that was sent at `sent`.
    pub(crate) fn answered(&mut self, member: u64, sent: Duration) {
        let last = self.answered.entry(member).or_default();
        *last = sent.max(*last);
    }

    /// When the member last answered.
    pub(crate) fn last(&self, member: u64) -> Option<Duration> {
        self.answered.get(&member).copied()
    }

    /// Whether a majority, this node included, has answered lately.
    pub(crate) fn is_in_touch(&self, me: u64, voters: &[BTreeSet<u64>], now: Duration) -> bool {
        if now < self.since + TOUCH {
            return true;
        }
        let fresh = self.answered.iter().filter(|(_, at)| now < **at + TOUCH).map(|(id, _)| *id);
        is_majority(&fresh.chain([me]).collect(), voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_in_touch_while_a_majority_answers() {
        let (mut contacts, voters) = (Contacts::default(), [BTreeSet::from([1, 2, 3])]);
        let at = |ms| Duration::from_millis(ms);
        contacts.reset(at(5_000));
        assert!(contacts.is_in_touch(1, &voters, at(5_999)), "at first everyone counts");
        assert!(!contacts.is_in_touch(1, &voters, at(6_000)));
        contacts.answered(2, at(5_500));
        contacts.answered(2, at(5_400));
        assert!(contacts.is_in_touch(1, &voters, at(6_499)), "the latest answer counts");
        assert!(!contacts.is_in_touch(1, &voters, at(6_500)));
        contacts.answered(9, at(6_500));
        assert!(!contacts.is_in_touch(1, &voters, at(6_500)), "a learner's answer gives no majority");
        assert!(
            contacts.is_in_touch(1, &[BTreeSet::from([1])], at(99_000)),
            "whoever is alone is in touch with itself"
        );
        assert_eq!((contacts.last(2), contacts.last(3)), (Some(at(5_500)), None));
    }
}

//! Newtypes for every number that crosses a function: passing a ledger id where an entry id is expected does not
//! compile. This file owns the numbers' meaning and range; it never does arithmetic beyond "the next one".

use serde::{Deserialize, Serialize};
use std::fmt;

/// Defines a number with a meaning: a transparent newtype that prints as the number itself.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A ledger: a write-once sequence of entries with one writer. Ids come from a sequence that never repeats, so a
    /// dead ledger is a contiguous, never reused key range.
    LedgerId(u64)
}
number! {
    /// An entry of a ledger, dense from 0.
    EntryId(u64)
}
number! {
    /// A process that runs a broker and a gateway; Kafka's `node.id`, 0 or more.
    NodeId(i32)
}
number! {
    /// One life of a node: issued by a sequence when the node registers, never reused.
    Registration(u64)
}
number! {
    /// A bookie; stable over restarts and over the loss of its disk.
    BookieId(u32)
}
number! {
    /// One life of a bookie's disk: issued by a sequence when the disk is formatted, never reused. A bookie that lost
    /// its disk gets a new one and never answers for its old self (BookKeeper issue 4812).
    Incarnation(u64)
}
number! {
    /// Kafka's offset of a record in a partition, 0 or more.
    Offset(i64)
}
number! {
    /// The epoch of a partition's ownership, 0 or more; it only grows, and each assignment of an owner raises it.
    LeaderEpoch(i32)
}
number! {
    /// An idempotent or transactional producer, 0 or more.
    ProducerId(i64)
}
number! {
    /// Milliseconds since the Unix epoch; -1 where Kafka says "no timestamp".
    Timestamp(i64)
}
number! {
    /// The secret of a ledger: named at creation, compared by bookies on every add, fence and recovery add.
    LedgerKey(u64)
}
number! {
    /// A position in the history of the metadata service: every committed transaction has a higher one.
    Revision(u64)
}
number! {
    /// A session of a client with the metadata service; its ephemeral keys live as long as it does.
    SessionId(u64)
}

impl EntryId {
    /// The entry after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaderEpoch {
    /// The epoch of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Timestamp {
    /// Kafka's "no timestamp".
    pub const NONE: Self = Self(-1);
}

/// Last-add-confirmed: the highest entry that holds its ack quorum while every lower entry does too.
///
/// Kept as the number of confirmed entries, so that "none yet" is 0 and no entry id can be mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lac(u64);

impl Lac {
    /// Nothing is confirmed.
    pub const NONE: Self = Self(0);

    /// Everything up to and including `entry` is confirmed.
    #[must_use]
    pub const fn at(entry: EntryId) -> Self {
        Self(entry.0 + 1)
    }

    /// The first `count` entries are confirmed; the form that is stored and sent.
    #[must_use]
    pub const fn from_count(count: u64) -> Self {
        Self(count)
    }

    /// How many entries are confirmed.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0
    }

    /// The highest confirmed entry.
    #[must_use]
    pub const fn entry(self) -> Option<EntryId> {
        match self.0 {
            0 => None,
            count => Some(EntryId(count - 1)),
        }
    }

    /// The lowest entry that is not confirmed.
    #[must_use]
    pub const fn next(self) -> EntryId {
        EntryId(self.0)
    }

    /// Whether `entry` is confirmed.
    #[must_use]
    pub const fn covers(self, entry: EntryId) -> bool {
        entry.0 < self.0
    }
}

impl fmt::Display for Lac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry() {
            Some(entry) => entry.fmt(f),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lac_counts_entries() {
        assert_eq!(Lac::NONE.entry(), None);
        assert_eq!(Lac::NONE.next(), EntryId(0));
        let lac = Lac::at(EntryId(4));
        assert_eq!((lac.entry(), lac.next(), lac.count()), (Some(EntryId(4)), EntryId(5), 5));
        assert!(lac.covers(EntryId(4)) && !lac.covers(EntryId(5)));
        assert_eq!((lac.to_string(), Lac::NONE.to_string()), ("4".into(), "none".into()));
    }
}

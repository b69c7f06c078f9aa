//! The shapes of all requests Magnetar serves: one entry per API, each field with its wire type and versions.
//!
//! Facts of the Kafka 4.1 protocol: field order, types, the versions a field exists in, and since which version strings
//! and arrays are compact and structs end in tagged fields. Owns no names and no meaning; null is legal wherever the
//! wire can say it, because the decoders refuse it where it is not.

use std::ops::RangeInclusive;

/// The wire type of a field.
pub(super) enum Kind {
    /// A number, a boolean or a UUID of so many bytes.
    Fixed(u8),
    /// A string with a length of two bytes, or compact.
    Text,
    /// Bytes or records with a length of four bytes, or compact.
    Blob,
    /// An array of structs.
    Each(&'static [Field]),
    /// An array of plain values.
    List(&'static Kind),
    /// A struct.
    One(&'static [Field]),
    /// A struct behind one byte that is -1 for null.
    Maybe(&'static [Field]),
}

/// A field of a struct.
pub(super) struct Field {
    pub(super) kind: Kind,
    since: i16,
    until: i16,
    /// Its number if it is a tagged field.
    pub(super) tag: Option<u32>,
}

impl Field {
    const fn of(kind: Kind) -> Self {
        Self { kind, since: 0, until: i16::MAX, tag: None }
    }
    const fn since(mut self, version: i16) -> Self {
        self.since = version;
        self
    }
    const fn until(mut self, version: i16) -> Self {
        self.until = version;
        self
    }
    const fn tag(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }
    /// Whether a version has this field.
    pub(super) const fn is_in(&self, version: i16) -> bool {
        self.since <= version && version <= self.until
    }
}

/// The request of one API.
pub(super) struct Shape {
    key: i16,
    /// The versions the table is right for.
    pub(super) versions: RangeInclusive<i16>,
    /// The first flexible version (KIP-482).
    pub(super) flexible_since: i16,
    /// The fields of the body.
    pub(super) fields: &'static [Field],
}

/// The shape of an API's request.
pub(super) fn find(key: i16) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.key == key)
}

const fn api(key: i16, first: i16, last: i16, flexible_since: i16, fields: &'static [Field]) -> Shape {
    Shape { key, versions: first..=last, flexible_since, fields }
}
const fn each(fields: &'static [Field]) -> Field {
    Field::of(Kind::Each(fields))
}
const fn list(item: &'static Kind) -> Field {
    Field::of(Kind::List(item))
}
const fn one(fields: &'static [Field]) -> Field {
    Field::of(Kind::One(fields))
}
const fn maybe(fields: &'static [Field]) -> Field {
    Field::of(Kind::Maybe(fields))
}

const I8: Field = Field::of(Kind::Fixed(1));
const I16: Field = Field::of(Kind::Fixed(2));
const I32: Field = Field::of(Kind::Fixed(4));
const I64: Field = Field::of(Kind::Fixed(8));
const UUID: Field = Field::of(Kind::Fixed(16));
const STR: Field = Field::of(Kind::Text);
const BYTES: Field = Field::of(Kind::Blob);
const NEVER: i16 = i16::MAX;

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    // Produce
    api(0, 3, 13, 9, &[STR, I16, I32, each(&[STR.until(12), UUID.since(13), each(&[I32, BYTES])])]),
    // Fetch
    api(1, 4, 18, 12, &[STR.since(12).tag(0), I32.until(14), one(&[I32, I64]).since(15).tag(1), I32, I32, I32, I8,
            I32.since(7), I32.since(7), each(&[STR.until(12), UUID.since(13), each(&[I32, I32.since(9), I64,
            I32.since(12), I64.since(5), I32, UUID.since(17).tag(0), I64.since(18).tag(1)])]), each(&[STR.until(12),
            UUID.since(13), list(&Kind::Fixed(4))]).since(7), STR.since(11)]),
    // ListOffsets
    api(2, 1, 10, 6, &[I32, I8.since(2), each(&[STR, each(&[I32, I32.since(4), I64])]), I32.since(10)]),
    // Metadata
    api(3, 0, 13, 9, &[each(&[UUID.since(10), STR]), I8.since(4), I8.since(8).until(10), I8.since(8)]),
    // OffsetCommit
    api(8, 2, 9, 8, &[STR, I32, STR, STR.since(7), I64.until(4), each(&[STR, each(&[I32, I64, I32.since(6),
            STR])])]),
    // OffsetFetch
    api(9, 1, 9, 6, &[STR.until(7), each(&[STR, list(&Kind::Fixed(4))]).until(7), each(&[STR, STR.since(9),
            I32.since(9), each(&[STR, list(&Kind::Fixed(4))])]).since(8), I8.since(7)]),
    // FindCoordinator
    api(10, 0, 6, 3, &[STR.until(3), I8.since(1), list(&Kind::Text).since(4)]),
    // JoinGroup
    api(11, 0, 9, 6, &[STR, I32, I32.since(1), STR, STR.since(5), STR, each(&[STR, BYTES]), STR.since(8)]),
    // Heartbeat
    api(12, 0, 4, 4, &[STR, I32, STR, STR.since(3)]),
    // LeaveGroup
    api(13, 0, 5, 4, &[STR, STR.until(2), each(&[STR, STR, STR.since(5)]).since(3)]),
    // SyncGroup
    api(14, 0, 5, 4, &[STR, I32, STR, STR.since(3), STR.since(5), STR.since(5), each(&[STR, BYTES])]),
    // DescribeGroups
    api(15, 0, 6, 5, &[list(&Kind::Text), I8.since(3)]),
    // ListGroups
    api(16, 0, 5, 3, &[list(&Kind::Text).since(4), list(&Kind::Text).since(5)]),
    // ApiVersions
    api(18, 0, 4, 3, &[STR.since(3), STR.since(3)]),
    // CreateTopics
    api(19, 2, 7, 5, &[each(&[STR, I32, I16, each(&[I32, list(&Kind::Fixed(4))]), each(&[STR, STR])]), I32, I8]),
    // DeleteTopics
    api(20, 1, 6, 4, &[each(&[STR, UUID]).since(6), list(&Kind::Text).until(5), I32]),
    // DeleteRecords
    api(21, 0, 2, 2, &[each(&[STR, each(&[I32, I64])]), I32]),
    // InitProducerId
    api(22, 0, 5, 2, &[STR, I32, I64.since(3), I16.since(3)]),
    // OffsetForLeaderEpoch
    api(23, 2, 4, 4, &[I32.since(3), each(&[STR, each(&[I32, I32, I32])])]),
    // DescribeConfigs
    api(32, 1, 4, 4, &[each(&[I8, STR, list(&Kind::Text)]), I8, I8.since(3)]),
    // AlterConfigs
    api(33, 0, 2, 2, &[each(&[I8, STR, each(&[STR, STR])]), I8]),
    // DescribeLogDirs
    api(35, 1, 4, 2, &[each(&[STR, list(&Kind::Fixed(4))])]),
    // CreatePartitions
    api(37, 0, 3, 2, &[each(&[STR, I32, each(&[list(&Kind::Fixed(4))])]), I32, I8]),
    // DeleteGroups
    api(42, 0, 2, 2, &[list(&Kind::Text)]),
    // IncrementalAlterConfigs
    api(44, 0, 1, 1, &[each(&[I8, STR, each(&[STR, I8, STR])]), I8]),
    // ListPartitionReassignments
    api(46, 0, 0, 0, &[I32, each(&[STR, list(&Kind::Fixed(4))])]),
    // OffsetDelete
    api(47, 0, 0, NEVER, &[STR, each(&[STR, each(&[I32])])]),
    // DescribeCluster
    api(60, 0, 2, 0, &[I8, I8.since(1), I8.since(2)]),
    // DescribeTopicPartitions
    api(75, 0, 0, 0, &[each(&[STR]), I32, maybe(&[STR, I32])]),
];

//! The roles a process can play. Owns their names and the order in which they start; the node starts them.

use std::fmt;

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A voter of the metadata service, and the controller while it leads.
    Metadata,
    /// Stores entries.
    Bookie,
    /// Serves partitions.
    Broker,
    /// Speaks Kafka, and coordinates groups.
    Gateway,
}

impl Role {
    /// All roles in starting order; they stop in the opposite one.
    pub const ALL: [Self; 4] = [Self::Metadata, Self::Bookie, Self::Broker, Self::Gateway];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "metadata",
            Self::Bookie => "bookie",
            Self::Broker => "broker",
            Self::Gateway => "gateway",
        })
    }
}

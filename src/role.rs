//! The roles a process can play, and sets of them. Owns their names and the order in which they start; the node starts
//! them.

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

/// The roles of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleSet(&'static [Role]);

impl RoleSet {
    /// Everything a cluster has.
    pub const STANDALONE: Self = Self(&Role::ALL);
    /// A metadata node, with the controller.
    pub const METADATA: Self = Self(&[Role::Metadata]);
    /// A bookie.
    pub const BOOKIE: Self = Self(&[Role::Bookie]);
    /// A broker with its gateway and coordinators.
    pub const BROKER: Self = Self(&[Role::Broker, Role::Gateway]);

    /// Whether the process plays this role.
    #[must_use]
    pub fn contains(self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// The roles in starting order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        self.0.iter().copied()
    }

    /// Whether the process is a whole cluster.
    #[must_use]
    pub fn is_standalone(self) -> bool {
        self == Self::STANDALONE
    }
}

impl fmt::Display for RoleSet {
    /// As people say it: "metadata, bookie, broker and gateway".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, role) in self.0.iter().enumerate() {
            let between = match at {
                0 => "",
                at if at + 1 == self.0.len() => " and ",
                _ => ", ",
            };
            write!(f, "{between}{role}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_as_people_say_them() {
        assert_eq!(RoleSet::STANDALONE.to_string(), "metadata, bookie, broker and gateway");
        assert_eq!(RoleSet::BROKER.to_string(), "broker and gateway");
        assert_eq!(RoleSet::BOOKIE.to_string(), "bookie");
        assert!(RoleSet::BOOKIE.contains(Role::Bookie) && !RoleSet::BOOKIE.contains(Role::Broker));
    }
}

//! What a group can answer instead of success, and Kafka's number for it. Never decides when an error applies. Clients
//! treat a code outside of their API's set as fatal; the machine's tests hold every answer against those sets.

/// Why a group request was refused. Each variant is one Kafka error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum GroupError {
    /// The topic does not exist (3).
    #[error("the topic does not exist")]
    UnknownTopic,
    /// The metadata string of a commit exceeds `offset.metadata.max.bytes` (12).
    #[error("the commit's metadata is longer than offset.metadata.max.bytes")]
    MetadataTooLarge,
    /// The state is still being read (14).
    #[error("the coordinator is loading")]
    Loading,
    /// The state could not be written, or the group is being deleted (15).
    #[error("the coordinator is not available")]
    NotAvailable,
    /// Another node coordinates the group (16).
    #[error("this node does not coordinate the group")]
    NotCoordinator,
    /// The generation is not the group's (22).
    #[error("the generation is not the current one")]
    IllegalGeneration,
    /// No protocol is common to all members, or the protocol type differs (23).
    #[error("the member's protocols do not fit the group's")]
    InconsistentProtocol,
    /// The empty string is no group (24).
    #[error("the group id must not be empty")]
    InvalidGroupId,
    /// The group has no such member (25).
    #[error("the group has no such member")]
    UnknownMember,
    /// Outside of `group.min.session.timeout.ms` and `group.max.session.timeout.ms` (26).
    #[error("the session timeout is outside of the limits")]
    InvalidSessionTimeout,
    /// The member must join again (27).
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// The records of the commit are too large to write (28).
    #[error("the commit is too large")]
    CommitTooLarge,
    /// The group still has members (68).
    #[error("the group is not empty")]
    NonEmpty,
    /// There is no such group (69).
    #[error("there is no such group")]
    NotFound,
    /// Join again with the member id in the answer (79, KIP-394).
    #[error("join again with the given member id")]
    MemberIdRequired,
    /// `group.max.size` is reached (81).
    #[error("the group is full")]
    Full,
    /// A newer member has the same instance id (82, KIP-345).
    #[error("another member took over this instance id")]
    FencedInstance,
    /// A member is subscribed to the topic (86).
    #[error("the group is subscribed to the topic")]
    Subscribed,
}

impl GroupError {
    /// Kafka's error code.
    #[must_use]
    pub(crate) const fn code(self) -> i16 {
        match self {
            Self::UnknownTopic => 3,
            Self::MetadataTooLarge => 12,
            Self::Loading => 14,
            Self::NotAvailable => 15,
            Self::NotCoordinator => 16,
            Self::IllegalGeneration => 22,
            Self::InconsistentProtocol => 23,
            Self::InvalidGroupId => 24,
            Self::UnknownMember => 25,
            Self::InvalidSessionTimeout => 26,
            Self::RebalanceInProgress => 27,
            Self::CommitTooLarge => 28,
            Self::NonEmpty => 68,
            Self::NotFound => 69,
            Self::MemberIdRequired => 79,
            Self::Full => 81,
            Self::FencedInstance => 82,
            Self::Subscribed => 86,
        }
    }

    /// The code of a result: 0 for success.
    #[must_use]
    pub(crate) fn code_of<T>(result: &Result<T, Self>) -> i16 {
        result.as_ref().err().map_or(0, |e| e.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_a_code() {
        assert_eq!(GroupError::code_of(&Ok(1)), 0);
        assert_eq!(GroupError::code_of::<()>(&Err(GroupError::FencedInstance)), 82);
    }
}

//! The one map from our errors to Kafka's. Owns every decision about a code; no wildcard arm, so that a new error of a
//! service does not compile until someone has decided what clients shall make of it.
//!
//! Java clients treat an error outside of the set they know for an API as fatal (the sets stand in the tests), so the
//! same error of ours may have to be another code of Kafka's in another API.

#[cfg(test)]
mod tests;

use kafka_protocol::ResponseError;
use protocol::{
    id::{LeaderEpoch, NodeId},
    service::{
        broker::{AdminError, AppendError, DeleteRecordsError, FetchError, ListOffsetsError, NotServed},
        coordinator::CoordinatorError,
        metadata::MetadataError,
    },
};

/// What a client is told about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Kafka's error.
    pub(crate) error: ResponseError,
    /// What happened and what to do, for people.
    pub(crate) message: String,
    /// Single records that are to blame, by position in the batch.
    pub(crate) records: Vec<(i32, String)>,
    /// Who owns the partition now, as far as the one who refused knows (KIP-951).
    pub(crate) leader: Option<(NodeId, LeaderEpoch)>,
}

/// The longest message, in characters: names that clients made up are quoted in messages, and old versions of the protocol
/// have no room for strings above 32 KiB.
const MAX_MESSAGE: usize = 1000;

impl Failure {
    /// A failure with a message, which is cut if it is long.
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
        }
        Self { error, message, records: Vec::new(), leader: None }
    }
}

impl From<NotServed> for Failure {
    fn from(problem: NotServed) -> Self {
        let error = match &problem {
            NotServed::NotOwner { .. } | NotServed::Opening => ResponseError::NotLeaderOrFollower,
            NotServed::FencedEpoch { .. } => ResponseError::FencedLeaderEpoch,
            NotServed::UnknownEpoch { .. } => ResponseError::UnknownLeaderEpoch,
            NotServed::NoSuchPartition(_) => ResponseError::UnknownTopicOrPartition,
        };
        let leader = match problem {
            NotServed::NotOwner { owner: Some(owner), epoch } => Some((owner, epoch)),
            NotServed::NotOwner { owner: None, .. }
            | NotServed::FencedEpoch { .. }
            | NotServed::UnknownEpoch { .. }
            | NotServed::NoSuchPartition(_)
            | NotServed::Opening => None,
        };
        Self { leader, ..Self::new(error, problem.to_string()) }
    }
}

impl From<AppendError> for Failure {
    fn from(problem: AppendError) -> Self {
        let message = problem.to_string();
        let error = match problem {
            AppendError::NotServed(problem) => return problem.into(),
            AppendError::InvalidRecord { records, .. } => {
                return Self { records, ..Self::new(ResponseError::InvalidRecord, message) };
            }
            AppendError::Corrupt { .. } => ResponseError::CorruptMessage,
            AppendError::UnsupportedFormat { .. } => ResponseError::UnsupportedForMessageFormat,
            AppendError::InvalidTimestamp { .. } => ResponseError::InvalidTimestamp,
            AppendError::TooLarge { .. } => ResponseError::MessageTooLarge,
            AppendError::InternalTopic => ResponseError::InvalidTopicException,
            AppendError::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
            AppendError::FencedProducer { .. } => ResponseError::InvalidProducerEpoch,
            AppendError::TransactionsUnsupported => ResponseError::TransactionalIdAuthorizationFailed,
            AppendError::NotEnoughReplicas { .. } => ResponseError::NotEnoughReplicas,
            AppendError::Unavailable { .. } => ResponseError::NotLeaderOrFollower,
            AppendError::OutcomeUnknown { .. } => ResponseError::RequestTimedOut,
            AppendError::Storage { .. } => ResponseError::KafkaStorageError,
        };
        Self::new(error, message)
    }
}

impl From<FetchError> for Failure {
    fn from(problem: FetchError) -> Self {
        let message = problem.to_string();
        let error = match problem {
            FetchError::NotServed(problem) => return problem.into(),
            FetchError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
            FetchError::Storage { .. } => ResponseError::KafkaStorageError,
            FetchError::Unavailable { .. } => ResponseError::NotLeaderOrFollower,
        };
        Self::new(error, message)
    }
}

impl From<ListOffsetsError> for Failure {
    fn from(problem: ListOffsetsError) -> Self {
        let message = problem.to_string();
        let error = match problem {
            ListOffsetsError::NotServed(problem) => return problem.into(),
            ListOffsetsError::Storage { .. } => ResponseError::KafkaStorageError,
            ListOffsetsError::Unavailable { .. } => ResponseError::NotLeaderOrFollower,
        };
        Self::new(error, message)
    }
}

impl From<DeleteRecordsError> for Failure {
    fn from(problem: DeleteRecordsError) -> Self {
        let message = problem.to_string();
        let error = match problem {
            DeleteRecordsError::NotServed(problem) => return problem.into(),
            DeleteRecordsError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
            DeleteRecordsError::Policy => ResponseError::PolicyViolation,
            DeleteRecordsError::Unavailable { .. } => ResponseError::NotLeaderOrFollower,
        };
        Self::new(error, message)
    }
}

impl From<AdminError> for Failure {
    fn from(problem: AdminError) -> Self {
        let error = match &problem {
            AdminError::TopicExists(_) => ResponseError::TopicAlreadyExists,
            AdminError::NoSuchTopic(_) => ResponseError::UnknownTopicOrPartition,
            AdminError::NoSuchTopicId(_) => ResponseError::UnknownTopicId,
            AdminError::BadName(_) => ResponseError::InvalidTopicException,
            AdminError::BadPartitions(_) => ResponseError::InvalidPartitions,
            AdminError::BadReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
            AdminError::BadConfig(_) => ResponseError::InvalidConfig,
            AdminError::Invalid(_) => ResponseError::InvalidRequest,
            AdminError::Policy(_) => ResponseError::PolicyViolation,
            // The one error that admin clients answer with a retry.
            AdminError::Unavailable(_) => ResponseError::NotController,
            AdminError::OutcomeUnknown(_) => ResponseError::RequestTimedOut,
        };
        Self::new(error, problem.to_string())
    }
}

impl From<MetadataError> for Failure {
    /// For producer ids, the one thing a gateway asks the metadata service for: every failure is one to retry.
    fn from(problem: MetadataError) -> Self {
        let error = match &problem {
            MetadataError::Unavailable { .. }
            | MetadataError::OutcomeUnknown { .. }
            | MetadataError::SessionExpired(_)
            | MetadataError::Compacted { .. }
            | MetadataError::TooLarge { .. }
            | MetadataError::Invalid(_) => ResponseError::CoordinatorNotAvailable,
        };
        Self::new(error, problem.to_string())
    }
}

/// What a client is told about a coordinator that did not answer; none closes the connection.
pub(crate) fn coordinator(problem: &CoordinatorError) -> Option<Failure> {
    let error = match problem {
        CoordinatorError::NotCoordinator(_) => ResponseError::NotCoordinator,
        CoordinatorError::Loading => ResponseError::CoordinatorLoadInProgress,
        CoordinatorError::Unavailable { .. } | CoordinatorError::OutcomeUnknown { .. } => {
            ResponseError::CoordinatorNotAvailable
        }
        CoordinatorError::Malformed { .. } => return None,
    };
    Some(Failure::new(error, problem.to_string()))
}

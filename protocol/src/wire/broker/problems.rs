//! The numbers of the broker's errors. A number is never used for anything else; those of [`NotServed`] stand in every
//! error that can hold one, from 100 on.

use super::{AdminError, AppendError, DeleteRecordsError, Failure, FetchError, ListOffsetsError, Offset, Problem};
use crate::{
    id::{LeaderEpoch, NodeId},
    service::broker::NotServed,
    topic::{PartitionId, TopicId},
    wire::problem::Detail,
};
use uuid::Uuid;

fn not_served(problem: &NotServed) -> Problem {
    match problem {
        NotServed::NotOwner { owner: None, epoch } => Problem::new(100, "", &[epoch.0.into()]),
        NotServed::NotOwner { owner: Some(node), epoch } => Problem::new(100, "", &[epoch.0.into(), node.0.into()]),
        NotServed::FencedEpoch { current } => Problem::new(101, "", &[current.0.into()]),
        NotServed::UnknownEpoch { current } => Problem::new(102, "", &[current.0.into()]),
        NotServed::NoSuchPartition(id) => {
            let [high, low] = halves(id.topic);
            Problem::new(103, "", &[high, low, id.index.into()])
        }
        NotServed::Opening => Problem::new(104, "", &[]),
    }
}

fn as_not_served(problem: &Problem) -> Option<NotServed> {
    let epoch = || problem.narrow(0).map(LeaderEpoch);
    Some(match problem.kind {
        100 => NotServed::NotOwner { owner: problem.narrow(1).map(NodeId), epoch: epoch()? },
        101 => NotServed::FencedEpoch { current: epoch()? },
        102 => NotServed::UnknownEpoch { current: epoch()? },
        103 => NotServed::NoSuchPartition(PartitionId { topic: topic(problem)?, index: problem.narrow(2)? }),
        104 => NotServed::Opening,
        _ => return None,
    })
}

fn halves(topic: TopicId) -> [i64; 2] {
    let (high, low) = topic.0.as_u64_pair();
    [high.cast_signed(), low.cast_signed()]
}

fn topic(problem: &Problem) -> Option<TopicId> {
    Some(TopicId(Uuid::from_u64_pair(problem.unsigned(0)?, problem.unsigned(1)?)))
}

impl Failure for AppendError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    fn unknown(reason: String) -> Self {
        Self::OutcomeUnknown { reason }
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::NotServed(problem) => not_served(problem),
            Self::Corrupt { reason } => Problem::new(1, reason, &[]),
            Self::UnsupportedFormat { magic } => Problem::new(2, "", &[(*magic).into()]),
            Self::InvalidRecord { reason, records } => {
                let detail = |(index, text): &(i32, String)| Detail { index: *index, text: text.clone() };
                Problem { details: records.iter().map(detail).collect(), ..Problem::new(3, reason, &[]) }
            }
            Self::InvalidTimestamp { reason } => Problem::new(4, reason, &[]),
            Self::TooLarge { size, limit } => Problem::new(5, "", &[size.cast_signed(), limit.cast_signed()]),
            Self::InternalTopic => Problem::new(6, "", &[]),
            Self::OutOfOrderSequence { producer, sequence, expected } => {
                Problem::new(7, "", &[*producer, (*sequence).into(), (*expected).into()])
            }
            Self::FencedProducer { producer, epoch, current } => {
                Problem::new(8, "", &[*producer, (*epoch).into(), (*current).into()])
            }
            Self::TransactionsUnsupported => Problem::new(9, "", &[]),
            Self::NotEnoughReplicas { available, required } => {
                Problem::new(10, "", &[*available as i64, *required as i64])
            }
            Self::Unavailable { reason } => Problem::new(11, reason, &[]),
            Self::OutcomeUnknown { reason } => Problem::new(12, reason, &[]),
            Self::Storage { reason } => Problem::new(13, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let reason = problem.text.clone();
        Some(match problem.kind {
            1 => Self::Corrupt { reason },
            2 => Self::UnsupportedFormat { magic: problem.narrow(0)? },
            3 => {
                let detail = |detail: &Detail| (detail.index, detail.text.clone());
                Self::InvalidRecord { reason, records: problem.details.iter().map(detail).collect() }
            }
            4 => Self::InvalidTimestamp { reason },
            5 => Self::TooLarge { size: problem.unsigned(0)?, limit: problem.unsigned(1)? },
            6 => Self::InternalTopic,
            7 => Self::OutOfOrderSequence {
                producer: problem.number(0)?,
                sequence: problem.narrow(1)?,
                expected: problem.narrow(2)?,
            },
            8 => Self::FencedProducer {
                producer: problem.number(0)?,
                epoch: problem.narrow(1)?,
                current: problem.narrow(2)?,
            },
            9 => Self::TransactionsUnsupported,
            10 => Self::NotEnoughReplicas { available: problem.narrow(0)?, required: problem.narrow(1)? },
            11 => Self::Unavailable { reason },
            12 => Self::OutcomeUnknown { reason },
            13 => Self::Storage { reason },
            _ => Self::NotServed(as_not_served(problem)?),
        })
    }
}

impl Failure for FetchError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    /// A fetch changes nothing, so an unknown outcome is none.
    fn unknown(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::NotServed(problem) => not_served(problem),
            Self::OutOfRange { asked, log_start, end } => Problem::new(1, "", &[asked.0, log_start.0, end.0]),
            Self::Storage { reason } => Problem::new(2, reason, &[]),
            Self::Unavailable { reason } => Problem::new(3, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let offset = |at| problem.number(at).map(Offset);
        let reason = problem.text.clone();
        Some(match problem.kind {
            1 => Self::OutOfRange { asked: offset(0)?, log_start: offset(1)?, end: offset(2)? },
            2 => Self::Storage { reason },
            3 => Self::Unavailable { reason },
            _ => Self::NotServed(as_not_served(problem)?),
        })
    }
}

impl Failure for ListOffsetsError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    /// A look-up changes nothing, so an unknown outcome is none.
    fn unknown(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::NotServed(problem) => not_served(problem),
            Self::Storage { reason } => Problem::new(1, reason, &[]),
            Self::Unavailable { reason } => Problem::new(2, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let reason = problem.text.clone();
        Some(match problem.kind {
            1 => Self::Storage { reason },
            2 => Self::Unavailable { reason },
            _ => Self::NotServed(as_not_served(problem)?),
        })
    }
}

impl Failure for DeleteRecordsError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    /// Deleting again deletes nothing more, so that "retry" is right in either case.
    fn unknown(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::NotServed(problem) => not_served(problem),
            Self::OutOfRange { asked, high_watermark } => Problem::new(1, "", &[asked.0, high_watermark.0]),
            Self::Policy => Problem::new(2, "", &[]),
            Self::Unavailable { reason } => Problem::new(3, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let offset = |at| problem.number(at).map(Offset);
        Some(match problem.kind {
            1 => Self::OutOfRange { asked: offset(0)?, high_watermark: offset(1)? },
            2 => Self::Policy,
            3 => Self::Unavailable { reason: problem.text.clone() },
            _ => Self::NotServed(as_not_served(problem)?),
        })
    }
}

impl Failure for AdminError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }

    fn unknown(reason: String) -> Self {
        Self::OutcomeUnknown(reason)
    }

    fn to_problem(&self) -> Problem {
        match self {
            Self::TopicExists(text) => Problem::new(1, text, &[]),
            Self::NoSuchTopic(text) => Problem::new(2, text, &[]),
            Self::NoSuchTopicId(id) => Problem::new(3, "", &halves(*id)),
            Self::BadName(text) => Problem::new(4, text, &[]),
            Self::BadPartitions(text) => Problem::new(5, text, &[]),
            Self::BadReplicationFactor(text) => Problem::new(6, text, &[]),
            Self::BadConfig(text) => Problem::new(7, text, &[]),
            Self::Invalid(text) => Problem::new(8, text, &[]),
            Self::Policy(text) => Problem::new(9, text, &[]),
            Self::Unavailable(text) => Problem::new(10, text, &[]),
            Self::OutcomeUnknown(text) => Problem::new(11, text, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let text = problem.text.clone();
        Some(match problem.kind {
            1 => Self::TopicExists(text),
            2 => Self::NoSuchTopic(text),
            3 => Self::NoSuchTopicId(topic(problem)?),
            4 => Self::BadName(text),
            5 => Self::BadPartitions(text),
            6 => Self::BadReplicationFactor(text),
            7 => Self::BadConfig(text),
            8 => Self::Invalid(text),
            9 => Self::Policy(text),
            10 => Self::Unavailable(text),
            11 => Self::OutcomeUnknown(text),
            _ => return None,
        })
    }
}

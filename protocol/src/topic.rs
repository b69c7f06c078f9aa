//! Topic names and partition identity. Owns Kafka's rule for legal topic names; never knows what a topic holds.

use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use uuid::Uuid;

/// The longest legal topic name, in bytes (Kafka: `Topic.MAX_NAME_LENGTH`).
pub const MAX_TOPIC_NAME: usize = 249;

/// The internal topic of committed offsets and group metadata.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// The internal topic of transaction state.
pub const TRANSACTION_STATE: &str = "__transaction_state";

/// A legal topic name: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

/// Why a topic name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The empty string.
    #[error("a topic name must not be empty")]
    Empty,
    /// More than 249 bytes.
    #[error("a topic name has at most {MAX_TOPIC_NAME} characters; this one has {0}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("a topic cannot be named \"{0}\"")]
    Dots(String),
    /// A character outside `[a-zA-Z0-9._-]`.
    #[error("topic name \"{name}\" holds {bad:?}; legal are ASCII letters and digits, '.', '_' and '-'")]
    Character {
        /// The refused name.
        name: String,
        /// The first illegal character.
        bad: char,
    },
}

impl TopicName {
    /// Checks a name against Kafka's rule.
    pub fn new(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name.len() > MAX_TOPIC_NAME {
            return Err(TopicNameError::TooLong(name.len()));
        }
        if name == "." || name == ".." {
            return Err(TopicNameError::Dots(name.into()));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match name.chars().find(|&c| !legal(c)) {
            Some(bad) => Err(TopicNameError::Character { name: name.into(), bad }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is one of the topics that Magnetar keeps its own state in.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(&*self.0, CONSUMER_OFFSETS | TRANSACTION_STATE)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;
    fn try_from(name: String) -> Result<Self, TopicNameError> {
        Self::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0.as_ref().into()
    }
}

/// A topic's identity over its whole life: a topic that is deleted and created again under its name has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The topic, by identity.
    pub topic: TopicId,
    /// The partition's number, dense from 0.
    pub index: u32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rule() {
        for good in ["a", "orders", "A.b_c-9", "__consumer_offsets", &"x".repeat(249)] {
            assert_eq!(TopicName::new(good).map(|n| n.to_string()), Ok(good.to_string()));
        }
        assert_eq!(TopicName::new(""), Err(TopicNameError::Empty));
        assert_eq!(TopicName::new(&"x".repeat(250)), Err(TopicNameError::TooLong(250)));
        assert_eq!(TopicName::new(".."), Err(TopicNameError::Dots("..".into())));
        assert!(matches!(TopicName::new("a/b"), Err(TopicNameError::Character { bad: '/', .. })));
        assert!(matches!(TopicName::new("Ärger"), Err(TopicNameError::Character { bad: 'Ä', .. })));
    }
}

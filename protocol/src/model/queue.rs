//! Queues of sessions, for locks and elections: their names, and what stands in them.

use super::Record;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The longest name of a queue, in bytes.
pub const MAX_QUEUE_NAME: usize = 200;

/// What is queued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueKind {
    /// A lock.
    Lock,
    /// The lead.
    Election,
}

/// The name of a lock or an election: 1 to 200 bytes without `/` and control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueName(Arc<str>);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueNameError {
    /// Empty, or more than 200 bytes.
    #[error("the name of a lock or an election has 1 to {MAX_QUEUE_NAME} bytes, not {0}")]
    Length(usize),
    /// A character that means something else in keys.
    #[error("the name of a lock or an election cannot hold {0:?}")]
    Character(char),
}

impl QueueName {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: &str) -> Result<Self, QueueNameError> {
        if !(1..=MAX_QUEUE_NAME).contains(&name.len()) {
            return Err(QueueNameError::Length(name.len()));
        }
        match name.chars().find(|c| *c == '/' || c.is_control()) {
            Some(bad) => Err(QueueNameError::Character(bad)),
            None => Ok(Self(name.into())),
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueTicket {
    /// What whoever stands there calls itself, for people to read.
    pub who: String,
}

impl Record for QueueTicket {
    const NAME: &'static str = "place in a queue";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(QueueName::new("compaction of partitions, 1").is_ok());
        assert!(QueueName::new(&"x".repeat(MAX_QUEUE_NAME)).is_ok());
        assert_eq!(QueueName::new(""), Err(QueueNameError::Length(0)));
        assert_eq!(QueueName::new(&"x".repeat(MAX_QUEUE_NAME + 1)), Err(QueueNameError::Length(MAX_QUEUE_NAME + 1)));
        assert_eq!(QueueName::new("a/b"), Err(QueueNameError::Character('/')));
        assert_eq!(QueueName::new("a\n"), Err(QueueNameError::Character('\n')));
    }
}

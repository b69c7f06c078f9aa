//! The commands of one log entry, as bytes. They are encoded once, by whoever proposes them, and decoded where they are
//! applied; the log, the disk and the wire between voters carry them unread.
//!
//! Decoding copies every value out, so that a small value never keeps a whole batch in memory, and allocates no more
//! than a small multiple of the bytes that are there, whatever lengths they name.

use super::{Command, binary};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The version of the encoding of commands.
const BATCH_VERSION: u8 = 1;

/// The commands of one log entry, applied in order. Many callers share one entry, and so one disk sync.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Batch {
    /// Milliseconds that the leader's monotonic clock has measured since its last batch.
    pub elapsed_ms: u64,
    #[serde(with = "binary")]
    commands: Bytes,
}

/// Why the commands of a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Written by a newer Magnetar.
    #[error("the commands have version {found}, this node knows {BATCH_VERSION}; upgrade it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Not decodable.
    #[error("the commands cannot be decoded: {0}")]
    Malformed(String),
}

impl Batch {
    /// The commands of one proposal.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
    pub fn new(elapsed: Duration, commands: &[Command]) -> Self {
        let mut bytes = vec![BATCH_VERSION];
        rmp_serde::encode::write_named(&mut bytes, commands).expect("commands are plain data");
        Self { elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), commands: bytes.into() }
    }

    /// A batch of any bytes.
    #[cfg(test)]
    pub(crate) fn of(elapsed_ms: u64, commands: &[u8]) -> Self {
        Self { elapsed_ms, commands: Bytes::copy_from_slice(commands) }
    }

    /// The commands.
    ///
    /// # Errors
    /// If they are damaged, or a newer Magnetar made them.
    pub fn decode(&self) -> Result<Vec<Command>, BatchError> {
        match self.commands.split_first() {
            Some((&BATCH_VERSION, body)) => {
                rmp_serde::from_slice(body).map_err(|e| BatchError::Malformed(e.to_string()))
            }
            Some((&found, _)) => Err(BatchError::Version { found }),
            None => Ok(Vec::new()),
        }
    }

    /// Its size in the log, in bytes, nearly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.commands.len()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes after {} ms)", self.commands.len(), self.elapsed_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::SessionId,
        service::metadata::{Operation, Transaction},
    };

    fn put(value: Bytes) -> Command {
        let operations = vec![Operation::Put { key: "k".into(), value, session: None }];
        Transaction { operations, ..Transaction::default() }.into()
    }

    fn commands() -> Vec<Command> {
        let close = Command::CloseSession { session: SessionId(9) };
        vec![put(Bytes::from_static(b"v")), close, Command::Audit { index: 256, digest: u64::MAX }]
    }

    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        let batch = Batch::new(Duration::from_micros(12_999), &commands());
        assert_eq!((batch.elapsed_ms, batch.decode()), (12, Ok(commands())));
        assert_eq!(Batch::default().decode(), Ok(vec![]));
        assert_eq!(Batch::new(Duration::MAX, &[]).elapsed_ms, u64::MAX);
    }

    #[test]
    fn bytes_travel_as_one_field_that_nobody_reads() {
        let batch = Batch::new(Duration::from_millis(5), &commands());
        let carried = rmp_serde::to_vec_named(&batch).expect("encodes");
        assert!(carried.len() < batch.size() + 40, "{} bytes for {}", carried.len(), batch.size());
        assert_eq!(rmp_serde::from_slice::<Batch>(&carried).expect("decodes"), batch);
        // Even bytes that mean nothing are carried; only applying them finds out.
        let nonsense = Batch::of(0, b"\x01nonsense");
        let carried = rmp_serde::to_vec_named(&nonsense).expect("encodes");
        assert_eq!(rmp_serde::from_slice::<Batch>(&carried).expect("decodes"), nonsense);
        assert!(matches!(nonsense.decode(), Err(BatchError::Malformed(_))));
    }

    #[test]
    fn newer_and_damaged_commands_are_refused() {
        let batch = Batch::new(Duration::ZERO, &commands());
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = batch.commands.to_vec();
            change(&mut bytes);
            Batch::of(0, &bytes).decode()
        };
        assert_eq!(with(&|bytes| bytes[0] = 2), Err(BatchError::Version { found: 2 }));
        for end in 1..batch.size() {
            assert!(matches!(with(&|bytes| bytes.truncate(end)), Err(BatchError::Malformed(_))), "cut at {end}");
        }
    }

    #[test]
    fn lengths_that_are_not_there_allocate_nothing() {
        // An array and a byte string that claim four billion elements.
        for claim in [&b"\x01\xdd\xff\xff\xff\xff"[..], b"\x01\x91\xc6\xff\xff\xff\xff"] {
            assert!(matches!(Batch::of(0, claim).decode(), Err(BatchError::Malformed(_))));
        }
    }

    #[test]
    fn a_small_value_does_not_keep_the_batch_in_memory() {
        let batch = Batch::new(Duration::ZERO, &[put(Bytes::from_static(b"small")), put(vec![7; 100_000].into())]);
        let Ok(commands) = batch.decode() else { panic!("decodes") };
        let Command::Transact { operations, .. } = &commands[0] else { panic!("a transaction") };
        let super::super::command::StoredOperation::Put { value, .. } = &operations[0] else { panic!("a put") };
        let held = batch.commands.as_ptr_range();
        assert!(!held.contains(&value.as_ptr()), "the value is a copy of its own");
    }
}

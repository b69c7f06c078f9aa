//! Ids of idempotent producers. Owns a block of ids taken from the metadata service; an id is handed out once, and a
//! block that is lost with the process is never used again.

use protocol::{
    id::ProducerId,
    model::Sequence,
    service::metadata::{MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use std::{ops::Range, sync::Arc};
use tokio::sync::Mutex;

/// How many ids are taken from the metadata service at once (as many as Kafka's brokers take).
const BLOCK: u64 = 1000;

/// Hands out producer ids.
pub(crate) struct ProducerIds {
    metadata: Arc<dyn MetadataService>,
    block: Mutex<Range<u64>>,
}

impl ProducerIds {
    /// A source of ids that has taken none yet.
    pub(crate) fn new(metadata: Arc<dyn MetadataService>) -> Self {
        Self { metadata, block: Mutex::new(0..0) }
    }

    /// An id that was never handed out before.
    ///
    /// # Errors
    /// Those of the metadata service; a retry is harmless, whatever the outcome was.
    pub(crate) async fn next(&self) -> Result<ProducerId, MetadataError> {
        let mut block = self.block.lock().await;
        if block.is_empty() {
            *block = self.take_block().await?;
        }
        let id = block.next().and_then(|id| i64::try_from(id).ok());
        id.map(ProducerId).ok_or_else(|| MetadataError::Invalid("the sequence of producer ids is used up".into()))
    }

    async fn take_block(&self) -> Result<Range<u64>, MetadataError> {
        let take = Operation::Sequence { name: Sequence::Producer.name().into(), count: BLOCK };
        let transaction = Transaction { operations: vec![take], ..Transaction::default() };
        match self.metadata.transact(transaction).await? {
            Outcome::Committed { sequences, .. } => match sequences.first() {
                Some(&first) => Ok(first..first + BLOCK),
                None => Err(MetadataError::Invalid("a sequence was taken but not reported".into())),
            },
            Outcome::Conflict { .. } => Err(MetadataError::Invalid("a conflict without a condition".into())),
        }
    }
}

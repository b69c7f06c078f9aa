//! What the auditor asks of the metadata service: listings that come in pages and in time, and conditional writes.
//! Owns deadlines; never decides anything.

use protocol::{
    model::ModelError,
    service::metadata::{
        Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Scan, ScanPage, Transaction,
        Versioned, WatchStream,
    },
};
use std::{future::Future, sync::Arc, time::Duration};

/// How long the metadata service may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the auditor could not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuditError {
    /// The metadata service failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// It did not answer.
    #[error("no answer of the metadata service within {PATIENCE:?}")]
    Silent,
    /// A record that must be understood cannot be read.
    #[error("{key}: {problem}")]
    Record {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: ModelError,
    },
    /// A watch ended without an error.
    #[error("a watch ended")]
    Ended,
}

async fn in_time<T>(answer: impl Future<Output = Result<T, MetadataError>>) -> Result<T, AuditError> {
    Ok(tokio::time::timeout(PATIENCE, answer).await.map_err(|_| AuditError::Silent)??)
}

/// The metadata service, asked with patience that ends.
#[derive(Clone)]
pub(super) struct Desk(pub(super) Arc<dyn MetadataService>);

impl Desk {
    /// What a key holds.
    pub(super) async fn get(&self, key: String) -> Result<Option<Versioned>, AuditError> {
        in_time(self.0.get(key, Consistency::Linearizable)).await
    }

    /// One page of a listing.
    pub(super) async fn page(&self, prefix: &str, after: Option<String>, limit: u32) -> Result<ScanPage, AuditError> {
        let consistency = Consistency::Linearizable;
        in_time(self.0.scan(Scan { prefix: prefix.into(), after, limit, consistency })).await
    }

    /// Every record under a prefix, one after the other; a page of the listing at a time.
    pub(super) async fn each(
        &self,
        prefix: &str,
        limit: u32,
        mut visit: impl FnMut(&Versioned) -> Result<(), AuditError>,
    ) -> Result<protocol::id::Revision, AuditError> {
        let (mut after, mut from) = (None, None);
        loop {
            let page = self.page(prefix, after, limit).await?;
            from.get_or_insert(page.revision);
            page.items.iter().try_for_each(&mut visit)?;
            match page.items.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(from.unwrap_or_default()),
            }
        }
    }

    /// Writes if everything is as it was; whether it was.
    pub(super) async fn write(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Result<bool, AuditError> {
        let outcome = in_time(self.0.transact(Transaction { conditions, operations, request: None })).await?;
        Ok(matches!(outcome, Outcome::Committed { .. }))
    }

    /// Everything that happens under a prefix after a revision.
    pub(super) async fn watch(&self, prefix: &str, after: protocol::id::Revision) -> Result<WatchStream, AuditError> {
        in_time(self.0.watch(prefix.into(), after)).await
    }
}

/// The condition that a key is as it was read.
pub(super) fn unchanged(key: String, read: Option<&Versioned>) -> Condition {
    match read {
        Some(item) => Condition::Version(key, item.version),
        None => Condition::Absent(key),
    }
}

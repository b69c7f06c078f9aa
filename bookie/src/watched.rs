//! One record of metadata, followed: what it says now, and every time it says something else.
//!
//! Owns the read, the watch and the retries; never writes, and never judges a record. A record that cannot be decoded is
//! shown as it was, for an order that is not understood must not be taken for one that was withdrawn.

use futures::StreamExt;
use protocol::{
    id::Revision,
    model::{Record, decode},
    service::metadata::{Change, Consistency, MetadataError, MetadataService, Scan, Versioned},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long metadata may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before metadata is asked again after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// A record and the revision that wrote it.
pub(crate) type Seen<R> = Option<(R, Revision)>;

/// Follows the record of one key.
pub(crate) struct Watched<R> {
    metadata: Arc<dyn MetadataService>,
    key: String,
    /// None until metadata has answered; then what stands there.
    seen: watch::Sender<Option<Seen<R>>>,
}

impl<R: Record + Clone + Send + Sync + 'static> Watched<R> {
    /// Follows `key`. Nothing is read before [`Watched::run`].
    pub(crate) fn new(metadata: Arc<dyn MetadataService>, key: String) -> Self {
        Self { metadata, key, seen: watch::Sender::new(None) }
    }

    /// What the record says: none until metadata has answered.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Seen<R>>> {
        self.seen.subscribe()
    }

    /// Keeps it current until stopped.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        loop {
            let problem = tokio::select! {
                problem = self.follow() => problem,
                () = stopping.cancelled() => return,
            };
            if let Err(problem) = problem {
                tracing::debug!(key = %self.key, %problem, "a watched record is read again");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn follow(&self) -> Result<(), MetadataError> {
        // A scan and not a read: it says which revision to watch from.
        let (prefix, consistency) = (self.key.clone(), Consistency::Linearizable);
        let page = in_time(self.metadata.scan(Scan { prefix, after: None, limit: 1, consistency })).await?;
        self.show(page.items.into_iter().find(|item| item.key == self.key));
        let mut watch = in_time(self.metadata.watch(self.key.clone(), page.revision)).await?;
        while let Some(event) = watch.next().await {
            for change in event?.changes {
                match change {
                    Change::Put(item) if item.key == self.key => self.show(Some(item)),
                    Change::Deleted(key) if key == self.key => self.show(None),
                    Change::Put(_) | Change::Deleted(_) => {}
                }
            }
        }
        Ok(())
    }

    fn show(&self, item: Option<Versioned>) {
        match item.map(|item| decode(&item.value).map(|record| (record, item.version))).transpose() {
            Ok(seen) => drop(self.seen.send_replace(Some(seen))),
            Err(problem) => tracing::error!(key = %self.key, %problem, "a record cannot be read; the last one holds"),
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, MetadataError>>) -> Result<T, MetadataError> {
    let silent = |_| Err(MetadataError::OutcomeUnknown { reason: "no answer in time".into() });
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(silent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::{
        id::BookieId,
        model::{ScrubRecord, key},
        service::metadata::{Operation, Transaction},
        testing::FakeMetadata,
    };

    fn scrub(ledgers: u64) -> ScrubRecord {
        ScrubRecord { ledgers, ..ScrubRecord::default() }
    }

    #[tokio::test]
    async fn it_shows_what_stands_there_through_ends_of_the_watch() {
        let metadata = FakeMetadata::new();
        let key = key::scrub(BookieId(1));
        metadata.put(key::scrub(BookieId(2)), &scrub(99));
        let watched = Watched::<ScrubRecord>::new(metadata.service(), key.clone());
        let (mut changes, stopping) = (watched.changes(), CancellationToken::new());
        assert!(changes.borrow().is_none());
        metadata.fail_next(MetadataError::Unavailable { reason: "no leader".into() });
        let task = tokio::spawn(watched.run(stopping.clone()));
        changes.wait_for(|seen| matches!(seen, Some(None))).await.expect("nothing stands there");
        metadata.put(key.clone(), &scrub(1));
        let is = |ledgers: u64| {
            move |seen: &Option<Seen<ScrubRecord>>| {
                seen.as_ref().is_some_and(|s| s.as_ref().is_some_and(|s| s.0.ledgers == ledgers))
            }
        };
        changes.wait_for(is(1)).await.expect("seen");
        metadata.end_watches();
        metadata.put(key.clone(), &scrub(2));
        changes.wait_for(is(2)).await.expect("seen after the watch was opened again");
        let garbage = Operation::Put { key: key.clone(), value: Bytes::from_static(b"\xff"), session: None };
        let write = Transaction { operations: vec![garbage], ..Transaction::default() };
        metadata.service().transact(write).await.expect("written");
        metadata.put(key.clone(), &scrub(3));
        changes.wait_for(is(3)).await.expect("what cannot be read is passed over");
        metadata.delete(key);
        changes.wait_for(|seen| matches!(seen, Some(None))).await.expect("gone");
        stopping.cancel();
        task.await.expect("ends");
    }
}

//! The record of a scrub: what the operator asked for, and how far the bookie is.
//!
//! Owns when a scrub is due, and the writing of progress: by compare-and-swap, so that a request that arrives meanwhile is
//! never overwritten. Keeps one invariant: a request is done only by a scrub that began after it.

use protocol::{
    id::{BookieId, Revision, Timestamp},
    model::{ScrubRecord, decode, encode, key},
    service::metadata::{Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use std::{sync::Arc, time::Duration};

/// How often a write is tried against the operator's.
const ATTEMPTS: u32 = 10;
/// How long metadata may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A scrub from the beginning.
    Begin,
    /// The rest of one that was interrupted.
    Resume,
    /// Nothing before this much time has passed.
    In(Duration),
    /// Nothing, unless an operator asks.
    Never,
}

/// What a record says is to be done. `interval` is none if scrubs are only made when asked for.
pub(super) fn due(record: Option<&ScrubRecord>, now: Timestamp, interval: Option<Duration>) -> Due {
    let Some(record) = record else { return interval.map_or(Due::Never, |_| Due::Begin) };
    if record.requested_at > record.started_at {
        return Due::Begin;
    }
    match (record.started_at, record.finished_at, interval) {
        (Some(_), None, _) => Due::Resume,
        (None, _, None) | (Some(_), Some(_), None) => Due::Never,
        (None, _, Some(_)) => Due::Begin,
        (Some(started), Some(_), Some(interval)) => {
            let since = Duration::from_millis(u64::try_from(now.0 - started.0).unwrap_or(0));
            interval.checked_sub(since).filter(|left| !left.is_zero()).map_or(Due::Begin, Due::In)
        }
    }
}

/// The record while a scrub runs.
pub(super) struct Progress {
    metadata: Arc<dyn MetadataService>,
    key: String,
    version: Option<Revision>,
    /// As it shall stand in metadata.
    pub(super) record: ScrubRecord,
}

impl Progress {
    /// The record as it stands.
    pub(super) async fn load(metadata: &Arc<dyn MetadataService>, bookie: BookieId) -> Result<Self, MetadataError> {
        let (metadata, key) = (Arc::clone(metadata), key::scrub(bookie));
        let mut progress = Self { metadata, key, version: None, record: ScrubRecord::default() };
        if let Some((record, version)) = progress.read().await? {
            (progress.record, progress.version) = (record, Some(version));
        }
        Ok(progress)
    }

    /// Writes it. A request that came meanwhile is kept.
    pub(super) async fn save(&mut self) -> Result<(), MetadataError> {
        for _ in 0..ATTEMPTS {
            let key = self.key.clone();
            let condition =
                self.version.map_or_else(|| Condition::Absent(key.clone()), |v| Condition::Version(key.clone(), v));
            let put = Transaction {
                conditions: vec![condition],
                operations: vec![Operation::Put { key, value: encode(&self.record), session: None }],
                request: None,
            };
            match in_time(self.metadata.transact(put)).await {
                Ok(Outcome::Committed { revision, .. }) => {
                    self.version = Some(revision);
                    return Ok(());
                }
                Ok(Outcome::Conflict { .. }) | Err(MetadataError::OutcomeUnknown { .. }) => {
                    let there = self.read().await?;
                    self.version = there.as_ref().map(|(_, version)| *version);
                    let asked = there.and_then(|(record, _)| record.requested_at);
                    self.record.requested_at = self.record.requested_at.max(asked);
                }
                Err(problem) => return Err(problem),
            }
        }
        Err(MetadataError::Unavailable { reason: "the record of a scrub changes too often".into() })
    }

    async fn read(&self) -> Result<Option<(ScrubRecord, Revision)>, MetadataError> {
        let item = in_time(self.metadata.get(self.key.clone(), Consistency::Linearizable)).await?;
        Ok(item.map(|item| {
            let record = decode(&item.value).unwrap_or_else(|problem| {
                tracing::error!(key = %self.key, %problem, "the record of the scrub cannot be read; it is written anew");
                ScrubRecord::default()
            });
            (record, item.version)
        }))
    }
}

pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, MetadataError>>) -> Result<T, MetadataError> {
    let silent = |_| Err(MetadataError::OutcomeUnknown { reason: "no answer in time".into() });
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(silent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::testing::FakeMetadata;

    #[test]
    fn a_scrub_is_due_when_asked_for_or_after_the_interval() {
        let week = Some(Duration::from_secs(7));
        let at = |seconds: i64| Some(Timestamp(seconds * 1000));
        let record = |requested_at, started_at, finished_at| ScrubRecord {
            requested_at,
            started_at,
            finished_at,
            ..ScrubRecord::default()
        };
        let now = Timestamp(10_000);
        assert_eq!(due(None, now, week), Due::Begin);
        assert_eq!(due(None, now, None), Due::Never);
        assert_eq!(due(Some(&record(at(9), None, None)), now, None), Due::Begin);
        assert_eq!(due(Some(&record(at(9), at(8), at(9))), now, None), Due::Begin, "asked for after it began");
        assert_eq!(due(Some(&record(at(8), at(8), None)), now, None), Due::Resume);
        assert_eq!(due(Some(&record(at(8), at(8), at(9))), now, None), Due::Never);
        assert_eq!(due(Some(&record(None, at(8), at(9))), now, week), Due::In(Duration::from_secs(5)));
        assert_eq!(due(Some(&record(None, at(3), at(9))), now, week), Due::Begin);
        assert_eq!(due(Some(&record(None, at(99), at(99))), now, week), Due::In(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn a_request_that_comes_meanwhile_is_kept() {
        let metadata = FakeMetadata::new();
        let key = key::scrub(BookieId(1));
        let mut progress = Progress::load(&metadata.service(), BookieId(1)).await.expect("loaded");
        progress.record.started_at = Some(Timestamp(5));
        progress.save().await.expect("saved");
        let asked = ScrubRecord { requested_at: Some(Timestamp(7)), ..progress.record.clone() };
        metadata.put(key.clone(), &asked);
        progress.record.ledgers = 3;
        progress.save().await.expect("saved");
        metadata.faults().lose_next_answer();
        progress.record.ledgers = 4;
        progress.save().await.expect("saved, although the answer was lost");
        let there: ScrubRecord = decode(&metadata.peek(&key).expect("there").value).expect("a record");
        assert_eq!((there.requested_at, there.ledgers), (Some(Timestamp(7)), 4));
        assert_eq!(due(Some(&there), Timestamp(8), None), Due::Begin);
    }
}

//! The claim on one ledger: an ephemeral record that keeps others away and shows how far the copy is.
//!
//! Owns the record from the transaction that writes it to the one that removes it. It is no lock: what protects the
//! ledger is the compare-and-swap of its page. Two bookies that repair the same ledger only waste work.

use super::job::{JobError, in_time};
use protocol::{
    id::{LedgerId, Revision, SessionId},
    ledger::metadata::BookieMember,
    model::{RepairClaim, RepairTask, encode, key},
    runtime::Clock,
    service::metadata::{Condition, Consistency, MetadataService, Operation, Outcome, Transaction},
};
use std::time::Duration;

/// How often progress is written.
const EVERY: Duration = Duration::from_secs(1);

/// A claim, held or to be made.
pub(super) struct Claim<'a> {
    metadata: &'a dyn MetadataService,
    clock: &'a dyn Clock,
    session: SessionId,
    ledger: LedgerId,
    record: RepairClaim,
    version: Option<Revision>,
    written_at: Duration,
}

impl<'a> Claim<'a> {
    pub(super) fn new(
        metadata: &'a dyn MetadataService,
        clock: &'a dyn Clock,
        session: SessionId,
        (bookie, task): (BookieMember, &RepairTask),
    ) -> Self {
        let (total, since, written_at) = (task.bytes, clock.wall(), clock.monotonic());
        let record = RepairClaim { bookie, copied: 0, total, since };
        Self { metadata, clock, session, ledger: task.ledger, record, version: None, written_at }
    }

    /// Whether it is held.
    pub(super) const fn is_held(&self) -> bool {
        self.version.is_some()
    }

    /// What must hold for it to be made.
    pub(super) fn conditions(&self) -> [Condition; 2] {
        [Condition::Absent(key::repairing(self.ledger)), Condition::Present(key::repair(self.ledger))]
    }

    /// What makes it.
    pub(super) fn put(&self) -> Operation {
        let (key, value) = (key::repairing(self.ledger), encode(&self.record));
        Operation::Put { key, value, session: Some(self.session) }
    }

    /// What takes it away, for the transaction that ends the repair; say [`Claim::dropped`] when that was committed.
    pub(super) fn delete(&self) -> Operation {
        Operation::Delete(key::repairing(self.ledger))
    }

    /// It was made at this revision.
    pub(super) const fn made(&mut self, at: Revision) {
        self.version = Some(at);
    }

    /// It was taken away.
    pub(super) const fn dropped(&mut self) {
        self.version = None;
    }

    /// The payload bytes that this bookie has to copy, as far as is known.
    pub(super) fn set_total(&mut self, total: u64) {
        self.record.total = total.max(self.record.copied);
    }

    /// More bytes are durable here. Written about once a second.
    pub(super) async fn copied(&mut self, bytes: u64) -> Result<(), JobError> {
        self.record.copied += bytes;
        self.record.total = self.record.total.max(self.record.copied);
        let now = self.clock.monotonic();
        let Some(version) = self.version.filter(|_| now.saturating_sub(self.written_at) >= EVERY) else {
            return Ok(());
        };
        self.written_at = now;
        let write = Transaction {
            conditions: vec![
                Condition::Session(self.session),
                Condition::Version(key::repairing(self.ledger), version),
            ],
            operations: vec![self.put()],
            request: None,
        };
        match in_time(self.metadata.transact(write)).await? {
            Outcome::Committed { revision, .. } => {
                self.version = Some(revision);
                Ok(())
            }
            Outcome::Conflict { .. } => Err(JobError::ClaimLost(self.ledger)),
        }
    }

    /// Gives it up, if it is there and ours; also one of which it is not known whether it was made.
    pub(super) async fn release(mut self) {
        let key = key::repairing(self.ledger);
        let held = in_time(self.metadata.get(key.clone(), Consistency::Linearizable)).await;
        if let Ok(Some(item)) = held
            && item.session == Some(self.session)
        {
            self.dropped();
            let conditions = vec![Condition::Version(key, item.version)];
            let give_up = Transaction { conditions, operations: vec![self.delete()], request: None };
            // Without an answer it goes with the session.
            drop(in_time(self.metadata.transact(give_up)).await);
        }
    }
}

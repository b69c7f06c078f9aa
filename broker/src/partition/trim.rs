//! The beginning of the log: DeleteRecords and retention. Moves the log start, gives whole ledgers up, and ends a head
//! whose records have expired. Never touches a bookie: it writes down which ledgers are dead.

use super::Partition;
use crate::managed_ledger::{LedgerList, ListError, retention::droppable};
use protocol::{
    id::Offset,
    service::broker::{DeleteRecords, DeleteRecordsError, NotServed, Origin},
};
use std::sync::Arc;

impl Partition {
    /// Moves the log start forward; answers where it is now.
    pub(crate) async fn delete_records(self: &Arc<Self>, delete: &DeleteRecords) -> Result<Offset, DeleteRecordsError> {
        let high_watermark = self.high_watermark()?;
        let settings = self.topic.settings.load_full();
        if delete.origin == Origin::Client && settings.cleanup.compact && !settings.cleanup.delete {
            return Err(DeleteRecordsError::Policy);
        }
        let before = delete.before.unwrap_or(high_watermark);
        if before > high_watermark || before.0 < 0 {
            return Err(DeleteRecordsError::OutOfRange { asked: before, high_watermark });
        }
        let list = self.list().ok_or(NotServed::Opening)?;
        list.move_log_start(before).await.map_err(|problem| self.to_delete_error(problem))?;
        self.drop_ledgers(list).await.map_err(|problem| self.to_delete_error(problem))?;
        Ok(list.view().log_start)
    }

    /// Applies the topic's retention, and forgets producers that have been silent for too long.
    pub(crate) async fn apply_retention(self: &Arc<Self>) {
        let Some(list) = self.list() else { return };
        self.follow_repairs().await;
        let now = self.context.clock.wall();
        let settings = self.topic.settings.load_full();
        let expiration = self.context.settings.load().producer_expiration;
        let ends = self.with(|core, _| {
            core.log.expire_producers(now, expiration);
            let size = core.head.as_ref().map(super::head::Head::size);
            let ends = size.is_some_and(|s| s.is_expired(&settings, now) || s.is_full(&settings, now));
            let starts = ends && !core.rolling && !core.paused;
            core.rolling |= starts;
            starts
        });
        if ends {
            self.context.metrics.count_roll("expired");
            self.end_expired().await;
        }
        match self.drop_ledgers(list).await {
            Ok(()) => {}
            Err(ListError::Lost { owner, epoch }) => self.lose(owner, epoch),
            Err(problem) => {
                tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %problem, "retention waits");
            }
        }
    }

    async fn drop_ledgers(&self, list: &LedgerList) -> Result<(), ListError> {
        let view = list.view();
        let now = self.context.clock.wall();
        let head = self.core.lock().head.as_ref().map_or(0, |head| head.size().bytes);
        let count = droppable(&view.closed, head, view.log_start, &self.topic.settings.load(), now);
        if count == 0 {
            return Ok(());
        }
        list.drop_front(count, now).await?;
        let log_start = list.view().log_start;
        tracing::info!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, ledgers = count, %log_start, "ledgers dropped");
        self.context.metrics.ledgers_dropped.increment(count as u64);
        Ok(())
    }

    fn to_delete_error(self: &Arc<Self>, problem: ListError) -> DeleteRecordsError {
        match problem {
            ListError::Lost { owner, epoch } => {
                self.lose(owner, epoch);
                NotServed::NotOwner { owner, epoch }.into()
            }
            ListError::Gone => NotServed::NoSuchPartition(self.id).into(),
            problem => DeleteRecordsError::Unavailable { reason: problem.to_string() },
        }
    }
}

//! Taking a partition over, and recovering the own ledger after a failed write: the same steps, in the same order.
//!
//! Read the list; recover the head if there is one (there is nothing to do where nothing was ever written); find out what
//! it holds from its last checkpoint on; close it in one transaction; serve. Until then nothing is written, and a first
//! takeover reads nothing either. Problems are retried for as long as metadata shows this owner at this epoch.

use super::{Partition, Phase, log::PartitionLog, producer_state::ProducerTable};
use crate::{
    ledger::{RecoveryError, recover},
    managed_ledger::{
        LedgerList, ListError,
        replay::{ReplayError, replay},
    },
};
use protocol::{
    id::{LedgerId, Offset},
    ledger::metadata::{LedgerMetadata, LedgerState},
    model::{ClosedLedger, HeadLedger},
    runtime::TaskKind,
    service::broker::NotServed,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// The first and the longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why an attempt to open failed.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    List(#[from] ListError),
    #[error("the head cannot be recovered: {0}")]
    Recovery(#[from] RecoveryError),
    #[error("the log cannot be read: {0}")]
    Replay(#[from] ReplayError),
    /// Storage lost what it had acknowledged. Closing the ledger there would make that final.
    #[error("ledger {ledger} ends at offset {end}, but records up to {acknowledged} were acknowledged")]
    Shrunk { ledger: LedgerId, end: Offset, acknowledged: Offset },
}

/// Where the log ends, and who wrote it.
struct Opened {
    end: Offset,
    producers: ProducerTable,
}

impl Partition {
    /// Starts the takeover.
    pub(crate) fn start_open(self: &Arc<Self>) {
        let partition = Arc::clone(self);
        let stopping = self.context.tasks.stopping();
        self.context.tasks.spawn(TaskKind::Background, "open partition", async move {
            tokio::select! {
                () = partition.open_until_done() => {}
                () = stopping.cancelled() => {}
            }
            Ok(())
        });
    }

    /// Recovers the own ledger after a failed write; the epoch stays.
    pub(super) async fn recover_own(self: Arc<Self>) {
        self.open_until_done().await;
    }

    async fn open_until_done(self: &Arc<Self>) {
        let since = self.context.clock.monotonic();
        let mut pause = PAUSE.0;
        loop {
            if matches!(self.core.lock().phase, Phase::Closed(_)) {
                return;
            }
            match Box::pin(self.open_once()).await {
                Ok(opened) => return self.serve(opened, since),
                Err(OpenError::List(ListError::Lost { owner, epoch })) => return self.lose(owner, epoch),
                Err(OpenError::List(ListError::Gone)) => return self.close(NotServed::NoSuchPartition(self.id)),
                Err(problem @ OpenError::Shrunk { .. }) => {
                    tracing::error!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %problem, "acknowledged records are missing; the partition takes no writes");
                }
                Err(problem) => {
                    tracing::warn!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, %problem, "the partition cannot be opened yet");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn open_once(&self) -> Result<Opened, OpenError> {
        let _turn = self.context.opening.acquire().await;
        let list = self.load_list().await?;
        list.mark_recovering().await?;
        let producers = match list.head().await {
            Some(head) => self.recover_head(&list, &head).await?,
            None => None,
        };
        let view = list.view();
        let producers = match (producers, view.closed.last()) {
            (Some(producers), _) => producers,
            (None, Some(last)) => self.producers_of(last).await?,
            (None, None) => ProducerTable::default(),
        };
        Ok(Opened { end: view.closed_end, producers })
    }

    async fn load_list(&self) -> Result<Arc<LedgerList>, OpenError> {
        if let Some(list) = self.list() {
            // Repair may have moved the ledgers that could not be read the last time (rule A5).
            list.refresh(&list.view()).await?;
            return Ok(Arc::clone(list));
        }
        let metadata = Arc::clone(&self.context.metadata);
        let list = Arc::new(LedgerList::load(metadata, self.id, self.owner, self.epoch).await?);
        Ok(Arc::clone(self.list.get_or_init(|| list)))
    }

    /// Finds out where the head ends and closes it there; answers the producers if it knows them.
    async fn recover_head(&self, list: &LedgerList, head: &HeadLedger) -> Result<Option<ProducerTable>, OpenError> {
        let now = self.context.clock.wall();
        let recovered = recover(&self.context.ledgers, &head.ledger).await?;
        let Some(last) = recovered.last_entry else {
            self.check_end(head.ledger.id, head.base_offset)?;
            list.close_head(head.ledger.id, None, None, now).await?;
            return Ok(None);
        };
        let state = LedgerState::Closed { last_entry: Some(last), length: recovered.length };
        let (fragments, holes) = (recovered.fragments, recovered.holes);
        let ledger = LedgerMetadata { state, fragments, holes, ..head.ledger.clone() };
        let contents = replay(&self.context.reader, &ledger, last, recovered.last).await?;
        self.check_end(head.ledger.id, contents.end_offset)?;
        let closed = (contents.end_offset > head.base_offset).then(|| ClosedLedger {
            ledger,
            epoch: head.epoch,
            base_offset: head.base_offset,
            end_offset: contents.end_offset,
            max_timestamp: contents.index.max_timestamp(),
            last_index: contents.last_index,
            closed_at: now,
        });
        list.close_head(head.ledger.id, closed.as_ref(), None, now).await?;
        tracing::info!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, ledger = %head.ledger.id, entry = %last, offset = %contents.end_offset, "ledger recovered and closed");
        self.context.metrics.ledgers_recovered.increment(1);
        self.context.indexes.insert(head.ledger.id, contents.index);
        Ok(Some(contents.producers))
    }

    /// What this owner acknowledged itself must be there.
    fn check_end(&self, ledger: LedgerId, end: Offset) -> Result<(), OpenError> {
        let acknowledged = Offset(self.readable_to.load(Ordering::Acquire));
        if end < acknowledged {
            return Err(OpenError::Shrunk { ledger, end, acknowledged });
        }
        Ok(())
    }

    async fn producers_of(&self, closed: &ClosedLedger) -> Result<ProducerTable, OpenError> {
        let LedgerState::Closed { last_entry: Some(last), .. } = closed.ledger.state else {
            return Ok(ProducerTable::default());
        };
        let contents = replay(&self.context.reader, &closed.ledger, last, None).await?;
        self.context.indexes.insert(closed.ledger.id, contents.index);
        Ok(contents.producers)
    }

    fn serve(self: &Arc<Self>, opened: Opened, since: Duration) {
        let took = self.context.clock.monotonic().saturating_sub(since);
        self.with(|core, out| {
            match core.phase {
                Phase::Closed(_) => return,
                Phase::Opening => {
                    self.context.metrics.open_partitions.increment(1);
                    self.context.metrics.takeover_seconds.record(took.as_secs_f64());
                }
                Phase::Serving | Phase::Recovering | Phase::Draining => {}
            }
            core.phase = if core.draining { Phase::Draining } else { Phase::Serving };
            core.head = None;
            (core.paused, core.rolling) = (false, false);
            core.log = PartitionLog::new(opened.end, opened.producers);
            self.readable_to.store(opened.end.0, Ordering::Release);
            out.wake = true;
        });
        tracing::info!(partition = %self.id, topic = %self.topic.name, epoch = %self.epoch, offset = %opened.end, seconds = took.as_secs_f64(), "partition is served");
    }
}

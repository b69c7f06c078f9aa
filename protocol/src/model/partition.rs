//! The record of a partition: who owns it, and the ledgers that are its log.
//!
//! The controller's assignment *is* the epoch change: one transaction writes owner and epoch + 1 and puts the head
//! IN_RECOVERY. A roll closes the head and installs the next in one transaction, so exactly one ledger of a partition
//! is unclosed and only it is ever recovered.

use super::Record;
use crate::{
    id::{EntryId, LeaderEpoch, NodeId, Offset, Registration, Timestamp},
    ledger::metadata::{LedgerMetadata, LedgerState},
};
use serde::{Deserialize, Serialize};

/// The most closed ledgers in one page.
pub const PAGE_LEDGERS: usize = 500;

/// The node that owns a partition, in one life of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its registration.
    pub registration: Registration,
}

/// The one unclosed ledger of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadLedger {
    /// The ledger, OPEN or IN_RECOVERY.
    pub ledger: LedgerMetadata,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The epoch of the owner that opened it.
    pub epoch: LeaderEpoch,
}

/// A ledger that has ended, as part of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedLedger {
    /// The ledger, CLOSED.
    pub ledger: LedgerMetadata,
    /// The epoch it was written in.
    pub epoch: LeaderEpoch,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset after its last record.
    pub end_offset: Offset,
    /// The largest timestamp in it, -1 if none.
    pub max_timestamp: Timestamp,
    /// The latest index entry in it; entries after that are found by reading forward.
    pub last_index: Option<EntryId>,
    /// When it was closed.
    pub closed_at: Timestamp,
}

impl ClosedLedger {
    /// Payload bytes of the ledger.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        match self.ledger.state {
            LedgerState::Closed { length, .. } => length,
            LedgerState::Open | LedgerState::InRecovery => 0,
        }
    }
}

/// Up to [`PAGE_LEDGERS`] closed ledgers, in log order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClosedPage {
    /// The ledgers.
    pub ledgers: Vec<ClosedLedger>,
}

impl Record for ClosedPage {
    const NAME: &'static str = "page of closed ledgers";
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// The epoch of the current owner.
    pub epoch: LeaderEpoch,
    /// The current owner; none while no broker lives.
    pub owner: Option<Owner>,
    /// The first offset that readers may see; it may fall inside an entry.
    pub log_start: Offset,
    /// Where the closed ledgers end and the head begins.
    pub closed_end: Offset,
    /// The unclosed ledger; none until something is written.
    pub head: Option<HeadLedger>,
    /// The first page of closed ledgers that still exists.
    pub first_page: u32,
    /// The number of the page after the last; equal to `first_page` when there is none.
    pub end_page: u32,
}

impl PartitionRecord {
    /// A partition that nothing was ever written to.
    #[must_use]
    pub const fn new(owner: Option<Owner>) -> Self {
        Self {
            epoch: LeaderEpoch(0),
            owner,
            log_start: Offset(0),
            closed_end: Offset(0),
            head: None,
            first_page: 0,
            end_page: 0,
        }
    }

    /// The record after the controller gave the partition to `owner`: the next epoch, and the head IN_RECOVERY.
    #[must_use]
    pub fn assigned(mut self, owner: Option<Owner>) -> Self {
        self.epoch = self.epoch.next();
        self.owner = owner;
        if let Some(head) = &mut self.head {
            head.ledger.state = LedgerState::InRecovery;
        }
        self
    }
}

impl Record for PartitionRecord {
    const NAME: &'static str = "partition record";
}

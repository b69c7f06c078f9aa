//! Records of bookies: which live, who they are; and of ledgers that are no longer part of a partition.

use super::Record;
use crate::{
    id::{BookieId, Incarnation, LedgerId, Timestamp},
    ledger::metadata::BookieMember,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a live bookie takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BookieState {
    /// Everything.
    Writable,
    /// Reads, fences and recovery adds only: its disk is full, or it is being taken out.
    ReadOnly,
    /// Reads only, while it finds out what it has lost (limbo, BP-46).
    Limbo,
}

/// A live bookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookieRecord {
    /// The bookie in this life of its disk.
    pub member: BookieMember,
    /// Where other roles reach it (`host:port`); none if only in-process.
    pub address: Option<String>,
    /// The rack or zone it stands in.
    pub rack: Option<String>,
    /// What it takes.
    pub state: BookieState,
    /// How full its data disk is, as last reported; none if it does not say.
    #[serde(default)]
    pub disk: Option<DiskUsage>,
    /// When it registered.
    #[serde(default)]
    pub started_at: Timestamp,
}

impl BookieRecord {
    /// A bookie that has said nothing more than who it is and what it takes.
    #[must_use]
    pub const fn new(member: BookieMember, state: BookieState) -> Self {
        Self { member, address: None, rack: None, state, disk: None, started_at: Timestamp(0) }
    }
}

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// The size of the file system.
    pub capacity: u64,
    /// What is free.
    pub free: u64,
}

impl Record for BookieRecord {
    const NAME: &'static str = "bookie record";
}

/// A bookie's identity, kept in metadata and in each of its directories; any difference refuses to start (rule B10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// The bookie.
    pub bookie: BookieId,
    /// This life of its disk.
    pub incarnation: Incarnation,
    /// Drawn when the directories were formatted.
    pub instance: Uuid,
}

impl Record for Cookie {
    const NAME: &'static str = "cookie";
}

/// A ledger that no partition names any more; bookies delete it on the strength of this record alone (rule B9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLedger {
    /// The ledger.
    pub ledger: LedgerId,
    /// Every bookie that may hold entries of it and has not yet confirmed the deletion.
    pub held_by: Vec<BookieMember>,
    /// When it died.
    pub since: Timestamp,
}

impl Record for DeadLedger {
    const NAME: &'static str = "dead ledger";
}

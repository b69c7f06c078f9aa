//! Records of repair: bookies that are being taken out, ledgers that lack copies, who is copying, and scrubs.
//!
//! The operator's orders and the auditor's findings are records, so that any process can act on them and everybody can
//! watch how far they are. Nothing here is needed to serve: losing all of it costs an audit.

use super::Record;
use crate::{
    id::{LedgerId, Timestamp},
    ledger::metadata::BookieMember,
    topic::PartitionId,
};
use serde::{Deserialize, Serialize};

/// An order to give up one life of a bookie: no ledger shall name it any more. The auditor removes the record when that
/// is so, and with it the bookie's cookie, unless the id is to be used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decommission {
    /// Which life of which bookie.
    pub member: BookieMember,
    /// Whether a bookie with an empty disk will come back under this id: a replacement.
    pub keeps_id: bool,
    /// When the order was given.
    pub since: Timestamp,
    /// Payload bytes that other bookies had to take over, counted by the first audit after the order.
    pub total_bytes: Option<u64>,
    /// What keeps it from getting on, for the operator to read; none while it gets on.
    #[serde(default)]
    pub obstacle: Option<String>,
}

impl Record for Decommission {
    const NAME: &'static str = "decommission";
}

/// Why a ledger needs repair; of several reasons the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RepairReason {
    /// Fewer copies than the ack quorum are on bookies that live.
    AtRisk,
    /// A member is lost: its bookie is gone, or came back with an empty disk.
    Lost,
    /// A member lacks entries: it failed or lagged while they were written, or found them damaged.
    Hole,
    /// A member is being taken out.
    Leaving,
    /// It was written with fewer copies than are wanted, and there are bookies to take more.
    Copies,
}

/// A closed ledger that lacks copies, as the auditor found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairTask {
    /// Whose ledger it is.
    pub partition: PartitionId,
    /// The page of the partition's closed ledgers that names it.
    pub page: u32,
    /// The ledger.
    pub ledger: LedgerId,
    /// Why.
    pub reason: RepairReason,
    /// Payload bytes to copy, about.
    pub bytes: u64,
    /// When it was found.
    pub since: Timestamp,
    /// Members of its ensembles that the auditor holds for lost: their bookies were gone for longer than the grace
    /// period. Who repairs leaves out those that it sees live.
    #[serde(default)]
    pub lost: Vec<BookieMember>,
    /// Bookies that can take a copy, the best first; a hint that spreads the work.
    #[serde(default)]
    pub takers: Vec<BookieMember>,
}

impl Record for RepairTask {
    const NAME: &'static str = "repair task";
}

/// Copies of a ledger on bookies that its metadata does not name: of a repair that did not get to its end, or of a
/// member that repair has replaced and that may come back. Written before the first byte is copied, so that no copy can
/// be forgotten: when the ledger dies, these bookies delete theirs, too (rules B9, S11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayCopies {
    /// Whose ledger it is.
    pub partition: PartitionId,
    /// The page of the partition's closed ledgers that names it. Ledgers never move between pages.
    pub page: u32,
    /// The ledger.
    pub ledger: LedgerId,
    /// Every bookie that may hold entries of it without being named.
    pub held_by: Vec<BookieMember>,
}

impl Record for StrayCopies {
    const NAME: &'static str = "record of stray copies";
}

/// A bookie that is repairing a ledger; ephemeral, so that a bookie that dies lets go of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairClaim {
    /// Who copies, to itself.
    pub bookie: BookieMember,
    /// Payload bytes it has copied of this ledger.
    pub copied: u64,
    /// Payload bytes it has to copy of it.
    pub total: u64,
    /// When it began.
    pub since: Timestamp,
}

impl Record for RepairClaim {
    const NAME: &'static str = "repair claim";
}

/// A scrub of a bookie: every entry it holds is read again and its checksum compared. Written by whoever asks for one,
/// and by the bookie as it goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubRecord {
    /// When an operator last asked for one; none if never.
    pub requested_at: Option<Timestamp>,
    /// When the latest one began; none if never.
    pub started_at: Option<Timestamp>,
    /// When it ended; none while it runs.
    pub finished_at: Option<Timestamp>,
    /// Ledgers read so far.
    pub ledgers: u64,
    /// Ledgers to read.
    pub total_ledgers: u64,
    /// Entries read so far.
    pub entries: u64,
    /// Bytes read so far.
    pub bytes: u64,
    /// Entries that were damaged or missing.
    pub damaged: u64,
    /// Of those, how many were fetched again from other bookies.
    pub healed: u64,
    /// The last ledger that was read in full; a scrub that was interrupted goes on after it.
    #[serde(default)]
    pub after: Option<LedgerId>,
}

impl Record for ScrubRecord {
    const NAME: &'static str = "scrub record";
}

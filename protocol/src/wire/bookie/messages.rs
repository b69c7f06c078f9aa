//! The bookie's messages. A field's number is never used for anything else.

use super::{
    AddEntry, BookieId, BookieMember, ConfirmLac, CopyEntries, DeleteLedger, EntryId, EntryList, FenceLedger,
    Incarnation, Lac, LedgerId, LedgerKey, ListEntries, MAX_BODY, ReadEntries, SealedEntry, WaitLac,
};
use crate::wire::envelope::{wait_ms, wait_of};
use prost::Message;

/// A bookie in one life.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct MemberMessage {
    #[prost(uint32, tag = "1")]
    pub(super) bookie: u32,
    #[prost(uint64, tag = "2")]
    pub(super) incarnation: u64,
}

impl From<BookieMember> for MemberMessage {
    fn from(member: BookieMember) -> Self {
        Self { bookie: member.id.0, incarnation: member.incarnation.0 }
    }
}

/// A member that was left out is bookie 0 in life 0, which no incarnation ever is.
fn member(message: Option<MemberMessage>) -> BookieMember {
    let MemberMessage { bookie, incarnation } = message.unwrap_or_default();
    BookieMember { id: BookieId(bookie), incarnation: Incarnation(incarnation) }
}

/// Add; the body is the sealed entry.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct AddMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(fixed64, tag = "2")]
    pub(super) key: u64,
    #[prost(bool, tag = "3")]
    pub(super) recovery: bool,
}

impl From<&AddEntry> for AddMessage {
    fn from(add: &AddEntry) -> Self {
        Self { member: Some(add.member.into()), key: add.key.0, recovery: add.recovery }
    }
}

impl AddMessage {
    pub(super) fn with(self, entry: SealedEntry) -> AddEntry {
        AddEntry { member: member(self.member), key: LedgerKey(self.key), recovery: self.recovery, entry }
    }
}

/// Read.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ReadMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(uint64, tag = "2")]
    pub(super) ledger: u64,
    #[prost(uint64, tag = "3")]
    pub(super) first: u64,
    #[prost(uint32, tag = "4")]
    pub(super) max_count: u32,
    #[prost(uint32, tag = "5")]
    pub(super) max_bytes: u32,
    /// The key to fence with.
    #[prost(fixed64, optional, tag = "6")]
    pub(super) fence: Option<u64>,
}

impl From<&ReadEntries> for ReadMessage {
    fn from(read: &ReadEntries) -> Self {
        Self {
            member: Some(read.member.into()),
            ledger: read.ledger.0,
            first: read.first.0,
            max_count: read.max_count,
            // No frame carries more; a shorter run is always a legal answer.
            max_bytes: read.max_bytes.min(MAX_BODY as u32),
            fence: read.fence.map(|key| key.0),
        }
    }
}

impl From<ReadMessage> for ReadEntries {
    fn from(read: ReadMessage) -> Self {
        Self {
            member: member(read.member),
            ledger: LedgerId(read.ledger),
            first: EntryId(read.first),
            max_count: read.max_count,
            max_bytes: read.max_bytes.min(MAX_BODY as u32),
            fence: read.fence.map(LedgerKey),
        }
    }
}

/// The answer of a read; the body is the entries.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RunMessage {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) lengths: Vec<u32>,
    #[prost(uint64, tag = "2")]
    pub(super) lac: u64,
}

/// Fence or delete.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct LedgerMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(uint64, tag = "2")]
    pub(super) ledger: u64,
    /// Unused when deleting.
    #[prost(fixed64, tag = "3")]
    pub(super) key: u64,
}

impl LedgerMessage {
    pub(super) fn new(member: BookieMember, ledger: LedgerId, key: u64) -> Self {
        Self { member: Some(member.into()), ledger: ledger.0, key }
    }
}

impl From<LedgerMessage> for FenceLedger {
    fn from(fence: LedgerMessage) -> Self {
        Self { member: member(fence.member), ledger: LedgerId(fence.ledger), key: LedgerKey(fence.key) }
    }
}

impl From<LedgerMessage> for DeleteLedger {
    fn from(delete: LedgerMessage) -> Self {
        Self { member: member(delete.member), ledger: LedgerId(delete.ledger) }
    }
}

/// A last-add-confirmed, as a count of entries.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct LacMessage {
    #[prost(uint64, tag = "1")]
    pub(super) count: u64,
}

impl From<LacMessage> for Lac {
    fn from(lac: LacMessage) -> Self {
        Self::from_count(lac.count)
    }
}

/// List.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ListMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(uint64, tag = "2")]
    pub(super) ledger: u64,
    #[prost(uint64, tag = "3")]
    pub(super) first: u64,
    #[prost(uint32, tag = "4")]
    pub(super) limit: u32,
}

impl From<&ListEntries> for ListMessage {
    fn from(list: &ListEntries) -> Self {
        let (ledger, first, limit) = (list.ledger.0, list.first.0, list.limit);
        Self { member: Some(list.member.into()), ledger, first, limit }
    }
}

impl From<ListMessage> for ListEntries {
    fn from(list: ListMessage) -> Self {
        let (ledger, first) = (LedgerId(list.ledger), EntryId(list.first));
        Self { member: member(list.member), ledger, first, limit: list.limit }
    }
}

/// The answer of a list: first and last entry of each run in turn.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RunsMessage {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) bounds: Vec<u64>,
    #[prost(bool, tag = "2")]
    pub(super) more: bool,
}

impl From<EntryList> for RunsMessage {
    fn from(list: EntryList) -> Self {
        Self { bounds: list.runs.iter().flat_map(|run| [*run.start(), *run.end()]).collect(), more: list.more }
    }
}

impl From<RunsMessage> for EntryList {
    fn from(runs: RunsMessage) -> Self {
        Self { runs: runs.bounds.as_chunks().0.iter().map(|&[first, last]| first..=last).collect(), more: runs.more }
    }
}

/// Copy.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct CopyMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(message, optional, tag = "2")]
    pub(super) source: Option<MemberMessage>,
    #[prost(uint64, tag = "3")]
    pub(super) ledger: u64,
    #[prost(fixed64, tag = "4")]
    pub(super) key: u64,
    #[prost(uint64, tag = "5")]
    pub(super) first: u64,
    #[prost(uint64, tag = "6")]
    pub(super) last: u64,
}

impl From<&CopyEntries> for CopyMessage {
    fn from(copy: &CopyEntries) -> Self {
        Self {
            member: Some(copy.member.into()),
            source: Some(copy.source.into()),
            ledger: copy.ledger.0,
            key: copy.key.0,
            first: *copy.entries.start(),
            last: *copy.entries.end(),
        }
    }
}

impl From<CopyMessage> for CopyEntries {
    fn from(copy: CopyMessage) -> Self {
        Self {
            member: member(copy.member),
            source: member(copy.source),
            ledger: LedgerId(copy.ledger),
            key: LedgerKey(copy.key),
            entries: copy.first..=copy.last,
        }
    }
}

/// How many entries were copied.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct CountMessage {
    #[prost(uint64, tag = "1")]
    pub(super) count: u64,
}

/// Confirm.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ConfirmMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(uint64, tag = "2")]
    pub(super) ledger: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) key: u64,
    #[prost(uint64, tag = "4")]
    pub(super) lac: u64,
}

impl From<&ConfirmLac> for ConfirmMessage {
    fn from(confirm: &ConfirmLac) -> Self {
        let (ledger, key, lac) = (confirm.ledger.0, confirm.key.0, confirm.lac.count());
        Self { member: Some(confirm.member.into()), ledger, key, lac }
    }
}

impl From<ConfirmMessage> for ConfirmLac {
    fn from(confirm: ConfirmMessage) -> Self {
        let (ledger, key) = (LedgerId(confirm.ledger), LedgerKey(confirm.key));
        Self { member: member(confirm.member), ledger, key, lac: Lac::from_count(confirm.lac) }
    }
}

/// Wait.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct WaitMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) member: Option<MemberMessage>,
    #[prost(uint64, tag = "2")]
    pub(super) ledger: u64,
    #[prost(uint64, tag = "3")]
    pub(super) beyond: u64,
    #[prost(uint32, tag = "4")]
    pub(super) timeout_ms: u32,
}

impl From<&WaitLac> for WaitMessage {
    fn from(wait: &WaitLac) -> Self {
        let timeout_ms = wait_ms(wait.timeout);
        Self { member: Some(wait.member.into()), ledger: wait.ledger.0, beyond: wait.beyond.count(), timeout_ms }
    }
}

impl From<WaitMessage> for WaitLac {
    fn from(wait: WaitMessage) -> Self {
        let timeout = wait_of(wait.timeout_ms);
        let (ledger, beyond) = (LedgerId(wait.ledger), Lac::from_count(wait.beyond));
        Self { member: member(wait.member), ledger, beyond, timeout }
    }
}

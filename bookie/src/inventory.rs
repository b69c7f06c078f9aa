//! What metadata says this bookie holds: every ledger whose ensembles name it, heads and closed ones.
//!
//! Owns the scans. Answers from complete, linearizable listings only: a page that cannot be read is an error and never
//! an absence, because on the strength of an absence a bookie forgets that it has lost something.

use protocol::{
    id::{EntryId, LedgerId},
    ledger::metadata::{BookieMember, LedgerMetadata, LedgerState},
    model::{ClosedPage, KeyKind, ModelError, PartitionRecord, Record, Sequence, decode, key, prefix},
    service::metadata::{
        Consistency, MetadataError, MetadataService, Operation, Outcome, Scan, Transaction, Versioned,
    },
    topic::PartitionId,
};
use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

/// Items per page of a scan.
const PAGE: u32 = 200;
/// How long metadata may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no inventory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InventoryError {
    /// Metadata did not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A record cannot be decoded.
    #[error("{key}: {problem}")]
    Unreadable { key: String, problem: ModelError },
    /// This life of the bookie does not count any more.
    #[error("metadata does not know this life of the bookie")]
    Outlived,
}

/// A ledger that names this bookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Whose it is.
    pub(crate) partition: PartitionId,
    /// The page of closed ledgers it stands in; none for a head.
    pub(crate) page: Option<u32>,
    /// The ledger.
    pub(crate) ledger: LedgerMetadata,
}

impl Listed {
    /// Whether the ledger has not ended, so that it is not known yet what belongs to it.
    pub(crate) const fn is_head(&self) -> bool {
        !self.ledger.is_closed()
    }

    /// The entries that `member` is to hold, by fragment. Nothing while the ledger is unclosed.
    pub(crate) fn wanted(&self, member: BookieMember) -> Vec<RangeInclusive<u64>> {
        let LedgerState::Closed { last_entry: Some(EntryId(last)), .. } = self.ledger.state else { return Vec::new() };
        let fragments = &self.ledger.fragments;
        let ends = fragments.iter().skip(1).map(|next| next.first_entry.0.checked_sub(1)).chain([Some(last)]);
        let ours = fragments.iter().zip(ends).filter(|(fragment, _)| fragment.ensemble.contains(&member));
        let runs = ours.filter_map(|(fragment, end)| Some(fragment.first_entry.0..=end?.min(last)));
        runs.filter(|run| !run.is_empty()).collect()
    }
}

/// The ledgers that name one bookie.
pub(crate) type Inventory = BTreeMap<LedgerId, Listed>;

/// Lists every ledger that names `member`.
///
/// A ledger moves from head to page and never back, so partitions are read before pages: none is missed.
///
/// # Errors
/// See [`InventoryError`]; [`InventoryError::Outlived`] also stands for metadata that was emptied.
pub(crate) async fn list(
    metadata: &Arc<dyn MetadataService>,
    member: BookieMember,
) -> Result<Inventory, InventoryError> {
    let mut found = Inventory::new();
    scan(metadata, prefix::PARTITIONS.into(), |item| take(item, member, &mut found)).await?;
    scan(metadata, prefix::CLOSED.into(), |item| take(item, member, &mut found)).await?;
    check_counts(metadata, member).await?;
    Ok(found)
}

/// A number of the sequence of ledger ids: every ledger that began before this call has a lower one.
///
/// # Errors
/// Those of metadata.
pub(crate) async fn next_ledger(metadata: &Arc<dyn MetadataService>) -> Result<LedgerId, MetadataError> {
    let take = Operation::Sequence { name: Sequence::Ledger.name().into(), count: 1 };
    let take = Transaction { operations: vec![take], ..Transaction::default() };
    match in_time(metadata.transact(take)).await? {
        Outcome::Committed { sequences, .. } => {
            let issued = || MetadataError::Invalid("no number was issued".into());
            sequences.first().copied().map(LedgerId).ok_or_else(issued)
        }
        Outcome::Conflict { .. } => Err(MetadataError::Invalid("a sequence has no conditions".into())),
    }
}

/// Looks one ledger of a partition up again; none if it is gone or does not name `member` any more.
///
/// # Errors
/// See [`InventoryError`].
pub(crate) async fn look(
    metadata: &Arc<dyn MetadataService>,
    member: BookieMember,
    partition: PartitionId,
    ledger: LedgerId,
) -> Result<Option<Listed>, InventoryError> {
    let mut found = Inventory::new();
    let head = in_time(metadata.get(key::partition(partition), Consistency::Linearizable)).await?;
    head.iter().try_for_each(|item| take(item, member, &mut found))?;
    if !found.contains_key(&ledger) {
        scan(metadata, prefix::closed_of(partition), |item| take(item, member, &mut found)).await?;
        check_counts(metadata, member).await?;
    }
    Ok(found.remove(&ledger))
}

/// Takes those ledgers of a partition or a page that name `member`.
fn take(item: &Versioned, member: BookieMember, found: &mut Inventory) -> Result<(), InventoryError> {
    let mut keep = |partition, page, ledger: LedgerMetadata| {
        if ledger.fragments.iter().any(|fragment| fragment.ensemble.contains(&member)) {
            found.insert(ledger.id, Listed { partition, page, ledger });
        }
    };
    match KeyKind::parse(&item.key) {
        Some(KeyKind::Partition(partition)) => {
            let record: PartitionRecord = read(item)?;
            record.head.into_iter().for_each(|head| keep(partition, None, head.ledger));
        }
        Some(KeyKind::ClosedPage(partition, page)) => {
            let record: ClosedPage = read(item)?;
            record.ledgers.into_iter().for_each(|closed| keep(partition, Some(page), closed.ledger));
        }
        _ => {}
    }
    Ok(())
}

/// Absence is believed only of metadata that knows this very life of the bookie.
async fn check_counts(metadata: &Arc<dyn MetadataService>, member: BookieMember) -> Result<(), InventoryError> {
    let item = in_time(metadata.get(key::cookie(member.id), Consistency::Linearizable)).await?;
    let item = item.ok_or(InventoryError::Outlived)?;
    let cookie: protocol::model::Cookie = read(&item)?;
    if cookie.incarnation == member.incarnation { Ok(()) } else { Err(InventoryError::Outlived) }
}

fn read<R: Record>(item: &Versioned) -> Result<R, InventoryError> {
    decode(&item.value).map_err(|problem| InventoryError::Unreadable { key: item.key.clone(), problem })
}

async fn scan(
    metadata: &Arc<dyn MetadataService>,
    prefix: String,
    mut take: impl FnMut(&Versioned) -> Result<(), InventoryError>,
) -> Result<(), InventoryError> {
    let mut after = None;
    loop {
        let scan = Scan { prefix: prefix.clone(), after, limit: PAGE, consistency: Consistency::Linearizable };
        let page = in_time(metadata.scan(scan)).await?;
        page.items.iter().try_for_each(&mut take)?;
        match page.items.last() {
            Some(last) if page.more => after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, MetadataError>>) -> Result<T, MetadataError> {
    let silent = |_| Err(MetadataError::OutcomeUnknown { reason: "no answer in time".into() });
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(silent)
}

#[cfg(test)]
pub(crate) mod tests;

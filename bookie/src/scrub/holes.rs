//! Noting in metadata that this bookie lacks entries of a closed ledger, so that repair fills them.
//!
//! Owns the compare-and-swap of the page that names the ledger; changes nothing there but the holes of this bookie.

use super::record::in_time;
use crate::inventory::Listed;
use protocol::{
    ledger::metadata::{BookieMember, Hole},
    model::{ClosedPage, decode, encode, key},
    service::metadata::{Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
};
use std::{ops::RangeInclusive, sync::Arc};

/// How often a write is tried against those of others.
const ATTEMPTS: u32 = 10;
/// The most holes of one bookie in one ledger; of more, one covers all. A hole says what *may* be missing.
const MAX_HOLES: usize = 16;

/// Notes holes; nothing happens if the ledger is gone from its page or does not name `member` any more.
pub(super) async fn note(
    metadata: &Arc<dyn MetadataService>,
    listed: &Listed,
    member: BookieMember,
    missing: &[RangeInclusive<u64>],
) -> Result<(), MetadataError> {
    let Some(page) = listed.page else { return Ok(()) };
    let key = key::closed_page(listed.partition, page);
    for _ in 0..ATTEMPTS {
        let Some(item) = in_time(metadata.get(key.clone(), Consistency::Linearizable)).await? else { return Ok(()) };
        let Ok(mut record) = decode::<ClosedPage>(&item.value) else { return Ok(()) };
        let Some(closed) = record.ledgers.iter_mut().find(|closed| closed.ledger.id == listed.ledger.id) else {
            return Ok(());
        };
        if !closed.ledger.fragments.iter().any(|fragment| fragment.ensemble.contains(&member)) {
            return Ok(());
        }
        if !add(&mut closed.ledger.holes, member, missing) {
            return Ok(());
        }
        let put = Transaction {
            conditions: vec![Condition::Version(key.clone(), item.version)],
            operations: vec![Operation::Put { key: key.clone(), value: encode(&record), session: None }],
            request: None,
        };
        match in_time(metadata.transact(put)).await {
            Ok(Outcome::Committed { .. }) => return Ok(()),
            Ok(Outcome::Conflict { .. }) | Err(MetadataError::OutcomeUnknown { .. }) => {}
            Err(problem) => return Err(problem),
        }
    }
    Err(MetadataError::Unavailable { reason: "a page of closed ledgers changes too often".into() })
}

/// Adds holes of `member`; whether anything changed.
fn add(holes: &mut Vec<Hole>, member: BookieMember, missing: &[RangeInclusive<u64>]) -> bool {
    let is_known = |entries: &RangeInclusive<u64>| {
        let covers = |hole: &Hole| hole.entries.contains(entries.start()) && hole.entries.contains(entries.end());
        holes.iter().any(|hole| hole.member == member && covers(hole))
    };
    let new: Vec<Hole> = missing.iter().filter(|e| !is_known(e)).map(|e| Hole { member, entries: e.clone() }).collect();
    if new.is_empty() {
        return false;
    }
    holes.extend(new);
    let ours = || holes.iter().filter(|hole| hole.member == member).map(|hole| &hole.entries);
    if ours().count() > MAX_HOLES
        && let (Some(first), Some(last)) = (ours().map(|e| *e.start()).min(), ours().map(|e| *e.end()).max())
    {
        holes.retain(|hole| hole.member != member);
        holes.push(Hole { member, entries: first..=last });
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::{PARTITION, closed, ledger, member, publish};
    use protocol::testing::FakeMetadata;

    const US: BookieMember = member(1);

    fn holes(metadata: &FakeMetadata) -> Vec<Hole> {
        let item = metadata.peek(&key::closed_page(PARTITION, 0)).expect("a page");
        decode::<ClosedPage>(&item.value).expect("a page").ledgers[0].ledger.holes.clone()
    }

    #[tokio::test]
    async fn holes_are_noted_once_and_bounded() {
        let metadata = FakeMetadata::new();
        let ledger = ledger(1, &[(0, &[US, member(2)])], closed(99));
        publish(&metadata, vec![ledger.clone()]);
        let listed = Listed { partition: PARTITION, page: Some(0), ledger };
        let service = metadata.service();
        let note = async |missing: &[RangeInclusive<u64>]| note(&service, &listed, US, missing).await.expect("noted");
        note(&[3..=9, 20..=20]).await;
        assert_eq!(holes(&metadata).len(), 2);
        let before = metadata.revision();
        note(&[4..=5, 20..=20]).await;
        assert_eq!(metadata.revision(), before, "nothing new is nothing to write");
        metadata.faults().push(protocol::testing::Fault::Pass);
        metadata.faults().lose_next_answer();
        note(&[30..=31]).await;
        assert_eq!(holes(&metadata).len(), 3);
        let many: Vec<_> = (40..60).map(|n| 2 * n..=2 * n).collect();
        note(&many).await;
        assert_eq!(holes(&metadata), [Hole { member: US, entries: 3..=118 }]);
    }

    #[tokio::test]
    async fn a_ledger_that_does_not_name_us_any_more_is_left_alone() {
        let metadata = FakeMetadata::new();
        let ours = ledger(1, &[(0, &[US])], closed(99));
        publish(&metadata, vec![ledger(1, &[(0, &[member(2)])], closed(99))]);
        let listed = Listed { partition: PARTITION, page: Some(0), ledger: ours };
        let before = metadata.revision();
        let one = 1..=1;
        note(&metadata.service(), &listed, US, std::slice::from_ref(&one)).await.expect("nothing to do");
        note(&metadata.service(), &Listed { page: None, ..listed }, US, std::slice::from_ref(&one))
            .await
            .expect("a head");
        assert_eq!(metadata.revision(), before);
    }
}

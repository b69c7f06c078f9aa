//! Copies that no metadata names: of repairs that did not get to their end, and of members that were replaced.
//!
//! Owns their end: when the ledger has left its page, they join the dead-ledger record, and their bookies delete them
//! like any other copy. The proof is the page itself, read for this ledger: ledgers never move between pages, and
//! whoever drops one takes it out of its page. A listing proves nothing here (rule B9).

use super::{
    desk::{AuditError, Desk, unchanged},
    findings::members,
};
use protocol::{
    id::Timestamp,
    ledger::{
        metadata::{BookieMember, LedgerMetadata},
        repair::Roster,
    },
    model::{ClosedPage, DeadLedger, StrayCopies, decode, encode, key, prefix},
    service::metadata::{Condition, Operation, Versioned},
};
use std::collections::BTreeSet;

/// Records per page of the listing.
const PAGE: u32 = 500;

/// Looks at every stray copy.
pub(super) async fn sweep(desk: &Desk, roster: &Roster, now: Timestamp) -> Result<(), AuditError> {
    let mut after = None;
    loop {
        let page = desk.page(prefix::STRAYS, after, PAGE).await?;
        // Of ledgers of one page, the page is read once.
        let mut read = Read::default();
        for item in &page.items {
            match decode::<StrayCopies>(&item.value) {
                Ok(stray) => settle(desk, roster, now, (item, stray), &mut read).await?,
                Err(problem) => tracing::error!(key = %item.key, %problem, "a record of stray copies cannot be read"),
            }
        }
        match page.items.last() {
            Some(last) if page.more => after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

/// The page that was read last.
#[derive(Default)]
struct Read {
    key: String,
    item: Option<Versioned>,
    page: Option<ClosedPage>,
}

async fn settle(
    desk: &Desk,
    roster: &Roster,
    now: Timestamp,
    (item, stray): (&Versioned, StrayCopies),
    read: &mut Read,
) -> Result<(), AuditError> {
    let page_key = key::closed_page(stray.partition, stray.page);
    if read.key != page_key {
        let held = desk.get(page_key.clone()).await?;
        let decoded = held.as_ref().map(|item| decode::<ClosedPage>(&item.value)).transpose();
        let Ok(page) = decoded else { return Ok(()) };
        *read = Read { key: page_key.clone(), item: held, page };
    }
    let found = read.page.iter().flat_map(|p| &p.ledgers).find(|c| c.ledger.id == stray.ledger).map(|c| &c.ledger);
    let left = left(&stray, found, roster);
    let mut conditions =
        vec![Condition::Version(item.key.clone(), item.version), unchanged(page_key, read.item.as_ref())];
    let mut operations = Vec::new();
    if found.is_some() && left.len() == stray.held_by.len() {
        return Ok(());
    }
    if found.is_some() && !left.is_empty() {
        let record = StrayCopies { held_by: left, ..stray };
        operations.push(Operation::Put { key: item.key.clone(), value: encode(&record), session: None });
    } else {
        operations.push(Operation::Delete(item.key.clone()));
        if !left.is_empty() {
            let (condition, bury) = bury(desk, &stray, left, now).await?;
            conditions.push(condition);
            operations.push(bury);
            tracing::info!(ledger = %stray.ledger, "stray copies of a dropped ledger will be deleted");
        }
    }
    // After a conflict the next sweep looks again.
    desk.write(conditions, operations).await.map(drop)
}

/// The stray copies that are still worth a note: not of a life that is over, and not named by the ledger.
fn left(stray: &StrayCopies, found: Option<&LedgerMetadata>, roster: &Roster) -> Vec<BookieMember> {
    let named = found.map(members).unwrap_or_default();
    stray.held_by.iter().copied().filter(|m| !roster.is_superseded(*m) && !named.contains(m)).collect()
}

/// The dead-ledger record with these bookies in it, and the condition it was made under.
async fn bury(
    desk: &Desk,
    stray: &StrayCopies,
    left: Vec<BookieMember>,
    now: Timestamp,
) -> Result<(Condition, Operation), AuditError> {
    let key = key::dead(stray.ledger);
    let held = desk.get(key.clone()).await?;
    let condition = unchanged(key.clone(), held.as_ref());
    let mut record = match &held {
        Some(item) => {
            let unreadable = |problem| AuditError::Record { key: key.clone(), problem };
            decode::<DeadLedger>(&item.value).map_err(unreadable)?
        }
        None => DeadLedger { ledger: stray.ledger, held_by: Vec::new(), since: now },
    };
    let all: BTreeSet<_> = record.held_by.iter().copied().chain(left).collect();
    record.held_by = all.into_iter().collect();
    Ok((condition, Operation::Put { key, value: encode(&record), session: None }))
}

/// Takes a member that is given up for good out of every record that waits for it to delete something. `false` if a
/// record changed meanwhile: then it is to be done again.
pub(super) async fn forget(desk: &Desk, member: BookieMember) -> Result<bool, AuditError> {
    let mut waiting: Vec<(Versioned, Option<bytes::Bytes>)> = Vec::new();
    let mut wait = |item: &Versioned, held_by: Vec<BookieMember>, with: &dyn Fn(Vec<BookieMember>) -> bytes::Bytes| {
        if held_by.contains(&member) {
            let left: Vec<_> = held_by.into_iter().filter(|m| *m != member).collect();
            waiting.push((item.clone(), (!left.is_empty()).then(|| with(left))));
        }
    };
    let unreadable = |item: &Versioned, problem| AuditError::Record { key: item.key.clone(), problem };
    desk.each(prefix::STRAYS, PAGE, |item| {
        let record: StrayCopies = decode(&item.value).map_err(|problem| unreadable(item, problem))?;
        wait(item, record.held_by.clone(), &|held_by| encode(&StrayCopies { held_by, ..record.clone() }));
        Ok(())
    })
    .await?;
    desk.each(prefix::DEAD, PAGE, |item| {
        let record: DeadLedger = decode(&item.value).map_err(|problem| unreadable(item, problem))?;
        wait(item, record.held_by.clone(), &|held_by| encode(&DeadLedger { held_by, ..record.clone() }));
        Ok(())
    })
    .await?;
    let mut is_clean = true;
    for (item, left) in waiting {
        let key = item.key.clone();
        let operation = match left {
            Some(value) => Operation::Put { key, value, session: None },
            None => Operation::Delete(key),
        };
        is_clean &= desk.write(vec![Condition::Version(item.key, item.version)], vec![operation]).await?;
    }
    Ok(is_clean)
}

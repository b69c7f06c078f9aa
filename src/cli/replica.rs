//! One bookie's copy of a ledger: what it holds, and its entries. Owns the calls to that one bookie, with deadlines; a
//! copy is never made up for by another one here, because the point is to see what each bookie has.

use super::{cluster_client::ClusterClient, inventory::Owned};
use futures::future::join_all;
use protocol::{
    id::{EntryId, Lac, LedgerId},
    ledger::{entry::SealedEntry, metadata::BookieMember},
    service::{
        Answer,
        bookie::{BookieError, ListEntries, ReadEntries, WaitLac},
    },
};
use serde_json::json;
use std::{ops::RangeInclusive, time::Duration};

/// How long a bookie may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Runs of entries asked for at once.
const RUNS: u32 = 10_000;
/// Entries and bytes of one read.
const READ: (u64, u32) = (10_000, 4 * 1024 * 1024);

/// What a bookie holds of a ledger, against what it should.
#[derive(Debug)]
pub struct Replica {
    member: BookieMember,
    /// The entries that metadata says it holds; unbounded above in a fragment that is being written.
    due: Vec<RangeInclusive<u64>>,
    held: Result<Vec<RangeInclusive<u64>>, BookieError>,
}

/// Asks every bookie that any fragment names.
pub async fn ask_all(client: &ClusterClient, ledger: &Owned) -> Vec<Replica> {
    join_all(ledger.members().into_iter().map(|member| async move {
        let due = ledger.extents().into_iter().filter(|e| e.ensemble.contains(&member)).map(|e| e.entries).collect();
        Replica { member, due, held: held(client, member, ledger.ledger.id).await }
    }))
    .await
}

/// Everything a bookie holds of a ledger, as dense runs.
async fn held(
    client: &ClusterClient,
    member: BookieMember,
    ledger: LedgerId,
) -> Result<Vec<RangeInclusive<u64>>, BookieError> {
    let (bookie, mut runs, mut first) = (client.bookies.bookie(member), Vec::new(), EntryId(0));
    loop {
        let answer = bookie.list_entries(ListEntries { member, ledger, first, limit: RUNS });
        let list = match in_time(answer).await {
            Ok(list) => list,
            Err(BookieError::NoSuchLedger(_)) => return Ok(runs),
            Err(problem) => return Err(problem),
        };
        let last = list.runs.last().map(|run| *run.end());
        runs.extend(list.runs);
        match last {
            Some(last) if list.more => first = EntryId(last + 1),
            _ => return Ok(runs),
        }
    }
}

/// A run of entries of one bookie, each compared with its checksum.
///
/// # Errors
/// What the bookie answered, or [`BookieError::Unknown`] if what it sent is damaged.
pub async fn read(
    client: &ClusterClient,
    member: BookieMember,
    ledger: &Owned,
    entries: RangeInclusive<EntryId>,
) -> Result<Vec<SealedEntry>, BookieError> {
    let (id, first) = (ledger.ledger.id, *entries.start());
    let wanted = (entries.end().0 - first.0).saturating_add(1).min(READ.0);
    let max_count = u32::try_from(wanted).unwrap_or(u32::MAX);
    let read = ReadEntries { member, ledger: id, first, max_count, max_bytes: READ.1, fence: None };
    let run = in_time(client.bookies.bookie(member).read_entries(read)).await?;
    let damaged = |problem| BookieError::Unknown { reason: format!("it sent a damaged entry: {problem}") };
    let checked = run.entries.iter().zip(first.0..);
    checked.map(|(e, at)| SealedEntry::open(e.bytes().clone(), id, EntryId(at)).map_err(damaged)).collect()
}

/// The last entry that a bookie knows to be confirmed; none if it knows of none, or does not answer.
pub async fn confirmed(client: &ClusterClient, member: BookieMember, ledger: &Owned) -> Option<EntryId> {
    let wait = WaitLac { member, ledger: ledger.ledger.id, beyond: Lac::NONE, timeout: Duration::ZERO };
    in_time(client.bookies.bookie(member).wait_lac(wait)).await.ok()?.entry()
}

async fn in_time<T>(answer: Answer<T, BookieError>) -> Result<T, BookieError> {
    let late = |_| Err(BookieError::Unavailable { reason: format!("no answer within {} s", PATIENCE.as_secs()) });
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(late)
}

impl Replica {
    /// Whose copy it is.
    pub(super) const fn member(&self) -> BookieMember {
        self.member
    }

    /// The entries it holds, as runs in order.
    pub(super) fn holds(&self) -> Result<&[RangeInclusive<u64>], BookieError> {
        self.held.as_deref().map_err(Clone::clone)
    }

    /// What it should hold and does not; nothing where it is not known how far the ledger goes.
    fn lacks(&self) -> Vec<RangeInclusive<u64>> {
        let Ok(held) = &self.held else { return Vec::new() };
        self.due.iter().filter(|due| *due.end() != u64::MAX).flat_map(|due| minus(due, held)).collect()
    }

    pub(super) fn row(&self) -> Vec<String> {
        let (held, lacks) = match &self.held {
            Ok(held) if held.is_empty() => ("none".into(), ranges(&self.lacks())),
            Ok(held) => (ranges(held), ranges(&self.lacks())),
            Err(problem) => (problem.to_string(), "?".into()),
        };
        vec![self.member.id.to_string(), held, if lacks.is_empty() { "-".into() } else { lacks }]
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let pairs = |runs: &[RangeInclusive<u64>]| runs.iter().map(|r| [*r.start(), *r.end()]).collect::<Vec<_>>();
        json!({
            "bookie": self.member.id.0, "incarnation": self.member.incarnation.0,
            "holds": self.held.as_ref().ok().map(|held| pairs(held)), "lacks": pairs(&self.lacks()),
            "problem": self.held.as_ref().err().map(ToString::to_string),
        })
    }
}

/// What of `due` no run covers. Runs are in order and do not overlap.
fn minus(due: &RangeInclusive<u64>, runs: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let (mut next, mut left) = (*due.start(), Vec::new());
    for run in runs.iter().filter(|run| run.end() >= due.start() && run.start() <= due.end()) {
        if *run.start() > next {
            left.push(next..=run.start() - 1);
        }
        next = next.max(run.end().saturating_add(1));
    }
    if next <= *due.end() {
        left.push(next..=*due.end());
    }
    left
}

/// Runs in words: `0-5, 7`; no more than a line holds.
pub(super) fn ranges(runs: &[RangeInclusive<u64>]) -> String {
    const SHOWN: usize = 6;
    let one = |r: &RangeInclusive<u64>| {
        if r.start() == r.end() { r.start().to_string() } else { format!("{}-{}", r.start(), r.end()) }
    };
    let mut text = runs.iter().take(SHOWN).map(one).collect::<Vec<_>>().join(", ");
    if runs.len() > SHOWN {
        text += &format!(", and {} more runs", runs.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn runs_are_written_in_words() {
        assert_eq!(ranges(&[0..=5, 7..=7]), "0-5, 7");
        let many: Vec<_> = (0..9).map(|i| i * 2..=i * 2).collect();
        assert!(ranges(&many).ends_with("10, and 3 more runs"), "{}", ranges(&many));
    }

    proptest! {
        #[test]
        fn what_is_lacking_is_what_no_run_covers(first in 0..20_u64, len in 0..20_u64, held in proptest::collection::btree_set(0..50_u64, 0..50)) {
            let mut runs: Vec<RangeInclusive<u64>> = Vec::new();
            for id in &held {
                match runs.last_mut() {
                    Some(run) if *run.end() + 1 == *id => *run = *run.start()..=*id,
                    _ => runs.push(*id..=*id),
                }
            }
            let due = first..=first + len;
            let lacking: BTreeSet<u64> = minus(&due, &runs).into_iter().flatten().collect();
            let expected: BTreeSet<u64> = due.filter(|id| !held.contains(id)).collect();
            prop_assert_eq!(lacking, expected);
        }
    }
}

//! What is lost with an unclosed ledger whose bookies are gone for good, and giving it up. Owns the proof that they are
//! gone, the words, and the one transaction, which takes the epoch; the partition's owner then recovers what is left.
//! Never gives up what a bookie still holds, and never takes silence for a loss.

use super::{cluster_client::ClusterClient, inventory::Owned, replica};
use anyhow::{Context, bail};
use broker::managed_ledger::ListState;
use protocol::{
    id::{EntryId, LeaderEpoch, Offset},
    ledger::{
        entry::EntryHeader,
        metadata::BookieMember,
        remnant::{Remnant, remnant},
    },
    model::{self, BookieRecord, Cookie, decode, key},
    runtime::{Clock, SystemClock},
    service::metadata::{Condition, Consistency, Outcome, Transaction, Versioned},
};
use std::{collections::BTreeMap, fmt::Write, ops::RangeInclusive};

/// A life of a bookie that is over, and what must still be true of it when its entries are given up.
#[derive(Debug)]
struct Gone {
    why: &'static str,
    proof: Vec<Condition>,
}

/// What is left of a ledger, as the bookies that are left say now.
#[derive(Debug)]
struct Left {
    ledger: Owned,
    /// The last entry before the first one that nobody has; none if the ledger's first one is missing.
    last: Option<EntryId>,
    /// The offset after it.
    end: Offset,
    /// The highest entry that one of them knows to be confirmed.
    confirmed: Option<EntryId>,
}

/// The loss of a head.
#[derive(Debug)]
pub(super) struct Loss {
    found: Owned,
    gone: BTreeMap<BookieMember, Gone>,
    /// None if nobody is left.
    left: Option<Left>,
}

impl Loss {
    /// Finds out what would be lost. Changes nothing.
    ///
    /// # Errors
    /// Nothing has to be given up; or a bookie that is left does not answer, so that the loss is not known.
    pub(super) async fn look(client: &ClusterClient, found: &Owned) -> anyhow::Result<Self> {
        let mut gone = BTreeMap::new();
        for member in found.members() {
            if let Some(why) = why_gone(client, member).await? {
                gone.insert(member, why);
            }
        }
        let left = match remnant(&found.ledger, |m| gone.contains_key(&m)) {
            Remnant::Whole => bail!(whole(found, &gone)),
            Remnant::Nothing => None,
            Remnant::Part(ledger) => Some(Left::look(client, Owned { ledger: *ledger, ..found.clone() }).await?),
        };
        Ok(Self { found: found.clone(), gone, left })
    }

    /// What is gone, what is left and what is lost, in words.
    pub(super) fn words(&self) -> String {
        let Owned { topic, partition, ledger, base_offset, .. } = &self.found;
        let mut text =
            format!("ledger {} is written for {topic}/{}, from offset {base_offset} on\n", ledger.id, partition.index);
        for (member, Gone { why, .. }) in &self.gone {
            // A string takes everything.
            let _ = writeln!(text, "bookie {} is gone: {why}", member.id);
        }
        let end = match &self.left {
            None => {
                text += "left: nothing; nobody else holds any of it\n";
                *base_offset
            }
            Some(Left { ledger, last, end, .. }) => {
                let on = ledger.last_bookies();
                let _ = match last {
                    Some(EntryId(last)) => {
                        let entries = replica::ranges(&[0..=*last]);
                        writeln!(text, "left: entries {entries}, offsets {base_offset}-{}, on {on}", end.0 - 1)
                    }
                    None => writeln!(text, "left: nothing; no entry is on {on}"),
                };
                *end
            }
        };
        let _ = write!(text, "lost: every record from offset {end} on");
        if let Some(Left { last, confirmed: Some(confirmed), .. }) = &self.left
            && Some(*confirmed) > *last
        {
            let first = last.map_or(0, |last| last.0 + 1);
            let _ = write!(text, ", at least entries {first}-{confirmed}, which were acknowledged");
        } else {
            text += ", if any was acknowledged: that only the bookies that are gone could tell";
        }
        let _ = write!(text, "\nnew records get offset {end} and those after it, which others may have had before");
        text
    }

    /// Gives it up: the partition gets a new epoch, and for a head what is left, or none.
    ///
    /// # Errors
    /// Something changed meanwhile; nothing was given up.
    pub(super) async fn accept(&self, client: &ClusterClient) -> anyhow::Result<LeaderEpoch> {
        let (id, partition) = (self.found.ledger.id, self.found.partition);
        let changed = || format!("ledger {id}, or a bookie it stood on, changed at this moment; look again");
        let item = client.metadata.get(key::partition(partition), Consistency::Linearizable).await?;
        let item = item.with_context(changed)?;
        let list = ListState::new(partition, &item, &[])?;
        if list.record().head.as_ref().is_none_or(|head| head.ledger != self.found.ledger) {
            bail!(changed());
        }
        let left = self.left.as_ref().map(|left| &left.ledger.ledger);
        let change = list.give_up(id, left, SystemClock::default().wall()).with_context(changed)?;
        let (mut conditions, operations) = list.transaction(&change);
        conditions.extend(self.gone.values().flat_map(|gone| gone.proof.iter().cloned()));
        match client.metadata.transact(Transaction { conditions, operations, request: None }).await? {
            Outcome::Committed { .. } => Ok(list.record().epoch.next()),
            Outcome::Conflict { .. } => bail!(changed()),
        }
    }

    /// Whether anything is left for the owner to recover.
    pub(super) const fn leaves_something(&self) -> bool {
        self.left.is_some()
    }
}

impl Left {
    async fn look(client: &ClusterClient, ledger: Owned) -> anyhow::Result<Self> {
        let (mut held, mut confirmed) = (Vec::new(), None);
        let ensemble = ledger.ledger.last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default();
        for replica in replica::ask_all(client, &ledger).await.iter().filter(|r| ensemble.contains(&r.member())) {
            let bookie = replica.member().id;
            let advice = || {
                format!(
                    "bookie {bookie} does not say what it holds, so what is lost is not known; if it is gone for good as well, say so: magnetar bookie replace {bookie} --no-wait"
                )
            };
            held.extend_from_slice(replica.holds().with_context(advice)?);
            confirmed = confirmed.max(replica::confirmed(client, replica.member(), &ledger).await);
        }
        let begin = ledger.ledger.last_fragment().map_or(EntryId(0), |f| f.first_entry);
        let last = dense_end(begin, held);
        let end = match last {
            Some(last) => end_offset(client, &ledger, last).await?,
            None => ledger.base_offset,
        };
        Ok(Self { ledger, last, end, confirmed })
    }
}

/// The last entry of the run that goes on from `begin`; the one before it if there is no run.
fn dense_end(begin: EntryId, mut held: Vec<RangeInclusive<u64>>) -> Option<EntryId> {
    held.sort_by_key(|run| *run.start());
    let next = held.iter().fold(begin.0, |next, run| if run.contains(&next) { run.end() + 1 } else { next });
    next.checked_sub(1).map(EntryId)
}

/// The offset after an entry, from whichever bookie serves it.
async fn end_offset(client: &ClusterClient, ledger: &Owned, entry: EntryId) -> anyhow::Result<Offset> {
    let mut problem = None;
    for member in ledger.ledger.ensemble_of(entry) {
        match replica::read(client, *member, ledger, entry..=entry).await {
            Ok(run) => {
                let header = run.first().map(|entry| EntryHeader::decode(&entry.payload())).transpose()?;
                return Ok(header.with_context(|| format!("entry {entry} is not there any more"))?.end_offset());
            }
            Err(refused) => problem = Some(refused),
        }
    }
    Err(problem.context("nobody holds it")?).with_context(|| format!("entry {entry} cannot be read"))
}

/// Why this life of a bookie is over; none unless that is known.
async fn why_gone(client: &ClusterClient, member: BookieMember) -> anyhow::Result<Option<Gone>> {
    let get = async |key: String| client.metadata.get(key, Consistency::Linearizable).await;
    let cookie_key = key::cookie(member.id);
    let Some(cookie) = get(cookie_key.clone()).await? else {
        return Ok(Some(Gone { why: "it was taken out", proof: vec![Condition::Absent(cookie_key)] }));
    };
    if decode::<Cookie>(&cookie.value)?.incarnation > member.incarnation {
        let proof = vec![Condition::Version(cookie_key, cookie.version)];
        return Ok(Some(Gone { why: "it came back with an empty disk", proof }));
    }
    let (order_key, record_key) = (key::decommission(member.id), key::bookie(member.id));
    let Some(Versioned { value, version, .. }) = get(order_key.clone()).await? else { return Ok(None) };
    let is_ordered = decode::<model::Decommission>(&value)?.member == member;
    if let Some(live) = get(record_key.clone()).await?
        && decode::<BookieRecord>(&live.value)?.member == member
    {
        return Ok(None);
    }
    let proof = vec![Condition::Version(order_key, version), Condition::Absent(record_key)];
    Ok(is_ordered.then_some(Gone { why: "it is down, and was ordered to be taken out or replaced", proof }))
}

/// Why nothing is given up.
fn whole(found: &Owned, gone: &BTreeMap<BookieMember, Gone>) -> String {
    let id = found.ledger.id;
    let ids: Vec<String> = gone.keys().map(|member| member.id.to_string()).collect();
    let which = match ids.is_empty() {
        true => "none of its bookies is known to be gone for good".into(),
        false => format!("it can do without those of its bookies that are gone ({})", ids.join(", ")),
    };
    format!(
        "nothing of ledger {id} has to be given up: {which}. Recover it with: magnetar ledger recover {id}\nA bookie that is only silent may come back with all it holds. If its disk is lost, say so first: magnetar bookie replace ID --no-wait"
    )
}

#[cfg(test)]
mod tests;

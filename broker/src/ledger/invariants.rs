//! What must be true of a ledger at every moment, as named functions (the names are those of BookKeeper's TLA+ model).
//!
//! The machines check the first two after every step when built for tests or with the feature `invariants`; simulators
//! check all four. Pure: each takes what it talks about and says what is wrong.

use protocol::{
    id::{EntryId, Lac},
    ledger::{
        metadata::{BookieMember, LedgerMetadata, LedgerState},
        quorum::Quorum,
    },
};

/// A rule that does not hold, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

/// Every entry is confirmed on the copies of its own ensemble, and on enough of them (rules W3 and W4).
///
/// # Errors
/// [`Violation`] if `acks` are fewer than the ack quorum.
pub fn all_committed_entries_reach_ack_quorum(quorum: Quorum, entry: EntryId, acks: usize) -> Result<(), Violation> {
    if quorum.is_acked(acks) {
        return Ok(());
    }
    Err(Violation(format!("entry {entry} was confirmed with {acks} of {} acks", quorum.ack())))
}

/// Entries are confirmed one after the other, from 0, none left out and none twice (rule W3).
///
/// # Errors
/// [`Violation`] if `entry` is not the one after `before`.
pub fn no_out_of_order_entries(before: Lac, entry: EntryId) -> Result<(), Violation> {
    if before.next() == entry {
        return Ok(());
    }
    Err(Violation(format!("entry {entry} was confirmed after {before}")))
}

/// No acknowledged entry stands above the end of a closed ledger.
///
/// # Errors
/// [`Violation`] if the ledger is closed below `acked`.
pub fn no_divergence_between_client_and_metadata(acked: Lac, state: &LedgerState) -> Result<(), Violation> {
    let LedgerState::Closed { last_entry, .. } = state else { return Ok(()) };
    if acked.entry() <= *last_entry {
        return Ok(());
    }
    let end = last_entry.map_or(Lac::NONE, Lac::at);
    Err(Violation(format!("acknowledged through {acked}, but closed at {end}")))
}

/// Every acknowledged entry is held by at least Aq bookies of the ensemble that metadata names for it, so that it
/// survives the loss of Aq - 1 of them. `holds` says whether a member holds the entry with the bytes that were sent.
///
/// # Errors
/// [`Violation`] for the first entry with fewer copies.
pub fn all_acked_entries_are_readable(
    acked: Lac,
    metadata: &LedgerMetadata,
    holds: impl Fn(BookieMember, EntryId) -> bool,
) -> Result<(), Violation> {
    for entry in (0..acked.count()).map(EntryId) {
        let copies = metadata.ensemble_of(entry).iter().filter(|m| holds(**m, entry)).count();
        if !metadata.quorum.is_acked(copies) {
            let needed = metadata.quorum.ack();
            return Err(Violation(format!("acknowledged entry {entry} has {copies} of {needed} copies")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_invariant_sees_its_violation() {
        let q = Quorum::new(3, 3, 2).expect("legal");
        assert!(all_committed_entries_reach_ack_quorum(q, EntryId(0), 2).is_ok());
        assert!(all_committed_entries_reach_ack_quorum(q, EntryId(0), 1).is_err());
        assert!(no_out_of_order_entries(Lac::at(EntryId(4)), EntryId(5)).is_ok());
        assert!(no_out_of_order_entries(Lac::at(EntryId(4)), EntryId(6)).is_err());
        let closed = |last_entry| LedgerState::Closed { last_entry, length: 0 };
        let acked = Lac::at(EntryId(1));
        assert!(no_divergence_between_client_and_metadata(acked, &LedgerState::InRecovery).is_ok());
        assert!(no_divergence_between_client_and_metadata(acked, &closed(Some(EntryId(1)))).is_ok());
        assert!(no_divergence_between_client_and_metadata(acked, &closed(Some(EntryId(0)))).is_err());
        assert!(no_divergence_between_client_and_metadata(acked, &closed(None)).is_err());
    }
}

//! Limbo: what a bookie does when acknowledged state was lost (rule B12).
//!
//! Owns the judgement at start and the marks on disk. A bookie in limbo serves what it has, fences everything it knows,
//! and denies nothing: each of its "not here" is "unknown". It ends when peers have healed it, or when the operator says
//! that the loss is accepted. From then on it takes no unknown ledger for a new one that may be older than the loss: what
//! it forgot may have been a tombstone or a fence ([`Floor`]).

use crate::{
    ledger::{Floor, KnownLedger, LedgerRecord},
    store::{Batch, EntryStore, StoreError, StoreState, Write},
};
use protocol::{
    id::LedgerId,
    mutant::{Mutant, Mutants},
};

/// Ledgers per batch while marking.
const PAGE: usize = 1000;

/// What the store and the watermark say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that was acknowledged is missing.
    Sound,
    /// Batches that were synced are gone.
    Lost {
        /// How far the store was certainly synced.
        synced: u64,
        /// How far it goes now.
        found: u64,
    },
    /// The watermark is gone, so it is not known whether anything else is.
    NoWatermark,
    /// It was in limbo before and is not healed.
    Unhealed,
}

/// Judges a store that was opened. `watermark` is none if its file says nothing.
pub(crate) const fn judge(state: StoreState, watermark: Option<u64>, mutants: Mutants) -> Verdict {
    match watermark {
        Some(synced) if synced > state.commit && !mutants.has(Mutant::IgnoreWatermark) => {
            Verdict::Lost { synced, found: state.commit }
        }
        _ if state.limbo => Verdict::Unhealed,
        Some(_) => Verdict::Sound,
        None => Verdict::NoWatermark,
    }
}

/// Marks everything, durably: the bookie first, so that a crash in between begins again; then every known ledger.
pub(crate) fn enter(store: &dyn EntryStore) -> Result<(), StoreError> {
    let mut first = Batch::default();
    first.push(Write::Limbo(true));
    store.commit(&first)?;
    // B12: a fence may be among what was lost.
    rewrite(store, |known| KnownLedger { fenced: true, limbo: true, ..known })
}

/// The operator has accepted the loss: absence counts again. Ledgers stay fenced, so whoever wrote them recovers them.
///
/// The floor rises as it does after healing, and here it does more: nobody has marked the ledgers that were lost as a
/// whole, so each of them is unknown, and the floor alone keeps their writers out. It is a number that metadata gave for
/// this start; a start that gets none is refused, and the loss stays to be accepted.
pub(crate) fn leave(store: &dyn EntryStore, floor: Floor) -> Result<(), StoreError> {
    rewrite(store, |known| KnownLedger { fenced: true, limbo: false, ..known })?;
    let mut last = Batch::default();
    last.push(Write::Floor(store.state()?.floor.max(floor)));
    last.push(Write::Limbo(false));
    store.commit(&last).map(drop)
}

fn rewrite(store: &dyn EntryStore, change: impl Fn(KnownLedger) -> KnownLedger) -> Result<(), StoreError> {
    let mut after: Option<LedgerId> = None;
    loop {
        let page = store.ledgers(after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        let mut batch = Batch::default();
        for (id, record) in page {
            if let LedgerRecord::Known(known) = record {
                batch.push(Write::Ledger(id, LedgerRecord::Known(change(known))));
            }
        }
        if !batch.is_empty() {
            store.commit(&batch)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{conformance::batch_of, memory::MemoryStore};
    use protocol::id::{Lac, LedgerKey};

    #[test]
    fn a_store_below_its_watermark_has_lost_something() {
        let state = |commit, limbo| StoreState { commit, limbo, ..StoreState::default() };
        assert_eq!(judge(state(5, false), Some(5), Mutants::NONE), Verdict::Sound);
        assert_eq!(
            judge(state(6, false), Some(5), Mutants::NONE),
            Verdict::Sound,
            "the watermark is behind, never ahead"
        );
        assert_eq!(judge(state(4, false), Some(5), Mutants::NONE), Verdict::Lost { synced: 5, found: 4 });
        assert_eq!(judge(state(0, false), None, Mutants::NONE), Verdict::NoWatermark);
        assert_eq!(judge(state(9, true), Some(5), Mutants::NONE), Verdict::Unhealed);
    }

    #[test]
    fn every_known_ledger_is_marked_and_deleted_ones_stay_deleted() {
        let store = MemoryStore::new();
        let known = KnownLedger { key: LedgerKey(1), fenced: false, limbo: false, lac: Lac::from_count(2) };
        let ids = 0..(PAGE as u64 * 2 + 3);
        store
            .commit(&batch_of(ids.clone().map(|id| Write::Ledger(LedgerId(id), LedgerRecord::Known(known)))))
            .expect("ok");
        store.commit(&batch_of([Write::Ledger(LedgerId(7), LedgerRecord::Deleted)])).expect("committed");
        let of = |id| store.ledger(LedgerId(id)).expect("read");
        enter(&store).expect("marked");
        store.crash();
        assert!(store.state().expect("state").limbo);
        for id in ids.filter(|id| *id != 7) {
            assert_eq!(of(id), Some(LedgerRecord::Known(KnownLedger { fenced: true, limbo: true, ..known })));
        }
        assert_eq!(of(7), Some(LedgerRecord::Deleted));
        leave(&store, Floor(LedgerId(9))).expect("marked");
        leave(&store, Floor(LedgerId(8))).expect("marked");
        store.crash();
        let state = store.state().expect("state");
        assert_eq!((state.limbo, state.floor), (false, Floor(LedgerId(9))), "a floor never falls");
        assert_eq!(of(0), Some(LedgerRecord::Known(KnownLedger { fenced: true, ..known })), "the fence stays");
    }
}

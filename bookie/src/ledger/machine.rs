//! One ledger on one bookie: key, fence, limbo, last-add-confirmed, tombstone. Events in, verdicts out.
//!
//! Owns the order in which a request is judged: deleted, wrong key, fenced, then the entry itself. Keeps these
//! invariants: a fence and a tombstone are never taken back; last-add-confirmed never falls; a negative answer is given
//! only when it is known to be true (rules B3, B5, B8, B12, R9).

use protocol::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    service::bookie::BookieError,
};

/// What is stored about a ledger beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerRecord {
    /// The ledger exists here.
    Known(KnownLedger),
    /// The ledger was deleted, for ever.
    Deleted,
}

/// What is stored about a ledger that exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLedger {
    /// The ledger's secret, as its first add or fence named it.
    pub key: LedgerKey,
    /// Only recovery may add.
    pub fenced: bool,
    /// State was lost: what is missing here is not known to be missing.
    pub limbo: bool,
    /// The highest last-add-confirmed that an idle writer told; entries carry their own.
    pub lac: Lac,
}

/// An add, as far as the ledger is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Add {
    /// The key that was presented.
    pub key: LedgerKey,
    /// Whether recovery or repair sent it.
    pub recovery: bool,
    /// Where the entry belongs.
    pub entry: EntryId,
    /// What its writer had confirmed.
    pub lac: Lac,
}

/// What has to be looked at before an add is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The entry cannot be here yet: it lies beyond the last one.
    Fresh,
    /// An entry with this id may be here already: compare, and accept if there is none.
    Compare,
}

/// The state of one ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    id: LedgerId,
    record: Option<LedgerRecord>,
    last: Option<EntryId>,
    lac: Lac,
}

impl Ledger {
    /// The ledger as storage has it: its record, and its last entry with the confirmation that entry carries.
    #[must_use]
    pub fn restore(id: LedgerId, record: Option<LedgerRecord>, last: Option<(EntryId, Lac)>) -> Self {
        let told = match record {
            Some(LedgerRecord::Known(known)) => known.lac,
            Some(LedgerRecord::Deleted) | None => Lac::NONE,
        };
        let carried = last.map_or(Lac::NONE, |(_, lac)| lac);
        Self { id, record, last: last.map(|(entry, _)| entry), lac: told.max(carried) }
    }

    /// Judges an add without changing anything.
    ///
    /// # Errors
    /// [`BookieError::Deleted`], [`BookieError::WrongKey`] or [`BookieError::Fenced`].
    pub fn judge(&self, add: &Add) -> Result<Placement, BookieError> {
        if let Some(known) = self.admit(add.key)?
            && known.fenced
            && !add.recovery
        {
            return Err(BookieError::Fenced(self.id));
        }
        let beyond = self.last.is_none_or(|last| add.entry > last);
        Ok(if beyond { Placement::Fresh } else { Placement::Compare })
    }

    /// Takes an add that was judged acceptable. Returns whether the record must be stored with the entry.
    pub fn accept(&mut self, add: &Add) -> bool {
        self.last = self.last.max(Some(add.entry));
        self.lac = self.lac.max(add.lac);
        let first = self.record.is_none();
        self.know(add.key);
        first
    }

    /// Fences the ledger, known or not (rule R3). Returns whether the record must be stored before the answer.
    ///
    /// # Errors
    /// [`BookieError::Deleted`] or [`BookieError::WrongKey`].
    pub fn fence(&mut self, key: LedgerKey) -> Result<bool, BookieError> {
        self.admit(key)?;
        let known = self.know(key);
        let changed = !known.fenced;
        known.fenced = true;
        Ok(changed)
    }

    /// Takes note of what an idle writer has confirmed. Returns whether the record is to be stored some time.
    ///
    /// # Errors
    /// [`BookieError::Deleted`] or [`BookieError::WrongKey`].
    pub fn confirm(&mut self, key: LedgerKey, lac: Lac) -> Result<bool, BookieError> {
        self.admit(key)?;
        let known = self.know(key);
        let changed = known.lac < lac;
        known.lac = known.lac.max(lac);
        self.lac = self.lac.max(lac);
        Ok(changed)
    }

    /// Deletes the ledger, known or not (rule B8). Returns whether the record must be stored before the answer.
    pub fn delete(&mut self) -> bool {
        let changed = self.record != Some(LedgerRecord::Deleted);
        (self.record, self.last, self.lac) = (Some(LedgerRecord::Deleted), None, Lac::NONE);
        changed
    }

    /// State of this ledger may have been lost: it is fenced, and absence says nothing (rule B12). Returns whether the
    /// record must be stored before the answer.
    ///
    /// # Errors
    /// [`BookieError::Deleted`] or [`BookieError::WrongKey`].
    pub fn suspect(&mut self, key: LedgerKey) -> Result<bool, BookieError> {
        self.admit(key)?;
        let known = self.know(key);
        let changed = !known.fenced || !known.limbo;
        (known.fenced, known.limbo) = (true, true);
        Ok(changed)
    }

    /// What was lost is here again, or nobody will ask for it: absence counts. The fence stays. Returns whether the
    /// record must be stored before the answer.
    pub fn heal(&mut self) -> bool {
        match &mut self.record {
            Some(LedgerRecord::Known(known)) if known.fenced => std::mem::replace(&mut known.limbo, false),
            Some(LedgerRecord::Known(_) | LedgerRecord::Deleted) | None => false,
        }
    }

    /// What is to be stored; none while nothing is known of the ledger.
    #[must_use]
    pub const fn record(&self) -> Option<LedgerRecord> {
        self.record
    }

    /// The highest last-add-confirmed seen.
    #[must_use]
    pub const fn lac(&self) -> Lac {
        self.lac
    }

    /// The highest entry held.
    #[must_use]
    pub const fn last(&self) -> Option<EntryId> {
        self.last
    }

    /// Whether the ledger was deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.record == Some(LedgerRecord::Deleted)
    }

    /// Whether state of this ledger was lost.
    #[must_use]
    pub fn is_limbo(&self) -> bool {
        matches!(self.record, Some(LedgerRecord::Known(known)) if known.limbo)
    }

    /// The honest answer to a question for something that was not found here: `entry`, or the ledger itself.
    #[must_use]
    pub fn absence(&self, entry: Option<EntryId>) -> BookieError {
        match (self.record, entry) {
            (Some(LedgerRecord::Deleted), _) => BookieError::Deleted(self.id),
            (Some(LedgerRecord::Known(known)), _) if known.limbo => limbo(self.id),
            (Some(LedgerRecord::Known(_)), Some(entry)) => BookieError::NoSuchEntry(self.id, entry),
            (Some(LedgerRecord::Known(_)) | None, _) => BookieError::NoSuchLedger(self.id),
        }
    }

    /// The invariant of every step: a tombstone, a fence and a key stay, limbo ends only behind a fence; last entry and
    /// confirmation never fall.
    #[must_use]
    pub fn goes_only_forward_from(&self, before: &Self) -> bool {
        let stays = match (before.record, self.record) {
            (Some(LedgerRecord::Deleted), now) => return now == Some(LedgerRecord::Deleted),
            (_, Some(LedgerRecord::Deleted)) => return true,
            (None, _) => true,
            (Some(LedgerRecord::Known(was)), Some(LedgerRecord::Known(is))) => {
                is.key == was.key
                    && is.fenced >= was.fenced
                    && (is.limbo >= was.limbo || is.fenced)
                    && is.lac >= was.lac
            }
            (Some(LedgerRecord::Known(_)), None) => false,
        };
        stays && self.id == before.id && self.last >= before.last && self.lac >= before.lac
    }

    /// Compares the key with the one that is known.
    fn admit(&self, key: LedgerKey) -> Result<Option<KnownLedger>, BookieError> {
        match self.record {
            Some(LedgerRecord::Deleted) => Err(BookieError::Deleted(self.id)),
            Some(LedgerRecord::Known(known)) if known.key != key => Err(BookieError::WrongKey(self.id)),
            Some(LedgerRecord::Known(known)) => Ok(Some(known)),
            None => Ok(None),
        }
    }

    /// The record of a ledger that was admitted, made now if this is its first appearance.
    fn know(&mut self, key: LedgerKey) -> &mut KnownLedger {
        let fresh = KnownLedger { key, fenced: false, limbo: false, lac: Lac::NONE };
        match self.record.get_or_insert(LedgerRecord::Known(fresh)) {
            LedgerRecord::Known(known) => known,
            LedgerRecord::Deleted => unreachable!("a deleted ledger admits nothing"),
        }
    }
}

/// The answer for a ledger whose state was lost.
#[must_use]
fn limbo(ledger: LedgerId) -> BookieError {
    BookieError::Unknown { reason: format!("this bookie lost state of ledger {ledger} and is in limbo") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: LedgerId = LedgerId(7);
    const KEY: LedgerKey = LedgerKey(99);

    fn new() -> Ledger {
        Ledger::restore(ID, None, None)
    }

    fn add(entry: u64) -> Add {
        Add { key: KEY, recovery: false, entry: EntryId(entry), lac: Lac::from_count(entry) }
    }

    fn known(ledger: &Ledger) -> KnownLedger {
        match ledger.record() {
            Some(LedgerRecord::Known(known)) => known,
            other => panic!("not known: {other:?}"),
        }
    }

    #[test]
    fn the_first_add_makes_the_ledger_known_with_its_key() {
        let mut ledger = new();
        assert_eq!(ledger.absence(Some(EntryId(0))), BookieError::NoSuchLedger(ID));
        assert_eq!(ledger.judge(&add(0)), Ok(Placement::Fresh));
        assert!(ledger.accept(&add(0)), "the key must be stored with the first entry (rule B1)");
        assert!(!ledger.accept(&add(1)));
        assert_eq!((known(&ledger).key, ledger.last(), ledger.lac()), (KEY, Some(EntryId(1)), Lac::from_count(1)));
        assert_eq!(ledger.absence(Some(EntryId(2))), BookieError::NoSuchEntry(ID, EntryId(2)));
        let stranger = Add { key: LedgerKey(1), ..add(2) };
        assert_eq!(ledger.judge(&stranger), Err(BookieError::WrongKey(ID)));
        assert_eq!(ledger.fence(LedgerKey(1)), Err(BookieError::WrongKey(ID)));
        assert_eq!(ledger.confirm(LedgerKey(1), Lac::from_count(9)), Err(BookieError::WrongKey(ID)));
    }

    #[test]
    fn entries_at_or_below_the_last_are_compared() {
        let mut ledger = new();
        ledger.accept(&add(5));
        assert_eq!(ledger.judge(&add(5)), Ok(Placement::Compare));
        assert_eq!(ledger.judge(&add(2)), Ok(Placement::Compare), "a gap may be filled, and must be looked at");
        assert_eq!(ledger.judge(&add(9)), Ok(Placement::Fresh), "a bookie may hold gaps");
    }

    #[test]
    fn a_fence_stops_the_writer_and_lets_recovery_pass() {
        let mut ledger = new();
        assert_eq!(ledger.fence(KEY), Ok(true), "also for a ledger never seen (rule R3)");
        assert_eq!(ledger.fence(KEY), Ok(false));
        assert_eq!(ledger.judge(&add(0)), Err(BookieError::Fenced(ID)));
        let recovery = Add { recovery: true, ..add(0) };
        assert_eq!(ledger.judge(&recovery), Ok(Placement::Fresh));
        ledger.accept(&recovery);
        assert!(known(&ledger).fenced, "recovery does not lift the fence");
    }

    #[test]
    fn a_deleted_ledger_refuses_everything_for_ever() {
        let mut ledger = new();
        ledger.accept(&add(3));
        assert!(ledger.delete() && !ledger.delete());
        let recovery = Add { recovery: true, ..add(4) };
        assert_eq!(ledger.judge(&recovery), Err(BookieError::Deleted(ID)));
        assert_eq!(ledger.fence(KEY), Err(BookieError::Deleted(ID)));
        assert_eq!(ledger.confirm(KEY, Lac::from_count(1)), Err(BookieError::Deleted(ID)));
        assert_eq!(ledger.absence(Some(EntryId(3))), BookieError::Deleted(ID));
        let again = Ledger::restore(ID, ledger.record(), None);
        assert_eq!(again.judge(&add(4)), Err(BookieError::Deleted(ID)));
    }

    #[test]
    fn in_limbo_nothing_is_known_to_be_missing() {
        let record = KnownLedger { key: KEY, fenced: true, limbo: true, lac: Lac::NONE };
        let ledger = Ledger::restore(ID, Some(LedgerRecord::Known(record)), None);
        assert!(ledger.is_limbo());
        assert!(matches!(ledger.absence(Some(EntryId(0))), BookieError::Unknown { .. }));
        assert!(matches!(ledger.absence(None), BookieError::Unknown { .. }));
        assert_eq!(ledger.judge(&add(0)), Err(BookieError::Fenced(ID)));
    }

    #[test]
    fn limbo_begins_with_a_fence_and_ends_behind_it() {
        let mut ledger = new();
        assert!(!ledger.heal(), "there is nothing to heal");
        assert_eq!(ledger.suspect(KEY), Ok(true), "also a ledger that was lost as a whole");
        assert_eq!(ledger.suspect(KEY), Ok(false));
        assert_eq!(ledger.suspect(LedgerKey(1)), Err(BookieError::WrongKey(ID)));
        assert!(known(&ledger).fenced && matches!(ledger.absence(Some(EntryId(0))), BookieError::Unknown { .. }));
        let before = ledger.clone();
        assert!(ledger.heal() && !ledger.heal());
        assert!(ledger.goes_only_forward_from(&before) && known(&ledger).fenced);
        assert_eq!(ledger.absence(Some(EntryId(0))), BookieError::NoSuchEntry(ID, EntryId(0)));
        ledger.delete();
        assert!(!ledger.heal());
        assert_eq!(ledger.suspect(KEY), Err(BookieError::Deleted(ID)));
    }

    #[test]
    fn confirmations_are_kept_and_never_fall() {
        let mut ledger = new();
        ledger.accept(&add(4));
        assert_eq!(ledger.confirm(KEY, Lac::from_count(5)), Ok(true));
        assert_eq!(ledger.confirm(KEY, Lac::from_count(3)), Ok(false));
        assert_eq!(ledger.lac(), Lac::from_count(5));
        let again = Ledger::restore(ID, ledger.record(), Some((EntryId(4), Lac::from_count(4))));
        assert_eq!((again.lac(), again.last()), (Lac::from_count(5), Some(EntryId(4))));
    }

    #[test]
    fn going_back_is_noticed() {
        let mut before = new();
        before.accept(&add(3));
        before.fence(KEY).expect("fenced");
        assert!(before.goes_only_forward_from(&new()) && !new().goes_only_forward_from(&before));
        let Some(LedgerRecord::Known(known)) = before.record() else { panic!("known") };
        let with =
            |known, last| Ledger::restore(ID, Some(LedgerRecord::Known(known)), Some((EntryId(last), before.lac())));
        assert!(with(known, 3).goes_only_forward_from(&before));
        assert!(!with(KnownLedger { fenced: false, ..known }, 3).goes_only_forward_from(&before), "a fence was lifted");
        assert!(!with(known, 2).goes_only_forward_from(&before), "an entry was lost");
        assert!(!with(KnownLedger { key: LedgerKey(1), ..known }, 3).goes_only_forward_from(&before));
        let mut deleted = before.clone();
        deleted.delete();
        assert!(deleted.goes_only_forward_from(&before) && !before.goes_only_forward_from(&deleted));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Add(u64, bool),
        Fence,
        Confirm(u64),
        Delete,
        Restart,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            8 => (0..20u64, any::<bool>()).prop_map(|(entry, recovery)| Event::Add(entry, recovery)),
            1 => Just(Event::Fence),
            2 => (0..20u64).prop_map(Event::Confirm),
            1 => Just(Event::Delete),
            2 => Just(Event::Restart),
        ];
        prop::collection::vec(event, 1..60)
    }

    proptest! {
        #[test]
        fn fences_tombstones_and_confirmations_only_go_forward(events in events()) {
            let mut ledger = new();
            let (mut fenced, mut deleted) = (false, false);
            for event in events {
                let before = ledger.clone();
                match event {
                    Event::Add(entry, recovery) => {
                        let add = Add { recovery, ..add(entry) };
                        let judged = ledger.judge(&add);
                        prop_assert_eq!(judged.is_ok(), !deleted && (recovery || !fenced));
                        if judged.is_ok() {
                            ledger.accept(&add);
                        }
                    }
                    Event::Fence => {
                        prop_assert_eq!(ledger.fence(KEY).is_ok(), !deleted);
                        fenced |= !deleted;
                    }
                    Event::Confirm(count) => {
                        prop_assert_eq!(ledger.confirm(KEY, Lac::from_count(count)).is_ok(), !deleted);
                    }
                    Event::Delete => {
                        ledger.delete();
                        deleted = true;
                    }
                    Event::Restart => {
                        let last = ledger.last().map(|last| (last, ledger.lac()));
                        ledger = Ledger::restore(ID, ledger.record(), last);
                    }
                }
                prop_assert!(ledger.goes_only_forward_from(&before));
                prop_assert_eq!(ledger.is_deleted(), deleted);
            }
        }
    }
}

//! The suite of [`BookieService`].

use super::within;
use crate::{
    id::{EntryId, Incarnation, Lac, LedgerId, LedgerKey},
    ledger::{
        entry::{MAX_ENTRY, SEAL_LEN, SealedEntry},
        metadata::BookieMember,
    },
    service::{
        Answer,
        bookie::{
            AddEntry, BookieError, BookieService, ConfirmLac, CopyEntries, DeleteLedger, EntryList, EntryRun,
            FenceLedger, ListEntries, ReadEntries, WaitLac,
        },
    },
};
use bytes::BytesMut;
use std::{ops::RangeInclusive, sync::Arc, time::Duration};

/// The secret that the suite's ledgers have.
const KEY: LedgerKey = LedgerKey(0x5eed);
/// Ledgers of the suite; far from the ids that anything else would use.
const FIRST_LEDGER: u64 = 1 << 40;

/// Checks a bookie. `member` is who it says it is; it must hold no ledger from 2^40 on.
///
/// # Panics
/// At the first broken promise.
pub async fn bookie(service: Arc<dyn BookieService>, member: BookieMember) {
    let on = |n: u64| Desk { service: Arc::clone(&service), member, ledger: LedgerId(FIRST_LEDGER + n) };
    runs_are_dense_and_bounded(&on(0)).await;
    absence_is_told_apart(&on(1)).await;
    an_entry_never_changes(&on(2)).await;
    oversized_entries_are_refused(&on(3)).await;
    another_life_is_refused(&on(4)).await;
    the_key_is_compared(&on(5)).await;
    a_fence_stops_the_writer_only(&on(6)).await;
    a_fence_precedes_the_first_add(&on(7)).await;
    recovery_reads_fence(&on(8)).await;
    deleted_is_for_ever(&on(9)).await;
    deleted_before_the_first_add(&on(10)).await;
    lists_are_paged(&on(11)).await;
    confirmed_only_grows(&on(12)).await;
    waiting_ends(&on(13)).await;
    calls_take_effect_in_call_order(&on(14)).await;
    dropped_answers_do_not_stop_work(&on(15)).await;
    every_admitted_call_is_answered(&on(16)).await;
}

/// Checks that `copier` copies from `source`; each must know the other, and neither may hold ledgers from 2^41 on.
///
/// # Panics
/// At the first broken promise.
pub async fn bookie_copies(
    source: (Arc<dyn BookieService>, BookieMember),
    copier: (Arc<dyn BookieService>, BookieMember),
) {
    let ledger = LedgerId(FIRST_LEDGER << 1);
    let from = Desk { service: source.0, member: source.1, ledger };
    let to = Desk { service: copier.0, member: copier.1, ledger };
    for n in 0..10 {
        from.add(n).await.expect("adds");
    }
    let copy = |entries| CopyEntries { member: to.member, source: from.member, ledger, key: KEY, entries };
    let copied = within("copy", to.service.copy_entries(copy(2..=5))).await;
    assert_eq!(copied, Ok(4));
    assert_eq!(to.list(0, 10).await.map(|l| l.runs), Ok(vec![2..=5]));
    let (there, here) = (from.read(2).await.expect("held"), to.read(2).await.expect("copied"));
    assert_eq!(there.entries[0], here.entries[0], "copied byte for byte");
    // Repair copies into ledgers whose writer is long fenced.
    to.fence().await.expect("fences");
    assert_eq!(within("copy", to.service.copy_entries(copy(4..=7))).await.map(|_| ()), Ok(()));
    assert_eq!(to.list(0, 10).await.map(|l| l.runs), Ok(vec![2..=7]));
}

/// A bookie and the ledger that one check works on.
struct Desk {
    service: Arc<dyn BookieService>,
    member: BookieMember,
    ledger: LedgerId,
}

impl Desk {
    fn entry(&self, id: u64, payload: &[u8]) -> SealedEntry {
        let mut buf = BytesMut::zeroed(SEAL_LEN);
        buf.extend_from_slice(payload);
        SealedEntry::seal(buf, self.ledger, EntryId(id), Lac::from_count(id.saturating_sub(1)), (id + 1) * 10)
    }

    fn request(&self, id: u64) -> AddEntry {
        let entry = self.entry(id, format!("payload {id:03}").as_bytes());
        AddEntry { member: self.member, key: KEY, recovery: false, entry }
    }

    /// Makes the call; the answer waits for its time.
    fn add_now(&self, id: u64) -> Answer<(), BookieError> {
        self.service.add_entry(self.request(id))
    }

    async fn send(&self, add: AddEntry) -> Result<(), BookieError> {
        within("add", self.service.add_entry(add)).await
    }

    async fn add(&self, id: u64) -> Result<(), BookieError> {
        within("add", self.add_now(id)).await
    }

    async fn add_recovery(&self, id: u64) -> Result<(), BookieError> {
        self.send(AddEntry { recovery: true, ..self.request(id) }).await
    }

    fn reading(&self, first: u64) -> ReadEntries {
        let (member, ledger, first) = (self.member, self.ledger, EntryId(first));
        ReadEntries { member, ledger, first, max_count: 100, max_bytes: 1 << 20, fence: None }
    }

    async fn fetch(&self, read: ReadEntries) -> Result<EntryRun, BookieError> {
        within("read", self.service.read_entries(read)).await
    }

    async fn read(&self, first: u64) -> Result<EntryRun, BookieError> {
        self.fetch(self.reading(first)).await
    }

    async fn ids(&self, read: ReadEntries) -> Vec<u64> {
        let run = self.fetch(read).await.expect("the entries are there");
        run.entries.iter().map(|e| e.entry().0).collect()
    }

    async fn fence_with(&self, key: LedgerKey) -> Result<Lac, BookieError> {
        let fence = FenceLedger { member: self.member, ledger: self.ledger, key };
        within("fence", self.service.fence_ledger(fence)).await
    }

    async fn fence(&self) -> Result<Lac, BookieError> {
        self.fence_with(KEY).await
    }

    async fn list(&self, first: u64, limit: u32) -> Result<EntryList, BookieError> {
        let list = ListEntries { member: self.member, ledger: self.ledger, first: EntryId(first), limit };
        within("list", self.service.list_entries(list)).await
    }

    async fn delete(&self) -> Result<(), BookieError> {
        let delete = DeleteLedger { member: self.member, ledger: self.ledger };
        within("delete", self.service.delete_ledger(delete)).await
    }

    async fn confirm(&self, count: u64) -> Result<(), BookieError> {
        let lac = Lac::from_count(count);
        let confirm = ConfirmLac { member: self.member, ledger: self.ledger, key: KEY, lac };
        within("confirm", self.service.confirm_lac(confirm)).await
    }

    fn waiting(&self, beyond: u64, timeout: Duration) -> Answer<Lac, BookieError> {
        let beyond = Lac::from_count(beyond);
        self.service.wait_lac(WaitLac { member: self.member, ledger: self.ledger, beyond, timeout })
    }
}

async fn runs_are_dense_and_bounded(desk: &Desk) {
    for id in [0, 1, 2, 3, 5, 6] {
        desk.add(id).await.expect("adds");
    }
    let run = desk.read(0).await.expect("reads");
    assert_eq!(run.entries.iter().map(|e| e.entry().0).collect::<Vec<_>>(), [0, 1, 2, 3], "a run ends at a gap");
    assert_eq!(run.entries[2].bytes(), desk.entry(2, b"payload 002").bytes(), "served byte for byte");
    assert_eq!(desk.ids(desk.reading(5)).await, [5, 6]);
    assert_eq!(desk.ids(ReadEntries { max_count: 2, ..desk.reading(1) }).await, [1, 2]);
    let size = desk.entry(0, b"payload 000").bytes().len() as u32;
    assert_eq!(desk.ids(ReadEntries { max_bytes: 2 * size, ..desk.reading(0) }).await, [0, 1]);
    assert_eq!(
        desk.ids(ReadEntries { max_bytes: 1, ..desk.reading(2) }).await,
        [2],
        "the first comes whatever its size"
    );
}

async fn absence_is_told_apart(desk: &Desk) {
    let no_ledger = BookieError::NoSuchLedger(desk.ledger);
    assert_eq!(desk.read(0).await.map(|_| ()), Err(no_ledger.clone()));
    assert_eq!(desk.list(0, 1).await, Err(no_ledger));
    desk.add(0).await.expect("adds");
    assert_eq!(desk.read(1).await.map(|_| ()), Err(BookieError::NoSuchEntry(desk.ledger, EntryId(1))));
}

async fn an_entry_never_changes(desk: &Desk) {
    desk.add(0).await.expect("adds");
    assert_eq!(desk.add(0).await, Ok(()), "the same entry again is the same entry");
    assert_eq!(desk.add_recovery(0).await, Ok(()));
    let other = AddEntry { entry: desk.entry(0, b"something else"), ..desk.request(0) };
    let different = BookieError::Different(desk.ledger, EntryId(0));
    assert_eq!(desk.send(other.clone()).await, Err(different.clone()));
    assert_eq!(desk.send(AddEntry { recovery: true, ..other }).await, Err(different));
    assert_eq!(&desk.read(0).await.expect("held").entries[0].payload()[..], b"payload 000");
}

async fn oversized_entries_are_refused(desk: &Desk) {
    let entry = desk.entry(0, &vec![7; MAX_ENTRY + 1 - SEAL_LEN]);
    let refused = desk.send(AddEntry { entry, ..desk.request(0) }).await;
    assert!(matches!(refused, Err(BookieError::BadEntry { .. })), "{refused:?}");
    assert!(desk.read(0).await.is_err(), "nothing was stored");
    desk.add(0).await.expect("the bookie lives on");
}

async fn another_life_is_refused(desk: &Desk) {
    let named = BookieMember { incarnation: Incarnation(desk.member.incarnation.0 + 1), ..desk.member };
    let wrong = BookieError::WrongMember { actual: desk.member, named };
    let other = Desk { service: Arc::clone(&desk.service), member: named, ledger: desk.ledger };
    assert_eq!(other.add(0).await, Err(wrong.clone()));
    assert_eq!(other.read(0).await.map(|_| ()), Err(wrong.clone()));
    assert_eq!(other.fence().await, Err(wrong.clone()));
    assert_eq!(other.list(0, 1).await, Err(wrong.clone()));
    assert_eq!(other.delete().await, Err(wrong.clone()));
    assert_eq!(other.confirm(1).await, Err(wrong.clone()));
    assert_eq!(within("wait", other.waiting(0, Duration::ZERO)).await, Err(wrong.clone()));
    let (ledger, entries) = (desk.ledger, RangeInclusive::new(0, 1));
    let copy = CopyEntries { member: named, source: desk.member, ledger, key: KEY, entries };
    assert_eq!(within("copy", desk.service.copy_entries(copy)).await, Err(wrong));
    desk.add(0).await.expect("nothing of that took effect");
}

async fn the_key_is_compared(desk: &Desk) {
    desk.add(0).await.expect("adds");
    let (bad, wrong) = (LedgerKey(1), BookieError::WrongKey(desk.ledger));
    assert_eq!(desk.send(AddEntry { key: bad, ..desk.request(1) }).await, Err(wrong.clone()));
    assert_eq!(desk.send(AddEntry { key: bad, recovery: true, ..desk.request(1) }).await, Err(wrong.clone()));
    assert_eq!(desk.fence_with(bad).await, Err(wrong.clone()));
    let fencing = ReadEntries { fence: Some(bad), ..desk.reading(0) };
    assert_eq!(desk.fetch(fencing).await.map(|_| ()), Err(wrong));
    assert_eq!(desk.add(1).await, Ok(()), "a wrong key fences nothing");
}

async fn a_fence_stops_the_writer_only(desk: &Desk) {
    for id in 0..3 {
        desk.add(id).await.expect("adds");
    }
    // Entry 2 carried entry 0 as confirmed.
    assert_eq!(desk.fence().await, Ok(Lac::at(EntryId(0))));
    let fenced = Err(BookieError::Fenced(desk.ledger));
    assert_eq!(desk.add(3).await, fenced);
    assert_eq!(desk.add_recovery(3).await, Ok(()));
    assert_eq!(desk.fence().await.map(|_| ()), Ok(()), "fencing twice is fencing");
    assert_eq!(desk.add(4).await, fenced);
    assert_eq!(desk.ids(desk.reading(0)).await, [0, 1, 2, 3]);
}

async fn a_fence_precedes_the_first_add(desk: &Desk) {
    assert_eq!(desk.fence().await, Ok(Lac::NONE));
    assert_eq!(desk.add(0).await, Err(BookieError::Fenced(desk.ledger)));
    assert_eq!(desk.fence_with(LedgerKey(1)).await, Err(BookieError::WrongKey(desk.ledger)));
}

async fn recovery_reads_fence(desk: &Desk) {
    desk.add(0).await.expect("adds");
    let missing = ReadEntries { fence: Some(KEY), ..desk.reading(1) };
    let absent = desk.fetch(missing).await.map(|_| ());
    assert_eq!(absent, Err(BookieError::NoSuchEntry(desk.ledger, EntryId(1))));
    assert_eq!(desk.add(1).await, Err(BookieError::Fenced(desk.ledger)), "the ledger is fenced, entry or not");
}

async fn deleted_is_for_ever(desk: &Desk) {
    desk.add(0).await.expect("adds");
    desk.delete().await.expect("deletes");
    let deleted = BookieError::Deleted(desk.ledger);
    assert_eq!(desk.add(0).await, Err(deleted.clone()));
    assert_eq!(desk.add_recovery(1).await, Err(deleted.clone()));
    assert_eq!(desk.fence().await, Err(deleted.clone()));
    let read = desk.read(0).await.map(|_| ());
    let gone = read == Err(deleted) || read == Err(BookieError::NoSuchLedger(desk.ledger));
    assert!(gone, "{read:?}");
    assert_eq!(desk.delete().await, Ok(()), "deleting twice is deleting");
}

async fn deleted_before_the_first_add(desk: &Desk) {
    desk.delete().await.expect("deletes");
    assert_eq!(desk.add(0).await, Err(BookieError::Deleted(desk.ledger)));
}

async fn lists_are_paged(desk: &Desk) {
    for id in [0, 1, 2, 4, 7, 8] {
        desk.add(id).await.expect("adds");
    }
    assert_eq!(desk.list(0, 10).await, Ok(EntryList { runs: vec![0..=2, 4..=4, 7..=8], more: false }));
    assert_eq!(desk.list(0, 2).await, Ok(EntryList { runs: vec![0..=2, 4..=4], more: true }));
    assert_eq!(desk.list(5, 2).await, Ok(EntryList { runs: vec![7..=8], more: false }));
    assert_eq!(desk.list(1, 1).await, Ok(EntryList { runs: vec![1..=2], more: true }));
}

async fn confirmed_only_grows(desk: &Desk) {
    for id in 0..4 {
        desk.add(id).await.expect("adds");
    }
    assert_eq!(desk.read(0).await.map(|run| run.lac), Ok(Lac::from_count(2)), "entries carry it");
    desk.confirm(4).await.expect("confirms");
    assert_eq!(desk.read(0).await.map(|run| run.lac), Ok(Lac::from_count(4)));
    desk.confirm(1).await.expect("an old confirmation is no error");
    assert_eq!(desk.fence().await, Ok(Lac::from_count(4)));
}

async fn waiting_ends(desk: &Desk) {
    desk.add(0).await.expect("adds");
    assert_eq!(within("wait", desk.waiting(0, Duration::from_millis(20))).await, Ok(Lac::NONE), "with what there is");
    let waiting = desk.waiting(0, Duration::from_secs(25));
    desk.confirm(1).await.expect("confirms");
    assert_eq!(within("wait", waiting).await, Ok(Lac::from_count(1)), "as soon as it is higher");
    assert_eq!(
        within("wait", desk.waiting(0, Duration::from_secs(25))).await,
        Ok(Lac::from_count(1)),
        "or already was"
    );
}

async fn calls_take_effect_in_call_order(desk: &Desk) {
    let adds: Vec<_> = (0..50).map(|id| desk.add_now(id)).collect();
    let fence = FenceLedger { member: desk.member, ledger: desk.ledger, key: KEY };
    let fence = desk.service.fence_ledger(fence);
    let late = desk.add_now(50);
    // Answers are waited for in the opposite order: the order of waiting must not matter.
    assert_eq!(within("late add", late).await, Err(BookieError::Fenced(desk.ledger)));
    assert!(within("fence", fence).await.is_ok());
    for add in adds.into_iter().rev() {
        assert_eq!(within("add", add).await, Ok(()));
    }
    assert_eq!(desk.list(0, 10).await.map(|l| l.runs), Ok(vec![0..=49]));
}

async fn dropped_answers_do_not_stop_work(desk: &Desk) {
    for id in 0..20 {
        drop(desk.add_now(id));
    }
    desk.add(20).await.expect("adds");
    assert_eq!(desk.list(0, 10).await.map(|l| l.runs), Ok(vec![0..=20]));
}

async fn every_admitted_call_is_answered(desk: &Desk) {
    let payload = vec![1; 256 * 1024];
    let add = |id| AddEntry { entry: desk.entry(id, &payload), ..desk.request(id) };
    let adds: Vec<_> = (0..200).map(|id| desk.service.add_entry(add(id))).collect();
    for (id, answer) in (0..).zip(adds) {
        match within("add", answer).await {
            Ok(()) => assert_eq!(desk.ids(ReadEntries { max_count: 1, ..desk.reading(id) }).await, [id]),
            Err(BookieError::Unavailable { .. }) => assert!(desk.read(id).await.is_err(), "refused means not stored"),
            Err(other) => panic!("add {id}: {other}"),
        }
    }
}

//! A directory that counts what bookies are asked, and lets chosen ones answer late.

use parking_lot::Mutex;
use protocol::{
    id::{BookieId, Lac},
    ledger::metadata::BookieMember,
    model::BookieRecord,
    service::{
        Answer,
        bookie::{
            AddEntry, BookieError, BookieService, ConfirmLac, CopyEntries, DeleteLedger, EntryList, EntryRun,
            FenceLedger, ListEntries, ReadEntries, WaitLac,
        },
        directory::BookieDirectory,
    },
    testing::directory::FakeDirectory,
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// The directory.
pub(in crate::ledger) struct Observed {
    pub(in crate::ledger) inner: Arc<FakeDirectory>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    reads: AtomicUsize,
    confirms: Mutex<Vec<(BookieMember, Lac)>>,
    late: Mutex<HashMap<BookieId, Duration>>,
}

impl Observed {
    pub(in crate::ledger) fn of(inner: Arc<FakeDirectory>) -> Arc<Self> {
        Arc::new(Self { inner, state: Arc::default() })
    }

    /// Read calls so far.
    pub(in crate::ledger) fn reads(&self) -> usize {
        self.state.reads.load(Ordering::Relaxed)
    }

    /// Who was told which last-add-confirmed.
    pub(in crate::ledger) fn confirms(&self) -> Vec<(BookieMember, Lac)> {
        self.state.confirms.lock().clone()
    }

    /// From now on this bookie answers adds after this long; it does what it is asked at once.
    pub(in crate::ledger) fn delay(&self, bookie: BookieId, by: Duration) {
        self.state.late.lock().insert(bookie, by);
    }
}

impl BookieDirectory for Observed {
    fn bookie(&self, member: BookieMember) -> Arc<dyn BookieService> {
        Arc::new(Handle { inner: self.inner.bookie(member), member, state: Arc::clone(&self.state) })
    }

    fn live(&self) -> Vec<BookieRecord> {
        self.inner.live()
    }
}

struct Handle {
    inner: Arc<dyn BookieService>,
    member: BookieMember,
    state: Arc<State>,
}

impl BookieService for Handle {
    fn add_entry(&self, add: AddEntry) -> Answer<(), BookieError> {
        let late = self.state.late.lock().get(&self.member.id).copied();
        let answer = self.inner.add_entry(add);
        match late {
            None => answer,
            Some(late) => Box::pin(async move {
                // The bookie is late; no test waits for that.
                drop(tokio::time::timeout(late, std::future::pending::<()>()).await);
                answer.await
            }),
        }
    }
    fn read_entries(&self, read: ReadEntries) -> Answer<EntryRun, BookieError> {
        self.state.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.read_entries(read)
    }
    fn fence_ledger(&self, fence: FenceLedger) -> Answer<Lac, BookieError> {
        self.inner.fence_ledger(fence)
    }
    fn list_entries(&self, list: ListEntries) -> Answer<EntryList, BookieError> {
        self.inner.list_entries(list)
    }
    fn delete_ledger(&self, delete: DeleteLedger) -> Answer<(), BookieError> {
        self.inner.delete_ledger(delete)
    }
    fn copy_entries(&self, copy: CopyEntries) -> Answer<u64, BookieError> {
        self.inner.copy_entries(copy)
    }
    fn confirm_lac(&self, confirm: ConfirmLac) -> Answer<(), BookieError> {
        self.state.confirms.lock().push((self.member, confirm.lac));
        self.inner.confirm_lac(confirm)
    }
    fn wait_lac(&self, wait: WaitLac) -> Answer<Lac, BookieError> {
        self.inner.wait_lac(wait)
    }
}

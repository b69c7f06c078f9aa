//! The bookies of the cluster as one process reaches them: its own in-process, the others over the network.
//!
//! Owns the links: two per bookie, made when they are first used, dropped when the bookie's record says another address
//! or another life, or is gone. Never remembers who was alive: every call looks at the cluster view, so a handle may be
//! kept for ever and still never talks to the past. A bookie that is not registered is unavailable at once.

use parking_lot::Mutex;
use protocol::{
    cluster::ClusterView,
    id::{BookieId, Lac},
    ledger::metadata::BookieMember,
    model::BookieRecord,
    runtime::Tasks,
    service::{
        Answer,
        bookie::{
            AddEntry, BookieError, BookieService, ConfirmLac, CopyEntries, DeleteLedger, EntryList, EntryRun,
            FenceLedger, ListEntries, ReadEntries, WaitLac,
        },
        directory::BookieDirectory,
        ready,
    },
    transport::tcp::TcpConnector,
    wire::{RemoteSettings, bookie::RemoteBookie},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// Every bookie that this process can reach. Clones share the links.
#[derive(Clone)]
pub struct ClusterBookies(Arc<Shared>);

struct Shared {
    view: ClusterView,
    settings: RemoteSettings,
    tasks: Tasks,
    local: OnceLock<(BookieMember, Arc<dyn BookieService>)>,
    links: Mutex<BTreeMap<BookieId, Links>>,
}

/// The ways to one bookie. Reads have one of their own, so that a consumer that catches up never delays an
/// acknowledgement, and a bookie that works off many reads still takes adds.
#[derive(Clone)]
struct Links {
    member: BookieMember,
    address: String,
    writes: RemoteBookie,
    reads: RemoteBookie,
}

impl ClusterBookies {
    /// The bookies that `view` shows. Links end with `tasks`.
    #[must_use]
    pub fn new(view: ClusterView, settings: RemoteSettings, tasks: &Tasks) -> Self {
        let (local, links) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Shared { view, settings, tasks: tasks.clone(), local, links }))
    }

    /// The bookie of this process is called without a network from now on. Only the first call counts.
    pub fn set_local(&self, member: BookieMember, bookie: Arc<dyn BookieService>) {
        let _ = self.0.local.set((member, bookie));
    }
}

impl BookieDirectory for ClusterBookies {
    fn bookie(&self, member: BookieMember) -> Arc<dyn BookieService> {
        match self.0.local.get() {
            // Meant for another life of our own bookie: it says so itself, because every call names the member.
            Some((local, bookie)) if local.id == member.id => Arc::clone(bookie),
            _ => Arc::new(Member { member, shared: Arc::clone(&self.0) }),
        }
    }

    fn live(&self) -> Vec<BookieRecord> {
        self.0.view.snapshot().bookies.values().map(|record| BookieRecord::clone(record)).collect()
    }
}

impl Shared {
    /// The links to a member that is registered.
    fn links(&self, member: BookieMember) -> Result<Links, BookieError> {
        let unavailable = |reason: String| BookieError::Unavailable { reason };
        let snapshot = self.view.snapshot();
        let record = snapshot.bookies.get(&member.id).filter(|record| record.member == member);
        let mut links = self.links.lock();
        let Some(record) = record else {
            // The links, if there are any, lead to a bookie that is gone, or to one that came back as another.
            if !snapshot.bookies.contains_key(&member.id) {
                links.remove(&member.id);
            }
            return Err(unavailable(format!("bookie {member} is not registered")));
        };
        let Some(address) = record.address.as_ref() else {
            return Err(unavailable(format!("bookie {member} listens to no other process: it has no bookie.address")));
        };
        match links.get(&member.id) {
            Some(known) if known.member == member && known.address == *address => Ok(known.clone()),
            _ => {
                let link = || {
                    let connector = Arc::new(TcpConnector::new(address.clone()));
                    RemoteBookie::new(connector, self.settings, &self.tasks)
                };
                let made = Links { member, address: address.clone(), writes: link(), reads: link() };
                links.insert(member.id, made.clone());
                Ok(made)
            }
        }
    }
}

/// A handle of one member, in this life of its disk.
struct Member {
    member: BookieMember,
    shared: Arc<Shared>,
}

impl Member {
    fn call<T: Send + 'static>(&self, call: impl FnOnce(Links) -> Answer<T, BookieError>) -> Answer<T, BookieError> {
        match self.shared.links(self.member) {
            Ok(links) => call(links),
            Err(problem) => ready(Err(problem)),
        }
    }
}

impl BookieService for Member {
    fn add_entry(&self, add: AddEntry) -> Answer<(), BookieError> {
        self.call(|links| links.writes.add_entry(add))
    }

    fn read_entries(&self, read: ReadEntries) -> Answer<EntryRun, BookieError> {
        // A read that fences changes something, and keeps its place among what else does.
        let fences = read.fence.is_some();
        self.call(|links| if fences { links.writes.read_entries(read) } else { links.reads.read_entries(read) })
    }

    fn fence_ledger(&self, fence: FenceLedger) -> Answer<Lac, BookieError> {
        self.call(|links| links.writes.fence_ledger(fence))
    }

    fn list_entries(&self, list: ListEntries) -> Answer<EntryList, BookieError> {
        self.call(|links| links.reads.list_entries(list))
    }

    fn delete_ledger(&self, delete: DeleteLedger) -> Answer<(), BookieError> {
        self.call(|links| links.writes.delete_ledger(delete))
    }

    fn copy_entries(&self, copy: CopyEntries) -> Answer<u64, BookieError> {
        self.call(|links| links.writes.copy_entries(copy))
    }

    fn confirm_lac(&self, confirm: ConfirmLac) -> Answer<(), BookieError> {
        self.call(|links| links.writes.confirm_lac(confirm))
    }

    fn wait_lac(&self, wait: WaitLac) -> Answer<Lac, BookieError> {
        self.call(|links| links.reads.wait_lac(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        cluster::ClusterSnapshot,
        id::{Incarnation, LedgerId, LedgerKey},
        model::BookieState,
        testing::FakeBookie,
        transport::tcp::TcpAcceptor,
        wire::{ServeSettings, Services, listen},
    };
    use std::time::Duration;

    /// Serves a fake on a free port and answers its address.
    async fn serve(fake: &FakeBookie, tasks: &Tasks) -> String {
        let acceptor = TcpAcceptor::bind("127.0.0.1:0").await.expect("a free port");
        let address = acceptor.address().expect("bound").to_string();
        let services = Services { bookie: Some(fake.service()), ..Services::default() };
        listen(acceptor, services, ServeSettings::default(), tasks);
        address
    }

    fn snapshot(bookies: &[(BookieMember, Option<String>)]) -> Arc<ClusterSnapshot> {
        let mut snapshot = ClusterSnapshot::default();
        for (member, address) in bookies {
            let record = BookieRecord { address: address.clone(), ..BookieRecord::new(*member, BookieState::Writable) };
            snapshot.bookies.insert(member.id, Arc::new(record));
        }
        Arc::new(snapshot)
    }

    async fn fence(bookie: &Arc<dyn BookieService>, member: BookieMember) -> Result<Lac, BookieError> {
        let fence = FenceLedger { member, ledger: LedgerId(1), key: LedgerKey(1) };
        tokio::time::timeout(Duration::from_secs(30), bookie.fence_ledger(fence)).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_handle_follows_the_record_and_is_unavailable_without_one() {
        let (tasks, fake) = (Tasks::default(), FakeBookie::numbered(1));
        let member = fake.member();
        let (view, publish) = ClusterView::controlled(ClusterSnapshot::default());
        let bookies = ClusterBookies::new(view, RemoteSettings::default(), &tasks);
        let handle = bookies.bookie(member);
        assert!(matches!(fence(&handle, member).await, Err(BookieError::Unavailable { .. })), "not registered");

        let first = tasks.child();
        let address = serve(&fake, &first).await;
        publish.send_replace(snapshot(&[(member, Some(address))]));
        assert!(fence(&handle, member).await.is_ok(), "the same handle, now that it is registered");
        assert_eq!(bookies.live().len(), 1);

        // It moves to another port.
        assert!(first.stop(Duration::from_secs(20)).await);
        let moved = serve(&fake, &tasks).await;
        publish.send_replace(snapshot(&[(member, Some(moved.clone()))]));
        assert!(fence(&handle, member).await.is_ok(), "a new address is a new link");

        // It comes back with another disk.
        let reborn = BookieMember { incarnation: Incarnation(member.incarnation.0 + 1), ..member };
        publish.send_replace(snapshot(&[(reborn, Some(moved))]));
        assert!(matches!(fence(&handle, member).await, Err(BookieError::Unavailable { .. })), "its old life is over");
        publish.send_replace(snapshot(&[]));
        assert!(matches!(fence(&handle, member).await, Err(BookieError::Unavailable { .. })));
        assert!(bookies.0.links.lock().is_empty(), "no link outlives its bookie");
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }

    #[tokio::test]
    async fn our_own_bookie_needs_no_address_and_another_one_does() {
        let (tasks, ours, other) = (Tasks::default(), FakeBookie::numbered(1), FakeBookie::numbered(2));
        let (view, _publish) = ClusterView::controlled(ClusterSnapshot::clone(&snapshot(&[
            (ours.member(), None),
            (other.member(), None),
        ])));
        let bookies = ClusterBookies::new(view, RemoteSettings::default(), &tasks);
        bookies.set_local(ours.member(), ours.service());
        assert!(fence(&bookies.bookie(ours.member()), ours.member()).await.is_ok());
        let refused = fence(&bookies.bookie(other.member()), other.member()).await;
        match refused {
            Err(BookieError::Unavailable { reason }) => assert!(reason.contains("bookie.address"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }
}

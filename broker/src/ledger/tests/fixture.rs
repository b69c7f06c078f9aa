//! A ledger on fake bookies, for the tests of the drivers.

use crate::ledger::{LedgerAppender, LedgerDeps, LedgerMetadataStore, NewLedger, ReplaceError, new_ledger};
use bytes::BytesMut;
use parking_lot::Mutex;
use protocol::{
    id::{LedgerId, LedgerKey, Timestamp},
    ledger::{
        entry::{SEAL_LEN, SealedEntry},
        metadata::{BookieMember, LedgerMetadata, LedgerState},
        quorum::Quorum,
    },
    service::{
        Answer, Reply,
        bookie::{BookieService, FenceLedger},
        directory::BookieDirectory,
        ready, reply,
    },
    testing::{bookie::FakeBookie, clock::ManualClock, directory::FakeDirectory},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::oneshot;

/// A payload with room for its seal.
pub(in crate::ledger) fn payload(bytes: &[u8]) -> BytesMut {
    let mut buf = BytesMut::zeroed(SEAL_LEN);
    buf.extend_from_slice(bytes);
    buf
}

/// Metadata that says yes, unless told otherwise.
#[derive(Default)]
pub(in crate::ledger) struct Store(Mutex<Told>);

#[derive(Default)]
struct Told {
    calls: usize,
    answers: VecDeque<Result<(), ReplaceError>>,
    held: Option<oneshot::Sender<Reply<(), ReplaceError>>>,
}

impl Store {
    /// How often it was asked.
    pub(in crate::ledger) fn calls(&self) -> usize {
        self.0.lock().calls
    }

    pub(in crate::ledger) fn answer_next(&self, answer: Result<(), ReplaceError>) {
        self.0.lock().answers.push_back(answer);
    }

    /// The next change is answered by whoever waits for this.
    pub(in crate::ledger) fn hold(&self) -> oneshot::Receiver<Reply<(), ReplaceError>> {
        let (held, holding) = oneshot::channel();
        self.0.lock().held = Some(held);
        holding
    }
}

impl LedgerMetadataStore for Store {
    fn replace(&self, expected: LedgerMetadata, new: LedgerMetadata) -> Answer<(), ReplaceError> {
        assert_ne!(expected, new);
        let mut told = self.0.lock();
        told.calls += 1;
        if let Some(held) = told.held.take() {
            let (reply, answer) = reply();
            drop(held.send(reply));
            return answer;
        }
        ready(told.answers.pop_front().unwrap_or(Ok(())))
    }
}

/// A new ledger and everything around it.
pub(in crate::ledger) struct Ledger {
    pub(in crate::ledger) directory: Arc<FakeDirectory>,
    pub(in crate::ledger) metadata: LedgerMetadata,
    pub(in crate::ledger) store: Arc<Store>,
}

impl Ledger {
    /// A ledger with `write` copies and an ack quorum of `ack`, among `bookies` bookies.
    pub(in crate::ledger) fn new(write: u8, ack: u8, bookies: u32) -> Self {
        let directory = FakeDirectory::of(bookies);
        let new = NewLedger {
            id: LedgerId(7),
            key: LedgerKey(99),
            wanted: Quorum::new(write, write, ack).expect("a legal quorum"),
            bookies: &directory.live(),
            now: Timestamp(0),
        };
        let metadata = new_ledger(&new).expect("enough bookies");
        Self { directory, metadata, store: Arc::default() }
    }

    pub(in crate::ledger) fn id(&self) -> LedgerId {
        self.metadata.id
    }

    pub(in crate::ledger) fn deps(&self) -> LedgerDeps {
        LedgerDeps::new(self.directory.clone(), Arc::new(ManualClock::default()))
    }

    pub(in crate::ledger) fn ensemble(&self) -> Vec<BookieMember> {
        self.metadata.fragments[0].ensemble.clone()
    }

    pub(in crate::ledger) fn bookie(&self, member: BookieMember) -> FakeBookie {
        self.directory.fake(member.id.0)
    }

    /// The bookie outside the ensemble.
    pub(in crate::ledger) fn spare(&self) -> BookieMember {
        let live = self.directory.live().into_iter().map(|b| b.member);
        live.into_iter().find(|m| !self.ensemble().contains(m)).expect("there is a spare")
    }

    pub(in crate::ledger) async fn fence(&self, member: BookieMember) {
        let fence = FenceLedger { member, ledger: self.id(), key: self.metadata.key };
        self.bookie(member).fence_ledger(fence).await.expect("fenced");
    }

    /// Another appender of the ledger that hears nothing.
    pub(in crate::ledger) fn appender(&self) -> LedgerAppender {
        LedgerAppender::open(self.deps(), self.metadata.clone(), self.store.clone(), Arc::new(|_| {}))
    }

    /// Writes and confirms entries `0`, `1`, ... everywhere; the ledger stays open.
    pub(in crate::ledger) async fn write(&self, count: u64) -> Vec<SealedEntry> {
        let appender = self.appender();
        let entries = (0..count).map(|n| appender.append(payload(format!("entry {n}").as_bytes())).expect("open"));
        let entries: Vec<_> = entries.collect();
        appender.finish().await.expect("all is well");
        for member in self.ensemble() {
            self.bookie(member).wait_entries(self.id(), entries.len()).await;
        }
        entries
    }

    /// The metadata after a take-over.
    pub(in crate::ledger) fn in_recovery(&self) -> LedgerMetadata {
        LedgerMetadata { state: LedgerState::InRecovery, ..self.metadata.clone() }
    }
}

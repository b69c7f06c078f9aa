//! Appends to a ledger: carries out what the writer's machine wants, on real bookies.
//!
//! Owns the bytes of unconfirmed entries, the handles of the ensemble, and the order in which the caller hears of
//! confirmations. It decides nothing about the protocol (see [`super::machine`]) and reads no clock but for latencies.
//!
//! Invariants: entries reach each bookie's handle in entry order, because they are handed over under the one lock; no
//! lock is held while something is awaited or the caller is called back; events are delivered in order, one at a time,
//! and never from inside [`LedgerAppender::append`], so the callback may append.

pub use super::machine::{ReplaceError, WriteError};

use super::{
    LedgerDeps,
    machine::{Command, Event, LedgerWriter, Limits},
    metrics::WriterMetrics,
    placement,
};
use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use protocol::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    ledger::{
        entry::{SEAL_LEN, SealedEntry},
        metadata::{BookieMember, Fragment, Hole, LedgerMetadata},
    },
    service::{
        Answer,
        bookie::{AddEntry, BookieError, BookieService},
    },
};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::watch;

/// Where a ledger's metadata lives: inside its owner's record, replaced by compare-and-swap (rule W8).
pub trait LedgerMetadataStore: Send + Sync + 'static {
    /// Replaces `expected` by `new`, if the ledger is still OPEN under the same owner and its metadata is `expected`.
    fn replace(&self, expected: LedgerMetadata, new: LedgerMetadata) -> Answer<(), ReplaceError>;
}

/// What the caller of an appender hears, in order; [`LedgerEvent::Failed`] comes at most once, and last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEvent {
    /// Everything up to here is synced on the ack quorum.
    Confirmed {
        /// The new last-add-confirmed.
        lac: Lac,
    },
    /// The ledger can no longer be written; the outcome of every unconfirmed entry is unknown.
    Failed(WriteError),
}

/// Where a ledger ends that its own writer has finished (rule W11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEnd {
    /// The last entry; none if nothing was written.
    pub last_entry: Option<EntryId>,
    /// Payload bytes up to and including it.
    pub length: u64,
    /// The fragments to close it with.
    pub fragments: Vec<Fragment>,
    /// Entries that members of their ensemble may lack, for repair.
    pub holes: Vec<Hole>,
}

/// The callback that hears of confirmations.
pub type LedgerEvents = Arc<dyn Fn(LedgerEvent) + Send + Sync>;

/// The one writer of a ledger. Cheap to clone; dropping it stops nothing that is in flight.
#[derive(Clone)]
pub struct LedgerAppender(Arc<Shared>);

struct Shared {
    deps: LedgerDeps,
    ledger: LedgerId,
    key: LedgerKey,
    store: Arc<dyn LedgerMetadataStore>,
    events: LedgerEvents,
    metrics: WriterMetrics,
    state: Mutex<Appending>,
    /// Set once, after the last event was delivered.
    ended: watch::Sender<Option<Result<LedgerEnd, WriteError>>>,
}

struct Appending {
    machine: LedgerWriter,
    /// The entries after last-add-confirmed, dense.
    unconfirmed: VecDeque<SealedEntry>,
    handles: Vec<(BookieMember, Arc<dyn BookieService>)>,
    /// Kept between steps for its allocation.
    commands: Vec<Command>,
    undelivered: VecDeque<LedgerEvent>,
    /// Whether some task is calling back; it also delivers what comes meanwhile.
    delivering: bool,
    end: Option<Result<LedgerEnd, WriteError>>,
}

impl LedgerAppender {
    /// Starts writing a ledger that was just created. To be called, and used, inside a tokio runtime.
    #[must_use]
    pub fn open(
        deps: LedgerDeps,
        metadata: LedgerMetadata,
        store: Arc<dyn LedgerMetadataStore>,
        events: LedgerEvents,
    ) -> Self {
        Self::open_with(deps, metadata, store, events, Limits::default())
    }

    /// Like [`LedgerAppender::open`], with other limits.
    #[must_use]
    pub fn open_with(
        deps: LedgerDeps,
        metadata: LedgerMetadata,
        store: Arc<dyn LedgerMetadataStore>,
        events: LedgerEvents,
        limits: Limits,
    ) -> Self {
        let (ledger, key) = (metadata.id, metadata.key);
        let ensemble = metadata.last_fragment().map(|f| f.ensemble.as_slice()).unwrap_or_default();
        let handles = ensemble.iter().map(|m| (*m, deps.bookies.bookie(*m))).collect();
        let state = Appending {
            machine: LedgerWriter::new(metadata, limits),
            unconfirmed: VecDeque::new(),
            handles,
            commands: Vec::new(),
            undelivered: VecDeque::new(),
            delivering: false,
            end: None,
        };
        let (ended, _) = watch::channel(None);
        let (state, metrics) = (Mutex::new(state), WriterMetrics::resolve());
        Self(Arc::new(Shared { deps, ledger, key, store, events, metrics, state, ended }))
    }

    /// Gives the entry the next id, seals it and hands it to its bookies before it returns: the order of calls is the
    /// order of entries. `buf` begins with [`SEAL_LEN`] free bytes; the rest is the payload.
    ///
    /// # Errors
    /// What stopped the writer; then nothing was sent.
    ///
    /// # Panics
    /// If `buf` is shorter than [`SEAL_LEN`].
    pub fn append(&self, buf: BytesMut) -> Result<SealedEntry, WriteError> {
        assert!(buf.len() >= SEAL_LEN, "no room for the seal");
        let mut state = self.0.state.lock();
        state.machine.accepts()?;
        let size = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let length = state.machine.appended_length() + (buf.len() - SEAL_LEN) as u64;
        let entry = SealedEntry::seal(buf, self.0.ledger, state.machine.next_entry(), state.machine.lac(), length);
        state.unconfirmed.push_back(entry.clone());
        self.0.step(&mut state, Event::Append { size, length });
        Ok(entry)
    }

    /// Entries that are appended and not confirmed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.state.lock().machine.in_flight()
    }

    /// Payload bytes appended so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.state.lock().machine.appended_length()
    }

    /// The ledger's metadata as last committed.
    #[must_use]
    pub fn metadata(&self) -> LedgerMetadata {
        self.0.state.lock().machine.metadata().clone()
    }

    /// Entries that members may lack so far: not empty while the ledger is written degraded.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        self.0.state.lock().machine.holes()
    }

    /// Refuses further appends and waits until everything is confirmed, and the caller has heard of it. The caller then
    /// closes the ledger in metadata.
    ///
    /// # Errors
    /// What stopped the writer: the ledger has to be recovered, never closed (rule R14).
    pub async fn finish(&self) -> Result<LedgerEnd, WriteError> {
        let mut ended = self.0.ended.subscribe();
        {
            let mut state = self.0.state.lock();
            self.0.step(&mut state, Event::Close);
            self.0.publish_end(&mut state);
        }
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Err(WriteError::Closed)),
            Err(_) => Err(WriteError::Closed),
        }
    }
}

impl Shared {
    /// Feeds the machine and carries its commands out. Awaits nothing and calls nobody back.
    fn step(self: &Arc<Self>, state: &mut Appending, event: Event) {
        let mut commands = std::mem::take(&mut state.commands);
        state.machine.on_event(event, &mut commands);
        for command in commands.drain(..) {
            match command {
                Command::Send { member, entry } => self.send(state, member, entry),
                Command::Confirm { lac } => {
                    let confirmed = lac.count() - state.first_unconfirmed(lac);
                    state.unconfirmed.drain(..usize::try_from(confirmed).unwrap_or(usize::MAX));
                    state.undelivered.push_back(LedgerEvent::Confirmed { lac });
                }
                Command::ChangeEnsemble { new } => self.change_ensemble(state, new),
                Command::Fail(error) => {
                    self.metrics.failed.increment(1);
                    tracing::warn!(ledger = %self.ledger, %error, "ledger can no longer be written");
                    state.unconfirmed.clear();
                    state.undelivered.push_back(LedgerEvent::Failed(error.clone()));
                    state.end = Some(Err(error));
                }
                Command::Closed { last_entry, length } => {
                    let fragments = state.machine.metadata().fragments.clone();
                    let holes = state.machine.holes();
                    self.metrics.holes.increment(holes.len() as u64);
                    state.end = Some(Ok(LedgerEnd { last_entry, length, fragments, holes }));
                }
            }
        }
        state.commands = commands;
    }

    /// Hands an entry to a bookie, and has its answer awaited by a task of its own.
    fn send(self: &Arc<Self>, state: &mut Appending, member: BookieMember, entry: EntryId) {
        let sealed = state.unconfirmed(entry);
        let (key, bookie) = (self.key, state.handle(member, &self.deps));
        let answer = bookie.add_entry(AddEntry { member, key, recovery: false, entry: sealed });
        let (shared, sent) = (Arc::clone(self), self.deps.clock.monotonic());
        tokio::spawn(async move {
            let result = answer.await;
            shared.metrics.add.record(shared.deps.clock.monotonic().saturating_sub(sent));
            shared.answered(member, entry, result);
        });
    }

    fn answered(self: &Arc<Self>, member: BookieMember, entry: EntryId, result: Result<(), BookieError>) {
        let event = match result {
            Ok(()) => Event::Acked { member, entry },
            Err(error) => {
                self.metrics.refused.increment(1);
                tracing::debug!(ledger = %self.ledger, %entry, bookie = %member, %error, "add refused");
                Event::Failed { member, entry, error, spares: self.spares() }
            }
        };
        let mut state = self.state.lock();
        self.step(&mut state, event);
        self.deliver(state);
    }

    fn change_ensemble(self: &Arc<Self>, state: &Appending, new: LedgerMetadata) {
        let expected = state.machine.metadata().clone();
        let shared = Arc::clone(self);
        self.metrics.ensemble_changes.increment(1);
        tokio::spawn(async move {
            let first_entry = new.last_fragment().map(|f| f.first_entry).unwrap_or_default();
            let result = shared.store.replace(expected, new).await;
            match &result {
                Ok(()) => tracing::info!(ledger = %shared.ledger, entry = %first_entry, "ensemble changed"),
                Err(error) => tracing::warn!(ledger = %shared.ledger, %error, "ensemble not changed"),
            }
            let spares = shared.spares();
            let mut state = shared.state.lock();
            shared.step(&mut state, Event::EnsembleChanged { result, spares });
            shared.deliver(state);
        });
    }

    /// Bookies outside the ensemble that could be written now. Asks the directory without holding the lock.
    fn spares(&self) -> Vec<BookieMember> {
        let ensemble = self.state.lock().machine.metadata().last_fragment().map(|f| f.ensemble.clone());
        placement::spares(&self.deps.bookies.live(), &ensemble.unwrap_or_default(), self.ledger.0)
    }

    /// Calls the caller back with everything undelivered, unless another task is at it already.
    fn deliver<'a>(&'a self, mut state: MutexGuard<'a, Appending>) {
        if !state.delivering {
            state.delivering = true;
            while let Some(event) = state.undelivered.pop_front() {
                MutexGuard::unlocked(&mut state, || (self.events)(event));
            }
            state.delivering = false;
            self.publish_end(&mut state);
        }
    }

    /// Lets [`LedgerAppender::finish`] return, once the caller has heard every event.
    fn publish_end(&self, state: &mut Appending) {
        if state.end.is_some() && state.undelivered.is_empty() && !state.delivering {
            let end = state.end.clone();
            self.ended.send_if_modified(|current| {
                let first = current.is_none();
                if first {
                    *current = end;
                }
                first
            });
        }
    }
}

impl Appending {
    /// The id of the first kept entry, when everything before `lac` is about to go.
    fn first_unconfirmed(&self, lac: Lac) -> u64 {
        self.unconfirmed.front().map_or(lac.count(), |e| e.entry().0)
    }

    fn unconfirmed(&self, entry: EntryId) -> SealedEntry {
        let first = self.unconfirmed.front().map_or(0, |e| e.entry().0);
        let at = usize::try_from(entry.0 - first).unwrap_or(usize::MAX);
        self.unconfirmed.get(at).expect("only unconfirmed entries are sent").clone()
    }

    /// The handle of a member of the current ensemble.
    fn handle(&mut self, member: BookieMember, deps: &LedgerDeps) -> Arc<dyn BookieService> {
        if let Some((_, handle)) = self.handles.iter().find(|(m, _)| *m == member) {
            return Arc::clone(handle);
        }
        let ensemble = self.machine.metadata().last_fragment().map(|f| f.ensemble.clone()).unwrap_or_default();
        self.handles.retain(|(m, _)| ensemble.contains(m));
        let handle = deps.bookies.bookie(member);
        self.handles.push((member, Arc::clone(&handle)));
        handle
    }
}

#[cfg(test)]
mod tests;

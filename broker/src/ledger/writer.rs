//! Appends to a ledger: carries out what the writer's machine wants, on real bookies.
//!
//! Owns the bytes of unconfirmed entries, the handles of the ensemble, and the order in which the caller hears of
//! confirmations. It decides nothing about the protocol (see [`super::machine`]) and reads no clock but for latencies and
//! retries. An add that a bookie took nothing of ([`BookieError::Unavailable`]: its queue is full, it restarts) is handed
//! over again as long as the ledger could not go on without that bookie; it may then arrive after its successors, which
//! bookies allow (rule P7), while confirmations stay in order.
//!
//! Invariants: entries reach each bookie's handle in entry order, because they are handed over under the one lock; no
//! lock is held while something is awaited or the caller is called back; events are delivered in order, one at a time,
//! and never from inside [`LedgerAppender::append`], so the callback may append.

pub use super::machine::{ReplaceError, WriteError};

use super::{
    LedgerDeps,
    idle::MayBeIdle,
    machine::{Command, Event, LedgerWriter, Limits},
    metrics::{WriterMetrics, add_histogram},
    placement,
};
use bytes::BytesMut;
use metrics::Histogram;
use parking_lot::{Mutex, MutexGuard};
use protocol::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    ledger::{
        entry::{SEAL_LEN, SealedEntry},
        metadata::{BookieMember, Fragment, Hole, LedgerMetadata},
    },
    model::BookieState,
    service::{
        Answer,
        bookie::{AddEntry, BookieError, BookieService, ConfirmLac},
    },
};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How long an add is handed to a bookie again that takes nothing and that the ledger cannot do without.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// How long if the other bookies could close the ledger and hold the next one: then that is quicker.
const RETRY_ALONE: Duration = Duration::from_millis(100);
/// The first and the longest pause before that.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
/// How long copies may take that nothing depends on, before a closed ledger counts them as missing.
const STRAGGLERS: Duration = Duration::from_millis(50);

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
    /// Told when the last copy of a ledger that has ended is stored.
    complete: Notify,
}

struct Appending {
    machine: LedgerWriter,
    /// The entries after last-add-confirmed, dense.
    unconfirmed: VecDeque<SealedEntry>,
    handles: Vec<Handle>,
    /// What the bookies were told while nothing was in flight.
    told: Lac,
    /// Whether the ticker looks at this writer, and the next entry when it last did.
    watched: Option<EntryId>,
    /// Kept between steps for its allocation.
    commands: Vec<Command>,
    undelivered: VecDeque<LedgerEvent>,
    /// Whether some task is calling back; it also delivers what comes meanwhile.
    delivering: bool,
    end: Option<Result<LedgerEnd, WriteError>>,
}

/// A member of the current ensemble.
struct Handle {
    member: BookieMember,
    bookie: Arc<dyn BookieService>,
    latency: Histogram,
}

impl Handle {
    fn of(member: BookieMember, deps: &LedgerDeps) -> Self {
        Self { member, bookie: deps.bookies.bookie(member), latency: add_histogram(member.id) }
    }
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
        let handles = ensemble.iter().map(|m| Handle::of(*m, &deps)).collect();
        let state = Appending {
            machine: LedgerWriter::new(metadata, limits),
            unconfirmed: VecDeque::new(),
            handles,
            told: Lac::NONE,
            watched: None,
            commands: Vec::new(),
            undelivered: VecDeque::new(),
            delivering: false,
            end: None,
        };
        let (ended, _) = watch::channel(None);
        let (state, metrics, complete) = (Mutex::new(state), WriterMetrics::resolve(), Notify::new());
        Self(Arc::new(Shared { deps, ledger, key, store, events, metrics, state, ended, complete }))
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

    /// The current ensemble, and of each member whether it is still written: not if it was left behind.
    #[must_use]
    pub fn members(&self) -> Vec<(BookieMember, bool)> {
        self.0.state.lock().machine.members().collect()
    }

    /// Waits no longer for a bookie that has gone, unless the ledger could not go on without it: what it has not answered
    /// counts as failed, before the deadline of the call.
    pub fn abandon(&self, member: BookieMember) {
        let owes = self.0.state.lock().machine.first_unanswered(member).is_some();
        if !owes {
            return;
        }
        let spares = self.0.spares();
        let mut state = self.0.state.lock();
        let owed = state.machine.first_unanswered(member).filter(|_| !state.machine.depends_on(member, &spares));
        if let Some(entry) = owed {
            let error = BookieError::Unavailable { reason: "the bookie is no longer registered".into() };
            self.0.step(&mut state, Event::Failed { member, entry, error, spares });
            self.0.deliver(state);
        }
    }

    /// Entries that members may lack so far: not empty while the ledger is written degraded.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        self.0.state.lock().machine.holes()
    }

    /// Refuses further appends and waits until everything is confirmed, and the caller has heard of it; a moment longer
    /// for copies that nobody depends on. The caller then closes the ledger in metadata.
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
        let end = match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Err(WriteError::Closed)),
            Err(_) => Err(WriteError::Closed),
        };
        let holes = self.0.last_holes().await;
        end.map(|end| LedgerEnd { holes, ..end })
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
                    state.end = Some(Ok(LedgerEnd { last_entry, length, fragments, holes }));
                }
            }
        }
        state.commands = commands;
    }

    /// Hands an entry to a bookie, and has its answer awaited by a task of its own.
    fn send(self: &Arc<Self>, state: &mut Appending, member: BookieMember, entry: EntryId) {
        let entry = state.unconfirmed(entry);
        let add = AddEntry { member, key: self.key, recovery: false, entry };
        let handle = state.handle(member, &self.deps);
        let (answer, latency) = (handle.bookie.add_entry(add.clone()), handle.latency.clone());
        let (shared, sent) = (Arc::clone(self), self.deps.clock.monotonic());
        tokio::spawn(async move {
            let mut result = answer.await;
            let took = shared.deps.clock.monotonic().saturating_sub(sent);
            latency.record(took);
            if matches!(result, Err(BookieError::Unavailable { .. })) {
                result = shared.retried(&add, result).await;
            }
            shared.answered(member, add.entry.entry(), result);
        });
    }

    /// Hands an add over again and again, while the bookie takes nothing and the ledger cannot go on without it.
    async fn retried(&self, add: &AddEntry, mut result: Result<(), BookieError>) -> Result<(), BookieError> {
        let (mut pause, mut waited) = (RETRY_PAUSE.0, Duration::ZERO);
        while matches!(result, Err(BookieError::Unavailable { .. }))
            && waited < RETRY_FOR
            && self.depends_on(add.member)
            && (waited < RETRY_ALONE || !self.can_end_without(add.member))
        {
            self.metrics.retried.increment(1);
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(RETRY_PAUSE.1);
            result = self.deps.bookies.bookie(add.member).add_entry(add.clone()).await;
        }
        result
    }

    /// Whether ending the ledger is quicker than waiting for this member: the others can close it, and hold the next one.
    fn can_end_without(&self, member: BookieMember) -> bool {
        let live = self.deps.bookies.live();
        let others: Vec<_> =
            live.iter().filter(|b| b.state == BookieState::Writable && b.member.id != member.id).collect();
        let state = self.state.lock();
        let metadata = state.machine.metadata();
        let ensemble = metadata.last_fragment().map(|f| f.ensemble.as_slice()).unwrap_or_default();
        let left = others.iter().filter(|b| ensemble.contains(&b.member)).count();
        metadata.quorum.is_acked(others.len()) && metadata.quorum.is_fenced(left)
    }

    /// Whether the ledger cannot go on without this member, which may still come back.
    fn depends_on(&self, member: BookieMember) -> bool {
        let is_another_life = |m: BookieMember| m.id == member.id && m.incarnation != member.incarnation;
        if self.deps.bookies.live().iter().any(|b| is_another_life(b.member)) {
            return false;
        }
        let spares = self.spares();
        let state = self.state.lock();
        state.end.is_none() && state.machine.depends_on(member, &spares)
    }

    fn answered(self: &Arc<Self>, member: BookieMember, entry: EntryId, result: Result<(), BookieError>) {
        self.deps.suspects.note(member, &result, self.deps.clock.monotonic());
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
        self.watch_if_idle(&mut state);
        if state.end.is_some() && !state.machine.awaits_copies() {
            self.complete.notify_waiters();
        }
        self.deliver(state);
    }

    /// The holes of a ledger that has ended; those who are only a little late are waited for.
    async fn last_holes(&self) -> Vec<Hole> {
        let complete = self.complete.notified();
        tokio::pin!(complete);
        complete.as_mut().enable();
        let late = self.state.lock().machine.awaits_copies();
        if late {
            drop(tokio::time::timeout(STRAGGLERS, complete).await);
        }
        let holes = self.state.lock().machine.holes();
        self.metrics.holes.increment(holes.len() as u64);
        holes
    }

    /// Has the ticker look at this writer, unless its bookies know what is confirmed or will hear it with an entry.
    fn watch_if_idle(self: &Arc<Self>, state: &mut Appending) {
        if state.watched.is_none() && state.machine.in_flight() == 0 && state.machine.lac() > state.told {
            state.watched = Some(state.machine.next_entry());
            let writer: Weak<Self> = Arc::downgrade(self);
            self.deps.idle.watch(writer);
        }
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
        let mut spares = placement::spares(&self.deps.bookies.live(), &ensemble.unwrap_or_default(), self.ledger.0);
        let now = self.deps.clock.monotonic();
        // Stable: those who failed a moment ago come last.
        spares.sort_by_key(|spare| self.deps.suspects.has(*spare, now));
        spares
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

impl MayBeIdle for Shared {
    fn look(&self) -> bool {
        let mut state = self.state.lock();
        let (lac, next) = (state.machine.lac(), state.machine.next_entry());
        if state.end.is_some() || state.machine.in_flight() > 0 || lac <= state.told {
            state.watched = None;
            return false;
        }
        if state.watched.replace(next) != Some(next) {
            return true;
        }
        (state.watched, state.told) = (None, lac);
        // A member that owes an answer does not hold everything, and must not believe that it does.
        let members: Vec<BookieMember> = state.machine.up_to_date().collect();
        self.metrics.lacs_told.increment(1);
        for member in members {
            let confirm = ConfirmLac { member, ledger: self.ledger, key: self.key, lac };
            drop(state.handle(member, &self.deps).bookie.confirm_lac(confirm));
        }
        false
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
    fn handle(&mut self, member: BookieMember, deps: &LedgerDeps) -> &Handle {
        if let Some(at) = self.handles.iter().position(|h| h.member == member) {
            return &self.handles[at];
        }
        let machine = &self.machine;
        self.handles.retain(|h| machine.members().any(|(m, _)| m == h.member));
        self.handles.push(Handle::of(member, deps));
        &self.handles[self.handles.len() - 1]
    }
}

#[cfg(test)]
mod tests;

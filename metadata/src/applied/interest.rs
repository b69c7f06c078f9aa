//! Who watches what. Finds the watches that a change concerns without looking at the others, so that a hundred thousand
//! idle ones cost a write nothing.
//!
//! Watches are grouped by prefix, and the lengths of prefixes in use are known: a key is looked up once per length. A
//! watch that nothing concerns follows along without being touched. Once in every [`PROGRESS_EVERY`] revisions it is
//! asked to report where it is; the watches are spread over that cycle.
//!
//! Holds no events and never reads the history. Everything here happens under the lock of the state (`super`), shared or
//! not; that lock orders what watches read and what changes mark.

use protocol::{
    id::Revision,
    service::metadata::{Change, WatchEvent},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// A watch reports its progress at least this often, in revisions.
pub(super) const PROGRESS_EVERY: u64 = 8_192;
/// Of that cycle, so many revisions share a turn.
const TURN: u64 = 64;
/// The turns of a cycle.
const TURNS: u64 = PROGRESS_EVERY / TURN;
/// No revision concerns the watch.
const NONE: u64 = u64::MAX;

/// What one watch waits for.
#[derive(Debug)]
pub(super) struct Interest {
    id: u64,
    prefix: Box<str>,
    /// Nothing up to here is shown.
    after: Revision,
    /// The first revision that concerns the watch and that it has not taken, or [`NONE`].
    pending: AtomicU64,
    /// Progress is to be reported once nothing is pending.
    due: AtomicBool,
    /// Rings when there is something to look at.
    bell: Notify,
}

impl Interest {
    /// The first revision to look at; `None` if nothing concerns the watch.
    pub(super) fn pending(&self) -> Option<Revision> {
        Some(self.pending.load(Relaxed)).filter(|pending| *pending != NONE).map(Revision)
    }

    /// What was pending has been taken; the first revision that may still concern the watch.
    pub(super) fn took(&self, next: Option<Revision>) {
        self.pending.store(next.map_or(NONE, |next| next.0), Relaxed);
    }

    /// Whether progress is to be reported; asked once.
    pub(super) fn take_due(&self) -> bool {
        self.due.swap(false, Relaxed)
    }

    /// Whether a transaction concerns the watch. One that watches everything also sees those without changes.
    pub(super) fn concerns(&self, event: &WatchEvent) -> bool {
        self.prefix.is_empty() || event.changes.iter().any(|change| key(change).starts_with(&*self.prefix))
    }

    /// What of a transaction lies under the prefix.
    pub(super) fn shown(&self, event: &WatchEvent) -> WatchEvent {
        let changes = event.changes.iter().filter(|change| key(change).starts_with(&*self.prefix));
        WatchEvent { revision: event.revision, changes: changes.cloned().collect() }
    }

    /// Waits for the bell. A bell that rang before is not missed.
    pub(super) async fn rings(&self) {
        self.bell.notified().await;
    }

    /// Marks a revision; whether the watch was idle.
    fn mark(&self, revision: Revision) -> bool {
        revision > self.after && self.pending.fetch_min(revision.0, Relaxed) == NONE
    }
}

/// The watches to wake, after all locks were given back: waking may run what takes them again.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Bells(Vec<Arc<Interest>>);

impl Bells {
    /// Wakes them, and says how many they were.
    pub(super) fn ring(self) -> u64 {
        self.0.iter().for_each(|interest| interest.bell.notify_one());
        self.0.len() as u64
    }
}

type Watches = HashMap<u64, Arc<Interest>>;

/// All open watches.
#[derive(Debug)]
pub(super) struct Interests {
    by_prefix: HashMap<Box<[u8]>, Watches>,
    /// How many of the prefixes have each length.
    lengths: BTreeMap<usize, usize>,
    turns: Vec<Watches>,
    next: u64,
}

impl Default for Interests {
    fn default() -> Self {
        let turns = std::iter::repeat_with(Watches::new).take(TURNS as usize).collect();
        Self { by_prefix: HashMap::new(), lengths: BTreeMap::new(), turns, next: 0 }
    }
}

impl Interests {
    /// A new watch. If it begins in the past, that is pending.
    pub(super) fn open(&mut self, prefix: String, after: Revision, current: Revision) -> Arc<Interest> {
        let pending = if after < current { after.0 + 1 } else { NONE };
        let interest = Arc::new(Interest {
            id: self.next,
            prefix: prefix.into(),
            after,
            pending: AtomicU64::new(pending),
            due: AtomicBool::new(false),
            bell: Notify::new(),
        });
        self.next += 1;
        self.turn(interest.id).insert(interest.id, Arc::clone(&interest));
        let key = interest.prefix.as_bytes();
        let group = self.by_prefix.entry(key.into()).or_insert_with(|| {
            *self.lengths.entry(key.len()).or_default() += 1;
            Watches::new()
        });
        group.insert(interest.id, Arc::clone(&interest));
        interest
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.turns.iter().map(HashMap::len).sum()
    }

    /// A watch has ended.
    pub(super) fn close(&mut self, interest: &Interest) {
        self.turn(interest.id).remove(&interest.id);
        let key = interest.prefix.as_bytes();
        let Some(group) = self.by_prefix.get_mut(key) else { return };
        group.remove(&interest.id);
        if !group.is_empty() {
            return;
        }
        self.by_prefix.remove(key);
        if let Some(count) = self.lengths.get_mut(&key.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key.len());
            }
        }
    }

    /// The state has moved from one revision to another by these transactions.
    pub(super) fn moved<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Arc<WatchEvent>>,
        from: Revision,
        to: Revision,
    ) -> Bells {
        let mut bells = Bells::default();
        for event in events {
            // An empty prefix stands before every key; where there is none, only it is concerned.
            if event.changes.is_empty() {
                self.mark(b"", event.revision, &mut bells);
            }
            for change in &event.changes {
                self.mark(key(change).as_bytes(), event.revision, &mut bells);
            }
        }
        let (first, last) = (from.0 / TURN + 1, to.0 / TURN);
        for turn in first..=last.min(first + TURNS - 1) {
            for interest in self.turn(turn).values() {
                interest.due.store(true, Relaxed);
                if interest.pending().is_none() {
                    bells.0.push(Arc::clone(interest));
                }
            }
        }
        bells
    }

    /// The state was replaced, and with it the history: whoever is not there yet has missed something.
    pub(super) fn replaced(&mut self, old: Revision, new: Revision) -> Bells {
        let all = || self.turns.iter().flat_map(HashMap::values);
        for interest in all() {
            let seen = old.max(interest.after);
            if seen < new {
                interest.mark(Revision(seen.0 + 1));
            }
        }
        Bells(all().cloned().collect())
    }

    /// Every watch is to look.
    pub(super) fn all(&self) -> Bells {
        Bells(self.turns.iter().flat_map(HashMap::values).cloned().collect())
    }

    fn mark(&self, key: &[u8], revision: Revision, bells: &mut Bells) {
        for length in self.lengths.keys().take_while(|length| **length <= key.len()) {
            let Some(watches) = self.by_prefix.get(&key[..*length]) else { continue };
            bells.0.extend(watches.values().filter(|interest| interest.mark(revision)).cloned());
        }
    }

    fn turn(&mut self, turn: u64) -> &mut Watches {
        &mut self.turns[(turn % TURNS) as usize]
    }
}

fn key(change: &Change) -> &str {
    match change {
        Change::Put(item) => &item.key,
        Change::Deleted(key) => key,
    }
}

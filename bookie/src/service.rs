//! The bookie as its users see it: every method of the contract.
//!
//! Owns the checks before a call is made (who is meant, size, checksum) and the three kinds of answer: yes, known to be
//! absent, unknown. Everything that changes something goes through the committer; reads look at the tail in memory, then
//! go to threads of their own. A negative answer comes only after every add that was called before it.

use crate::{
    committer::{Command, Committer, Shared},
    copy::{Copy, NoSource, Route, in_time},
    holdings,
    ledger::Ledger,
    readers::{Readers, Turn},
    store::{ReadLimits, StoreError},
};
use protocol::{
    id::{EntryId, Lac, LedgerId},
    ledger::{
        entry::{MAX_ENTRY, SealedEntry},
        metadata::BookieMember,
    },
    mutant::Mutant,
    runtime::{TaskKind, Tasks},
    service::{
        Answer, Reply,
        bookie::{
            AddEntry, BookieError, BookieService, ConfirmLac, CopyEntries, DeleteLedger, EntryList, EntryRun,
            FenceLedger, ListEntries, ReadEntries, WaitLac,
        },
        directory::BookieDirectory,
        ready, reply,
    },
};
use std::sync::{Arc, OnceLock, Weak};

/// The most bytes of one answer, whatever is asked for; the first entry comes even if it is larger.
const MAX_READ: usize = 32 << 20;
/// The most runs of one listing, whatever is asked for.
const MAX_RUNS: u32 = 100_000;

/// Everything a call needs.
pub(crate) struct Core {
    pub(crate) member: BookieMember,
    pub(crate) shared: Shared,
    pub(crate) committer: Committer,
    pub(crate) readers: Readers,
    pub(crate) tasks: Tasks,
    pub(crate) peers: OnceLock<Weak<dyn BookieDirectory>>,
}

/// The [`BookieService`] of this bookie. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Core>);

impl BookieService for Service {
    fn add_entry(&self, add: AddEntry) -> Answer<(), BookieError> {
        if let Err(problem) = self.0.check_add(&add) {
            self.0.shared.metrics.add_failures.increment(1);
            return ready(Err(problem));
        }
        let (reply, answer) = reply();
        let called = self.0.shared.clock.monotonic();
        self.0.committer.call(Command::Add { add, called, reply });
        answer
    }

    fn read_entries(&self, read: ReadEntries) -> Answer<EntryRun, BookieError> {
        if let Err(problem) = self.0.check_member(read.member) {
            return ready(Err(problem));
        }
        self.0.shared.metrics.reads.increment(1);
        let (reply, answer) = reply();
        let this = self.clone();
        match read.fence {
            // The fence is durable before the read begins, and so is every add that was called before it (rule R6).
            Some(key) => self.0.committer.call(Command::Fence {
                ledger: read.ledger,
                key,
                then: Box::new(move |fenced| match fenced {
                    Ok(_) => this.read_stored(read, true, reply),
                    Err(problem) => reply.send(Err(problem)),
                }),
            }),
            None => {
                if let Some(run) = self.0.read_tail(&read) {
                    return ready(Ok(run));
                }
                let settled = !self.0.committer.is_busy();
                self.read_stored(read, settled, reply);
            }
        }
        answer
    }

    fn fence_ledger(&self, fence: FenceLedger) -> Answer<Lac, BookieError> {
        if let Err(problem) = self.0.check_member(fence.member) {
            return ready(Err(problem));
        }
        let (reply, answer) = reply();
        let core = Arc::clone(&self.0);
        let then = move |fenced: Result<crate::committer::Fenced, BookieError>| {
            reply.send(fenced.and_then(|fenced| {
                // The fence holds, but what was confirmed here may have been lost (rule B12).
                let is_lost = fenced.limbo || core.shared.health.is_limbo();
                if is_lost && !core.shared.mutants.has(Mutant::ConfirmInLimbo) {
                    return Err(core.lost(fence.ledger));
                }
                Ok(fenced.lac)
            }));
        };
        self.0.committer.call(Command::Fence { ledger: fence.ledger, key: fence.key, then: Box::new(then) });
        answer
    }

    fn list_entries(&self, list: ListEntries) -> Answer<EntryList, BookieError> {
        if let Err(problem) = self.0.check_member(list.member) {
            return ready(Err(problem));
        }
        let (reply, answer) = reply();
        let (this, ledger) = (self.clone(), list.ledger);
        // What is not listed is thereby called absent, so the listing comes after every add called before.
        let then = move |looked: Result<Ledger, BookieError>| match looked {
            Err(problem) => reply.send(Err(problem)),
            Ok(seen) => this.clone().0.readers.run(
                list.limit.min(MAX_RUNS) as usize * size_of::<std::ops::RangeInclusive<u64>>(),
                Box::new(move |turn| {
                    reply.send(match turn {
                        Turn::Read => this.0.list(&list, &seen),
                        Turn::Refused => Err(refused()),
                    });
                }),
            ),
        };
        self.0.committer.call(Command::Look { ledger, then: Box::new(then) });
        answer
    }

    fn delete_ledger(&self, delete: DeleteLedger) -> Answer<(), BookieError> {
        if let Err(problem) = self.0.check_member(delete.member) {
            return ready(Err(problem));
        }
        let (reply, answer) = reply();
        let then = Box::new(move |deleted| reply.send(deleted));
        self.0.committer.call(Command::Delete { ledger: delete.ledger, then });
        answer
    }

    fn copy_entries(&self, copy: CopyEntries) -> Answer<u64, BookieError> {
        if let Err(problem) = self.0.check_member(copy.member) {
            return ready(Err(problem));
        }
        let (reply, answer) = reply();
        let this = self.clone();
        self.0.tasks.spawn(TaskKind::Request, "bookie copy", async move {
            reply.send(this.copy(copy).await);
            Ok(())
        });
        answer
    }

    fn confirm_lac(&self, confirm: ConfirmLac) -> Answer<(), BookieError> {
        if let Err(problem) = self.0.check_member(confirm.member).and_then(|()| self.0.shared.health.check_store()) {
            return ready(Err(problem));
        }
        let ConfirmLac { ledger, key, lac, .. } = confirm;
        let (reply, answer) = reply();
        self.0.committer.call(Command::Confirm { ledger, key, lac, reply });
        answer
    }

    fn wait_lac(&self, wait: WaitLac) -> Answer<Lac, BookieError> {
        if let Err(problem) = self.0.check_member(wait.member) {
            return ready(Err(problem));
        }
        let WaitLac { ledger, beyond, timeout, .. } = wait;
        let (reply, followed) = reply();
        let core = Arc::clone(&self.0);
        // Followed on the committer's thread, between two rises: none is missed.
        let then = move |looked: Result<Ledger, BookieError>| {
            reply.send(looked.and_then(|seen| match seen.record() {
                _ if seen.is_limbo() || core.shared.health.is_limbo() => Err(core.lost(ledger)),
                Some(_) if !seen.is_deleted() => Ok(core.shared.confirmations.follow(ledger, seen.lac())),
                _ => Err(core.shared.health.honest(seen.absence(None))),
            }));
        };
        self.0.committer.call(Command::Look { ledger, then: Box::new(then) });
        Box::pin(async move {
            let mut waiter = followed.await?;
            let passed = waiter.wait_for(|lac| lac.is_none_or(|lac| lac > beyond));
            drop(tokio::time::timeout(timeout, passed).await);
            let lac = *waiter.borrow();
            lac.ok_or(BookieError::Deleted(ledger))
        })
    }
}

impl Service {
    /// Reads on a reader's thread. Unless `settled`, an answer of absence waits for what was called before the read.
    fn read_stored(&self, read: ReadEntries, settled: bool, reply: Reply<EntryRun, BookieError>) {
        let (this, bytes) = (self.clone(), limits(&read).bytes);
        let job = Box::new(move |turn: Turn| {
            let result = match turn {
                Turn::Read => this.0.read(&read),
                Turn::Refused => Err(refused()),
            };
            match result {
                Err(BookieError::NoSuchEntry(..) | BookieError::NoSuchLedger(_)) if !settled => {
                    let (again, ledger) = (this.clone(), read.ledger);
                    let then = move |looked: Result<Ledger, BookieError>| match looked {
                        Ok(_) => again.read_stored(read, true, reply),
                        Err(problem) => reply.send(Err(problem)),
                    };
                    this.0.committer.call(Command::Look { ledger, then: Box::new(then) });
                }
                result => {
                    if result.is_err() {
                        this.0.shared.metrics.read_failures.increment(1);
                    }
                    reply.send(result);
                }
            }
        });
        self.0.readers.run(bytes, job);
    }

    /// Copies from one source, from one run of what it holds to the next.
    async fn copy(&self, wanted: CopyEntries) -> Result<u64, BookieError> {
        let CopyEntries { member, source, ledger, key, entries } = wanted;
        let alone = || BookieError::Unavailable { reason: "it knows no other bookies".into() };
        let peers = self.0.peers.get().and_then(Weak::upgrade).ok_or_else(alone)?;
        let route = Route { bookie: self, member, peers: &*peers, ledger, key, sources: vec![source] };
        let (mut copy, last, mut stored) = (Copy::new(route), *entries.end(), 0);
        copy.begin(entries);
        loop {
            match copy.next().await {
                Ok(None) => return Ok(stored),
                Ok(Some(part)) => {
                    let count = part.entries();
                    copy.store(part).await?;
                    stored += count;
                }
                // The source has a hole here; it says where it ends.
                Err(NoSource { entry: first, problem: BookieError::NoSuchEntry(..), .. }) => {
                    let list = ListEntries { member: source, ledger, first, limit: 1 };
                    let list = in_time(peers.bookie(source).list_entries(list)).await?;
                    let Some(run) = list.runs.first().filter(|run| *run.start() > first.0) else { return Ok(stored) };
                    copy.begin(*run.start()..=last);
                }
                Err(NoSource { problem, .. }) => return Err(problem),
            }
        }
    }
}

impl Core {
    /// Only this bookie in this life of its disk answers (rule B11).
    fn check_member(&self, named: BookieMember) -> Result<(), BookieError> {
        let same_life = self.member == named || self.shared.mutants.has(Mutant::IgnoreIncarnation);
        if same_life { Ok(()) } else { Err(BookieError::WrongMember { actual: self.member, named }) }
    }

    fn check_add(&self, add: &AddEntry) -> Result<(), BookieError> {
        self.check_member(add.member)?;
        let size = add.entry.bytes().len();
        if size > MAX_ENTRY {
            let reason = format!("{size} bytes are more than the limit of {MAX_ENTRY}");
            return Err(BookieError::BadEntry { reason });
        }
        // Also for callers in this process: damage in memory is caught before it is made durable (rule B7).
        SealedEntry::open_any(add.entry.bytes().clone())
            .map_err(|problem| BookieError::BadEntry { reason: problem.to_string() })?;
        self.shared.health.check_add(add.recovery)
    }

    fn lost(&self, ledger: LedgerId) -> BookieError {
        BookieError::Unknown { reason: format!("this bookie lost state of ledger {ledger} and is in limbo") }
    }

    /// What is said of an entry that was not found: a denial only if it is known to be true.
    fn denial(&self, ledger: &Ledger, read: &ReadEntries) -> BookieError {
        // B12: in limbo nothing is known to be missing.
        if self.shared.mutants.has(Mutant::DenyInLimbo) && !ledger.is_deleted() {
            return BookieError::NoSuchEntry(read.ledger, read.first);
        }
        self.shared.health.honest(ledger.absence(Some(read.first)))
    }

    /// A run from memory; none if its first entry is not there.
    fn read_tail(&self, read: &ReadEntries) -> Option<EntryRun> {
        let lac = self.shared.ledgers.lock().get(read.ledger).filter(|ledger| !ledger.is_deleted())?.lac();
        let entries = self.shared.tail.run(read.ledger, read.first, limits(read));
        if entries.is_empty() {
            return None;
        }
        self.shared.metrics.tail_hits.increment(1);
        self.note_read(&entries);
        Some(EntryRun { entries, lac })
    }

    /// A run from the store. Blocks.
    fn read(&self, read: &ReadEntries) -> Result<EntryRun, BookieError> {
        let from = self.shared.clock.monotonic();
        let stored = self.shared.store.range(read.ledger, read.first, limits(read)).map_err(|problem| {
            if matches!(problem, StoreError::Damaged(_)) {
                self.shared.health.note_damage(read.ledger);
                tracing::error!(ledger = %read.ledger, entry = %read.first, %problem, "a stored entry is damaged");
            }
            unreadable(problem)
        })?;
        let mut entries = Vec::with_capacity(stored.len());
        for (id, bytes) in (read.first.0..).map(EntryId).zip(stored) {
            match SealedEntry::open(bytes, read.ledger, id) {
                Ok(entry) => entries.push(entry),
                Err(problem) => {
                    self.shared.health.note_damage(read.ledger);
                    tracing::error!(ledger = %read.ledger, entry = %id, %problem, "a stored entry is damaged");
                    // R9: damage is no absence.
                    if entries.is_empty() && self.shared.mutants.has(Mutant::DenyDamaged) {
                        return Err(BookieError::NoSuchEntry(read.ledger, id));
                    }
                    if entries.is_empty() {
                        return Err(BookieError::Unknown { reason: format!("the stored entry is damaged: {problem}") });
                    }
                    break;
                }
            }
        }
        // Looked at after the entries, so that a ledger deleted meanwhile is not served.
        let ledger = self.ledger(read.ledger).map_err(unreadable)?;
        if ledger.is_deleted() || entries.is_empty() {
            return Err(self.denial(&ledger, read));
        }
        self.shared.metrics.read_latency.record(self.shared.clock.monotonic().saturating_sub(from));
        self.note_read(&entries);
        Ok(EntryRun { entries, lac: ledger.lac() })
    }

    fn list(&self, list: &ListEntries, ledger: &Ledger) -> Result<EntryList, BookieError> {
        // A list is also a statement about what is missing.
        if ledger.is_limbo() || self.shared.health.is_limbo() {
            return Err(self.lost(list.ledger));
        }
        if ledger.record().is_none() || ledger.is_deleted() {
            return Err(self.shared.health.honest(ledger.absence(None)));
        }
        let limit = list.limit.clamp(1, MAX_RUNS) as usize;
        let listed = holdings::list(&*self.shared.store, list.ledger, list.first, limit).map_err(unreadable)?;
        self.shared.health.check_store().map_err(|e| BookieError::Unknown { reason: e.to_string() })?;
        Ok(listed)
    }

    /// A ledger as it is known now, from memory or the store.
    fn ledger(&self, id: LedgerId) -> Result<Ledger, StoreError> {
        let loaded = self.shared.ledgers.lock().get(id).cloned();
        loaded.map_or_else(|| self.shared.restore(id), Ok)
    }

    fn note_read(&self, entries: &[SealedEntry]) {
        self.shared.metrics.read.increment(entries.iter().map(|e| e.bytes().len() as u64).sum());
    }
}

fn limits(read: &ReadEntries) -> ReadLimits {
    ReadLimits { count: read.max_count.max(1) as usize, bytes: (read.max_bytes as usize).min(MAX_READ) }
}

fn refused() -> BookieError {
    BookieError::Unavailable { reason: "too many reads are waiting, or the bookie is stopping".into() }
}

/// A store that cannot be read never means absence (rule R9).
fn unreadable(problem: StoreError) -> BookieError {
    match problem {
        StoreError::Closed => BookieError::Unavailable { reason: "the bookie is stopping".into() },
        other => BookieError::Unknown { reason: format!("the store could not be read: {other}") },
    }
}

#[cfg(test)]
mod power_cuts;
#[cfg(test)]
mod tests;

//! A fair queue in front of one thing: what locks and elections are made of. A recipe over [`MetadataService`]; servers
//! know nothing of it.
//!
//! Everybody in the queue has a session of their own and one ephemeral key that lives with it. The queue is ordered by
//! the revision that created the key, and whoever has the lowest is at the front. A number that is drawn before the key
//! is written would not do: whoever draws the lower number may write its key last, and there would be two at the front.
//! Everybody watches only the key in front of theirs, so one who leaves wakes one.
//!
//! The revision is the fencing token: it grows from each one at the front to the next, for ever. What is guarded should
//! refuse a token lower than one that it has seen, because nobody can know that they have *just* lost their place.
//!
//! A place is lost when its session has expired, and also when nobody has confirmed for the session's whole time that it
//! lives: metadata may have ended it by then. A place that is dropped is given up at once, if metadata can be reached.

use crate::{
    id::{Revision, SessionId},
    model::{QueueKind, QueueName, QueueTicket, decode, encode},
    runtime::{TaskKind, Tasks},
    service::{
        Answer,
        metadata::{
            Change, Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Scan, Transaction,
            Versioned, WatchEvent,
        },
    },
};
use futures::StreamExt;
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Items per scan page.
const PAGE: u32 = 1_000;
/// The pause before metadata is asked again after an error.
const PAUSE: Duration = Duration::from_millis(100);
/// Heartbeats per session time.
const BEATS: u32 = 4;

/// Who is at the front of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What they call themselves.
    pub who: String,
    /// Their fencing token.
    pub token: Revision,
}

/// One queue. Clones are the same queue.
#[derive(Clone)]
pub(crate) struct Queue {
    metadata: Arc<dyn MetadataService>,
    kind: QueueKind,
    name: QueueName,
    tasks: Tasks,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({})", self.kind.prefix(&self.name))
    }
}

/// Something in the queue, and a state of the keys in which it was there.
struct Seen {
    item: Versioned,
    at: Revision,
}

impl Queue {
    pub(crate) fn new(
        metadata: Arc<dyn MetadataService>,
        kind: QueueKind,
        name: &str,
        tasks: &Tasks,
    ) -> Result<Self, MetadataError> {
        let name = QueueName::new(name).map_err(|problem| MetadataError::Invalid(problem.to_string()))?;
        Ok(Self { metadata, kind, name, tasks: tasks.clone() })
    }

    /// Takes a place at the end of the queue and waits until it is at the front, however long that takes. Dropping the
    /// future gives the place up.
    ///
    /// # Errors
    /// `SessionExpired` if the place was lost meanwhile; what else the service says, unless it is only unavailable.
    pub(crate) async fn enter(&self, who: &str, ttl: Duration) -> Result<Place, MetadataError> {
        let mut asked = Instant::now();
        let opening = patiently(|| {
            asked = Instant::now();
            self.metadata.open_session(ttl)
        });
        let session = opening.await?;
        let leave = CancellationToken::new();
        let (told, lost) = watch::channel(false);
        let keeper = Keeper { metadata: Arc::clone(&self.metadata), session, ttl, lost: told, leave: leave.clone() };
        let stopping = self.tasks.stopping();
        self.tasks.spawn(TaskKind::Background, "place in a queue", async move {
            keeper.run(asked + ttl, stopping).await;
            Ok(())
        });
        let mut place = Place { token: Revision(0), lost, leave: leave.drop_guard() };
        let taking = async {
            let token = self.take_ticket(session, who).await?;
            self.wait_for_turn(session, token).await?;
            Ok::<_, MetadataError>(token)
        };
        place.token = tokio::select! {
            token = taking => token?,
            () = place.lost() => return Err(MetadataError::SessionExpired(session)),
        };
        Ok(place)
    }

    /// Writes the key; its revision. An attempt whose outcome is unknown is found again by its session.
    async fn take_ticket(&self, session: SessionId, who: &str) -> Result<Revision, MetadataError> {
        let key = self.kind.key(&self.name, session);
        let value = encode(&QueueTicket { who: who.into() });
        let transaction = Transaction {
            conditions: vec![Condition::Session(session), Condition::Absent(key.clone())],
            operations: vec![Operation::Put { key, value, session: Some(session) }],
            request: None,
        };
        match patiently(|| self.metadata.transact(transaction.clone())).await? {
            Outcome::Committed { revision, .. } => Ok(revision),
            Outcome::Conflict { current: Some(ours), .. } if ours.session == Some(session) => Ok(ours.version),
            Outcome::Conflict { .. } => Err(MetadataError::SessionExpired(session)),
        }
    }

    async fn wait_for_turn(&self, session: SessionId, token: Revision) -> Result<(), MetadataError> {
        loop {
            let (items, _) = self.list().await?;
            if !items.iter().any(|seen| seen.item.session == Some(session) && seen.item.version == token) {
                return Err(MetadataError::SessionExpired(session));
            }
            let ahead = items.into_iter().filter(|seen| seen.item.version < token);
            let Some(next) = ahead.max_by_key(|seen| seen.item.version) else { return Ok(()) };
            self.until(&next.item.key, next.at, |change| matches!(change, Change::Deleted(_))).await?;
        }
    }

    /// Who is at the front now.
    ///
    /// # Errors
    /// What the service says, unless it is only unavailable.
    pub(crate) async fn front(&self) -> Result<Option<Holder>, MetadataError> {
        let (items, _) = self.list().await?;
        Ok(front(&items).map(holder))
    }

    /// Waits until somebody else is at the front than `known`, and says who.
    ///
    /// # Errors
    /// What the service says, unless it is only unavailable.
    pub(crate) async fn next_front(&self, known: Option<&Holder>) -> Result<Option<Holder>, MetadataError> {
        loop {
            let (items, begun) = self.list().await?;
            let found = front(&items);
            if found.map(|seen| seen.item.version) != known.map(|holder| holder.token) {
                return Ok(found.map(holder));
            }
            match found {
                Some(seen) => {
                    self.until(&seen.item.key, seen.at, |change| matches!(change, Change::Deleted(_))).await?;
                }
                None => {
                    let prefix = self.kind.prefix(&self.name);
                    self.until(&prefix, begun, |change| matches!(change, Change::Put(_))).await?;
                }
            }
        }
    }

    /// Everything in the queue, and the state in which the listing began. What was there then and still is, is listed.
    async fn list(&self) -> Result<(Vec<Seen>, Revision), MetadataError> {
        let prefix = self.kind.prefix(&self.name);
        let (mut items, mut after, mut begun) = (Vec::new(), None, None);
        loop {
            let consistency = Consistency::Linearizable;
            let scan = Scan { prefix: prefix.clone(), after: after.take(), limit: PAGE, consistency };
            let page = patiently(|| self.metadata.scan(scan.clone())).await?;
            let begun = *begun.get_or_insert(page.revision);
            after = page.items.last().map(|last| last.key.clone());
            items.extend(page.items.into_iter().map(|item| Seen { item, at: page.revision }));
            if !page.more {
                return Ok((items, begun));
            }
        }
    }

    /// Waits for a change under `prefix` after a revision. A watch that ends is as good as one that came: the caller
    /// lists again.
    async fn until(&self, prefix: &str, after: Revision, wanted: fn(&Change) -> bool) -> Result<(), MetadataError> {
        let ended = match self.metadata.watch(prefix.into(), after).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Some(Ok(WatchEvent { changes, .. })) if changes.iter().any(wanted) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(problem)) => break problem,
                    None => return Ok(()),
                }
            },
            Err(problem) => problem,
        };
        match ended {
            MetadataError::Compacted { .. } => Ok(()),
            MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. } => {
                sleep(PAUSE).await;
                Ok(())
            }
            problem => Err(problem),
        }
    }
}

fn front(items: &[Seen]) -> Option<&Seen> {
    items.iter().min_by_key(|seen| seen.item.version)
}

fn holder(seen: &Seen) -> Holder {
    // Whatever stands there, somebody is at the front.
    let who = decode::<QueueTicket>(&seen.item.value).map_or_else(|problem| problem.to_string(), |ticket| ticket.who);
    Holder { who, token: seen.item.version }
}

/// Makes a call until metadata has answered it.
async fn patiently<T>(mut call: impl FnMut() -> Answer<T, MetadataError>) -> Result<T, MetadataError> {
    loop {
        match call().await {
            Err(MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. }) => sleep(PAUSE).await,
            answered => return answered,
        }
    }
}

/// A place in a queue. Dropped, it is given up.
#[derive(Debug)]
pub(crate) struct Place {
    token: Revision,
    lost: watch::Receiver<bool>,
    leave: DropGuard,
}

impl Place {
    /// The fencing token.
    pub(crate) const fn token(&self) -> Revision {
        self.token
    }

    /// Whether the place may be somebody else's by now.
    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow() || self.lost.has_changed().is_err()
    }

    /// Resolves when the place may be somebody else's.
    pub(crate) fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut lost = self.lost.clone();
        async move {
            // The task that kept the place is gone: so is the place.
            drop(lost.wait_for(|lost| *lost).await);
        }
    }

    /// Gives the place up, and waits until metadata knows, or cannot be told.
    pub(crate) async fn leave(self) {
        let Self { mut lost, leave, token: _ } = self;
        drop(leave);
        while lost.changed().await.is_ok() {}
    }
}

/// The task behind a place: keeps its session alive, and ends it.
struct Keeper {
    metadata: Arc<dyn MetadataService>,
    session: SessionId,
    ttl: Duration,
    lost: watch::Sender<bool>,
    leave: CancellationToken,
}

impl Keeper {
    /// Runs until the place is left or lost; `sure_until` is how long the session lives for certain.
    async fn run(self, sure_until: Instant, stopping: CancellationToken) {
        let expired = tokio::select! {
            () = self.leave.cancelled() => false,
            () = stopping.cancelled() => false,
            expired = self.beat(sure_until) => expired,
        };
        if !self.leave.is_cancelled() {
            self.lost.send_replace(true);
        }
        if !expired {
            // Without an answer the session ends by itself.
            drop(timeout(self.ttl, self.metadata.close_session(self.session)).await);
        }
    }

    /// Sends heartbeats until the session has expired (`true`), or until nobody knows any more whether it lives.
    async fn beat(&self, mut sure_until: Instant) -> bool {
        let rest = self.ttl / BEATS;
        loop {
            let began = Instant::now();
            tokio::select! {
                () = sleep_until(sure_until) => return false,
                answer = self.metadata.keep_alive(self.session) => match answer {
                    // The server counts from when it heard us, which was later than this.
                    Ok(()) => sure_until = began + self.ttl,
                    Err(MetadataError::SessionExpired(_)) => return true,
                    Err(problem) => tracing::debug!(session = %self.session, %problem, "a heartbeat failed"),
                },
            }
            tokio::select! {
                () = sleep_until(sure_until) => return false,
                () = sleep(rest) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;

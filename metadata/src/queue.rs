//! The one queue of a node's calls: the order of calls is the order of their effects. Bounded by the bytes it holds;
//! a call that does not fit is refused at once, when nothing has happened yet.

use protocol::{
    id::SessionId,
    service::{
        Reply,
        metadata::{MetadataError, Outcome, Scan, ScanPage, Transaction, Versioned},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// What a queued call counts for beyond its keys and values.
const OVERHEAD: usize = 256;

/// A call that takes effect in its turn.
#[derive(Debug)]
pub(crate) enum Call {
    /// Changes keys.
    Transact(Transaction, Reply<Outcome, MetadataError>),
    /// Opens a session with this time to live.
    OpenSession(Duration, Reply<SessionId, MetadataError>),
    /// Ends a session at its client's wish.
    CloseSession(SessionId, Reply<(), MetadataError>),
    /// Ends a session that is overdue, if it still is when its turn comes. Nobody waits for it.
    Expire(SessionId),
    /// Reads a key.
    Get(String, Reply<Option<Versioned>, MetadataError>),
    /// Reads a range.
    Scan(Scan, Reply<ScanPage, MetadataError>),
    /// A heartbeat.
    KeepAlive(SessionId, Reply<(), MetadataError>),
}

impl Call {
    /// Whether it goes through the log.
    pub(crate) const fn is_write(&self) -> bool {
        match self {
            Self::Transact(..) | Self::OpenSession(..) | Self::CloseSession(..) | Self::Expire(_) => true,
            Self::Get(..) | Self::Scan(..) | Self::KeepAlive(..) => false,
        }
    }

    /// Answers with an error.
    pub(crate) fn fail(self, error: MetadataError) {
        match self {
            Self::Transact(_, caller) => caller.send(Err(error)),
            Self::OpenSession(_, caller) => caller.send(Err(error)),
            Self::CloseSession(_, caller) | Self::KeepAlive(_, caller) => caller.send(Err(error)),
            Self::Expire(_) => {}
            Self::Get(_, caller) => caller.send(Err(error)),
            Self::Scan(_, caller) => caller.send(Err(error)),
        }
    }
}

/// A call and the room it takes.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The call.
    pub(crate) call: Call,
    /// Bytes it counts for.
    pub(crate) bytes: usize,
    /// When it was made, on the node's monotonic clock.
    pub(crate) made: Duration,
    /// Whether another node has passed it on; then this node does it or refuses it.
    pub(crate) is_passed_on: bool,
}

/// The end of the queue that callers use. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    calls: mpsc::UnboundedSender<Queued>,
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// The end of the queue that works it off.
#[derive(Debug)]
pub(crate) struct Exit {
    calls: mpsc::UnboundedReceiver<Queued>,
    used: Arc<AtomicUsize>,
}

/// A queue that holds up to `limit` bytes of calls.
pub(crate) fn queue(limit: usize) -> (Entrance, Exit) {
    let (tx, rx) = mpsc::unbounded_channel();
    let used = Arc::new(AtomicUsize::new(0));
    (Entrance { calls: tx, used: Arc::clone(&used), limit }, Exit { calls: rx, used })
}

impl Entrance {
    /// Queues a call, whose `bytes` are those of its keys and values, or answers it that there is no room.
    pub(crate) fn push(&self, mut queued: Queued) {
        queued.bytes += OVERHEAD;
        let bytes = queued.bytes;
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return queued.call.fail(unavailable("its queue is full"));
        }
        if let Err(refused) = self.calls.send(queued) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            refused.0.call.fail(unavailable("it is shutting down"));
        }
    }

    /// Bytes in the queue.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Exit {
    /// The next call, when there is one; `None` when every entrance is gone.
    pub(crate) async fn next(&mut self) -> Option<Queued> {
        let queued = self.calls.recv().await;
        self.release(queued)
    }

    /// The next call, if there is one already.
    pub(crate) fn next_now(&mut self) -> Option<Queued> {
        let queued = self.calls.try_recv().ok();
        self.release(queued)
    }

    /// Refuses new calls and answers the waiting ones that nothing has happened.
    pub(crate) fn close(&mut self) {
        self.calls.close();
        while let Some(queued) = self.next_now() {
            queued.call.fail(unavailable("it is shutting down"));
        }
    }

    fn release(&self, queued: Option<Queued>) -> Option<Queued> {
        if let Some(queued) = &queued {
            self.used.fetch_sub(queued.bytes, Ordering::Relaxed);
        }
        queued
    }
}

/// "Nothing happened", and why.
pub(crate) fn unavailable(reason: &str) -> MetadataError {
    MetadataError::Unavailable { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::service::reply;

    #[tokio::test]
    async fn the_queue_is_bounded_by_bytes_and_refuses_after_close() {
        let (entrance, mut exit) = queue(1000);
        let get = |bytes| {
            let (caller, answer) = reply();
            let call = Call::Get("k".into(), caller);
            entrance.push(Queued { call, bytes, made: Duration::ZERO, is_passed_on: false });
            answer
        };
        // A single call always fits, or a large one could never be made.
        let first = get(5000);
        let second = get(1);
        assert!(matches!(second.await, Err(MetadataError::Unavailable { .. })));
        let Some(Queued { call: Call::Get(_, caller), .. }) = exit.next().await else { panic!("a get") };
        caller.send(Ok(None));
        assert_eq!(first.await, Ok(None));
        assert_eq!(entrance.used(), 0);
        let third = get(1);
        exit.close();
        assert!(matches!(third.await, Err(MetadataError::Unavailable { .. })));
        assert!(matches!(get(1).await, Err(MetadataError::Unavailable { .. })));
    }
}

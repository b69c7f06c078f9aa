//! The one queue of a node's calls: the order of calls is the order of their effects. Bounded by the bytes it holds;
//! a call that does not fit is refused at once, when nothing has happened yet.

use crate::state::{Command, Reply as StateReply};
use protocol::{
    id::SessionId,
    service::{
        Reply,
        metadata::{MetadataError, Outcome, Scan, ScanPage, Versioned},
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a queued call counts for beyond its keys and values.
const OVERHEAD: usize = 256;

/// A call that takes effect in its turn.
#[derive(Debug)]
pub(crate) enum Call {
    /// Changes the state.
    Write(Write),
    /// Reads a key.
    Get(String, Reply<Option<Versioned>, MetadataError>),
    /// Reads a range.
    Scan(Scan, Reply<ScanPage, MetadataError>),
    /// A heartbeat.
    KeepAlive(SessionId, Reply<(), MetadataError>),
}

/// A call that changes the state.
#[derive(Debug)]
pub(crate) struct Write {
    /// What is proposed.
    pub command: Command,
    /// Who waits for it.
    pub answer: WriteAnswer,
    /// When it was called, on the node's monotonic clock.
    pub called: Duration,
}

/// Who waits for a write.
#[derive(Debug)]
pub(crate) enum WriteAnswer {
    /// The caller of a transaction.
    Outcome(Reply<Outcome, MetadataError>),
    /// The caller of a new session, with its time to live.
    Session(Reply<SessionId, MetadataError>, Duration),
    /// The caller who ends a session.
    Closed(Reply<(), MetadataError>, SessionId),
    /// Nobody: the session is overdue.
    Expiry(SessionId),
}

impl WriteAnswer {
    /// Answers with what the state machine said.
    pub(crate) fn send(self, reply: StateReply) {
        match self {
            Self::Outcome(caller) => caller.send(reply.into_outcome()),
            Self::Session(caller, _) => caller.send(reply.into_session()),
            Self::Closed(caller, _) => caller.send(reply.into_closed()),
            Self::Expiry(_) => {}
        }
    }

    /// Answers with an error.
    pub(crate) fn fail(self, error: MetadataError) {
        match self {
            Self::Outcome(caller) => caller.send(Err(error)),
            Self::Session(caller, _) => caller.send(Err(error)),
            Self::Closed(caller, _) => caller.send(Err(error)),
            Self::Expiry(_) => {}
        }
    }
}

impl Call {
    /// Answers with an error.
    pub(crate) fn fail(self, error: MetadataError) {
        match self {
            Self::Write(write) => write.answer.fail(error),
            Self::Get(_, caller) => caller.send(Err(error)),
            Self::Scan(_, caller) => caller.send(Err(error)),
            Self::KeepAlive(_, caller) => caller.send(Err(error)),
        }
    }
}

/// A call and the room it takes.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The call.
    pub call: Call,
    /// Bytes it counts for.
    pub bytes: usize,
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
    /// Queues a call of `bytes` bytes of keys and values, or answers it that there is no room.
    pub(crate) fn push(&self, call: Call, bytes: usize) {
        let bytes = bytes + OVERHEAD;
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return call.fail(unavailable("its queue is full"));
        }
        if let Err(refused) = self.calls.send(Queued { call, bytes }) {
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
            entrance.push(Call::Get("k".into(), caller), bytes);
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

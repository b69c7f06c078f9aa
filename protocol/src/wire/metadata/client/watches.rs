//! The watches of one client, all on one stream: a pure machine.
//!
//! Owns where each watch is, and what becomes of it when a server ends it or goes away. What it keeps:
//!
//! * A reader sees every event once, in order: a watch that is opened again begins after the last event it was given, and
//!   what it was given already is dropped.
//! * Only what another server would say too ends a watch, and the end of the client. A server that cannot is left.
//! * One that is read too slowly ends alone; nobody waits for it, and it holds no more memory than its buffer.

use super::{
    buffer::{Dropped, Feed, buffer},
    machine::{Leave, Machine},
    unavailable,
};
use crate::{
    id::Revision,
    service::{
        Reply,
        metadata::{MetadataError, WatchEvent, WatchStream},
    },
    wire::metadata::{
        MAX_WATCHES,
        proto::{self, watch_answer::Kind as Told, watch_call::Kind},
    },
};
use futures::StreamExt;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// What callers ask.
pub(super) enum Request {
    /// A new watch.
    Open {
        /// What to watch.
        prefix: String,
        /// What is known already.
        after: Revision,
        /// Who waits for it.
        caller: Reply<WatchStream, MetadataError>,
        /// When the caller has waited long enough.
        deadline: Duration,
        /// Told when the reader is dropped.
        dropped: Dropped,
    },
    /// The reader of this watch was dropped.
    Close(u64),
}

/// Where a watch is.
enum Stage {
    /// Its caller waits.
    Opening { caller: Reply<WatchStream, MetadataError>, deadline: Duration, dropped: Dropped },
    /// Its reader reads.
    Flowing(Feed),
}

struct Watch {
    prefix: String,
    /// The last event that was given to the reader.
    after: Revision,
    stage: Stage,
    /// The server in use was asked for it.
    asked: bool,
}

impl Watch {
    fn end(self, error: MetadataError) {
        match self.stage {
            Stage::Opening { caller, .. } => caller.send(Err(error)),
            Stage::Flowing(feed) => feed.end(error),
        }
    }
}

/// The watches of one client.
pub(super) struct Watches {
    retries: bool,
    watches: BTreeMap<u64, Watch>,
    next_id: u64,
    /// Those whose callers wait. Deadlines ascend with ids.
    opening: BTreeSet<u64>,
    /// Everything before this was asked of the server in use.
    unasked: u64,
    /// To be closed at the server in use.
    closing: VecDeque<u64>,
    /// Why the last server was left.
    trouble: Option<String>,
}

impl Watches {
    /// No watches; `retries` says whether servers are tried until callers run out of time.
    pub(super) const fn new(retries: bool) -> Self {
        Self {
            retries,
            watches: BTreeMap::new(),
            next_id: 1,
            opening: BTreeSet::new(),
            unasked: 0,
            closing: VecDeque::new(),
            trouble: None,
        }
    }

    fn forget(&mut self, id: u64) -> Option<Watch> {
        self.opening.remove(&id);
        self.watches.remove(&id)
    }

    /// Ends a watch here and, if it is open there, at the server.
    fn close(&mut self, id: u64) -> Option<Watch> {
        let watch = self.forget(id)?;
        if watch.asked {
            self.closing.push_back(id);
        }
        Some(watch)
    }

    fn opened(&mut self, id: u64) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let (feed, reader) = match &watch.stage {
            Stage::Opening { dropped, .. } => buffer(id, dropped.clone()),
            Stage::Flowing(_) => return,
        };
        self.opening.remove(&id);
        // A caller that has gone drops the reader at once, and so closes the watch.
        if let Stage::Opening { caller, .. } = std::mem::replace(&mut watch.stage, Stage::Flowing(feed)) {
            caller.send(Ok(reader.boxed()));
        }
    }

    fn event(&mut self, id: u64, event: proto::Event) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let given = match WatchEvent::try_from(event) {
            Ok(event) if event.revision <= watch.after => return,
            Ok(event) => {
                watch.after = event.revision;
                let Stage::Flowing(feed) = &watch.stage else { return };
                feed.push(event).map_err(|_| unavailable("the reader of the watch fell behind"))
            }
            Err(nonsense) => Err(nonsense),
        };
        if let Err(error) = given
            && let Some(watch) = self.close(id)
        {
            watch.end(error);
        }
    }

    fn failed(&mut self, id: u64, error: MetadataError) -> Result<(), Leave> {
        match error {
            MetadataError::Unavailable { reason } | MetadataError::OutcomeUnknown { reason } if self.retries => {
                // The watch itself stays, and is asked of the next server.
                if self.watches.contains_key(&id) { Err(Leave(reason)) } else { Ok(()) }
            }
            error => {
                if let Some(watch) = self.forget(id) {
                    watch.end(error);
                }
                Ok(())
            }
        }
    }
}

impl Machine for Watches {
    type Request = Request;
    type Call = proto::WatchCall;
    type Answer = proto::WatchAnswer;

    fn request(&mut self, request: Request) {
        match request {
            Request::Open { caller, .. } if self.watches.len() >= MAX_WATCHES => {
                caller.send(Err(unavailable(&format!("a client has at most {MAX_WATCHES} watches"))));
            }
            Request::Open { prefix, after, caller, deadline, dropped } => {
                let stage = Stage::Opening { caller, deadline, dropped };
                self.watches.insert(self.next_id, Watch { prefix, after, stage, asked: false });
                self.opening.insert(self.next_id);
                self.next_id += 1;
            }
            Request::Close(id) => drop(self.close(id)),
        }
    }

    fn has_next(&self) -> bool {
        !self.closing.is_empty() || self.watches.range(self.unasked..).next().is_some()
    }

    fn next(&mut self) -> Option<proto::WatchCall> {
        if let Some(id) = self.closing.pop_front() {
            return Some(proto::WatchCall { kind: Some(Kind::Close(id)) });
        }
        let (&id, watch) = self.watches.range_mut(self.unasked..).next()?;
        watch.asked = true;
        self.unasked = id + 1;
        let open = proto::OpenWatch { id, prefix: watch.prefix.clone(), after: watch.after.0 };
        Some(proto::WatchCall { kind: Some(Kind::Open(open)) })
    }

    fn answer(&mut self, answer: proto::WatchAnswer) -> Result<(), Leave> {
        match answer.kind {
            Some(Told::Opened(_)) => self.opened(answer.id),
            Some(Told::Event(event)) => self.event(answer.id, event),
            Some(Told::Failed(error)) => return self.failed(answer.id, error.into()),
            Some(Told::Hello(_)) | None => return Err(Leave("it said something that makes no sense here".into())),
        }
        Ok(())
    }

    fn lost(&mut self, reason: &str) {
        (self.unasked, self.closing) = (0, VecDeque::new());
        if !self.retries {
            return self.stop(reason);
        }
        self.watches.values_mut().for_each(|watch| watch.asked = false);
        self.trouble = Some(reason.into());
    }

    fn due(&self) -> Option<Duration> {
        let first = self.watches.get(self.opening.first()?)?;
        match first.stage {
            Stage::Opening { deadline, .. } => Some(deadline),
            Stage::Flowing(_) => None,
        }
    }

    fn expire(&mut self, now: Duration) {
        while self.due().is_some_and(|due| due <= now)
            && let Some(id) = self.opening.first().copied()
            && let Some(watch) = self.close(id)
        {
            let trouble = if watch.asked { None } else { self.trouble.as_deref() };
            watch.end(unavailable(trouble.unwrap_or("the watch was not opened in time")));
        }
    }

    fn is_idle(&self) -> bool {
        self.watches.is_empty()
    }

    fn stop(&mut self, reason: &str) {
        self.opening.clear();
        std::mem::take(&mut self.watches).into_values().for_each(|watch| watch.end(unavailable(reason)));
    }
}

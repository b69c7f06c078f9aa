//! One watch: a position in the history, and a few transactions taken from there. It hands over from past to present
//! without a gap, and ends with `Compacted` when what concerns it is gone from the history before it was taken.
//!
//! It never holds more than [`TAKE_EVENTS`] transactions or about [`TAKE_BYTES`], whose values it shares with the
//! history.

use super::{Applied, interest::Interest};
use crate::state::History;
use protocol::{
    id::Revision,
    service::metadata::{MetadataError, WatchEvent, WatchStream},
};
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

/// Transactions of its own that a watch takes from the history at once.
const TAKE_EVENTS: usize = 256;
/// Bytes of values that a watch takes at once, before the last.
const TAKE_BYTES: usize = 1024 * 1024;
/// Transactions that a watch looks through before it lets writers pass.
const LOOK_EVENTS: usize = 1_024;

/// A watch, as the stream that its caller reads.
pub(super) struct Watcher {
    applied: Arc<Applied>,
    interest: Arc<Interest>,
    /// The last revision that the caller was told of.
    told: Revision,
    ready: VecDeque<Arc<WatchEvent>>,
    ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.applied.interests.lock().close(&self.interest);
    }
}

/// What a watch finds when it looks.
enum Look {
    /// Transactions of its own, or at least one more thing to look at.
    More,
    /// Nothing of its own, but it is to say where it is.
    Progress(Revision),
    /// Nothing yet.
    Nothing,
}

impl Watcher {
    /// Opens a watch. What lies in the past is looked through at once, so that a caller who does not poll yet misses
    /// nothing because of others.
    pub(super) fn open(applied: &Arc<Applied>, prefix: String, after: Revision) -> Result<WatchStream, MetadataError> {
        let interest = {
            let state = applied.state.read();
            applied.interests.lock().open(prefix, after, state.revision())
        };
        let applied = Arc::clone(applied);
        let mut watcher = Self { applied, interest, told: after, ready: VecDeque::new(), ended: false };
        while watcher.ready.is_empty() && watcher.interest.pending().is_some() {
            watcher.take()?;
        }
        Ok(Box::pin(futures::stream::unfold(watcher, Self::next)))
    }

    async fn next(mut self) -> Option<(Result<WatchEvent, MetadataError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.told = event.revision;
                return Some((Ok(self.interest.shown(&event)), self));
            }
            match self.look() {
                Ok(Look::More) => {}
                Ok(Look::Progress(revision)) => {
                    self.told = revision;
                    return Some((Ok(WatchEvent { revision, changes: Vec::new() }), self));
                }
                Ok(Look::Nothing) => self.interest.rings().await,
                Err(problem) => {
                    self.ended = true;
                    return Some((Err(problem), self));
                }
            }
        }
    }

    fn look(&mut self) -> Result<Look, MetadataError> {
        if self.interest.pending().is_some() {
            self.take()?;
            return Ok(Look::More);
        }
        let state = self.applied.state.read();
        // Asked again under the lock: from here on nothing concerns the watch up to the state's revision.
        if self.interest.pending().is_some() {
            return Ok(Look::More);
        }
        if self.applied.closed.load(Ordering::Relaxed) {
            return Err(MetadataError::Unavailable { reason: "the metadata service is shutting down".into() });
        }
        let revision = state.revision();
        Ok(if self.interest.take_due() && revision > self.told { Look::Progress(revision) } else { Look::Nothing })
    }

    /// Takes what concerns the watch from the history.
    fn take(&mut self) -> Result<(), MetadataError> {
        let state = self.applied.state.read();
        let Some(pending) = self.interest.pending() else { return Ok(()) };
        let next = take(state.history(), Revision(pending.0 - 1), &self.interest, &mut self.ready)?;
        self.interest.took(next);
        Ok(())
    }
}

/// Takes the transactions that concern a watch after `from`. The first revision that was not looked at; `None` if there
/// is none.
fn take(
    history: &History,
    from: Revision,
    interest: &Interest,
    ready: &mut VecDeque<Arc<WatchEvent>>,
) -> Result<Option<Revision>, MetadataError> {
    let events = history.after(from).map_err(|oldest| MetadataError::Compacted { asked: from, oldest })?;
    let mut bytes = 0;
    for (looked, event) in events.enumerate() {
        if looked == LOOK_EVENTS || ready.len() == TAKE_EVENTS || bytes >= TAKE_BYTES {
            return Ok(Some(event.revision));
        }
        if interest.concerns(event) {
            bytes += History::size(event);
            ready.push_back(Arc::clone(event));
        }
    }
    Ok(None)
}

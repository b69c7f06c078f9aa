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
    /// Bytes of what is ready.
    bytes: usize,
    ended: bool,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.applied.interests.lock().close(&self.interest);
    }
}

impl Watcher {
    /// Opens a watch. What lies in the past is looked through at once, so that a caller who does not read yet misses
    /// nothing because of others.
    pub(super) fn open(applied: &Arc<Applied>, prefix: String, after: Revision) -> Result<WatchStream, MetadataError> {
        let interest = {
            let state = applied.state.read();
            applied.interests.lock().open(prefix, after, state.revision())
        };
        let applied = Arc::clone(applied);
        let mut watcher = Self { applied, interest, told: after, ready: VecDeque::new(), bytes: 0, ended: false };
        watcher.catch_up()?;
        Ok(Box::pin(futures::stream::unfold(watcher, Self::next)))
    }

    async fn next(mut self) -> Option<(Result<WatchEvent, MetadataError>, Self)> {
        while !self.ended {
            match self.now() {
                Ok(Some(event)) => {
                    self.told = event.revision;
                    return Some((Ok(event), self));
                }
                Ok(None) => self.interest.rings().await,
                Err(problem) => {
                    self.ended = true;
                    return Some((Err(problem), self));
                }
            }
        }
        None
    }

    /// What there is to tell now; if nothing, the bell will ring.
    fn now(&mut self) -> Result<Option<WatchEvent>, MetadataError> {
        if self.ready.is_empty() {
            self.catch_up()?;
        }
        if let Some(event) = self.ready.pop_front() {
            self.bytes -= History::size(&event);
            return Ok(Some(self.interest.shown(&event)));
        }
        let state = self.applied.state.read();
        if self.interest.pending().is_some() {
            return Ok(None);
        }
        if self.applied.closed.load(Ordering::Relaxed) {
            return Err(MetadataError::Unavailable { reason: "the metadata service is shutting down".into() });
        }
        // Nothing up to here concerns the watch, and it says so if it is its turn.
        let revision = state.revision();
        let is_progress = self.interest.take_due() && revision > self.told;
        Ok(is_progress.then(|| WatchEvent { revision, changes: Vec::new() }))
    }

    /// Looks through the history until all is seen or enough is ready.
    fn catch_up(&mut self) -> Result<(), MetadataError> {
        while self.has_room() && self.interest.pending().is_some() {
            self.take()?;
        }
        Ok(())
    }

    /// Takes what concerns the watch from the next piece of the history.
    fn take(&mut self) -> Result<(), MetadataError> {
        let state = self.applied.state.read();
        let Some(pending) = self.interest.pending() else { return Ok(()) };
        let asked = Revision(pending.0 - 1);
        let events = state.history().after(asked).map_err(|oldest| MetadataError::Compacted { asked, oldest })?;
        for (looked, event) in events.enumerate() {
            if looked == LOOK_EVENTS || !self.has_room() {
                self.interest.took(Some(event.revision));
                return Ok(());
            }
            if self.interest.concerns(event) {
                self.bytes += History::size(event);
                self.ready.push_back(Arc::clone(event));
            }
        }
        self.interest.took(None);
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.ready.len() < TAKE_EVENTS && self.bytes < TAKE_BYTES
    }
}

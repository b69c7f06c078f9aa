//! What waits for the committer: bounded by bytes, taken in call order. Owns admission; never looks into a command.

use super::Command;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

/// What a command without an entry counts for, in bytes: about what it occupies.
const OVERHEAD: usize = 256;
/// What fences, recovery adds and the like may use beyond the limit, so that writers can never shut recovery out.
const RESERVE: usize = 16 << 20;

/// Why a command was not taken; it comes back unharmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// Too many bytes wait.
    Full,
    /// The bookie is stopping.
    Closed,
}

/// Commands that wait or are being carried out.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Command, usize)>,
    /// Bytes of commands that wait or are being carried out.
    in_flight: usize,
    closed: bool,
}

/// Commands that are carried out together, and the bytes they hold until [`Queue::done`].
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) commands: Vec<Command>,
    pub(super) bytes: usize,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), limit }
    }

    /// Takes a command of `size` bytes in.
    pub(super) fn push(&self, command: Command, size: usize) -> Result<(), (Command, Rejected)> {
        let limit = if command.is_reserved() { self.limit + RESERVE } else { self.limit };
        let size = size + OVERHEAD;
        let mut state = self.state.lock();
        if state.closed {
            return Err((command, Rejected::Closed));
        }
        // A single entry passes whatever its size, or it could never be stored.
        if state.in_flight > 0 && state.in_flight + size > limit {
            return Err((command, Rejected::Full));
        }
        state.in_flight += size;
        state.waiting.push_back((command, size));
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for commands and takes what is there, up to about `limit` bytes; none when closed and empty.
    pub(super) fn take(&self, limit: usize) -> Option<Taken> {
        let mut state = self.state.lock();
        self.arrived.wait_while(&mut state, |state| state.waiting.is_empty() && !state.closed);
        let mut taken = Taken { commands: Vec::with_capacity(state.waiting.len()), bytes: 0 };
        while let Some((_, size)) = state.waiting.front() {
            if !taken.commands.is_empty() && taken.bytes + size > limit {
                break;
            }
            taken.bytes += size;
            taken.commands.extend(state.waiting.pop_front().map(|(command, _)| command));
        }
        (!taken.commands.is_empty()).then_some(taken)
    }

    /// Commands of this many bytes have been answered.
    pub(super) fn done(&self, bytes: usize) {
        self.state.lock().in_flight -= bytes;
    }

    /// Bytes that wait or are being carried out.
    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    /// Takes nothing in any more; what waits is still carried out.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Closes, and gives up what waits: the committer is gone. Dropped commands answer that their outcome is unknown.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        drop(waiting);
    }
}

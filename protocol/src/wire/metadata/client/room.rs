//! Admission by bytes: what waits for an answer takes room, and gives it back when it is answered.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What a call takes beyond its own bytes.
const OVERHEAD: usize = 256;

/// Room for calls. A single call always fits.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    limit: usize,
}

/// Room that a call takes until it is answered.
#[derive(Debug)]
pub(super) struct Taken(Arc<Room>, usize);

impl Room {
    /// Room for calls of `limit` bytes.
    pub(super) const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Room for a call of `bytes`, if there is any.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let bytes = bytes + OVERHEAD;
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let taken = Taken(Arc::clone(self), bytes);
        (before == 0 || before + bytes <= self.limit).then_some(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.used.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_limited_and_given_back_and_a_single_call_always_fits() {
        let room = Arc::new(Room::new(1_000));
        let whole = room.take(100_000).expect("nothing else waits");
        assert!(room.take(1).is_none());
        drop(whole);
        let half = room.take(500 - OVERHEAD).expect("fits");
        let rest = room.take(500 - OVERHEAD).expect("fits exactly");
        assert!(room.take(0).is_none());
        drop((half, rest));
        assert!(room.take(500).is_some());
    }
}

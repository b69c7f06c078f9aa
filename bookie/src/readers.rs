//! The threads that read from the disk. Owns their number and the bound of what waits for them; never writes, so a
//! reader that falls far behind cannot slow an acknowledgement by more than its share of the disk.

use parking_lot::{Condvar, Mutex};
use std::{collections::VecDeque, io, sync::Arc, thread::JoinHandle};

/// What becomes of a piece of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its turn has come: read.
    Read,
    /// Too much waits, or the bookie is stopping: answer so.
    Refused,
}

/// A piece of reading; called exactly once.
pub(crate) type Job = Box<dyn FnOnce(Turn) + Send>;

/// The threads.
pub(crate) struct Readers {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    #[cfg(feature = "testing")]
    inline: bool,
}

struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    /// Starts `threads` threads for which up to `limit` jobs may wait.
    pub(crate) fn start(threads: usize, limit: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue { state: Mutex::default(), arrived: Condvar::new(), limit });
        let start = |number| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("bookie-read-{number}")).spawn(move || queue.run())
        };
        let threads = (0..threads.max(1)).map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            queue,
            threads: Mutex::new(threads),
            #[cfg(feature = "testing")]
            inline: false,
        })
    }

    /// No threads: every job is done where it is called. For a simulator.
    #[cfg(feature = "testing")]
    pub(crate) fn inline() -> Self {
        let queue = Arc::new(Queue { state: Mutex::default(), arrived: Condvar::new(), limit: 0 });
        Self { queue, threads: Mutex::default(), inline: true }
    }

    /// Has a thread do this, or calls it here and now to say that it is refused.
    pub(crate) fn run(&self, job: Job) {
        #[cfg(feature = "testing")]
        if self.inline {
            return job(Turn::Read);
        }
        let mut state = self.queue.state.lock();
        if state.closed || state.waiting.len() >= self.queue.limit {
            drop(state);
            return job(Turn::Refused);
        }
        state.waiting.push_back(job);
        drop(state);
        self.queue.arrived.notify_one();
    }

    /// Refuses what waits and ends the threads. Blocks until they are done with what they are at.
    pub(crate) fn stop(&self) {
        let mut state = self.queue.state.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.queue.arrived.notify_all();
        waiting.into_iter().for_each(|job| job(Turn::Refused));
        for thread in std::mem::take(&mut *self.threads.lock()) {
            drop(thread.join());
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.arrived.notify_all();
    }
}

impl Queue {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            self.arrived.wait_while(&mut state, |state| state.waiting.is_empty() && !state.closed);
            let Some(job) = state.waiting.pop_front() else { return };
            drop(state);
            // A job that panics answers its caller by being dropped; the thread lives on for the others.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(Turn::Read))).is_err() {
                tracing::error!("a read panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn what_waits_is_bounded_and_a_panic_is_survived() {
        let readers = Readers::start(1, 1).expect("started");
        let (tx, turns) = mpsc::channel();
        let tell = |tx: &mpsc::Sender<Turn>| -> Job {
            let tx = tx.clone();
            Box::new(move |turn| tx.send(turn).expect("awaited"))
        };
        let (release, held) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        readers.run(Box::new(move |_| {
            started.send(()).expect("awaited");
            held.recv().expect("released");
            panic!("on purpose");
        }));
        running.recv().expect("started");
        readers.run(tell(&tx));
        readers.run(tell(&tx));
        assert_eq!(turns.recv(), Ok(Turn::Refused), "one runs, one waits, one is too many");
        release.send(()).expect("awaited");
        assert_eq!(turns.recv(), Ok(Turn::Read));
        readers.stop();
        readers.run(tell(&tx));
        assert_eq!(turns.recv(), Ok(Turn::Refused));
    }
}

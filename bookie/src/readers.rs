//! The threads that read from the disk. Owns their number and the bounds of what waits for them, by count and by the bytes
//! that may be answered; never writes, so a reader that falls far behind cannot slow an acknowledgement by more than its
//! share of the disk, nor take more memory than its budget.

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

/// What may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Jobs that wait for a thread.
    pub(crate) jobs: usize,
    /// Bytes that all jobs together, waiting or at work, may read into memory. A single job passes whatever its size.
    pub(crate) bytes: usize,
}

struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    limits: Limits,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Job, usize)>,
    /// Bytes of jobs that wait or are at work.
    in_flight: usize,
    closed: bool,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    /// Starts `threads` threads for which jobs may wait within `limits`.
    pub(crate) fn start(threads: usize, limits: Limits) -> io::Result<Self> {
        let queue = Arc::new(Queue { state: Mutex::default(), arrived: Condvar::new(), limits });
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
        let limits = Limits { jobs: 0, bytes: 0 };
        let queue = Arc::new(Queue { state: Mutex::default(), arrived: Condvar::new(), limits });
        Self { queue, threads: Mutex::default(), inline: true }
    }

    /// Has a thread do this, or calls it here and now to say that it is refused. `bytes` is the most it reads.
    pub(crate) fn run(&self, bytes: usize, job: Job) {
        #[cfg(feature = "testing")]
        if self.inline {
            return job(Turn::Read);
        }
        let mut state = self.queue.state.lock();
        let Limits { jobs, bytes: budget } = self.queue.limits;
        let over = state.in_flight > 0 && state.in_flight.saturating_add(bytes) > budget;
        if state.closed || over || state.waiting.len() >= jobs {
            drop(state);
            return job(Turn::Refused);
        }
        state.in_flight += bytes;
        state.waiting.push_back((job, bytes));
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
        waiting.into_iter().for_each(|(job, _)| job(Turn::Refused));
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
            let Some((job, bytes)) = state.waiting.pop_front() else { return };
            drop(state);
            // A job that panics answers its caller by being dropped; the thread lives on for the others.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(Turn::Read))).is_err() {
                tracing::error!("a read panicked");
            }
            self.state.lock().in_flight -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::runtime::{Clock, SystemClock};
    use std::sync::mpsc;

    #[test]
    fn what_waits_is_bounded_and_a_panic_is_survived() {
        let readers = Readers::start(1, Limits { jobs: 1, bytes: 100 }).expect("started");
        let (tx, turns) = mpsc::channel();
        let tell = |tx: &mpsc::Sender<Turn>| -> Job {
            let tx = tx.clone();
            Box::new(move |turn| tx.send(turn).expect("awaited"))
        };
        let (release, held) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        readers.run(
            0,
            Box::new(move |_| {
                started.send(()).expect("awaited");
                held.recv().expect("released");
                panic!("on purpose");
            }),
        );
        running.recv().expect("started");
        readers.run(0, tell(&tx));
        readers.run(0, tell(&tx));
        assert_eq!(turns.recv(), Ok(Turn::Refused), "one runs, one waits, one is too many");
        release.send(()).expect("awaited");
        assert_eq!(turns.recv(), Ok(Turn::Read));
        readers.stop();
        readers.run(0, tell(&tx));
        assert_eq!(turns.recv(), Ok(Turn::Refused));
    }

    #[test]
    fn bytes_are_bounded_until_they_are_answered() {
        let readers = Readers::start(2, Limits { jobs: 10, bytes: 100 }).expect("started");
        let (tx, turns) = mpsc::channel();
        let hold = |bytes| {
            let ((release, held), (started, running)) = (mpsc::channel::<()>(), mpsc::channel());
            readers.run(
                bytes,
                Box::new(move |turn| {
                    started.send(turn).expect("awaited");
                    held.recv().ok();
                }),
            );
            assert_eq!(running.recv(), Ok(Turn::Read));
            release
        };
        let ask = |bytes| {
            let tx = tx.clone();
            readers.run(bytes, Box::new(move |turn| tx.send(turn).expect("awaited")));
        };
        let first = hold(1000);
        ask(1);
        assert_eq!(turns.recv(), Ok(Turn::Refused), "a large one passes alone, and nothing beside it");
        drop(first);
        // Its bytes are given back when the thread is done, which is soon after.
        let deadline = std::time::Duration::from_secs(60);
        let begun = SystemClock::default();
        while readers.queue.state.lock().in_flight > 0 {
            assert!(begun.monotonic() < deadline, "the bytes are never given back");
            std::thread::yield_now();
        }
        let second = hold(60);
        ask(41);
        assert_eq!(turns.recv(), Ok(Turn::Refused), "one byte too many");
        ask(40);
        assert_eq!(turns.recv(), Ok(Turn::Read));
        drop(second);
        readers.stop();
    }
}

//! The thread that raft runs on: elections, replication, the log and the messages between members, and nothing else.
//!
//! Requests, watches and snapshots of other threads cannot delay it; where the system allows it, it also goes first. Owns
//! the thread's start and end.

use std::{io, sync::mpsc, thread};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// How much the thread goes before others, as the `nice` of the system; ignored where that is not allowed.
const PRIORITY: i32 = -10;

/// Lets this thread go first. Only root may; everybody else competes as any thread does.
pub(super) fn go_first() {
    let _ = rustix::process::setpriority_process(None, PRIORITY);
}

/// A running thread. It ends when this is dropped.
#[derive(Debug)]
pub struct RaftThread {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl RaftThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread, or no event queue.
    pub fn start() -> io::Result<Self> {
        let (end, ended) = oneshot::channel::<()>();
        let (started, start) = mpsc::sync_channel(1);
        thread::Builder::new().name("metadata-raft".into()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().thread_name("metadata-disk").build() {
                Ok(runtime) => runtime,
                Err(problem) => return drop(started.send(Err(problem))),
            };
            go_first();
            drop(started.send(Ok(runtime.handle().clone())));
            let _ = runtime.block_on(ended);
            // A write that still runs ends by itself; whoever waits for the directory to close waits for it.
            runtime.shutdown_background();
        })?;
        let gone = |_| io::Error::other("the thread of the metadata service ended at once");
        let handle = start.recv().map_err(gone)??;
        Ok(Self { handle, _end: end })
    }

    /// Where tasks of raft are started.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_on_the_thread_until_it_ends() {
        let thread = RaftThread::start().expect("starts");
        let name = thread.handle().spawn(async { thread::current().name().map(str::to_owned) }).await.expect("runs");
        assert_eq!(name.as_deref(), Some("metadata-raft"));
        let endless = thread.handle().spawn(std::future::pending::<()>());
        drop(thread);
        assert!(endless.await.expect_err("cut off").is_cancelled());
    }
}

//! Tasks: the only way to start work that outlives a call. Every task has a name and a kind, and the kind says what its
//! failure and the node's shutdown mean. Owns stopping; never decides the order of roles (the node does).

use std::{future::Future, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a task's end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Serves one client or one request: a panic is logged, shutdown aborts it.
    Request,
    /// Keeps the node alive: an error or panic stops the node, shutdown waits for it.
    Vital,
    /// Works in the background: an error is logged, shutdown waits for it.
    Background,
}

/// A group of tasks with one shutdown signal. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    failed: Arc<tokio::sync::watch::Sender<Option<String>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        let (failed, _) = tokio::sync::watch::channel(None);
        Self { tracker: TaskTracker::new(), stopping: CancellationToken::new(), failed: Arc::new(failed) }
    }
}

impl Tasks {
    /// A group that stops with this one, or earlier; its failures are this one's.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), stopping: self.stopping.child_token(), failed: Arc::clone(&self.failed) }
    }

    /// Starts a task. `name` appears in logs.
    pub fn spawn<F>(&self, kind: TaskKind, name: &'static str, work: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (stopping, failed) = (self.stopping.clone(), Arc::clone(&self.failed));
        self.tracker.spawn(async move {
            let run = tokio::spawn(work);
            let abort = run.abort_handle();
            let outcome = tokio::select! {
                outcome = run => outcome,
                () = stopping.cancelled(), if kind == TaskKind::Request => { abort.abort(); return; }
            };
            let problem = match outcome {
                Ok(Ok(())) => return,
                Ok(Err(problem)) => problem,
                Err(joined) => format!("panicked: {joined}"),
            };
            tracing::error!(task = name, %problem, "task failed");
            if kind == TaskKind::Vital && !stopping.is_cancelled() {
                failed.send_replace(Some(format!("{name}: {problem}")));
            }
        });
    }

    /// The signal that every long-running task of the group watches.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Resolves when a vital task has failed, with its name and problem.
    pub async fn failure(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(problem) => problem.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Signals shutdown and waits for the tasks; `false` if some were still running at the deadline.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_failure_is_reported_and_stop_waits() {
        let tasks = Tasks::default();
        tasks.spawn(TaskKind::Background, "fine", async { Err("only logged".into()) });
        tasks.spawn(TaskKind::Vital, "core", async { Err("disk gone".into()) });
        assert_eq!(tasks.failure().await, "core: disk gone");
        let stopping = tasks.stopping();
        tasks.spawn(TaskKind::Vital, "waits", async move {
            stopping.cancelled().await;
            Ok(())
        });
        tasks.spawn(TaskKind::Request, "endless", std::future::pending());
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }
}

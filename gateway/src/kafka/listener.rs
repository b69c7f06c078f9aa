//! The accept loop. Owns the number of open connections (`max.connections`): at the limit new ones wait in the kernel's
//! queue, as with Kafka. Knows nothing of requests.

use super::{connection, context::Shared};
use protocol::runtime::{TaskKind, Tasks};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// The pause after a failed accept (usually: out of file descriptors), so that it is not retried in a tight loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and serves each in a task of its own.
pub(crate) struct Listener {
    /// The bound socket.
    pub(crate) socket: TcpListener,
    /// What handlers share.
    pub(crate) shared: Arc<Shared>,
    /// Where connections run.
    pub(crate) tasks: Tasks,
    /// Signalled to stop accepting and to let connections finish.
    pub(crate) draining: CancellationToken,
    /// One permit per connection.
    pub(crate) connections: Arc<Semaphore>,
}

impl Listener {
    /// Runs until draining begins.
    pub(crate) async fn run(self) -> Result<(), String> {
        loop {
            let next = self.next();
            let (stream, permit) = tokio::select! {
                biased;
                () = self.draining.cancelled() => return Ok(()),
                next = next => match next {
                    Ok(next) => next,
                    Err(problem) => {
                        tracing::warn!(%problem, "cannot accept a connection; is the limit of open files too low?");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            self.spawn(stream, permit);
        }
    }

    async fn next(&self) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.connections).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = self.socket.accept().await?;
        Ok((stream, permit))
    }

    fn spawn(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let (shared, tasks, draining) = (Arc::clone(&self.shared), self.tasks.clone(), self.draining.clone());
        shared.metrics.opened();
        let open = OpenConnection { shared: Arc::clone(&shared) };
        let serve = Box::pin(async move {
            let permit = Arc::new(permit);
            connection::serve(stream, shared, tasks, draining, permit).await;
            drop(open);
            Ok(())
        });
        self.tasks.spawn(TaskKind::Request, "kafka connection reader", serve);
    }
}

/// Counts an open connection, however its task ends.
struct OpenConnection {
    shared: Arc<Shared>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.shared.metrics.closed();
    }
}

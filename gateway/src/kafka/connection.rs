//! One client connection: a reader that starts requests in arrival order and a writer that answers them in the same
//! order. Owns admission and the reasons to close; never waits for an answer before it reads on, except that one
//! connection has at most one fetch in progress (so that answers in memory are bounded).
//!
//! Invariant: a handler's synchronous part runs in the reader, so brokers see the appends of a connection in the order
//! they arrived, which idempotent producers rely on.

use super::{
    budget::Admission,
    context::Shared,
    header::Preamble,
    intake::{Intake, IntakeError},
    outlet::{Link, Outlet, Started},
    request::{Call, Reply, Request},
    router::{self, Api},
};
use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use protocol::runtime::{TaskKind, Tasks};
use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The most requests of one connection in progress.
const MAX_UNANSWERED: usize = 64;
/// The most bytes of requests of one connection in progress; one larger request may be, alone.
const MAX_UNANSWERED_BYTES: usize = 32 * 1024 * 1024;

/// Why a connection ends, other than by the client.
#[derive(Debug, thiserror::Error)]
enum Closing {
    #[error("{0}")]
    Intake(#[from] IntakeError),
    #[error("{0}")]
    Header(#[from] super::header::HeaderError),
    #[error("{0}")]
    Message(#[from] super::message::MessageError),
    #[error("unknown or unsupported API {0} version {1}")]
    Unsupported(i16, i16),
    #[error("idle")]
    Idle,
    #[error("the gateway is stopping")]
    Stopping,
    #[error("the answering side has closed")]
    Answered,
}

/// Serves a connection until either side closes it. `open` is what it occupies; freed when both tasks have ended.
pub(super) async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    tasks: Tasks,
    draining: CancellationToken,
    open: Arc<OwnedSemaphorePermit>,
) {
    let Ok(peer) = stream.peer_addr() else { return };
    if let Err(problem) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %problem, "cannot set TCP_NODELAY");
    }
    let (read, write) = stream.into_split();
    let link = Arc::new(Link::default());
    let (queue, started) = mpsc::channel(MAX_UNANSWERED);
    let outlet = Outlet::new(write, Arc::clone(&shared), Arc::clone(&link));
    let held = Arc::clone(&open);
    let writer = Box::pin(async move {
        outlet.run(started).await;
        drop(held);
        Ok(())
    });
    tasks.spawn(TaskKind::Request, "kafka connection writer", writer);
    let mut reader = Reader {
        intake: Intake::new(read),
        shared,
        peer: peer.ip(),
        queue,
        bytes: Arc::new(Semaphore::new(MAX_UNANSWERED_BYTES)),
        fetches: Arc::new(Semaphore::new(1)),
        link: Arc::clone(&link),
        draining,
    };
    let Err(why) = reader.run().await;
    reader.close(&why);
    drop(open);
}

struct Reader {
    intake: Intake,
    shared: Arc<Shared>,
    peer: IpAddr,
    queue: mpsc::Sender<Box<Started>>,
    bytes: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    link: Arc<Link>,
    draining: CancellationToken,
}

impl Reader {
    async fn run(&mut self) -> Result<std::convert::Infallible, Closing> {
        let settings = self.shared.settings.current();
        let (limit, idle) = (settings.max_request_bytes, settings.connections_max_idle);
        drop(settings);
        loop {
            let size = self.wait_for_request(limit, idle).await?;
            let here = self.admit_here(size).await;
            let mut admission = self.shared.budget.admit(size).await;
            admission.hold(here);
            let frame = self.intake.frame(size).await?;
            self.start(frame, admission).await?;
        }
    }

    /// Waits for the size of the next request; a connection is not idle while a request of it is in progress.
    async fn wait_for_request(&mut self, limit: usize, idle: Duration) -> Result<usize, Closing> {
        loop {
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return Err(Closing::Stopping),
                () = self.queue.closed() => return Err(Closing::Answered),
                size = timeout(idle, self.intake.next_size(limit)) => match size {
                    Ok(size) => return Ok(size?),
                    Err(_) if self.link.unanswered.load(Ordering::Relaxed) > 0 => {}
                    Err(_) => return Err(Closing::Idle),
                },
            }
        }
    }

    async fn admit_here(&self, size: usize) -> OwnedSemaphorePermit {
        let permits = size.min(MAX_UNANSWERED_BYTES) as u32;
        Arc::clone(&self.bytes).acquire_many_owned(permits).await.expect("never closed")
    }

    /// Starts the request of a frame and puts its answer into the queue.
    async fn start(&mut self, frame: Bytes, mut admission: Admission) -> Result<(), Closing> {
        let metrics = &self.shared.metrics;
        metrics.received_bytes.increment(frame.len() as u64 + 4);
        let preamble = Preamble::read(&frame)?;
        let unsupported = Closing::Unsupported(preamble.api_key, preamble.version);
        let (place, api) = router::find(preamble.api_key).ok_or(unsupported)?;
        if api.key == ApiKey::Fetch {
            let fetch = Arc::clone(&self.fetches).acquire_owned().await.expect("never closed");
            admission.hold(fetch);
        }
        let at = self.shared.clock.monotonic();
        let reply = self.dispatch(api, preamble, &frame)?;
        drop(frame);
        let flexible = api.key.response_header_version(preamble.version) >= 1;
        let started = Started { correlation: preamble.correlation, flexible, api: place, at, reply, admission };
        self.link.unanswered.fetch_add(1, Ordering::Relaxed);
        self.queue.send(Box::new(started)).await.map_err(|_| Closing::Answered)
    }

    /// Runs the synchronous part of the API's handler.
    fn dispatch(&self, api: &'static Api, preamble: Preamble, frame: &Bytes) -> Result<Reply, Closing> {
        let Preamble { api_key, version, .. } = preamble;
        let call = Call { shared: Arc::clone(&self.shared), api_key, version };
        if !api.serves(version) {
            return router::refuse_version(&call, api).ok_or(Closing::Unsupported(api_key, version));
        }
        let (client_id, body) = preamble.rest(api.key, frame)?;
        Ok((api.handle)(Request { call, client_id, peer: self.peer, body })?)
    }

    /// Ends the connection: at once if the client is gone, else after everything before was answered.
    fn close(&self, why: &Closing) {
        match why {
            Closing::Intake(IntakeError::Closed | IntakeError::Cut | IntakeError::Socket(_)) => self.link.gone.cancel(),
            Closing::Idle | Closing::Stopping | Closing::Answered => {}
            Closing::Intake(IntakeError::Stalled | IntakeError::Size { .. })
            | Closing::Header(_)
            | Closing::Message(_)
            | Closing::Unsupported(..) => self.shared.metrics.refused_requests.increment(1),
        }
        tracing::debug!(peer = %self.peer, reason = %why, "connection closed");
    }
}

//! Answers onto a socket, in request order. Owns the queue of started requests of one connection and the vectored writes
//! of their answers: record data goes out as the slices it came in, several ready answers in one call to the kernel.
//! Never starts a request.

use super::{
    budget::{Admission, AnswerBytes},
    context::Shared,
    request::{Outcome, Reply},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::tcp::OwnedWriteHalf, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// Ready answers are written together up to about this many bytes.
const COALESCE: usize = 1024 * 1024;
/// The most pieces given to the kernel at once.
const PIECES: usize = 64;

/// A started request, in the queue of its connection; boxed there, because an idle queue has room for many.
pub(super) struct Started {
    /// What the client recognises the answer by.
    pub(super) correlation: i32,
    /// Whether the response header ends in tagged fields.
    pub(super) flexible: bool,
    /// The request's place in the table of APIs.
    pub(super) api: usize,
    /// When it was started.
    pub(super) at: Duration,
    /// Its answer.
    pub(super) reply: Reply,
    /// What it occupies until its answer is written.
    pub(super) admission: Admission,
}

/// What the two tasks of a connection share.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Requests that are started and not yet answered.
    pub(super) unanswered: AtomicUsize,
    /// Signalled when the client is gone: answers are of no use any more.
    pub(super) gone: CancellationToken,
}

/// An answer in the write queue: what is kept until it is written.
struct Written {
    api: usize,
    at: Duration,
    _admission: Admission,
    _bytes: AnswerBytes,
}

/// The sending side of a connection.
pub(super) struct Outlet {
    socket: OwnedWriteHalf,
    shared: Arc<Shared>,
    link: Arc<Link>,
    pieces: VecDeque<Bytes>,
    queued: usize,
    written: Vec<Written>,
}

impl Outlet {
    /// Writes answers to a socket.
    pub(super) fn new(socket: OwnedWriteHalf, shared: Arc<Shared>, link: Arc<Link>) -> Self {
        Self { socket, shared, link, pieces: VecDeque::new(), queued: 0, written: Vec::new() }
    }

    /// Answers everything that comes through the queue, until it ends or an answer says to close.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Box<Started>>) {
        let gone = self.link.gone.clone();
        tokio::select! {
            biased;
            () = gone.cancelled() => {}
            () = self.answer_all(&mut queue) => {}
        }
    }

    async fn answer_all(&mut self, queue: &mut mpsc::Receiver<Box<Started>>) {
        let mut waiting = queue.recv().await;
        while let Some(mut started) = waiting.take() {
            let outcome = started.reply.as_mut().await;
            let mut open = self.enqueue(*started, outcome);
            // Whatever is ready by now goes out in the same write.
            while open && self.queued < COALESCE && waiting.is_none() {
                let Ok(mut next) = queue.try_recv() else { break };
                match next.reply.as_mut().now_or_never() {
                    Some(outcome) => open = self.enqueue(*next, outcome),
                    None => waiting = Some(next),
                }
            }
            if let Err(problem) = self.flush().await {
                tracing::debug!(%problem, "an answer could not be written");
                return;
            }
            if !open {
                return;
            }
            if waiting.is_none() {
                waiting = queue.recv().await;
            }
        }
    }

    /// Queues an answer for writing; `false` if the connection is to be closed.
    fn enqueue(&mut self, started: Started, outcome: Outcome) -> bool {
        let Started { correlation, flexible, api, at, admission, reply } = started;
        drop(reply);
        let size = match outcome {
            Outcome::Close => {
                self.link.unanswered.fetch_sub(1, Ordering::Relaxed);
                return false;
            }
            Outcome::Nothing => 0,
            Outcome::Send(body) => {
                let size = 4 + usize::from(flexible) + body.iter().map(Bytes::len).sum::<usize>();
                let mut head = BytesMut::with_capacity(4 + 4 + 1);
                head.put_u32(u32::try_from(size).expect("a response is far below 4 GiB"));
                head.put_i32(correlation);
                if flexible {
                    head.put_u8(0);
                }
                self.pieces.push_back(head.freeze());
                self.pieces.extend(body.into_iter().filter(|piece| !piece.is_empty()));
                size + 4
            }
        };
        self.queued += size;
        let bytes = self.shared.budget.hold_answer(size);
        self.written.push(Written { api, at, _admission: admission, _bytes: bytes });
        true
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.pieces.is_empty() {
            match self.write_some() {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => {
                    let patience = self.shared.settings.current().connections_max_idle;
                    let stuck = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
                    timeout(patience, self.socket.writable()).await.map_err(stuck)??;
                }
                Err(problem) => return Err(problem),
            }
        }
        self.shared.metrics.sent_bytes.increment(self.queued as u64);
        self.queued = 0;
        let now = self.shared.clock.monotonic();
        for done in self.written.drain(..) {
            self.shared.metrics.answered(done.api, now.saturating_sub(done.at));
            self.link.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        if self.pieces.capacity() > PIECES {
            self.pieces = VecDeque::new();
        }
        Ok(())
    }

    fn write_some(&self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        self.socket.try_write_vectored(&slices[..self.pieces.len().min(PIECES)])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
    }
}

//! The task behind a remote handle: owns the stream of calls, keeps their order, and answers each call exactly once,
//! also when the connection is lost. Connects when there is a call to make, and never repeats a call.

use super::{Taken, unavailable};
use crate::{
    id::{Revision, SessionId},
    service::{
        Reply,
        metadata::{MetadataError, Outcome, ScanPage, Versioned},
    },
    wire::metadata::{
        hello::Guest,
        proto::{self, call::Kind, call_answer::Result as Done, metadata_client::MetadataClient},
    },
};
use std::{collections::BTreeMap, future::Future, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

/// A call on its way to the task.
pub(super) struct Outgoing {
    /// The call; the task numbers it.
    pub call: proto::Call,
    /// Who waits for its answer.
    pub waiting: Waiting,
    /// When the caller has waited long enough.
    pub deadline: Instant,
    /// Room that it takes until it is answered.
    pub room: Taken,
}

/// Who waits for an answer, and of what kind it must be.
pub(super) enum Waiting {
    Value(Reply<Option<Versioned>, MetadataError>),
    Page(Reply<ScanPage, MetadataError>),
    Outcome(Reply<Outcome, MetadataError>),
    Session(Reply<SessionId, MetadataError>),
    KeptAlive(Reply<(), MetadataError>),
    Closed(Reply<(), MetadataError>),
}

impl Waiting {
    fn answer(self, result: Option<Done>) {
        match (self, result) {
            (waiting, Some(Done::Failed(error))) => waiting.fail(error.into()),
            (Self::Value(caller), Some(Done::Value(value))) => caller.send(Ok(value.item.map(Into::into))),
            (Self::Page(caller), Some(Done::Page(page))) => caller.send(Ok(page.into())),
            (Self::Outcome(caller), Some(Done::Committed(c))) => {
                caller.send(Ok(Outcome::Committed { revision: Revision(c.revision), sequences: c.sequences }));
            }
            (Self::Outcome(caller), Some(Done::Conflict(c))) => {
                let current = c.current.map(Into::into);
                caller.send(Ok(Outcome::Conflict { condition: c.condition as usize, current }));
            }
            (Self::Session(caller), Some(Done::Session(session))) => caller.send(Ok(SessionId(session))),
            (Self::KeptAlive(caller) | Self::Closed(caller), Some(Done::Done(_))) => caller.send(Ok(())),
            (waiting, _) => waiting.lost("the answer is of another kind than the call"),
        }
    }

    /// Answers a call that was sent and will not be answered.
    fn lost(self, reason: &str) {
        let error = match self {
            Self::Outcome(_) | Self::Session(_) | Self::Closed(_) => {
                MetadataError::OutcomeUnknown { reason: reason.into() }
            }
            Self::Value(_) | Self::Page(_) | Self::KeptAlive(_) => unavailable(reason),
        };
        self.fail(error);
    }

    /// Answers with an error.
    pub(super) fn fail(self, error: MetadataError) {
        match self {
            Self::Value(caller) => caller.send(Err(error)),
            Self::Page(caller) => caller.send(Err(error)),
            Self::Outcome(caller) => caller.send(Err(error)),
            Self::Session(caller) => caller.send(Err(error)),
            Self::KeptAlive(caller) | Self::Closed(caller) => caller.send(Err(error)),
        }
    }
}

/// The task that owns the stream of calls.
pub(super) struct Caller {
    client: MetadataClient<Channel>,
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
    /// Calls that were sent. Ids ascend, and so do deadlines.
    waiting: BTreeMap<u64, (Waiting, Instant, Taken)>,
    next_id: u64,
    deadline: Duration,
    stopping: CancellationToken,
}

/// An open stream of calls.
struct Link {
    calls: mpsc::Sender<proto::Call>,
    answers: Streaming<proto::CallAnswer>,
}

impl Caller {
    /// A task for the calls that come out of `outgoing`.
    pub(super) fn new(
        client: MetadataClient<Channel>,
        outgoing: mpsc::UnboundedReceiver<Outgoing>,
        deadline: Duration,
        stopping: CancellationToken,
    ) -> Self {
        Self { client, outgoing, waiting: BTreeMap::new(), next_id: 1, deadline, stopping }
    }

    /// Runs until `stopping`, or until every handle is gone and every call answered.
    pub(super) async fn run(mut self) -> Result<(), String> {
        let stopping = self.stopping.clone();
        loop {
            let first = tokio::select! {
                () = stopping.cancelled() => break,
                first = self.outgoing.recv() => match first {
                    Some(first) => first,
                    None => break,
                },
            };
            let linked = tokio::select! {
                () = stopping.cancelled() => Err("the client is shutting down".into()),
                linked = self.link() => linked,
            };
            match linked {
                Ok(link) => {
                    let reason = self.follow(link, first).await;
                    for (waiting, _, _) in std::mem::take(&mut self.waiting).into_values() {
                        waiting.lost(&reason);
                    }
                }
                Err(reason) => {
                    first.waiting.fail(unavailable(&reason));
                    // Whoever has called meanwhile has waited for the same connection.
                    while let Ok(more) = self.outgoing.try_recv() {
                        more.waiting.fail(unavailable(&reason));
                    }
                }
            }
        }
        self.outgoing.close();
        while let Ok(more) = self.outgoing.try_recv() {
            more.waiting.fail(unavailable("the client is shutting down"));
        }
        Ok(())
    }

    /// Opens a stream and says hello.
    async fn link(&self) -> Result<Link, String> {
        let mut client = self.client.clone();
        let opening = async move {
            let (calls, sent) = mpsc::channel(16);
            let hello = Kind::Hello(Guest::default().hello());
            let greeting = calls.send(proto::Call { id: 0, kind: Some(hello) });
            greeting.await.map_err(|_| "the stream of calls did not open".to_owned())?;
            let answers = client.calls(ReceiverStream::new(sent)).await;
            let mut answers = answers.map_err(|s| format!("cannot reach it: {}", s.message()))?.into_inner();
            match answers.message().await.map_err(|s| format!("it did not say hello: {}", s.message()))? {
                Some(proto::CallAnswer { result: Some(Done::Hello(_)), .. }) => Ok(Link { calls, answers }),
                Some(proto::CallAnswer { result: Some(Done::Failed(error)), .. }) => {
                    Err(MetadataError::from(error).to_string())
                }
                _ => Err("it did not say hello".into()),
            }
        };
        bounded(self.deadline, opening).await
    }

    /// Sends and receives until the stream ends; why it ended.
    async fn follow(&mut self, mut link: Link, first: Outgoing) -> String {
        let stopping = self.stopping.clone();
        let mut held = Some(first);
        let reason = loop {
            let overdue = self.waiting.values().next().map(|(_, deadline, _)| *deadline);
            tokio::select! {
                () = stopping.cancelled() => break "the client is shutting down".to_owned(),
                answer = link.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        if let Some((waiting, _, _)) = self.waiting.remove(&answer.id) {
                            waiting.answer(answer.result);
                        }
                    }
                    Ok(None) => break "the server ended the stream".to_owned(),
                    Err(status) => break format!("the connection was lost: {}", status.message()),
                },
                permit = link.calls.reserve(), if held.is_some() => match (permit, held.take()) {
                    (Ok(permit), Some(mut next)) => {
                        next.call.id = self.next_id;
                        self.waiting.insert(self.next_id, (next.waiting, next.deadline, next.room));
                        self.next_id += 1;
                        permit.send(next.call);
                    }
                    (_, next) => {
                        held = next;
                        break "the connection was lost".to_owned();
                    }
                },
                next = self.outgoing.recv(), if held.is_none() => match next {
                    Some(next) => held = Some(next),
                    None if self.waiting.is_empty() => break "the client is gone".to_owned(),
                    // The last handle is gone, but not the last answer.
                    None => self.drain(&mut link.answers).await,
                },
                () = tokio::time::sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    if let Some((_, (waiting, _, _))) = self.waiting.pop_first() {
                        waiting.lost("no answer came in time");
                    }
                }
            }
        };
        if let Some(unsent) = held {
            unsent.waiting.fail(unavailable(&reason));
        }
        reason
    }

    /// Waits for the answers that are still to come, no longer than a call may take.
    async fn drain(&mut self, from: &mut Streaming<proto::CallAnswer>) {
        let answers = async {
            while !self.waiting.is_empty() {
                let Ok(Some(answer)) = from.message().await else { return };
                if let Some((waiting, _, _)) = self.waiting.remove(&answer.id) {
                    waiting.answer(answer.result);
                }
            }
        };
        let _ = tokio::time::timeout(self.deadline, answers).await;
        for (waiting, _, _) in std::mem::take(&mut self.waiting).into_values() {
            waiting.lost("no answer came in time");
        }
    }
}

/// Gives up after `deadline`.
async fn bounded<T>(deadline: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err("it did not answer in time".into()))
}

//! The calling end for operators: a [`QuorumService`] whose calls travel to another process.
//!
//! Every call has a connection of its own, and says hello on it before anything that may take effect, so that a server
//! that hangs, or belongs to somebody else, is passed over unharmed. A call that may have taken effect is never made a
//! second time. Owns the order in which servers are asked; never the decision who leads.

use super::dial::{Connection, Server, lost};
use crate::{
    runtime::{TaskKind, Tasks},
    service::{
        Answer,
        quorum::{BackupStream, Joined, Joining, QuorumError, QuorumService, QuorumStatus, SnapshotStatus},
        reply,
    },
    wire::metadata::{
        hello::Guest,
        proto::{self, backup_piece::Kind as Piece, quorum_answer::Result as Done, quorum_call::Kind},
    },
};
use futures::{StreamExt, stream};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Streaming;
use uuid::Uuid;

/// How long a server may take to be reached and to say hello.
const REACH: Duration = Duration::from_secs(1);

/// A metadata cluster in other processes.
#[derive(Debug, Clone)]
pub struct RemoteQuorum {
    servers: Arc<[Server]>,
    guest: Guest,
    deadline: Duration,
    tasks: Tasks,
}

impl RemoteQuorum {
    /// The cluster behind these servers (`host:port`). A call goes to the first of them that can take it; with one
    /// server, [`QuorumService::status`] is of exactly that one. A call ends after `deadline`; a backup ends when nothing
    /// came for that long.
    ///
    /// # Errors
    /// `Refused` if an address is not one, or there is none.
    pub fn connect(servers: &[String], deadline: Duration, tasks: &Tasks) -> Result<Self, QuorumError> {
        Self::over(servers, Guest::new(None, false), deadline, tasks)
    }

    /// The node at `address`, for calls that this node passes on: it never passes them on again.
    ///
    /// # Errors
    /// `Refused` if the address is not one.
    pub fn passing_on(address: &str, deadline: Duration, tasks: &Tasks) -> Result<Self, QuorumError> {
        Self::over(&[address.to_owned()], Guest::new(None, true), deadline, tasks)
    }

    /// The same, but only with servers of this group: others are refused by name.
    #[must_use]
    pub fn of_group(self, group: Uuid) -> Self {
        Self { guest: self.guest.of_group(group), ..self }
    }

    fn over(servers: &[String], guest: Guest, deadline: Duration, tasks: &Tasks) -> Result<Self, QuorumError> {
        let servers = servers.iter().map(|address| Server::at(address)).collect::<Result<Arc<[_]>, _>>();
        let servers = servers.map_err(QuorumError::Refused)?;
        if servers.is_empty() {
            return Err(QuorumError::Refused("no server was named".into()));
        }
        Ok(Self { servers, guest, deadline, tasks: tasks.clone() })
    }

    /// The cluster behind servers that are reached in some other way.
    #[cfg(test)]
    pub(in super::super) fn across(servers: Vec<Server>, deadline: Duration, tasks: &Tasks) -> Self {
        Self { servers: servers.into(), guest: Guest::default(), deadline, tasks: tasks.clone() }
    }

    /// Makes a call; `read` takes the answer apart. A call that `repeats` changes nothing.
    fn ask<T: Send + 'static>(
        &self,
        kind: Kind,
        repeats: bool,
        read: fn(Done) -> Result<T, QuorumError>,
    ) -> Answer<T, QuorumError> {
        let (caller, answer) = reply();
        let asking = self.clone();
        self.tasks.spawn(TaskKind::Request, "quorum call", async move {
            caller.send(asking.ask_in_turn(kind, repeats).await.and_then(read));
            Ok(())
        });
        answer
    }

    async fn ask_in_turn(&self, kind: Kind, repeats: bool) -> Result<Done, QuorumError> {
        let until = Instant::now() + self.deadline;
        let mut obstacles = Vec::new();
        for server in &*self.servers {
            let mut connection = match self.reach(server, until).await? {
                Ok(connection) => connection,
                Err(obstacle) => {
                    obstacles.push(obstacle);
                    continue;
                }
            };
            let call = proto::QuorumCall { hello: Some(self.guest.hello()), kind: Some(kind.clone()) };
            let answered = match timeout_at(until, connection.quorum(call)).await {
                Ok(Ok(answer)) => answer.into_inner().result.ok_or_else(|| "its answer is incomplete".to_owned()),
                Ok(Err(status)) => Err(lost(&status)),
                Err(_) => Err("it did not answer in time".to_owned()),
            };
            match answered {
                Ok(Done::Failed(error)) => match error.into() {
                    QuorumError::Unavailable { reason } => obstacles.push(format!("{}: {reason}", server.name())),
                    final_one => return Err(final_one),
                },
                Ok(done) => return Ok(done),
                Err(reason) if repeats => obstacles.push(format!("{}: {reason}", server.name())),
                Err(reason) => {
                    return Err(QuorumError::OutcomeUnknown { reason: format!("{}: {reason}", server.name()) });
                }
            }
        }
        Err(QuorumError::Unavailable { reason: obstacles.join("; ") })
    }

    /// Connects and says hello. The outer error ends the call, the inner one only passes this server over.
    async fn reach(&self, server: &Server, until: Instant) -> Result<Result<Connection, String>, QuorumError> {
        let name = server.name();
        let reaching = async {
            let mut connection = server.connect().await?;
            let kind = Some(Kind::Greet(proto::Done {}));
            let greeting = connection.quorum(proto::QuorumCall { hello: Some(self.guest.hello()), kind });
            let answer = greeting.await.map_err(|status| lost(&status))?.into_inner();
            Ok::<_, String>((connection, answer.result))
        };
        let reached = timeout_at(until.min(Instant::now() + REACH), reaching).await;
        Ok(match reached.unwrap_or_else(|_| Err("it does not answer".into())) {
            Ok((connection, Some(Done::Hello(hello)))) => match self.guest.meet(&hello) {
                Ok(()) => Ok(connection),
                Err(stranger) => return Err(QuorumError::Refused(format!("{name}: {stranger}"))),
            },
            Ok((_, Some(Done::Failed(refused)))) => return Err(refused.into()),
            Ok(_) => Err(format!("{name}: it did not say hello")),
            Err(reason) => Err(format!("{name}: {reason}")),
        })
    }

    /// Opens a backup on the first server that has one.
    async fn open_backup(&self) -> Result<BackupStream, QuorumError> {
        let mut obstacles = Vec::new();
        for server in &*self.servers {
            let obstacle = match self.reach(server, Instant::now() + REACH).await? {
                Ok(connection) => match self.begin_backup(connection).await {
                    Ok(pieces) => return Ok(pieces),
                    Err(QuorumError::Unavailable { reason }) => format!("{}: {reason}", server.name()),
                    Err(final_one) => return Err(final_one),
                },
                Err(obstacle) => obstacle,
            };
            obstacles.push(obstacle);
        }
        Err(QuorumError::Unavailable { reason: obstacles.join("; ") })
    }

    /// Waits for the first piece, so that a server without a backup is told apart from one that was cut short.
    async fn begin_backup(&self, mut connection: Connection) -> Result<BackupStream, QuorumError> {
        let call = proto::BackupCall { hello: Some(self.guest.hello()) };
        let late = |_| cut("it did not answer in time".into());
        let opened = timeout(self.deadline, connection.backup(call)).await.map_err(late)?;
        let answers = opened.map_err(|status| cut(lost(&status)))?.into_inner();
        let mut pieces = pieces(answers, self.deadline);
        let first = match pieces.next().await {
            Some(Err(error)) => return Err(error),
            first => first,
        };
        Ok(stream::iter(first).chain(pieces).boxed())
    }
}

/// "Pieces are missing."
fn cut(reason: String) -> QuorumError {
    QuorumError::Unavailable { reason: format!("the backup was cut short: {reason}") }
}

/// The pieces of a backup. It ends without an error only if the server said that this was all.
fn pieces(answers: Streaming<proto::BackupPiece>, patience: Duration) -> BackupStream {
    let pieces = stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        let piece = match timeout(patience, answers.message()).await {
            Ok(Ok(Some(proto::BackupPiece { kind: Some(Piece::Piece(piece)) }))) => Ok(piece),
            Ok(Ok(Some(proto::BackupPiece { kind: Some(Piece::Failed(error)) }))) => Err(error.into()),
            Ok(Ok(Some(proto::BackupPiece { kind: Some(Piece::End(_)) }))) => return None,
            Ok(Ok(Some(_))) => Err(cut("it sent something that this version does not know".into())),
            Ok(Ok(None)) => Err(cut("the server stopped".into())),
            Ok(Err(status)) => Err(cut(lost(&status))),
            Err(_) => Err(cut("nothing came any more".into())),
        };
        let rest = piece.is_ok().then_some(answers);
        Some((piece, rest))
    });
    pieces.boxed()
}

/// An answer of another kind than the call.
fn odd<T>(_: Done) -> Result<T, QuorumError> {
    Err(QuorumError::OutcomeUnknown { reason: "the answer is of another kind than the call".into() })
}

fn done(answer: Done) -> Result<(), QuorumError> {
    match answer {
        Done::Done(_) => Ok(()),
        other => odd(other),
    }
}

impl QuorumService for RemoteQuorum {
    fn status(&self) -> Answer<QuorumStatus, QuorumError> {
        self.ask(Kind::Status(proto::Done {}), true, |answer| match answer {
            Done::Status(status) => status.try_into(),
            other => odd(other),
        })
    }

    fn join(&self, joining: Joining) -> Answer<Joined, QuorumError> {
        self.ask(Kind::Join(joining.into()), false, |answer| match answer {
            Done::Joined(joined) => joined.try_into(),
            other => odd(other),
        })
    }

    fn promote(&self, id: u64) -> Answer<(), QuorumError> {
        self.ask(Kind::Promote(id), false, done)
    }

    fn remove(&self, id: u64) -> Answer<(), QuorumError> {
        self.ask(Kind::Remove(id), false, done)
    }

    fn transfer(&self, to: Option<u64>) -> Answer<u64, QuorumError> {
        self.ask(Kind::Transfer(proto::Transfer { to }), false, |answer| match answer {
            Done::Leader(leader) => Ok(leader),
            other => odd(other),
        })
    }

    fn snapshot(&self) -> Answer<SnapshotStatus, QuorumError> {
        self.ask(Kind::Snapshot(proto::Done {}), false, |answer| match answer {
            Done::Snapshot(snapshot) => Ok(snapshot.into()),
            other => odd(other),
        })
    }

    fn backup(&self) -> Answer<BackupStream, QuorumError> {
        let (caller, answer) = reply();
        let asking = self.clone();
        self.tasks.spawn(TaskKind::Request, "backup", async move {
            caller.send(asking.open_backup().await);
            Ok(())
        });
        answer
    }
}

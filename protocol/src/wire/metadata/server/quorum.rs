//! Calls of those who look after the cluster: checks who calls, and hands the call to the node.

use super::Serving;
use crate::{
    service::{
        Answer,
        quorum::{BackupStream, QuorumError, QuorumService},
    },
    wire::metadata::proto::{self, backup_piece::Kind as Piece, quorum_answer::Result as Done, quorum_call::Kind},
};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use std::sync::Arc;

/// The most bytes of a backup in one message.
const PIECE: usize = 1024 * 1024;

/// Makes a call.
pub(super) async fn ask(serving: &Serving, call: proto::QuorumCall) -> proto::QuorumAnswer {
    let result = answer(serving, call).await.unwrap_or_else(|error| Done::Failed(error.into()));
    proto::QuorumAnswer { result: Some(result) }
}

async fn answer(serving: &Serving, call: proto::QuorumCall) -> Result<Done, QuorumError> {
    let (hello, quorum) = greet(serving, call.hello)?;
    let Some(kind) = call.kind else { return Err(incomplete("a call")) };
    if matches!(kind, Kind::Greet(_)) {
        return Ok(Done::Hello(hello));
    }
    let quorum = quorum?;
    let done = |answer: Answer<(), QuorumError>| async { answer.await.map(|()| Done::Done(proto::Done {})) };
    match kind {
        Kind::Greet(_) => Ok(Done::Hello(hello)),
        Kind::Status(_) => quorum.status().await.map(|status| Done::Status(status.into())),
        Kind::Join(joining) => quorum.join(joining.try_into()?).await.map(|joined| Done::Joined(joined.into())),
        Kind::Promote(id) => done(quorum.promote(id)).await,
        Kind::Remove(id) => done(quorum.remove(id)).await,
        Kind::Transfer(transfer) => quorum.transfer(transfer.to).await.map(Done::Leader),
        Kind::Snapshot(_) => quorum.snapshot().await.map(|snapshot| Done::Snapshot(snapshot.into())),
    }
}

/// Everything that is committed, piece by piece.
pub(super) async fn backup(serving: &Serving, call: proto::BackupCall) -> BoxStream<'static, proto::BackupPiece> {
    let started = async {
        let (_, quorum) = greet(serving, call.hello)?;
        quorum?.backup().await
    };
    match started.await {
        Ok(pieces) => tell(pieces),
        Err(error) => stream::iter([piece(Piece::Failed(error.into()))]).boxed(),
    }
}

/// The hello of this node, and its handle for whoever called; or why the caller is refused.
type Greeted = (proto::Hello, Result<Arc<dyn QuorumService>, QuorumError>);

fn greet(serving: &Serving, hello: Option<proto::Hello>) -> Result<Greeted, QuorumError> {
    let hello = hello.ok_or_else(|| incomplete("a hello"))?;
    let passed_on = hello.passed_on;
    let hello = serving.host().greet(&hello).map_err(QuorumError::Refused)?;
    let absent = || QuorumError::Unavailable { reason: "this server looks after no cluster".into() };
    Ok((hello, serving.handles(passed_on).quorum.clone().ok_or_else(absent)))
}

fn incomplete(what: &str) -> QuorumError {
    QuorumError::Refused(format!("{what} is incomplete; the caller may be of another version"))
}

const fn piece(kind: Piece) -> proto::BackupPiece {
    proto::BackupPiece { kind: Some(kind) }
}

/// The pieces of a backup, none larger than a message can carry, and its end.
fn tell(pieces: BackupStream) -> BoxStream<'static, proto::BackupPiece> {
    let told = stream::unfold(Some((pieces, Bytes::new())), |rest| async move {
        let (mut pieces, mut bytes) = rest?;
        while bytes.is_empty() {
            bytes = match pieces.next().await {
                Some(Ok(next)) => next,
                Some(Err(error)) => return Some((piece(Piece::Failed(error.into())), None)),
                None => return Some((piece(Piece::End(proto::Done {})), None)),
            };
        }
        let next = bytes.split_to(bytes.len().min(PIECE));
        Some((piece(Piece::Piece(next)), Some((pieces, bytes))))
    });
    told.boxed()
}

//! Messages from peers: checks who is meant and who sends, and hands them to raft.
//!
//! Owns the pieces of a snapshot that arrives, and telling the [`Ear`] of a leader before anything is written. A message
//! for another group, another member or another life of this member's disk is refused by name and changes nothing.

use super::{
    Raft, Seat, TypeConfig, Vote,
    log::LogStore,
    network::{PIECE, SnapshotPiece, pack, unpack},
    snapshots::{Incoming, SnapshotFile, Snapshots},
};
use crate::election::{Beat, Canvass, Promise, ear::Ear};
use bytes::Bytes;
use openraft::{
    Snapshot, SnapshotMeta,
    raft::{AppendEntriesRequest, SnapshotResponse, VoteRequest},
};
use protocol::service::{
    Answer,
    peer::{PeerCall, PeerError, PeerName, PeerService, PeerVerb},
};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The largest snapshot that is taken, in bytes.
const MAX_SNAPSHOT: u64 = 64 * 1024 * 1024 * 1024;

/// The desk of a member.
pub struct Desk(Arc<Inner>);

struct Inner {
    me: PeerName,
    raft: Raft,
    ear: Arc<Ear>,
    log: LogStore,
    snapshots: Snapshots,
    /// The snapshot that is arriving.
    arriving: Mutex<Option<Arriving>>,
}

struct Arriving {
    meta: SnapshotMeta<u64, Seat>,
    vote: Vote,
    total: u64,
    file: Incoming,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Desk({:?})", self.0.me)
    }
}

impl Desk {
    /// The desk of the member that is called `me`.
    pub(crate) fn new(me: PeerName, raft: Raft, ear: Arc<Ear>, log: LogStore, snapshots: Snapshots) -> Self {
        Self(Arc::new(Inner { me, raft, ear, log, snapshots, arriving: Mutex::default() }))
    }
}

impl PeerService for Desk {
    fn call(&self, call: PeerCall) -> Answer<Bytes, PeerError> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            inner.check(&call)?;
            match call.verb {
                PeerVerb::Append => inner.append(&call.body).await,
                PeerVerb::Beat => inner.beat(&call.body),
                PeerVerb::Vote => inner.vote(&call.body).await,
                PeerVerb::Canvass => inner.canvass(call.from, &call.body),
                PeerVerb::Stand => inner.stand().await,
                PeerVerb::Snapshot => inner.take_piece(&call.body).await,
            }
        })
    }
}

impl Inner {
    fn check(&self, call: &PeerCall) -> Result<(), PeerError> {
        let stranger = |reason: String| Err(PeerError::Stranger { reason });
        if call.to != self.me || call.from.group != self.me.group {
            return stranger(format!("this is {}, the message is for {}", shown(self.me), shown(call.to)));
        }
        // Which life of its disk the sender is, is not asked: a member that is behind knows only the life before, and
        // would refuse the very leader that brings it the news. A life ends with its removal from the members, which is
        // in the logs of a majority and not in its own, so that nobody elects it; and messages are for one life of their
        // receiver, so that a lost disk never answers for what it has forgotten.
        Ok(())
    }

    async fn append(&self, body: &[u8]) -> Result<Bytes, PeerError> {
        let request: AppendEntriesRequest<TypeConfig> = unpack(body)?;
        if request.vote >= self.known() {
            self.ear.hear(request.vote);
        }
        self.raft.append_entries(request).await.map(|answer| pack(&answer)).map_err(failed)
    }

    /// Answers with the term and leader that this node knows, which is higher if the sender leads no more.
    fn beat(&self, body: &[u8]) -> Result<Bytes, PeerError> {
        let beat: Beat = unpack(body)?;
        let known = self.known();
        if beat.vote >= known && !beat.is_probe {
            self.ear.hear(beat.vote);
        }
        Ok(pack(&Beat { vote: known, is_probe: false }))
    }

    async fn vote(&self, body: &[u8]) -> Result<Bytes, PeerError> {
        let request: VoteRequest<u64> = unpack(body)?;
        let answer = self.raft.vote(request).await.map_err(failed)?;
        if answer.vote_granted {
            self.ear.has_voted();
        }
        Ok(pack(&answer))
    }

    fn canvass(&self, candidate: PeerName, body: &[u8]) -> Result<Bytes, PeerError> {
        let canvass: Canvass = unpack(body)?;
        let ours = self.log.last().map_err(|e| refuse(&e.to_string()))?;
        let granted = !self.ear.has_leader() && canvass.last_log >= ours;
        let is_member = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let seat = metrics.membership_config.membership().get_node(&candidate.id);
            seat.is_some_and(|seat| seat.life == candidate.life)
        };
        Ok(pack(&Promise { granted, is_member }))
    }

    async fn stand(&self) -> Result<Bytes, PeerError> {
        tracing::info!("the leader hands over to this node");
        self.raft.trigger().elect().await.map(|()| pack(&())).map_err(failed)
    }

    async fn take_piece(&self, body: &[u8]) -> Result<Bytes, PeerError> {
        let piece: SnapshotPiece = unpack(body)?;
        let vote = self.known();
        if piece.vote < vote {
            return Ok(pack(&SnapshotResponse { vote }));
        }
        self.ear.hear(piece.vote);
        let mut slot = self.arriving.lock().await;
        let arrived = match self.add(&mut slot, piece).await {
            Ok(arrived) => arrived,
            Err(problem) => {
                *slot = None;
                return Err(problem);
            }
        };
        match arrived {
            None => Ok(pack(&SnapshotResponse { vote })),
            Some((vote, meta, file)) => {
                let left = file.clone();
                // openraft takes a snapshot that cannot be read for a broken disk, and ends.
                let read = tokio::task::spawn_blocking(move || file.checked().map_err(|e| e.to_string())).await;
                let file = match read.unwrap_or_else(|e| Err(e.to_string())) {
                    Ok(file) => file,
                    Err(problem) => {
                        left.discard_unless_adopted();
                        tracing::error!(%problem, "a metadata snapshot has arrived that cannot be read");
                        return Err(refuse(&format!("the snapshot is damaged; write another one: {problem}")));
                    }
                };
                let snapshot = Snapshot { meta, snapshot: Box::new(file) };
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                left.discard_unless_adopted();
                installed.map(|answer| pack(&answer)).map_err(failed)
            }
        }
    }

    /// Adds a piece; the whole snapshot, if that was the last one.
    async fn add(
        &self,
        slot: &mut Option<Arriving>,
        piece: SnapshotPiece,
    ) -> Result<Option<(Vote, SnapshotMeta<u64, Seat>, SnapshotFile)>, PeerError> {
        let SnapshotPiece { vote, meta, offset, total, piece } = piece;
        if piece.len() > PIECE || total > MAX_SNAPSHOT || offset.saturating_add(piece.len() as u64) > total {
            return Err(refuse("a piece of a snapshot is larger than it may be"));
        }
        if offset == 0 {
            let file = self.snapshots.receive().map_err(|e| refuse(&e.to_string()))?;
            tracing::info!(bytes = total, "receiving a metadata snapshot");
            *slot = Some(Arriving { meta: meta.clone(), vote, total, file });
        }
        let expected = slot.take().filter(|a| (a.vote, a.total) == (vote, total) && a.meta == meta);
        let Some(mut arriving) = expected.filter(|a| a.file.bytes() == offset) else {
            return Err(refuse("the pieces of a snapshot are out of order; begin again"));
        };
        let written = tokio::task::spawn_blocking(move || {
            arriving.file.add(&piece)?;
            if arriving.file.bytes() < arriving.total {
                return Ok((Some(arriving), None));
            }
            let Arriving { meta, vote, file, .. } = arriving;
            Ok::<_, std::io::Error>((None, Some((vote, meta, file.finish()?))))
        });
        let (unfinished, whole) =
            written.await.map_err(|e| refuse(&e.to_string()))?.map_err(|e| refuse(&e.to_string()))?;
        *slot = unfinished;
        Ok(whole)
    }

    /// Whom this node knows to lead, or to stand.
    fn known(&self) -> Vote {
        self.raft.metrics().borrow().vote
    }
}

fn shown(name: PeerName) -> String {
    format!("member {} of group {} (disk {})", name.id, name.group, name.life)
}

fn refuse(reason: &str) -> PeerError {
    PeerError::Failed { reason: reason.into() }
}

fn failed(problem: impl std::fmt::Display) -> PeerError {
    PeerError::Failed { reason: problem.to_string() }
}

//! Messages to peers: openraft's requests, packed and addressed to one life of one member.
//!
//! Owns the encoding of messages and what a failure means to openraft; never decides who is asked what. A node that has
//! been [silenced](Voice) sends nothing that could keep a follower from standing for election. That a follower has an entry
//! is passed on to openraft only once this node's own log has it durably, too: see [`LogStore`].

use super::{
    LogId, Seat, TypeConfig, Vote,
    courier::{Courier, Lane},
    log::LogStore,
    snapshots::SnapshotFile,
};
use bytes::Bytes;
use openraft::{
    RaftNetwork, RaftNetworkFactory, Snapshot, SnapshotMeta,
    error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use protocol::service::peer::{PeerCall, PeerError, PeerName, PeerService, PeerVerb};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a snapshot in one message.
pub const PIECE: usize = 1024 * 1024;
/// How long a peer may take for a piece of a snapshot, and for installing all of it after the last.
const PIECE_PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));
/// How long entries may be on their way, and in the queue of the peer's disk.
const ENTRIES_PATIENCE: Duration = Duration::from_secs(3);
/// The pause before a peer that could not be reached is tried again.
const PAUSE: Duration = Duration::from_millis(100);

type Failed = RPCError<u64, Seat, RaftError<u64>>;

/// A piece of a snapshot. Pieces come in order; the first has offset 0.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotPiece {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta<u64, Seat>,
    pub(super) offset: u64,
    /// The size of the whole snapshot.
    pub(super) total: u64,
    #[serde(with = "crate::state::binary")]
    pub(super) piece: Bytes,
}

/// Why a leader does not speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// No majority answers it.
    OutOfTouch = 1,
    /// It hands over.
    Handover = 2,
}

/// Whether this node may speak as a leader. Cheap to clone; clones are the same voice.
#[derive(Debug, Clone, Default)]
pub struct Voice(Arc<AtomicU8>);

impl Voice {
    /// Stops to speak for this reason, or no longer for this one.
    pub fn silence(&self, why: Silence, silent: bool) {
        match silent {
            true => self.0.fetch_or(why as u8, Ordering::AcqRel),
            false => self.0.fetch_and(!(why as u8), Ordering::AcqRel),
        };
    }

    /// Whether it does not speak.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

/// The way to all peers.
#[derive(Clone)]
pub struct Network {
    me: PeerName,
    courier: Arc<dyn Courier>,
    voice: Voice,
    own: LogStore,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({:?})", self.me)
    }
}

impl Network {
    /// The way to all peers of the node that is called `me`, whose own log this is.
    #[must_use]
    pub fn new(me: PeerName, courier: Arc<dyn Courier>, voice: Voice, own: LogStore) -> Self {
        Self { me, courier, voice, own }
    }

    /// A message of our own, outside of openraft.
    ///
    /// # Errors
    /// Those of the peer.
    pub async fn send<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: (u64, &Seat),
        verb: PeerVerb,
        patience: Duration,
        message: &Q,
    ) -> Result<A, PeerError> {
        self.line(to, Lane::Urgent).call(verb, patience, message).await
    }

    fn line(&self, (id, seat): (u64, &Seat), lane: Lane) -> Line {
        let to = PeerName { group: self.me.group, id, life: seat.life };
        Line { way: self.courier.reach(&seat.member(id), lane), from: self.me, to }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Lines;

    async fn new_client(&mut self, target: u64, seat: &Seat) -> Lines {
        let line = |lane| self.line((target, seat), lane);
        let (urgent, log) = (Arc::new(line(Lane::Urgent)), Arc::new(line(Lane::Log)));
        let (voice, own, bulk) = (self.voice.clone(), self.own.clone(), line(Lane::Bulk));
        Lines { urgent, log, bulk, voice, own, sending: None, replicates: false, telling: None }
    }
}

/// The way to one peer for one kind of message.
struct Line {
    way: Arc<dyn PeerService>,
    from: PeerName,
    to: PeerName,
}

impl Line {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        verb: PeerVerb,
        patience: Duration,
        message: &Q,
    ) -> Result<A, PeerError> {
        let call = PeerCall { verb, from: self.from, to: self.to, patience, body: pack(message) };
        unpack(&self.way.call(call).await?)
    }
}

/// A message as bytes.
#[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
pub(super) fn pack<T: Serialize>(message: &T) -> Bytes {
    rmp_serde::to_vec_named(message).expect("messages are plain data").into()
}

/// A message in the bytes that a peer sent.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PeerError> {
    rmp_serde::from_slice(bytes).map_err(|e| PeerError::Failed { reason: format!("a message cannot be read: {e}") })
}

/// The ways to one peer, as openraft uses them.
pub struct Lines {
    urgent: Arc<Line>,
    log: Arc<Line>,
    bulk: Line,
    voice: Voice,
    own: LogStore,
    /// Entries on their way.
    sending: Option<Sending>,
    /// Whether entries have arrived over these lines: then openraft replicates over them. Whether this node still leads it
    /// asks over new ones.
    replicates: bool,
    /// What the follower says to the last message without entries.
    telling: Option<Answering>,
}

/// What a peer will answer.
type Answering = AbortOnDropHandle<Result<AppendEntriesResponse<u64>, PeerError>>;

/// The answer of a follower that has entries up to `last`, or has not; that it has counts only once this node has, too.
async fn confirmed(
    own: &LogStore,
    answer: Result<AppendEntriesResponse<u64>, PeerError>,
    last: Option<LogId>,
) -> Result<AppendEntriesResponse<u64>, PeerError> {
    let answer = answer?;
    if let (AppendEntriesResponse::Success, Some(last)) = (&answer, last) {
        let failed = |e| PeerError::Failed { reason: format!("the log of this node cannot be written: {e}") };
        own.durable(last).await.map_err(failed)?;
    }
    Ok(answer)
}

/// Entries on their way. openraft gives up on them long before a large one has crossed a slow network, and then asks for
/// the same again, and for what came in since: that waits for what is on its way already, or it would never arrive.
struct Sending {
    /// Whose they are, and which entry they follow.
    from: (Vote, Option<LogId>),
    /// The last of them.
    last: Option<LogId>,
    answer: Answering,
}

/// What a peer has answered.
async fn answered(answering: &mut Answering) -> Result<AppendEntriesResponse<u64>, PeerError> {
    answering.await.unwrap_or_else(|e| Err(PeerError::Lost { reason: e.to_string() }))
}

impl Lines {
    /// Sends entries, unless some that follow the same one are on their way: then what is said of those is the answer.
    async fn send_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<u64>, PeerError> {
        let (from, last) = ((request.vote, request.prev_log_id), request.entries.last().map(|last| last.log_id));
        let (log, own) = (&self.log, &self.own);
        let begin = || {
            let (line, own) = (Arc::clone(log), own.clone());
            let call = async move {
                let answer = line.call(PeerVerb::Append, ENTRIES_PATIENCE, &request).await;
                confirmed(&own, answer, last).await
            };
            Sending { from, last, answer: AbortOnDropHandle::new(tokio::spawn(call)) }
        };
        let sending = match self.sending.take().filter(|sending| sending.from == from) {
            Some(sending) => self.sending.insert(sending),
            None => self.sending.insert(begin()),
        };
        let (answer, sent) = (answered(&mut sending.answer).await, sending.last);
        self.sending = None;
        match answer? {
            AppendEntriesResponse::Success if sent < last => Ok(AppendEntriesResponse::PartialSuccess(sent)),
            answer => Ok(answer),
        }
    }

    /// Tells what is committed. While it replicates openraft does so after every commit, and would not send the next
    /// entries before this is answered, so the answer is given when it tells something again.
    async fn tell(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        patience: Duration,
    ) -> Result<AppendEntriesResponse<u64>, PeerError> {
        if let Some(before) = &mut self.telling {
            let answer = answered(before).await;
            self.telling = None;
            if !matches!(answer, Ok(AppendEntriesResponse::Success)) {
                return answer;
            }
        }
        let (line, own, before) = (Arc::clone(&self.urgent), self.own.clone(), request.prev_log_id);
        let telling = self.telling.insert(AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = line.call(PeerVerb::Append, patience, &request).await;
            confirmed(&own, answer, before).await
        })));
        if self.replicates {
            return Ok(AppendEntriesResponse::Success);
        }
        let answer = answered(telling).await;
        self.telling = None;
        answer
    }

    async fn send_pieces(
        &self,
        vote: Vote,
        meta: &SnapshotMeta<u64, Seat>,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse<u64>, PeerError> {
        let (mut offset, total) = (0, file.bytes());
        loop {
            let reading = file.clone();
            let read = tokio::task::spawn_blocking(move || reading.read(offset, PIECE)).await;
            let unread =
                |reason: String| PeerError::Failed { reason: format!("our snapshot cannot be read: {reason}") };
            let piece = read.map_err(|e| unread(e.to_string()))?.map_err(|e| unread(e.to_string()))?;
            let next = offset + piece.len() as u64;
            let patience = if next == total { PIECE_PATIENCE.1 } else { PIECE_PATIENCE.0 };
            let message = SnapshotPiece { vote, meta: meta.clone(), offset, total, piece };
            let answer: SnapshotResponse<u64> = self.bulk.call(PeerVerb::Snapshot, patience, &message).await?;
            if next == total || answer.vote > vote {
                return Ok(answer);
            }
            offset = next;
        }
    }
}

impl RaftNetwork<TypeConfig> for Lines {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        if self.voice.is_silent() {
            return Err(unreachable("this node has stopped to lead"));
        }
        if request.entries.is_empty() {
            return self.tell(request, option.hard_ttl()).await.map_err(failed);
        }
        let answer = self.send_entries(request).await;
        self.replicates |=
            matches!(answer, Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)));
        answer.map_err(failed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let (meta, file) = (snapshot.meta, *snapshot.snapshot);
        tracing::info!(to = self.bulk.to.id, bytes = file.bytes(), "sending a metadata snapshot");
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_pieces(vote, &meta, file) => sent.map_err(|e| match e {
                PeerError::Unreachable { .. } => StreamingError::Unreachable(Unreachable::new(&e)),
                _ => StreamingError::Network(NetworkError::new(&e)),
            }),
        }
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        self.urgent.call(PeerVerb::Vote, option.hard_ttl(), &request).await.map_err(failed)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}

fn unreachable(reason: &str) -> Failed {
    RPCError::Unreachable(Unreachable::new(&PeerError::Unreachable { reason: reason.into() }))
}

fn failed(problem: PeerError) -> Failed {
    match problem {
        PeerError::Unreachable { .. } | PeerError::Stranger { .. } => RPCError::Unreachable(Unreachable::new(&problem)),
        PeerError::Lost { .. } | PeerError::Failed { .. } => RPCError::Network(NetworkError::new(&problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{blank, directory, store::Store};
    use openraft::{
        Entry, Membership, StoredMembership,
        storage::{RaftLogStorage, RaftLogStorageExt},
    };
    use protocol::service::{Answer, ready};
    use std::collections::BTreeSet;
    use tokio::sync::watch;

    /// A follower that has whatever it is sent, and answers messages without entries when it is allowed to.
    #[derive(Clone)]
    struct Willing {
        lane: Lane,
        answers: watch::Receiver<Option<AppendEntriesResponse<u64>>>,
    }

    impl Courier for Willing {
        fn reach(&self, _: &protocol::service::quorum::Member, lane: Lane) -> Arc<dyn PeerService> {
            Arc::new(Self { lane, ..self.clone() })
        }
    }

    impl PeerService for Willing {
        fn call(&self, _: PeerCall) -> Answer<Bytes, PeerError> {
            if self.lane == Lane::Log {
                return ready(Ok(pack(&AppendEntriesResponse::<u64>::Success)));
            }
            let mut answers = self.answers.clone();
            Box::pin(async move {
                let answer = answers.wait_for(Option::is_some).await.expect("the test goes on");
                Ok(pack(answer.as_ref().expect("it is one")))
            })
        }
    }

    type Answers = watch::Sender<Option<AppendEntriesResponse<u64>>>;

    /// The leader of three, and its line to another.
    async fn leader(dir: &tempfile::TempDir) -> (Arc<Store>, LogStore, Lines, Answers) {
        let store = directory::open(dir.path(), None).expect("opens").store;
        let mut log = LogStore::new(Arc::clone(&store));
        let members = Membership::new(vec![BTreeSet::from([1, 2, 3])], None);
        log.allow_headway(1, &StoredMembership::new(None, members));
        log.save_vote(&Vote::new_committed(1, 1)).await.expect("writes");
        let me = PeerName { group: uuid::Uuid::nil(), id: 1, life: uuid::Uuid::nil() };
        let (answers, told) = watch::channel(Some(AppendEntriesResponse::Success));
        let follower = Willing { lane: Lane::Log, answers: told };
        let mut network = Network::new(me, Arc::new(follower), Voice::default(), log.clone());
        (store, log, network.new_client(2, &Seat::default()).await, answers)
    }

    fn sent(prev_log_id: Option<LogId>, entries: Vec<Entry<TypeConfig>>) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest { vote: Vote::new_committed(1, 1), prev_log_id, entries, leader_commit: None }
    }

    fn option() -> RPCOption {
        RPCOption::new(Duration::from_secs(60))
    }

    #[tokio::test]
    async fn what_a_follower_has_counts_once_this_node_has_it_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, mut log, mut lines, _answers) = leader(&dir).await;
        let patience = Duration::from_millis(200);
        let hanging = store.hang();
        log.blocking_append([blank(0)]).await.expect("goes on");
        let mut probing = Box::pin(lines.append_entries(sent(Some(blank(0).log_id), Vec::new()), option()));
        let early = tokio::time::timeout(patience, probing.as_mut()).await;
        assert!(early.is_err(), "it has what came before, this node not");
        drop(hanging);
        assert!(matches!(probing.await, Ok(AppendEntriesResponse::Success)));

        let hanging = store.hang();
        log.blocking_append([blank(1)]).await.expect("goes on");
        let mut sending = Box::pin(lines.append_entries(sent(Some(blank(0).log_id), vec![blank(1)]), option()));
        let early = tokio::time::timeout(patience, sending.as_mut()).await;
        assert!(early.is_err(), "it has the entry, this node not");
        drop(hanging);
        assert!(matches!(sending.await, Ok(AppendEntriesResponse::Success)));

        store.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        log.blocking_append([blank(2)]).await.expect("goes on");
        let last = lines.append_entries(sent(Some(blank(1).log_id), vec![blank(2)]), option()).await;
        assert!(matches!(last, Err(RPCError::Network(_))), "{last:?}");
    }

    #[tokio::test]
    async fn while_it_replicates_nothing_waits_for_the_answer_to_what_is_committed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_store, mut log, mut lines, answers) = leader(&dir).await;
        answers.send_replace(None);
        let mut asking = Box::pin(lines.append_entries(sent(None, Vec::new()), option()));
        let patience = Duration::from_millis(200);
        assert!(tokio::time::timeout(patience, asking.as_mut()).await.is_err(), "it may ask whether it still leads");
        answers.send_replace(Some(AppendEntriesResponse::Success));
        assert!(matches!(asking.await, Ok(AppendEntriesResponse::Success)));

        answers.send_replace(None);
        for index in 0..3 {
            log.blocking_append([blank(index)]).await.expect("goes on");
        }
        let replicated = lines.append_entries(sent(None, vec![blank(0)]), option()).await;
        assert!(matches!(replicated, Ok(AppendEntriesResponse::Success)));
        let told = lines.append_entries(sent(Some(blank(0).log_id), Vec::new()), option()).await;
        assert!(matches!(told, Ok(AppendEntriesResponse::Success)), "it was not answered yet");
        let replicated = lines.append_entries(sent(Some(blank(0).log_id), vec![blank(1)]), option()).await;
        assert!(matches!(replicated, Ok(AppendEntriesResponse::Success)));
        let mut telling = Box::pin(lines.append_entries(sent(Some(blank(1).log_id), Vec::new()), option()));
        assert!(tokio::time::timeout(patience, telling.as_mut()).await.is_err(), "one at a time");
        answers.send_replace(Some(AppendEntriesResponse::HigherVote(Vote::new_committed(2, 2))));
        assert!(matches!(telling.await, Ok(AppendEntriesResponse::HigherVote(_))), "late, but not lost");
    }
}

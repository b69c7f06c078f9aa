//! The cluster as its operators see it: who is in it, how it does, and changes of its membership.
//!
//! Owns what is allowed: a member keeps one life of its disk, a learner gets its vote when it has caught up, and nobody is
//! taken out whose loss would leave no quorum. Only the leader changes anything; other nodes pass the call on, once.

use crate::{
    applied::Applied,
    election::{
        contacts::{Contacts, TOUCH},
        is_majority,
    },
    handover::Handover,
    raft::{Raft, RaftMetrics, Seat, identity::Identity, log::LogStore, snapshots::Snapshots, store::Store},
    role::Role,
    snapshotting::Written,
};
use bytes::Bytes;
use futures::StreamExt;
use openraft::{
    ChangeMembers, ServerState,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use parking_lot::Mutex;
use protocol::{
    runtime::Clock,
    service::{
        Answer,
        metadata::{MetadataService, Operation, Outcome, Transaction},
        quorum::{
            BackupStream, Joined, Joining, MemberRole, MemberStatus, QuorumError, QuorumService, QuorumStatus,
            SnapshotStatus,
        },
        ready,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// How long a change of membership may take.
const CHANGE: Duration = Duration::from_secs(10);
/// The pause before a change that met another one is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a snapshot that was asked for may take.
const SNAPSHOT: Duration = Duration::from_secs(120);
/// When it is asked for again.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(1);
/// The sequence of members' numbers.
const NUMBERS: &str = "metadata-members";
/// How far a learner may be behind, in log entries, to get its vote.
const CLOSE_ENOUGH: u64 = 100;
/// Bytes of one piece of a backup, and pieces that may wait to be sent.
const BACKUP: (usize, usize) = (256 * 1024, 4);

/// Opens the way to the operators' service of the leader at an address.
pub(crate) type OpenDesk = Arc<dyn Fn(&str) -> Result<Arc<dyn QuorumService>, QuorumError> + Send + Sync>;

/// What the service needs.
pub(crate) struct Deps {
    pub(crate) identity: Identity,
    pub(crate) me: u64,
    pub(crate) raft: Raft,
    pub(crate) service: Arc<dyn MetadataService>,
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) contacts: Arc<Mutex<Contacts>>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) store: Arc<Store>,
    pub(crate) log: LogStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) written: Written,
    pub(crate) handover: Handover,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) open_desk: OpenDesk,
}

/// A handle of the operators' service.
#[derive(Clone)]
pub(crate) struct Quorum {
    deps: Arc<Deps>,
    is_passed_on: bool,
}

impl Quorum {
    /// The handle for callers.
    pub(crate) fn new(deps: Deps) -> Self {
        Self { deps: Arc::new(deps), is_passed_on: false }
    }

    /// The way to the operators' service of another node.
    pub(crate) fn open_desk(&self) -> OpenDesk {
        Arc::clone(&self.deps.open_desk)
    }

    /// The handle for other nodes that pass calls on.
    pub(crate) fn passed_on(&self) -> Self {
        Self { is_passed_on: true, ..self.clone() }
    }

    /// Does it here if this node leads, or lets the leader do it.
    fn at_the_leader<T, F>(
        &self,
        here: impl FnOnce(Arc<Deps>) -> F,
        there: impl FnOnce(&dyn QuorumService) -> Answer<T, QuorumError>,
    ) -> Answer<T, QuorumError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, QuorumError>> + Send + 'static,
    {
        let role = self.deps.role.borrow().clone();
        match role {
            // Spawned, because a dropped answer does not stop what was begun.
            Role::Leads { .. } => {
                let work = tokio::spawn(here(Arc::clone(&self.deps)));
                Box::pin(async move { work.await.unwrap_or_else(|e| Err(unknown(e.to_string()))) })
            }
            Role::Follows { address, .. } if !address.is_empty() && !self.is_passed_on => {
                match (self.deps.open_desk)(&address) {
                    Ok(leader) => there(&*leader),
                    Err(problem) => ready(Err(problem)),
                }
            }
            Role::Follows { leader, .. } => ready(Err(unavailable(format!("member {leader} leads, not this node")))),
            Role::Nobody => ready(Err(unavailable("nobody leads at the moment".into()))),
        }
    }
}

#[cfg(test)]
impl Quorum {
    /// The log of this node.
    pub(crate) fn log(&self) -> LogStore {
        self.deps.log.clone()
    }
}

impl QuorumService for Quorum {
    fn status(&self) -> Answer<QuorumStatus, QuorumError> {
        ready(self.deps.status())
    }

    fn join(&self, joining: Joining) -> Answer<Joined, QuorumError> {
        let asked = joining.clone();
        self.at_the_leader(|deps| async move { deps.join(joining).await }, |leader| leader.join(asked))
    }

    fn promote(&self, id: u64) -> Answer<(), QuorumError> {
        self.at_the_leader(move |deps| async move { deps.promote(id).await }, |leader| leader.promote(id))
    }

    fn remove(&self, id: u64) -> Answer<(), QuorumError> {
        self.at_the_leader(move |deps| async move { deps.remove(id).await }, |leader| leader.remove(id))
    }

    fn transfer(&self, to: Option<u64>) -> Answer<u64, QuorumError> {
        self.at_the_leader(move |deps| async move { deps.handover.run(to).await }, |leader| leader.transfer(to))
    }

    fn snapshot(&self) -> Answer<SnapshotStatus, QuorumError> {
        let deps = Arc::clone(&self.deps);
        let work = tokio::spawn(async move { deps.snapshot().await });
        Box::pin(async move { work.await.unwrap_or_else(|e| Err(unknown(e.to_string()))) })
    }

    fn backup(&self) -> Answer<BackupStream, QuorumError> {
        self.at_the_leader(|deps| async move { deps.backup().await }, |leader| leader.backup())
    }
}

impl Deps {
    fn metrics(&self) -> RaftMetrics {
        self.raft.metrics().borrow().clone()
    }

    fn status(&self) -> Result<QuorumStatus, QuorumError> {
        let (metrics, now) = (self.metrics(), self.clock.monotonic());
        let group = self.identity.place.map(|place| place.group).unwrap_or_default();
        let snapshot = self.snapshots.current().map_err(|e| unavailable(e.to_string()))?;
        let snapshot = snapshot.map(|(meta, file)| SnapshotStatus {
            index: meta.last_log_id.map_or(0, |id| id.index),
            bytes: file.bytes(),
            age: self.written.age(now),
        });
        let (revision, keys, sessions) =
            self.applied.read(|s| (s.revision(), s.key_count() as u64, s.session_count() as u64));
        Ok(QuorumStatus {
            node: self.me,
            group,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: self.log.committed(),
            applied: metrics.last_applied.map_or(0, |id| id.index),
            members: self.members(&metrics, now),
            revision,
            keys,
            sessions,
            watches: self.applied.watches() as u64,
            log_bytes: self.store.log_bytes(),
            snapshot,
            audited: self.applied.audited(),
            is_changing: self.is_changing(&metrics),
        })
    }

    /// Whether two sets of voters have a say, or the new set is not agreed on yet.
    fn is_changing(&self, metrics: &RaftMetrics) -> bool {
        let membership = &metrics.membership_config;
        let is_agreed = membership.log_id().is_none_or(|id| id.index <= self.log.committed());
        membership.membership().get_joint_config().len() > 1 || !is_agreed
    }

    fn members(&self, metrics: &RaftMetrics, now: Duration) -> Vec<MemberStatus> {
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let (leads, contacts) = (metrics.state == ServerState::Leader, self.contacts.lock());
        let one = |(id, seat): (&u64, &Seat)| {
            let is_me = *id == self.me;
            let matched = metrics.replication.as_ref().and_then(|of| of.get(id).copied().flatten());
            MemberStatus {
                member: seat.member(*id),
                role: if voters.contains(id) { MemberRole::Voter } else { MemberRole::Learner },
                matched: if is_me { metrics.last_log_index } else { matched.map(|id| id.index) },
                heard: match (leads, is_me) {
                    (true, true) => Some(Duration::ZERO),
                    (true, false) => contacts.last(*id).map(|at| now.saturating_sub(at)),
                    (false, _) => None,
                },
            }
        };
        let mut members: Vec<_> = membership.nodes().map(one).collect();
        members.sort_by_key(|status| status.member.id);
        members
    }

    async fn join(&self, joining: Joining) -> Result<Joined, QuorumError> {
        let Some(place) = self.identity.place else { return Err(unavailable("it has no group yet".into())) };
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let seat =
            Seat { life: joining.life, address: joining.address.clone(), peer_address: joining.peer_address.clone() };
        let known =
            membership.nodes().find(|(_, seat)| seat.life == joining.life).map(|(id, seat)| (*id, seat.clone()));
        let id = match (known, joining.id) {
            (Some((id, _)), Some(wanted)) if id != wanted => {
                return Err(QuorumError::Refused(format!("this disk belongs to member {id}, not to {wanted}")));
            }
            (Some((id, known)), _) if known == seat => return Ok(Joined { id, group: place.group }),
            (Some((id, _)), _) => {
                self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, seat)]))).await?;
                return Ok(Joined { id, group: place.group });
            }
            (None, wanted) => self.free_number(&metrics, wanted).await?,
        };
        if joining.peer_address.is_empty() {
            return Err(QuorumError::Refused("a member needs an address where the others reach it".into()));
        }
        tracing::info!(id, address = joining.peer_address, "a metadata node joins");
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, seat)]))).await?;
        // Two may have asked for the same number at once; openraft lets the first one have it.
        let metrics = self.metrics();
        match metrics.membership_config.membership().get_node(&id) {
            Some(seat) if seat.life == joining.life => Ok(Joined { id, group: place.group }),
            _ => Err(unavailable(format!("another node has taken the number {id} at this moment"))),
        }
    }

    /// The number that was asked for, if nobody has it, or one that was never given out.
    async fn free_number(&self, metrics: &RaftMetrics, wanted: Option<u64>) -> Result<u64, QuorumError> {
        let membership = metrics.membership_config.membership();
        match wanted {
            Some(0) => return Err(QuorumError::Refused("members are numbered from 1".into())),
            Some(id) if membership.get_node(&id).is_some() => {
                return Err(QuorumError::Refused(format!(
                    "member {id} is another disk. If that one is lost, take it out first: magnetar metadata remove {id}"
                )));
            }
            Some(id) => return Ok(id),
            None => {}
        }
        loop {
            let take = Operation::Sequence { name: NUMBERS.into(), count: 1 };
            let taken = self.service.transact(Transaction { operations: vec![take], ..Transaction::default() }).await;
            let number = match taken.map_err(|e| unavailable(e.to_string()))? {
                Outcome::Committed { sequences, .. } => sequences.first().copied().unwrap_or_default(),
                Outcome::Conflict { .. } => 0,
            };
            if number > 0 && membership.get_node(&number).is_none() {
                return Ok(number);
            }
        }
    }

    async fn promote(&self, id: u64) -> Result<(), QuorumError> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        if membership.get_node(&id).is_none() {
            return Err(QuorumError::Refused(format!("there is no member {id}; see magnetar metadata members")));
        }
        if membership.voter_ids().any(|voter| voter == id) {
            return self.finish_change().await;
        }
        let matched = metrics.replication.as_ref().and_then(|of| of.get(&id).copied().flatten());
        let (holds, last) = (matched.map_or(0, |id| id.index), metrics.last_log_index.unwrap_or(0));
        if matched.is_none() || holds + CLOSE_ENOUGH < last {
            return Err(unavailable(format!("member {id} has not caught up: it holds {holds} of {last} log entries")));
        }
        tracing::info!(id, "a metadata node gets its vote");
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Finishes a change that was left half-way, because its leader was lost between its two steps. Until then a majority
    /// of the old voters is needed, too.
    async fn finish_change(&self) -> Result<(), QuorumError> {
        if self.metrics().membership_config.membership().get_joint_config().len() < 2 {
            return Ok(());
        }
        tracing::warn!("a change of members was left half-way; finishing it");
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await
    }

    async fn remove(&self, id: u64) -> Result<(), QuorumError> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        if membership.get_node(&id).is_none() {
            return Ok(());
        }
        let left: BTreeSet<u64> = membership.voter_ids().filter(|voter| *voter != id).collect();
        if left.is_empty() {
            return Err(QuorumError::Refused(format!("member {id} is the last voter; the cluster would be gone")));
        }
        let is_voter = membership.voter_ids().any(|voter| voter == id);
        if is_voter {
            let now = self.clock.monotonic();
            let answering: BTreeSet<u64> = {
                let contacts = self.contacts.lock();
                let answers = |v: &u64| *v == self.me || contacts.last(*v).is_some_and(|at| now < at + TOUCH);
                left.iter().copied().filter(answers).collect()
            };
            if !is_majority(&answering, std::slice::from_ref(&left)) {
                return Err(QuorumError::Refused(format!(
                    "without member {id} only {} of {} voters answer, which is no majority; bring others back first",
                    answering.len(),
                    left.len()
                )));
            }
        }
        tracing::info!(id, "a metadata node is taken out");
        if is_voter {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await
        }
    }

    /// Changes the membership; changes of others that are under way are waited for.
    async fn change(&self, change: ChangeMembers<u64, Seat>) -> Result<(), QuorumError> {
        let deadline = tokio::time::Instant::now() + CHANGE;
        loop {
            let attempt = self.raft.change_membership(change.clone(), false);
            match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                    return Err(unknown("this node stopped to lead meanwhile".into()));
                }
                Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(problem)))) => match problem {
                    ChangeMembershipError::InProgress(_) => tokio::time::sleep(AGAIN).await,
                    refused => return Err(unavailable(refused.to_string())),
                },
                Ok(Err(fatal)) => return Err(unknown(fatal.to_string())),
                Err(_) => return Err(unknown(format!("no quorum agreed within {CHANGE:?}"))),
            }
        }
    }

    async fn snapshot(&self) -> Result<SnapshotStatus, QuorumError> {
        let applied = self.metrics().last_applied;
        let mut metrics = self.raft.metrics();
        let written = async {
            loop {
                // One that is being written already ends with an earlier entry; asking again is free.
                self.raft.trigger().snapshot().await.map_err(|e| unavailable(e.to_string()))?;
                let written = metrics.wait_for(|now| now.snapshot >= applied);
                match tokio::time::timeout(SNAPSHOT_AGAIN, written).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(_)) => return Err(unavailable("raft has stopped".into())),
                    Err(_) => {}
                }
            }
        };
        match tokio::time::timeout(SNAPSHOT, written).await {
            Ok(written) => written?,
            Err(_) => return Err(unknown(format!("no snapshot was written within {SNAPSHOT:?}"))),
        }
        let status = self.status()?;
        status.snapshot.ok_or_else(|| unavailable("there is nothing to write yet".into()))
    }

    async fn backup(&self) -> Result<BackupStream, QuorumError> {
        self.raft.ensure_linearizable().await.map_err(|e| unavailable(e.to_string()))?;
        let image = self.applied.image();
        let (pieces, sent) = mpsc::channel(BACKUP.1);
        tokio::task::spawn_blocking(move || {
            let mut to = io::BufWriter::with_capacity(BACKUP.0, Pieces(pieces.clone()));
            if let Err(problem) = image.write_snapshot(&mut to).and_then(|()| to.flush()) {
                // Whoever took the backup has gone, then nobody hears this.
                let _ = pieces.blocking_send(Err(unavailable(problem.to_string())));
            }
        });
        Ok(ReceiverStream::new(sent).boxed())
    }
}

/// Sends what is written to whoever takes the backup.
struct Pieces(mpsc::Sender<Result<Bytes, QuorumError>>);

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map(|()| piece.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unavailable(reason: String) -> QuorumError {
    QuorumError::Unavailable { reason }
}

fn unknown(reason: String) -> QuorumError {
    QuorumError::OutcomeUnknown { reason }
}

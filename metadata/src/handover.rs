//! Handing the lead over on purpose: the leader stops to speak, waits until nobody's vote is bound to it any more, and
//! lets the most advanced voter stand. At a planned stop that takes about a second, and nobody waits for an
//! election timeout.
//!
//! Owns the order of these steps; never decides an election. If the heir is not elected, whoever is elected leads, or
//! this node again: nothing is lost but time.

use crate::{
    election::{
        LEASE,
        contacts::{Contacts, TOUCH},
    },
    raft::{
        Raft, RaftMetrics, Seat,
        network::{Network, Silence, Voice},
    },
};
use openraft::ServerState;
use parking_lot::Mutex;
use protocol::{
    runtime::Clock,
    service::{peer::PeerVerb, quorum::QuorumError},
};
use std::{sync::Arc, time::Duration};

/// How long the heir may take to hold the whole log.
const CATCH_UP: Duration = Duration::from_millis(500);
/// What the lease may differ between clocks and queues.
const MARGIN: Duration = Duration::from_millis(30);
/// How long the election of the heir may take.
const ELECTION: Duration = Duration::from_millis(800);
/// How long the heir may take to answer that it stands.
const PATIENCE: Duration = Duration::from_millis(300);

/// What handing over needs.
#[derive(Clone)]
pub(crate) struct Handover {
    pub(crate) me: u64,
    pub(crate) raft: Raft,
    pub(crate) network: Network,
    pub(crate) voice: Voice,
    pub(crate) contacts: Arc<Mutex<Contacts>>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Handover {
    /// Hands the lead to `to`, or to the most advanced voter that answers; who leads afterwards.
    ///
    /// # Errors
    /// `Refused` if this node does not lead or nobody can take over; `Unavailable` if nobody was elected in time.
    pub(crate) async fn run(&self, to: Option<u64>) -> Result<u64, QuorumError> {
        let metrics = self.raft.metrics().borrow().clone();
        if metrics.state != ServerState::Leader {
            return Err(refused("this node does not lead".into()));
        }
        if to == Some(self.me) {
            return Ok(self.me);
        }
        let (heir, seat) = self.choose(&metrics, to)?;
        tracing::info!(heir, "handing over the lead of the metadata service");
        self.catch_up(heir).await;
        self.voice.silence(Silence::Handover, true);
        let done = self.let_stand(heir, &seat).await;
        self.voice.silence(Silence::Handover, false);
        done
    }

    fn choose(&self, metrics: &RaftMetrics, to: Option<u64>) -> Result<(u64, Seat), QuorumError> {
        let membership = metrics.membership_config.membership();
        let (now, contacts) = (self.clock.monotonic(), self.contacts.lock());
        let answers = |id: &u64| contacts.last(*id).is_some_and(|at| now < at + TOUCH);
        let voters = membership.voter_ids().filter(|id| *id != self.me);
        let matched = |id: &u64| metrics.replication.as_ref().and_then(|of| of.get(id).copied().flatten());
        let heir = match to {
            Some(id) if !membership.voter_ids().any(|voter| voter == id) => {
                return Err(refused(format!("member {id} has no vote; see magnetar metadata members")));
            }
            Some(id) if !answers(&id) => return Err(refused(format!("member {id} does not answer"))),
            Some(id) => Some(id),
            None => voters.filter(answers).max_by_key(matched),
        };
        let heir = heir.ok_or_else(|| refused("no other voter answers, so nobody can take over".into()))?;
        let seat = membership.get_node(&heir).cloned().ok_or_else(|| refused(format!("member {heir} is unknown")))?;
        Ok((heir, seat))
    }

    /// Waits until the heir holds what this node holds, or long enough.
    async fn catch_up(&self, heir: u64) {
        let mut metrics = self.raft.metrics();
        let caught_up = metrics.wait_for(|now| {
            let matched = now.replication.as_ref().and_then(|of| of.get(&heir).copied().flatten());
            now.state != ServerState::Leader || matched.map(|id| id.index) >= now.last_log_index
        });
        let _ = tokio::time::timeout(CATCH_UP, caught_up).await;
    }

    async fn let_stand(&self, heir: u64, seat: &Seat) -> Result<u64, QuorumError> {
        tokio::time::sleep(LEASE + MARGIN).await;
        let stands: Result<(), _> = self.network.send((heir, seat), PeerVerb::Stand, PATIENCE, &()).await;
        stands.map_err(|e| unavailable(format!("member {heir} did not stand for election: {e}")))?;
        let mut metrics = self.raft.metrics();
        let elected = metrics.wait_for(|now| now.current_leader.is_some_and(|leader| leader != self.me));
        match tokio::time::timeout(ELECTION, elected).await {
            Ok(Ok(now)) => Ok(now.current_leader.unwrap_or(heir)),
            Ok(Err(_)) => Err(unavailable("raft has stopped".into())),
            Err(_) => Err(unavailable(format!("member {heir} was not elected in time"))),
        }
    }
}

fn refused(reason: String) -> QuorumError {
    QuorumError::Refused(reason)
}

fn unavailable(reason: String) -> QuorumError {
    QuorumError::Unavailable { reason }
}

//! What this node is at the moment: the leader, a follower of a known leader, or neither.
//!
//! Owns the answer, which everything that only a leader does waits for: proposing, expiring sessions, controlling the
//! cluster. A node counts as the leader only when its state holds everything that was committed before its term, and
//! only while a majority hears it; then every session has its full time again, because nobody knows when it was last
//! heard.

use crate::{
    applied::{Applied, Divergence},
    election::{campaign::voters, contacts::Contacts, ear::Ear},
    raft::{Raft, RaftMetrics, Seat, log::LogStore, network::Voice},
    sessions::Leases,
};
use openraft::ServerState;
use parking_lot::Mutex;
use protocol::runtime::Clock;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often contact is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The pause before a new leader tries again to confirm its lead.
const AGAIN: Duration = Duration::from_millis(20);

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It leads in this term, and is up to date.
    Leads {
        /// The term.
        term: u64,
    },
    /// It follows a leader.
    Follows {
        /// The term.
        term: u64,
        /// The leader's number.
        leader: u64,
        /// Where clients reach the leader; empty if nobody does.
        address: String,
    },
    /// Nobody is known to lead.
    Nobody,
}

impl Role {
    /// Whether the node leads.
    #[must_use]
    pub const fn leads(&self) -> bool {
        matches!(self, Self::Leads { .. })
    }
}

/// Finds out what the node is.
pub(crate) struct RoleKeeper {
    pub(crate) me: u64,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) ear: Arc<Ear>,
    pub(crate) contacts: Arc<Mutex<Contacts>>,
    pub(crate) voice: Voice,
    pub(crate) applied: Arc<Applied>,
    pub(crate) leases: Arc<Mutex<Leases>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The clock that sessions live by.
    pub(crate) session_clock: Arc<dyn Clock>,
    pub(crate) role: watch::Sender<Role>,
}

impl RoleKeeper {
    /// Follows raft until `stopping`; an error is the end of raft itself, above all of its disk, or a state that is not
    /// the leader's.
    pub(crate) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let mut metrics = self.raft.metrics();
        let mut look = tokio::time::interval(LOOK);
        loop {
            let now = metrics.borrow_and_update().clone();
            self.log.note_members(&now.membership_config);
            let ended = now.running_state.as_ref().err().map(ToString::to_string);
            // A leader that went on before its disk may not have noticed yet.
            if let Some(problem) = ended.or_else(|| self.log.failure().map(|failure| failure.to_string()))
                && !stopping.is_cancelled()
            {
                self.role.send_replace(Role::Nobody);
                self.applied.close();
                return Err(format!("the metadata service cannot go on: {problem}"));
            }
            if let Some(Divergence { index, ours, leaders }) = self.applied.divergence() {
                self.role.send_replace(Role::Nobody);
                return Err(format!(
                    "after log entry {index} the state of this node ({ours:016x}) is not the leader's ({leaders:016x}). \
                     Find out which of the two differs from the other nodes (magnetar metadata status, AUDITED): that \
                     one is to be stopped, its directory kept for whoever looks into it, and to join again on an empty \
                     one"
                ));
            }
            let role = self.judge(&now);
            match role {
                Role::Leads { term } if !self.is_leading_in(term) => self.take_office(term).await,
                _ => self.tell(role),
            }
            if !self.role.borrow().leads() {
                self.leases.lock().suspend();
            }
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                moved = metrics.changed() => if moved.is_err() && !stopping.is_cancelled() {
                    self.role.send_replace(Role::Nobody);
                    return Err("the metadata service cannot go on: raft has ended without a word".into());
                },
                _ = look.tick() => {}
            }
        }
    }

    fn judge(&self, metrics: &RaftMetrics) -> Role {
        let term = metrics.current_term;
        match metrics.current_leader {
            Some(leader) if leader == self.me => {
                let is_leader = metrics.state == ServerState::Leader && !self.voice.is_silent();
                let now = self.clock.monotonic();
                let is_heard = is_leader && self.contacts.lock().is_in_touch(self.me, &voters(metrics), now);
                if is_heard { Role::Leads { term } } else { Role::Nobody }
            }
            // A leader that is not heard any more may be gone; whoever would ask it waits for the next one instead.
            Some(leader) if self.ear.has_leader() => {
                let seat = metrics.membership_config.membership().get_node(&leader);
                let address = seat.map_or_else(String::new, |seat: &Seat| seat.address.clone());
                Role::Follows { term, leader, address }
            }
            Some(_) | None => Role::Nobody,
        }
    }

    fn is_leading_in(&self, term: u64) -> bool {
        *self.role.borrow() == Role::Leads { term }
    }

    /// Becomes the leader for others once everything before is applied here.
    async fn take_office(&self, term: u64) {
        match tokio::time::timeout(Duration::from_secs(1), self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => {
                let sessions: Vec<_> = self.applied.read(|state| state.sessions().collect());
                let sessions = sessions.into_iter().map(|(id, ttl_ms)| (id, Duration::from_millis(ttl_ms)));
                self.leases.lock().reset(sessions, self.session_clock.monotonic());
                tracing::info!(term, "this node leads the metadata service");
                self.tell(Role::Leads { term });
            }
            Ok(Err(problem)) => {
                tracing::debug!(term, %problem, "not confirmed as leader yet");
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => {}
        }
    }

    fn tell(&self, role: Role) {
        self.role.send_if_modified(|known| {
            let is_new = *known != role;
            if is_new {
                tracing::info!(?role, "the metadata node's role has changed");
                *known = role;
            }
            is_new
        });
    }
}

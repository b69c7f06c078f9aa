//! A node's place in its cluster: founding one, joining one, and telling it when the node has moved or has caught up.

use super::{MetadataConfig, MetadataDeps, StartError, assembly::Assembly};
use crate::{
    quorum::OpenDesk,
    raft::{
        LogId, Raft, RaftMetrics, Seat,
        identity::{Identity, Place},
    },
};
use openraft::ServerState;
use protocol::service::quorum::{Joining, QuorumError, QuorumService};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The pause before the cluster is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a change of members may stand half-way before it is taken for given up: far longer than its two steps take.
const HALF_WAY: Duration = Duration::from_secs(2);
/// How often a node that waits for its cluster says so, in pauses.
const REMINDER: u32 = 10;

/// The place of this directory; if it has none, a new group or a place in the cluster that is to be joined.
pub(super) async fn find_place(
    config: &MetadataConfig,
    deps: &MetadataDeps,
    assembly: &Assembly,
) -> Result<Place, StartError> {
    if let Some(place) = assembly.identity.place {
        return Ok(place);
    }
    let place = match &deps.cluster {
        None => Place { id: config.node.unwrap_or(1), group: Uuid::new_v4(), is_founder: true },
        Some(cluster) => join(config, &**cluster, assembly.identity, &deps.tasks.stopping()).await?,
    };
    let store = Arc::clone(&assembly.store);
    let written = tokio::task::spawn_blocking(move || store.take_place(place)).await;
    let failed = |reason: String| StartError::Stored { dir: config.data_dir.display().to_string(), reason };
    written.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
    Ok(place)
}

async fn join(
    config: &MetadataConfig,
    cluster: &dyn QuorumService,
    identity: Identity,
    stopping: &CancellationToken,
) -> Result<Place, StartError> {
    let mut asked = 0;
    loop {
        let joining = Joining {
            id: config.node,
            life: identity.life,
            address: config.address.clone(),
            peer_address: config.peer_address.clone(),
        };
        let answer = tokio::select! {
            answer = cluster.join(joining) => answer,
            () = stopping.cancelled() => return Err(StartError::Stopped),
        };
        match answer {
            Ok(joined) => return Ok(Place { id: joined.id, group: joined.group, is_founder: false }),
            Err(QuorumError::Refused(reason)) => return Err(StartError::NotTaken(reason)),
            // Asking again is safe: the same disk gets the same place.
            Err(problem) if asked % REMINDER == 0 => tracing::warn!(%problem, "waiting for the metadata cluster"),
            Err(_) => {}
        }
        asked += 1;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stopping.cancelled() => return Err(StartError::Stopped),
        }
    }
}

/// Keeps what the cluster knows of this member true: its addresses, and that it wants a vote.
pub(super) struct Upkeep {
    pub(super) raft: Raft,
    pub(super) quorum: Arc<dyn QuorumService>,
    pub(super) open_desk: OpenDesk,
    pub(super) place: Place,
    pub(super) seat: Seat,
    pub(super) is_learner: bool,
}

impl Upkeep {
    /// Runs until this member is taken out, or until `stopping`.
    pub(super) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let (mut metrics, mut was_member) = (self.raft.metrics(), false);
        loop {
            let now = metrics.borrow_and_update().clone();
            let seat = now.membership_config.membership().get_node(&self.place.id);
            if is_taken_out(self.seat.life, seat, &mut was_member) {
                return Ok(());
            }
            let Some(wish) = self.wish(&now) else {
                tokio::select! {
                    moved = metrics.changed() => if moved.is_err() { return Ok(()) },
                    () = stopping.cancelled() => return Ok(()),
                }
                continue;
            };
            let answer = tokio::select! {
                answer = async {
                    match wish {
                        Wish::Address(joining) => self.tell(joining, &now).await,
                        Wish::Vote => self.quorum.promote(self.place.id).await,
                        Wish::End(change) => self.end(change).await,
                    }
                } => answer,
                () = stopping.cancelled() => return Ok(()),
            };
            match answer {
                Err(QuorumError::Refused(reason)) => tracing::error!(reason, "the cluster refuses this member's wish"),
                Err(problem) => tracing::debug!(%problem, "the cluster was asked in vain"),
                Ok(()) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    /// Tells the cluster where this member is. A leader that still calls at its old address is not heard, so that nobody
    /// is known to lead; then the others are asked one by one, and whoever leads listens.
    async fn tell(&self, joining: Joining, now: &RaftMetrics) -> Result<(), QuorumError> {
        let mut answer = self.quorum.join(joining.clone()).await;
        let others = now.membership_config.membership().nodes().filter(|(id, _)| **id != self.place.id);
        for (_, seat) in others.filter(|(_, seat)| !seat.address.is_empty()) {
            if !matches!(answer, Err(QuorumError::Unavailable { .. })) {
                break;
            }
            answer = match (self.open_desk)(&seat.address) {
                Ok(other) => other.join(joining.clone()).await,
                Err(problem) => Err(problem),
            };
        }
        answer.map(drop)
    }

    /// Ends a change that nobody else ends: promoting a voter does, and changes nothing besides.
    async fn end(&self, change: LogId) -> Result<(), QuorumError> {
        tokio::time::sleep(HALF_WAY).await;
        let now = *self.raft.metrics().borrow().membership_config.log_id();
        if now == Some(change) { self.quorum.promote(self.place.id).await } else { Ok(()) }
    }

    /// What the cluster does not know yet.
    fn wish(&self, metrics: &RaftMetrics) -> Option<Wish> {
        let membership = metrics.membership_config.membership();
        let Some(known) = membership.get_node(&self.place.id) else {
            // The membership has not arrived yet.
            return Some(Wish::Address(self.joining()));
        };
        if *known != self.seat {
            return Some(Wish::Address(self.joining()));
        }
        let has_vote = membership.voter_ids().any(|voter| voter == self.place.id);
        let is_half_way = metrics.state == ServerState::Leader && membership.get_joint_config().len() > 1;
        match is_half_way {
            true => (*metrics.membership_config.log_id()).map(Wish::End),
            false => (!has_vote && !self.is_learner).then_some(Wish::Vote),
        }
    }

    fn joining(&self) -> Joining {
        let Seat { life, address, peer_address } = self.seat.clone();
        Joining { id: Some(self.place.id), life, address, peer_address }
    }
}

/// Whether the member that lives this life has been taken out. A member that joined again under its old number reads in the
/// log how the life before was taken out: that is nobody's end but that one's.
fn is_taken_out(life: Uuid, seat: Option<&Seat>, was_member: &mut bool) -> bool {
    let is_member = seat.is_some_and(|seat| seat.life == life);
    std::mem::replace(was_member, is_member) && !is_member
}

enum Wish {
    /// That it is known by these addresses.
    Address(Joining),
    /// A vote.
    Vote,
    /// Of a leader: the end of a change that stands in this log entry, if its predecessor has left it half-way.
    End(LogId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_an_earlier_life_concerns_nobody() {
        let seat = |life| Seat { life: Uuid::from_u128(life), ..Seat::default() };
        let (before, now, mut was_member) = (seat(1), seat(2), false);
        let history = [None, Some(&before), None, Some(&now), Some(&now), None];
        let ends = history.map(|known| is_taken_out(now.life, known, &mut was_member));
        assert_eq!(ends, [false, false, false, false, false, true]);
    }
}

//! A node's place in its cluster: founding one, joining one, and telling it when the node has moved or has caught up.

use super::{MetadataConfig, MetadataDeps, StartError, assembly::Assembly};
use crate::raft::{
    Raft, Seat,
    identity::{Identity, Place},
};
use protocol::service::quorum::{Joining, QuorumError, QuorumService};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The pause before the cluster is asked again.
const PAUSE: Duration = Duration::from_millis(500);
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
    pub(super) place: Place,
    pub(super) seat: Seat,
    pub(super) is_learner: bool,
}

impl Upkeep {
    /// Runs until the cluster knows everything, or until `stopping`.
    pub(super) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        while let Some(wish) = self.wish() {
            let answer = tokio::select! {
                answer = async {
                    match wish {
                        Wish::Address(joining) => self.quorum.join(joining).await.map(|_| ()),
                        Wish::Vote => self.quorum.promote(self.place.id).await,
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
        Ok(())
    }

    /// What the cluster does not know yet.
    fn wish(&self) -> Option<Wish> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let Some(known) = membership.get_node(&self.place.id) else {
            // The membership has not arrived yet.
            return Some(Wish::Address(self.joining()));
        };
        if *known != self.seat {
            return Some(Wish::Address(self.joining()));
        }
        let has_vote = membership.voter_ids().any(|voter| voter == self.place.id);
        (!has_vote && !self.is_learner).then_some(Wish::Vote)
    }

    fn joining(&self) -> Joining {
        let Seat { life, address, peer_address } = self.seat.clone();
        Joining { id: Some(self.place.id), life, address, peer_address }
    }
}

enum Wish {
    Address(Joining),
    Vote,
}

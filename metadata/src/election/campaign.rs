//! The tasks around elections: looking whether to stand, and beating while this node leads.
//!
//! Owns the questions to peers and what follows from their answers; when to ask is decided by [`Standing`], and whether
//! a majority hears the leader by [`Contacts`]. A leader that is out of touch falls silent until it is answered again, so that
//! those who hear it, but whom it does not hear, can elect another one.

use super::{
    BEAT, Beat, Canvass, Promise,
    contacts::Contacts,
    ear::Ear,
    standing::{Move, Sight, Standing},
};
use crate::raft::{
    Raft, RaftMetrics, Seat,
    log::LogStore,
    network::{Network, Silence, Voice},
};
use openraft::ServerState;
use parking_lot::Mutex;
use protocol::{
    runtime::Clock,
    service::peer::{PeerError, PeerVerb},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often a node looks whether to stand.
const LOOK: Duration = Duration::from_millis(20);
/// How long a peer may take to answer a question or a beat.
const PATIENCE: Duration = Duration::from_millis(300);
/// A raft that has done nothing for this long, or whose disk has not, does not lead any more, whatever it believes.
const STUCK: Duration = Duration::from_secs(3);

/// What the tasks work with.
#[derive(Clone)]
pub(crate) struct Campaign {
    pub(crate) me: u64,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) network: Network,
    pub(crate) voice: Voice,
    pub(crate) ear: Arc<Ear>,
    pub(crate) contacts: Arc<Mutex<Contacts>>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The voters of a membership; two sets during a change.
pub(crate) fn voters(metrics: &RaftMetrics) -> Vec<BTreeSet<u64>> {
    metrics.membership_config.membership().get_joint_config().clone()
}

impl Campaign {
    fn metrics(&self) -> RaftMetrics {
        self.raft.metrics().borrow().clone()
    }

    fn peers(&self, metrics: &RaftMetrics) -> Vec<(u64, Seat)> {
        let nodes = metrics.membership_config.membership().nodes();
        nodes.filter(|(id, _)| **id != self.me).map(|(id, seat)| (*id, seat.clone())).collect()
    }

    /// Stands for election when it is time, until `stopping`.
    pub(crate) async fn stand(self, stopping: CancellationToken) -> Result<(), String> {
        let mut standing = Standing::new(self.me);
        let (promise, mut promises) = mpsc::unbounded_channel();
        let mut look = ticker(LOOK);
        loop {
            let promised = tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                promised = promises.recv() => promised,
                _ = look.tick() => None,
            };
            let metrics = self.metrics();
            let voters = voters(&metrics);
            let leads = metrics.state == ServerState::Leader;
            let sight =
                Sight { now: self.clock.monotonic(), silent_since: self.ear.silent_since(), leads, voters: &voters };
            let next = match promised {
                Some((round, by)) => standing.promised(round, by, sight),
                None => standing.look(sight),
            };
            match next {
                Move::Rest => {}
                Move::Canvass(round) => self.canvass(round, &metrics, &promise),
                Move::Stand => {
                    tracing::info!(term = metrics.current_term + 1, "standing for election");
                    if self.raft.trigger().elect().await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn canvass(&self, round: u64, metrics: &RaftMetrics, promise: &mpsc::UnboundedSender<(u64, u64)>) {
        let Ok(last_log) = self.log.last() else { return };
        tracing::info!(round, term = metrics.current_term, "no leader is heard; asking for votes");
        for (id, seat) in self.peers(metrics) {
            let (network, promise) = (self.network.clone(), promise.clone());
            tokio::spawn(async move {
                let canvass = Canvass { last_log };
                let answer = network.send((id, &seat), PeerVerb::Canvass, PATIENCE, &canvass).await;
                match answer {
                    Ok(Promise { granted: true, .. }) => drop(promise.send((round, id))),
                    Ok(Promise { is_member: false, .. }) => tracing::warn!(
                        peer = id,
                        "a peer does not count this node as a member any more; if it was removed, stop it"
                    ),
                    Ok(_) | Err(_) => {}
                }
            });
        }
    }

    /// Shows that the leader lives, while this node leads, until `stopping`.
    pub(crate) async fn beat(self, stopping: CancellationToken) -> Result<(), String> {
        let mut beat = ticker(BEAT);
        let mut reign = None;
        let core = Core::new(&self.clock);
        let mut beating = JoinSet::new();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                _ = beat.tick() => {}
            }
            while beating.try_join_next().is_some() {}
            let metrics = self.metrics();
            let now = self.clock.monotonic();
            if metrics.state != ServerState::Leader {
                reign = None;
                self.voice.silence(Silence::OutOfTouch, false);
                continue;
            }
            if reign.replace(metrics.vote) != Some(metrics.vote) {
                self.contacts.lock().reset(now);
                core.reset();
            }
            core.ask(&self.raft);
            let is_in_touch = self.contacts.lock().is_in_touch(self.me, &voters(&metrics), now);
            if !is_in_touch && !self.voice.is_silent() {
                tracing::warn!(term = metrics.current_term, "no majority answers this leader; it falls silent");
            }
            self.voice.silence(Silence::OutOfTouch, !is_in_touch);
            let beat = Beat {
                vote: metrics.vote,
                is_probe: self.voice.is_silent() || core.is_stuck() || self.log.busy() > STUCK,
            };
            // As long as it speaks it hears itself, and gives its vote to nobody whom only it can hear.
            if !beat.is_probe {
                self.ear.hear(beat.vote);
            }
            for (id, seat) in self.peers(&metrics) {
                beating.spawn(self.clone().beat_once(id, seat, beat, now));
            }
        }
    }

    async fn beat_once(self, id: u64, seat: Seat, beat: Beat, sent: Duration) {
        let answer: Result<Beat, PeerError> = self.network.send((id, &seat), PeerVerb::Beat, PATIENCE, &beat).await;
        // Whoever knows a later leader does not follow this one, however well it hears it.
        if answer.is_ok_and(|known| known.vote <= beat.vote) {
            self.contacts.lock().answered(id, sent);
        }
    }
}

/// Whether raft itself still moves.
struct Core {
    clock: Arc<dyn Clock>,
    /// When it last moved, and whether it was asked since.
    moved: Arc<Mutex<(Duration, bool)>>,
}

impl Core {
    fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), moved: Arc::new(Mutex::new((clock.monotonic(), false))) }
    }

    fn reset(&self) {
        *self.moved.lock() = (self.clock.monotonic(), false);
    }

    fn ask(&self, raft: &Raft) {
        if std::mem::replace(&mut self.moved.lock().1, true) {
            return;
        }
        let (clock, moved) = (Arc::clone(&self.clock), Arc::clone(&self.moved));
        raft.external_request(move |_| *moved.lock() = (clock.monotonic(), false));
    }

    fn is_stuck(&self) -> bool {
        self.clock.monotonic() > self.moved.lock().0 + STUCK
    }
}

fn ticker(every: Duration) -> tokio::time::Interval {
    let mut ticker = tokio::time::interval(every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

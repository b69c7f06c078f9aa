//! The parts of a node, put together in the order in which they need each other.

use super::{MetadataConfig, MetadataDeps, MetadataNode, StartError, membership::Upkeep};
use crate::{
    applied::Applied,
    election::{LEASE, campaign::Campaign, contacts::Contacts, ear::Ear},
    expiry::Expiry,
    gauges::Gauges,
    handover::Handover,
    metrics::MetadataMetrics,
    proposals::Proposals,
    queue::{Exit, queue},
    quorum::{self, Quorum},
    raft::{
        Raft, Seat,
        desk::Desk,
        directory,
        identity::{Identity, Place},
        log::LogStore,
        machine::Machine,
        network::{Network, Voice},
        snapshots::Snapshots,
        store::Store,
        thread::RaftThread,
    },
    role::{Role, RoleKeeper},
    router::Router,
    service::Service,
    sessions::Leases,
    snapshotting::{Snapshotting, Written},
};
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use protocol::{
    runtime::{Clock, SystemClock, TaskKind, Tasks},
    service::{metadata::MetadataService, quorum::QuorumService},
    wire::metadata::{RemoteMetadata, RemoteOptions, RemoteQuorum},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long a call that is passed on may take at the leader.
const PASSED_ON: Duration = Duration::from_secs(5);
/// How long the leader may take for an operator's call.
const OPERATED: Duration = Duration::from_secs(30);

/// An opened directory and the thread that will work on it.
pub(super) struct Assembly {
    pub(super) identity: Identity,
    pub(super) store: Arc<Store>,
    snapshots: Snapshots,
    machine: Machine,
    thread: RaftThread,
}

impl Assembly {
    pub(super) async fn open(config: &MetadataConfig) -> Result<Self, StartError> {
        let (path, number) = (config.data_dir.clone(), config.node);
        let opened = tokio::task::spawn_blocking(move || {
            let opened = directory::open(&path, number)?;
            let machine = Machine::open(opened.snapshots.clone());
            Ok::<_, directory::OpenError>((opened, machine))
        });
        let (opened, machine) = opened.await.map_err(|e| StartError::Raft(e.to_string()))??;
        let dir = config.data_dir.display().to_string();
        let machine = machine.map_err(|e| directory::OpenError::Damaged { dir, reason: e.to_string() })?;
        let thread = RaftThread::start().map_err(|e| StartError::Raft(e.to_string()))?;
        let directory::Opened { store, snapshots, identity } = opened;
        Ok(Self { identity, store, snapshots, machine, thread })
    }

    /// Starts raft at this place, and everything around it.
    pub(super) async fn run(
        self,
        config: &MetadataConfig,
        deps: MetadataDeps,
        place: Place,
    ) -> Result<MetadataNode, StartError> {
        let MetadataDeps { clock, tasks, peers, cluster: _ } = deps;
        let Self { identity, store, snapshots, machine, thread } = self;
        let (tasks, applied) = (tasks.child(), machine.applied());
        let me = place.name(identity.life);
        let (courier, serve) = peers.split();
        let voice = Voice::default();
        let log = LogStore::behind(Arc::clone(&store), &snapshots);
        let network = Network::new(me, courier(thread.handle(), &tasks), voice.clone(), log.clone());
        let raft = start_raft(&thread, place.id, network.clone(), log.clone(), machine).await?;
        log.allow_headway(place.id, &raft.metrics().borrow().membership_config);
        let election_clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let ear = Arc::new(Ear::new(Arc::clone(&election_clock)));
        let desk = Arc::new(Desk::new(me, raft.clone(), Arc::clone(&ear), log.clone(), snapshots.clone()));
        serve(desk, thread.handle(), &tasks).map_err(|e| StartError::Raft(e.to_string()))?;
        let seat =
            Seat { life: identity.life, address: config.address.clone(), peer_address: config.peer_address.clone() };
        found(&raft, place, &seat).await?;

        let (entrance, exit) = queue(config.queue_bytes);
        let (told, role) = watch::channel(Role::Nobody);
        let parts = Parts {
            identity: Identity { place: Some(place), ..identity },
            place,
            seat,
            service: Service {
                entrance,
                applied: Arc::clone(&applied),
                clock: Arc::clone(&clock),
                is_passed_on: false,
            },
            leases: Arc::default(),
            metrics: MetadataMetrics::default(),
            written: Written::default(),
            contacts: Arc::default(),
            raft,
            log,
            network,
            voice,
            ear,
            election_clock,
            clock,
            applied,
            store,
            snapshots,
            role,
            tasks,
        };
        parts.start_elections(told, &thread);
        parts.start_calls(config, exit);
        let quorum = parts.start_care(config);
        Ok(parts.into_node(quorum, thread))
    }
}

/// Everything that the tasks of a node work with.
struct Parts {
    identity: Identity,
    place: Place,
    seat: Seat,
    raft: Raft,
    log: LogStore,
    network: Network,
    voice: Voice,
    ear: Arc<Ear>,
    contacts: Arc<Mutex<Contacts>>,
    /// Real time, whatever time a test gives to sessions.
    election_clock: Arc<dyn Clock>,
    /// The time of sessions and deadlines.
    clock: Arc<dyn Clock>,
    applied: Arc<Applied>,
    leases: Arc<Mutex<Leases>>,
    store: Arc<Store>,
    snapshots: Snapshots,
    written: Written,
    metrics: MetadataMetrics,
    service: Service,
    role: watch::Receiver<Role>,
    tasks: Tasks,
}

impl Parts {
    /// Who leads: on the thread of raft, because nothing else may delay it.
    fn start_elections(&self, told: watch::Sender<Role>, thread: &RaftThread) {
        let _on_the_thread_of_raft = thread.handle().enter();
        let campaign = Campaign {
            me: self.place.id,
            raft: self.raft.clone(),
            log: self.log.clone(),
            network: self.network.clone(),
            voice: self.voice.clone(),
            ear: Arc::clone(&self.ear),
            contacts: Arc::clone(&self.contacts),
            clock: Arc::clone(&self.election_clock),
        };
        let keeper = RoleKeeper {
            me: self.place.id,
            raft: self.raft.clone(),
            log: self.log.clone(),
            ear: Arc::clone(&self.ear),
            contacts: Arc::clone(&self.contacts),
            voice: self.voice.clone(),
            applied: Arc::clone(&self.applied),
            leases: Arc::clone(&self.leases),
            clock: Arc::clone(&self.election_clock),
            session_clock: Arc::clone(&self.clock),
            role: told,
        };
        let stopping = self.tasks.stopping();
        self.tasks.spawn(TaskKind::Vital, "metadata election", campaign.clone().stand(stopping.clone()));
        self.tasks.spawn(TaskKind::Vital, "metadata beats", campaign.beat(stopping.clone()));
        self.tasks.spawn(TaskKind::Vital, "metadata raft", keeper.run(stopping));
    }

    /// Calls and sessions.
    fn start_calls(&self, config: &MetadataConfig, exit: Exit) {
        let proposals = Proposals::new(
            (self.raft.clone(), self.log.clone()),
            Arc::clone(&self.applied),
            Arc::clone(&self.leases),
            Arc::clone(&self.clock),
            self.metrics.clone(),
            Duration::from_millis(config.proposal_timeout_ms),
        );
        let router = Router {
            role: self.role.clone(),
            proposals: Arc::new(proposals),
            open_way: Arc::new(|address, tasks| {
                let options = RemoteOptions { deadline: PASSED_ON, ..RemoteOptions::default() };
                let way = RemoteMetadata::passing_on(address, options, tasks)?;
                Ok(Arc::new(way) as Arc<dyn MetadataService>)
            }),
            clock: Arc::clone(&self.clock),
            tasks: self.tasks.child(),
            exit,
        };
        let (leases, applied) = (Arc::clone(&self.leases), Arc::clone(&self.applied));
        let expiry = Expiry::new(leases, applied, Arc::clone(&self.clock), self.service.entrance.clone());
        let stopping = self.tasks.stopping();
        self.tasks.spawn(TaskKind::Vital, "metadata router", router.run(stopping.clone()));
        self.tasks.spawn(TaskKind::Vital, "metadata session expiry", expiry.run(stopping));
    }

    /// Snapshots, membership and gauges.
    fn start_care(&self, config: &MetadataConfig) -> Quorum {
        let quorum = self.quorum();
        let snapshotting = Snapshotting {
            raft: self.raft.clone(),
            log: self.log.clone(),
            snapshots: self.snapshots.clone(),
            written: self.written.clone(),
            clock: Arc::clone(&self.election_clock),
            after_logs: config.snapshot_after_logs,
        };
        let upkeep = Upkeep {
            raft: self.raft.clone(),
            quorum: Arc::new(quorum.clone()),
            open_desk: quorum.open_desk(),
            place: self.place,
            seat: self.seat.clone(),
            is_learner: config.learner,
        };
        let gauges = Gauges {
            me: self.place.id,
            role: self.role.clone(),
            raft: self.raft.clone(),
            log: self.log.clone(),
            applied: Arc::clone(&self.applied),
            store: Arc::clone(&self.store),
            metrics: self.metrics.clone(),
            written: self.written.clone(),
            clock: Arc::clone(&self.election_clock),
            entrance: self.service.entrance.clone(),
        };
        let stopping = self.tasks.stopping();
        self.tasks.spawn(TaskKind::Vital, "metadata snapshots", snapshotting.run(stopping.clone()));
        self.tasks.spawn(TaskKind::Background, "metadata membership", upkeep.run(stopping.clone()));
        self.tasks.spawn(TaskKind::Background, "metadata gauges", gauges.run(stopping));
        quorum
    }

    fn quorum(&self) -> Quorum {
        let tasks = self.tasks.child();
        Quorum::new(quorum::Deps {
            identity: self.identity,
            me: self.place.id,
            raft: self.raft.clone(),
            service: Arc::new(self.service.clone()),
            role: self.role.clone(),
            contacts: Arc::clone(&self.contacts),
            applied: Arc::clone(&self.applied),
            store: Arc::clone(&self.store),
            log: self.log.clone(),
            snapshots: self.snapshots.clone(),
            written: self.written.clone(),
            handover: self.handover(),
            clock: Arc::clone(&self.election_clock),
            open_desk: Arc::new(move |address| {
                let leader = RemoteQuorum::passing_on(address, OPERATED, &tasks)?;
                Ok(Arc::new(leader) as Arc<dyn QuorumService>)
            }),
        })
    }

    fn handover(&self) -> Handover {
        Handover {
            me: self.place.id,
            raft: self.raft.clone(),
            network: self.network.clone(),
            voice: self.voice.clone(),
            contacts: Arc::clone(&self.contacts),
            clock: Arc::clone(&self.election_clock),
        }
    }

    fn into_node(self, quorum: Quorum, thread: RaftThread) -> MetadataNode {
        MetadataNode {
            handover: self.handover(),
            closed: self.store.closed(),
            #[cfg(test)]
            store: Arc::downgrade(&self.store),
            identity: self.identity,
            place: self.place,
            raft: self.raft,
            applied: self.applied,
            service: self.service,
            quorum,
            role: self.role,
            tasks: self.tasks,
            _thread: thread,
        }
    }
}

/// Starts raft on its thread.
async fn start_raft(
    thread: &RaftThread,
    me: u64,
    network: Network,
    log: LogStore,
    machine: Machine,
) -> Result<Raft, StartError> {
    let settings = Arc::new(settings()?);
    let starting = thread.handle().spawn(async move { Raft::new(me, settings, network, log, machine).await });
    let started = starting.await.map_err(|e| StartError::Raft(e.to_string()))?;
    started.map_err(|e| StartError::Raft(e.to_string()))
}

/// Founds the group at the first start of its first member.
async fn found(raft: &Raft, place: Place, seat: &Seat) -> Result<(), StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    if place.is_founder && !raft.is_initialized().await.map_err(|e| failed(&e))? {
        let members = BTreeMap::from([(place.id, seat.clone())]);
        raft.initialize(members).await.map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// How openraft is told to behave. When to elect is our own decision, and so is when to write snapshots.
fn settings() -> Result<Config, StartError> {
    let lease = LEASE.as_millis() as u64;
    let settings = Config {
        cluster_name: "magnetar".into(),
        // Also how long a follower may take to answer entries before they are sent again.
        heartbeat_interval: lease - 100,
        election_timeout_min: lease - 50,
        // openraft takes this for the lease: as long a follower gives nobody its vote.
        election_timeout_max: lease,
        enable_elect: false,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 1_000,
        purge_batch_size: 64,
        // A follower whose entries are still in the log gets them, however many it lacks.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 120_000,
        ..Config::default()
    };
    settings.validate().map_err(|e| StartError::Settings(e.to_string()))
}

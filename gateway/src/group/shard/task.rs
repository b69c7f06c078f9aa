//! The driver of a shard: one task that loads the log, owns the state, appends what the state wants written, and tells
//! it what became of that, in log order.
//!
//! The epoch is the shard's right to exist: every append names it. When the broker refuses it, or when an append's fate
//! is unknown, memory and log may differ, so the shard answers whoever waits, drops its state and loads again.

use super::{
    super::{
        answer::Responder,
        error::GroupError,
        machine::Now,
        metrics::CoordinatorMetrics,
        records::{Record, batch},
        request::Request,
    },
    load::{self, LoadError, Replayed},
    membership::Client,
    snapshot::{Size, SnapshotPolicy, Snapshots},
    state::{Context, Done, GroupReport, State, Write},
};
use crate::kafka::settings::LiveSettings;
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use protocol::{
    cluster::ClusterView,
    id::{LeaderEpoch, Offset},
    runtime::Clock,
    service::{
        broker::{Append, AppendError, Appended, BrokerService, DeleteRecords, NotServed, Origin},
        coordinator::CoordinatorError,
    },
    topic::{PartitionId, TopicName},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Appends under way at once; more requests wait in the inbox.
const MAX_APPENDS: usize = 256;
/// After this long the fate of an append is unknown.
const APPEND_DEADLINE: Duration = Duration::from_secs(15);
/// While loading takes no longer than this, requests wait for it instead of being told to come again.
const LOAD_PATIENCE: Duration = Duration::from_millis(300);
/// Between attempts to load; doubling from the first to the second if the log cannot be read.
const LOAD_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a stopping shard waits for its last appends.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the shard sleeps at least between two looks at the clock.
const SHORTEST_NAP: Duration = Duration::from_millis(1);
/// Bytes of one append of a snapshot.
const SNAPSHOT_APPEND_BYTES: usize = 4 * 1024 * 1024;

/// A request to a group of the shard.
pub(in crate::group) struct Call {
    pub(in crate::group) request: Request,
    pub(in crate::group) responder: Responder,
    pub(in crate::group) client: Client,
    /// The group that led here, for errors.
    pub(in crate::group) key: String,
}

/// What a shard can be asked.
pub(in crate::group) enum Message {
    /// A client's request.
    Call(Box<Call>),
    /// The groups that pass a filter.
    List(kafka_protocol::messages::ListGroupsRequest, oneshot::Sender<Vec<ListedGroup>>),
    /// Sizes and offsets of all groups.
    Report(oneshot::Sender<Vec<GroupReport>>),
    /// Topics that are gone.
    TopicsDeleted(Arc<[TopicName]>),
}

/// What all shards share.
#[derive(Clone)]
pub(in crate::group) struct ShardConfig {
    pub(in crate::group) broker: Arc<dyn BrokerService>,
    pub(in crate::group) view: ClusterView,
    pub(in crate::group) clock: Arc<dyn Clock>,
    pub(in crate::group) settings: Arc<LiveSettings>,
    pub(in crate::group) snapshots: SnapshotPolicy,
    pub(in crate::group) metrics: CoordinatorMetrics,
}

/// The right to coordinate: a partition at an epoch, until it is taken back.
#[derive(Clone)]
pub(in crate::group) struct Seat {
    pub(in crate::group) partition: PartitionId,
    pub(in crate::group) partitions: u32,
    pub(in crate::group) epoch: LeaderEpoch,
    /// The seat is lost, or the node stops.
    pub(in crate::group) stop: CancellationToken,
    /// The node stops.
    pub(in crate::group) stopping: CancellationToken,
}

/// Runs a shard until its seat is lost.
pub(in crate::group) async fn run(config: ShardConfig, seat: Seat, mut inbox: mpsc::Receiver<Message>) {
    while let Some(replayed) = wait_for_load(&config, &seat, &mut inbox).await {
        let mut shard = Shard::new(config.clone(), seat.clone(), replayed);
        match shard.serve(&mut inbox).await {
            End::Stopped => break,
            End::Lost(reason) => {
                config.metrics.failed.increment(1);
                let (partition, epoch) = (seat.partition, seat.epoch);
                tracing::warn!(%partition, %epoch, %reason, "group coordinator gives up its state and loads it again");
                shard.state.refuse_all(&CoordinatorError::NotCoordinator(reason));
            }
        }
    }
    inbox.close();
    let refusal = departure(&seat);
    while let Some(message) = inbox.recv().await {
        refuse(message, &refusal);
    }
}

/// What those are told who come, or wait, when the shard goes.
fn departure(seat: &Seat) -> CoordinatorError {
    if seat.stopping.is_cancelled() {
        CoordinatorError::Unavailable { reason: "the node is stopping".into() }
    } else {
        CoordinatorError::NotCoordinator(format!("partition {} of the groups any longer", seat.partition.index))
    }
}

fn refuse(message: Message, error: &CoordinatorError) {
    // Listings and reports are answered by dropping their sender: nothing is known of this shard.
    if let Message::Call(call) = message {
        let error = match error {
            CoordinatorError::NotCoordinator(_) => CoordinatorError::NotCoordinator(call.key),
            other => other.clone(),
        };
        call.responder.refuse(error);
    }
}

/// Loads the log, as often as it takes; none if the seat is lost before.
async fn wait_for_load(config: &ShardConfig, seat: &Seat, inbox: &mut mpsc::Receiver<Message>) -> Option<Replayed> {
    let start = config.clock.monotonic();
    let mut refusal = CoordinatorError::Loading;
    let attempt = |delay: Duration| -> BoxFuture<'_, Result<Replayed, LoadError>> {
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            load::load(&*config.broker, seat.partition, seat.epoch).await
        })
    };
    let mut loading = attempt(Duration::ZERO);
    let mut backoff = LOAD_BACKOFF.0;
    let patience = tokio::time::sleep(LOAD_PATIENCE);
    tokio::pin!(patience);
    let mut patient = true;
    loop {
        tokio::select! {
            biased;
            () = seat.stop.cancelled() => return None,
            loaded = &mut loading => match loaded {
                Ok(replayed) => {
                    let took = config.clock.monotonic().saturating_sub(start);
                    config.metrics.load.record(took.as_secs_f64());
                    let (partition, epoch) = (seat.partition, seat.epoch);
                    let (groups, records) = (replayed.groups.len(), replayed.records);
                    tracing::info!(%partition, %epoch, groups, records, ?took, "group coordinator has loaded");
                    return Some(replayed);
                }
                Err(problem) => {
                    refusal = report_failure(seat, &problem);
                    if !matches!(problem, LoadError::NotServed(_)) {
                        backoff = (backoff * 2).min(LOAD_BACKOFF.1);
                    }
                    loading = attempt(backoff);
                }
            },
            () = &mut patience, if patient => patient = false,
            message = inbox.recv(), if !patient => match message {
                Some(message) => refuse(message, &refusal),
                None => return None,
            },
        }
    }
}

/// Says why loading failed, and what clients are told until it works.
fn report_failure(seat: &Seat, problem: &LoadError) -> CoordinatorError {
    let (partition, epoch) = (seat.partition, seat.epoch);
    match problem {
        LoadError::NotServed(NotServed::Opening | NotServed::UnknownEpoch { .. }) => {
            tracing::debug!(%partition, %epoch, %problem, "group coordinator waits for its broker");
            CoordinatorError::Loading
        }
        LoadError::NotServed(
            NotServed::NotOwner { .. } | NotServed::FencedEpoch { .. } | NotServed::NoSuchPartition(_),
        ) => {
            tracing::debug!(%partition, %epoch, %problem, "group coordinator waits for its broker");
            CoordinatorError::NotCoordinator(String::new())
        }
        LoadError::Unreadable(_) => {
            tracing::warn!(%partition, %epoch, %problem, "group coordinator cannot load yet");
            CoordinatorError::Loading
        }
        LoadError::Batch(_) | LoadError::Record { .. } => {
            tracing::error!(%partition, %epoch, %problem, "group coordinator cannot read its log");
            CoordinatorError::Loading
        }
    }
}

enum End {
    Stopped,
    Lost(String),
}

/// An append and what it was for.
struct Ended {
    purpose: Purpose,
    records: u64,
    bytes: u64,
    outcome: Result<Appended, AppendError>,
}

enum Purpose {
    State(Done),
    Snapshot { first: bool, last: bool },
}

struct Shard {
    config: ShardConfig,
    seat: Seat,
    state: State,
    appends: FuturesOrdered<BoxFuture<'static, Ended>>,
    snapshots: Snapshots,
    /// The offset after the last acknowledged record.
    end: Offset,
    trim: Option<BoxFuture<'static, ()>>,
    next_expiry: Duration,
}

impl Shard {
    fn new(config: ShardConfig, seat: Seat, replayed: Replayed) -> Self {
        let context = context(&config);
        let next_expiry = context.now.monotonic.saturating_add(context.settings.offsets_retention_check);
        let tail = Size { records: replayed.records, bytes: replayed.bytes };
        let snapshots = Snapshots::new(config.snapshots, tail, replayed.has_unknown);
        let end = replayed.end;
        let place = (seat.partition.index, seat.partitions);
        let state = State::new(place, config.metrics.clone(), replayed, &context);
        let appends = FuturesOrdered::new();
        Self { config, seat, state, appends, snapshots, end, trim: None, next_expiry }
    }

    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Message>) -> End {
        loop {
            self.append_writes();
            // Also while messages come in faster than a timer could fire.
            if self.until_next_deadline().is_zero() {
                self.pass_time(inbox);
                self.append_writes();
            }
            if self.snapshot_is_due() && self.appends.is_empty() {
                self.write_snapshot();
            }
            let accepting = self.appends.len() < MAX_APPENDS && !self.snapshot_is_due();
            // A clock that stands still must not make this a busy loop.
            let nap = self.until_next_deadline().max(SHORTEST_NAP);
            tokio::select! {
                biased;
                () = self.seat.stop.cancelled() => {
                    self.drain().await;
                    self.state.refuse_all(&departure(&self.seat));
                    return End::Stopped;
                }
                Some(ended) = self.appends.next() => {
                    if let Err(reason) = self.ended(ended) {
                        return End::Lost(reason);
                    }
                }
                message = inbox.recv(), if accepting => match message {
                    Some(message) => self.take(message),
                    None => return End::Stopped,
                },
                () = trimmed(&mut self.trim) => self.trim = None,
                () = tokio::time::sleep(nap) => self.pass_time(inbox),
            }
        }
    }

    fn until_next_deadline(&self) -> Duration {
        let next = self.state.next_timer().map_or(self.next_expiry, |timer| timer.min(self.next_expiry));
        next.saturating_sub(self.config.clock.monotonic())
    }

    /// Time matters now. Whatever came in before is heard first: a heartbeat in the inbox is not a silent member.
    fn pass_time(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        for _ in 0..inbox.len() {
            let Ok(message) = inbox.try_recv() else { break };
            self.take(message);
        }
        let context = context(&self.config);
        self.state.tick(&context);
        if context.now.monotonic >= self.next_expiry {
            self.next_expiry = context.now.monotonic.saturating_add(context.settings.offsets_retention_check);
            self.state.expire(&context);
        }
    }

    fn take(&mut self, message: Message) {
        let context = context(&self.config);
        match message {
            Message::Call(call) => self.state.call(&context, *call),
            Message::List(request, reply) => drop(reply.send(self.state.list(&request))),
            Message::Report(reply) => drop(reply.send(self.state.report())),
            Message::TopicsDeleted(names) => {
                self.state.forget_topics(|topic| names.iter().any(|n| n.as_str() == topic))
            }
        }
    }

    fn append_writes(&mut self) {
        for Write { records, done } in self.state.take_writes() {
            self.append(&records, Purpose::State(done));
        }
    }

    /// Makes the append now, so that appends reach the log in this order, and waits for it later.
    fn append(&mut self, records: &[Record], purpose: Purpose) {
        let batches = batch::encode(records, self.config.clock.wall());
        let (records, bytes) = (records.len() as u64, batches.len() as u64);
        if batches.is_empty() {
            let nowhere =
                Appended { base_offset: self.end, log_append_time: None, log_start: self.end, epoch: self.seat.epoch };
            self.appends.push_back(Box::pin(std::future::ready(Ended {
                purpose,
                records,
                bytes,
                outcome: Ok(nowhere),
            })));
            return;
        }
        let answer = self.config.broker.append(self.append_of(batches));
        let (clock, seconds) = (Arc::clone(&self.config.clock), self.config.metrics.append.clone());
        let start = clock.monotonic();
        self.appends.push_back(Box::pin(async move {
            let late =
                |_| AppendError::OutcomeUnknown { reason: format!("no answer within {} s", APPEND_DEADLINE.as_secs()) };
            let outcome = tokio::time::timeout(APPEND_DEADLINE, answer).await.map_err(late).and_then(|outcome| outcome);
            seconds.record(clock.monotonic().saturating_sub(start).as_secs_f64());
            Ended { purpose, records, bytes, outcome }
        }));
    }

    const fn append_of(&self, batches: Bytes) -> Append {
        Append { partition: self.seat.partition, batches, epoch: Some(self.seat.epoch), origin: Origin::Coordinator }
    }

    /// An append ended; an error if nobody can say any more what the log holds.
    fn ended(&mut self, ended: Ended) -> Result<(), String> {
        let Ended { purpose, records, bytes, outcome } = ended;
        let verdict = outcome.as_ref().map(|_| ()).map_err(judge);
        if let Ok(appended) = &outcome {
            self.snapshots.appended(Size { records, bytes });
            self.end = self.end.max(Offset(appended.base_offset.0 + records as i64));
        }
        match purpose {
            Purpose::State(done) => {
                let result = verdict.map_err(|verdict| verdict.error());
                self.state.written(&context(&self.config), done, result);
            }
            Purpose::Snapshot { first, last } => {
                self.snapshot_written(first, last, outcome.as_ref().ok().map(|appended| appended.base_offset));
            }
        }
        match verdict {
            Err(Verdict::Lost(_)) => Err(outcome.err().map(|e| e.to_string()).unwrap_or_default()),
            Ok(()) | Err(Verdict::Refused(_)) => Ok(()),
        }
    }

    async fn drain(&mut self) {
        self.append_writes();
        let last = async {
            while let Some(ended) = self.appends.next().await {
                // The seat is gone; what the log says now is the next owner's to read.
                drop(self.ended(ended));
            }
        };
        drop(tokio::time::timeout(DRAIN, last).await);
    }

    const fn snapshot_is_due(&self) -> bool {
        self.snapshots.is_due() && self.trim.is_none()
    }

    /// Writes everything that lives once more at the end of the log, so that the part before can go. No append is under
    /// way, so the state is exactly what the log says.
    fn write_snapshot(&mut self) {
        let live = self.state.live_records();
        self.snapshots.begin(self.end);
        let mut rest = live.as_slice();
        let mut first = true;
        loop {
            let mut bytes = 0;
            let fits = |record: &&Record| {
                bytes += record.size();
                bytes <= SNAPSHOT_APPEND_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (now, later) = rest.split_at(count);
            self.append(now, Purpose::Snapshot { first, last: later.is_empty() });
            first = false;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }

    fn snapshot_written(&mut self, first: bool, last: bool, at: Option<Offset>) {
        let Some(before) = self.snapshots.written(first, last, at) else {
            if at.is_none() {
                let partition = self.seat.partition;
                tracing::warn!(%partition, "a snapshot of the groups was not written; the log stays as it is");
            }
            return;
        };
        self.config.metrics.snapshots.increment(1);
        let partition = self.seat.partition;
        tracing::info!(%partition, %before, "groups are rewritten; the log before is trimmed");
        let delete = DeleteRecords { partition, before: Some(before), origin: Origin::Coordinator };
        let answer = self.config.broker.delete_records(delete);
        self.trim = Some(Box::pin(async move {
            match tokio::time::timeout(APPEND_DEADLINE, answer).await {
                Ok(Ok(_)) => {}
                Ok(Err(problem)) => tracing::warn!(%partition, %problem, "the log of the groups was not trimmed"),
                Err(_) => tracing::warn!(%partition, "the log of the groups was not trimmed in time"),
            }
        }));
    }
}

fn context(config: &ShardConfig) -> Context {
    Context {
        now: Now { monotonic: config.clock.monotonic(), wall: config.clock.wall() },
        snapshot: config.view.snapshot(),
        settings: config.settings.current(),
    }
}

async fn trimmed(trim: &mut Option<BoxFuture<'static, ()>>) {
    match trim {
        Some(trim) => trim.await,
        None => std::future::pending().await,
    }
}

/// What a failed append means.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// Nothing was written; the state still is what the log says.
    Refused(GroupError),
    /// The log is someone else's now, or may hold what was not acknowledged.
    Lost(GroupError),
}

impl Verdict {
    const fn error(self) -> GroupError {
        match self {
            Self::Refused(error) | Self::Lost(error) => error,
        }
    }
}

fn judge(error: &AppendError) -> Verdict {
    match error {
        AppendError::NotServed(NotServed::Opening) => Verdict::Lost(GroupError::NotAvailable),
        AppendError::NotServed(
            NotServed::NotOwner { .. }
            | NotServed::FencedEpoch { .. }
            | NotServed::UnknownEpoch { .. }
            | NotServed::NoSuchPartition(_),
        ) => Verdict::Lost(GroupError::NotCoordinator),
        AppendError::OutcomeUnknown { .. } | AppendError::Storage { .. } => Verdict::Lost(GroupError::NotAvailable),
        AppendError::NotEnoughReplicas { .. } | AppendError::Unavailable { .. } => {
            Verdict::Refused(GroupError::NotAvailable)
        }
        AppendError::TooLarge { size, limit } => {
            tracing::error!(size, limit, "a consumer group does not fit max.message.bytes of __consumer_offsets");
            Verdict::Refused(GroupError::CommitTooLarge)
        }
        AppendError::Corrupt { .. }
        | AppendError::UnsupportedFormat { .. }
        | AppendError::InvalidRecord { .. }
        | AppendError::InvalidTimestamp { .. }
        | AppendError::InternalTopic
        | AppendError::OutOfOrderSequence { .. }
        | AppendError::FencedProducer { .. }
        | AppendError::TransactionsUnsupported => {
            tracing::error!(%error, "a write of a group coordinator was refused");
            Verdict::Refused(GroupError::NotAvailable)
        }
    }
}

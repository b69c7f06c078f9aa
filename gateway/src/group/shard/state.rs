//! What a shard knows: its groups, their offsets, the requests that wait. No I/O and no clock: requests and write results
//! go in, writes come out.
//!
//! Keeps two rules. What a write changes becomes visible when the write was acknowledged, in log order. Whatever waits
//! is answered: by the group, or all at once when the shard gives up.

use super::{
    super::{
        answer::Responder,
        error::GroupError,
        machine::{Command, Event, Group, GroupLimits, Now, Token, WriteId},
        metrics::CoordinatorMetrics,
        offsets::{GroupOffsets, TopicPartition},
        records::{GroupMetadata, OffsetValue, Record},
        request::Request,
    },
    admin::EraseAnswer,
    commits::CommitAnswer,
    load::Replayed,
    task::Call,
};
use bytes::Bytes;
use protocol::{cluster::ClusterSnapshot, service::coordinator::CoordinatorError, settings::BrokerSettings};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// What a step of the shard may look at.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) now: Now,
    pub(super) snapshot: Arc<ClusterSnapshot>,
    pub(super) settings: Arc<BrokerSettings>,
}

impl Context {
    pub(super) fn limits(&self) -> GroupLimits {
        GroupLimits {
            min_session: self.settings.group_min_session,
            max_session: self.settings.group_max_session,
            max_size: self.settings.group_max_size,
            initial_rebalance_delay: self.settings.group_initial_rebalance_delay,
        }
    }
}

/// Records to append, and what to do when they are there.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) records: Vec<Record>,
    pub(super) done: Done,
}

/// What a write was for.
#[derive(Debug)]
pub(super) enum Done {
    /// A group's metadata.
    Group { group: String, write: WriteId, value: Bytes },
    /// Committed offsets.
    Commit { group: String, commits: Vec<(TopicPartition, OffsetValue)>, answer: CommitAnswer },
    /// Offsets or whole groups that are gone.
    Erase { erased: Vec<Erasure>, answer: EraseAnswer },
}

/// What is gone of a group.
#[derive(Debug)]
pub(super) struct Erasure {
    pub(super) group: String,
    pub(super) offsets: Vec<TopicPartition>,
    /// The group itself too.
    pub(super) whole: bool,
}

/// A group with what belongs to it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) group: Group,
    pub(super) offsets: GroupOffsets,
    /// The group's value as it was last written; none if it never was.
    pub(super) stored: Option<Bytes>,
    /// Writes under way.
    pub(super) writes: usize,
    /// When the group's timer rings.
    timer: Option<Duration>,
}

/// A group's size and offsets, for the lag.
#[derive(Debug, Clone)]
pub(in crate::group) struct GroupReport {
    /// The group.
    pub(in crate::group) group: String,
    /// How many members it has.
    pub(in crate::group) members: usize,
    /// Topic, partition, and the committed offset.
    pub(in crate::group) offsets: Vec<(String, i32, i64)>,
}

/// The state of a shard.
pub(super) struct State {
    /// The partition of `__consumer_offsets`, and how many there are.
    pub(super) place: (u32, u32),
    pub(super) groups: BTreeMap<String, Entry>,
    pub(super) metrics: CoordinatorMetrics,
    waiting: HashMap<Token, Responder>,
    next_token: u64,
    timers: BTreeSet<(Duration, String)>,
    writes: Vec<Write>,
}

impl State {
    /// The state that a replayed log leads to.
    pub(super) fn new(place: (u32, u32), metrics: CoordinatorMetrics, replayed: Replayed, ctx: &Context) -> Self {
        let mut state = Self {
            place,
            groups: BTreeMap::new(),
            metrics,
            waiting: HashMap::new(),
            next_token: 0,
            timers: BTreeSet::new(),
            writes: Vec::new(),
        };
        for (name, past) in replayed.groups {
            let group = match &past.metadata {
                Some((metadata, _)) => Group::restore(metadata, ctx.limits(), ctx.now),
                None => Group::new(ctx.limits(), ctx.now.wall),
            };
            let stored = past.metadata.map(|(_, bytes)| bytes);
            state.groups.insert(name.clone(), Entry { group, offsets: past.offsets, stored, writes: 0, timer: None });
            state.drive(ctx, &name, Event::Tick);
        }
        let gone = |topic: &str| ctx.snapshot.topic(topic).is_none();
        state.forget_topics(gone);
        state
    }

    /// Takes a request.
    pub(super) fn call(&mut self, ctx: &Context, call: Call) {
        let Call { request, responder, client, key } = call;
        if !self.is_ours(&key) {
            return responder.refuse(CoordinatorError::NotCoordinator(key));
        }
        match request {
            Request::OffsetCommit(request) => self.commit(ctx, responder, &request),
            Request::OffsetFetch(request) => self.fetch(responder, &request),
            Request::Join(request) => self.join(ctx, responder, request, client),
            Request::Heartbeat(request) => self.heartbeat(ctx, responder, &request),
            Request::Leave(request) => self.leave(ctx, responder, &request),
            Request::Sync(request) => self.sync(ctx, responder, request),
            Request::Describe(request) => self.describe(responder, &request),
            Request::Delete(request) => self.delete(responder, &request),
            Request::OffsetDelete(request) => self.delete_offsets(responder, &request),
            Request::List(_) => {
                let reason = "groups are listed per node, not per group".into();
                responder.refuse(CoordinatorError::Malformed { reason });
            }
        }
    }

    /// The group, which must exist or is made.
    pub(super) fn entry(&mut self, ctx: &Context, name: &str) -> &mut Entry {
        let group = || Group::new(ctx.limits(), ctx.now.wall);
        let make = || Entry { group: group(), offsets: GroupOffsets::default(), stored: None, writes: 0, timer: None };
        self.groups.entry(name.to_owned()).or_insert_with(make)
    }

    /// Parks a request until its group answers.
    pub(super) fn park(&mut self, responder: Responder) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.waiting.insert(token, responder);
        token
    }

    /// Gives a group an event and does what it says.
    pub(super) fn drive(&mut self, ctx: &Context, name: &str, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(entry) = self.groups.get_mut(name) else { return };
            entry.group.set_limits(ctx.limits());
            let before = entry.group.generation();
            let commands = entry.group.handle(ctx.now, event);
            if entry.group.generation() != before {
                self.metrics.rebalances.increment(1);
                let (generation, members) = (entry.group.generation(), entry.group.member_count());
                tracing::info!(group = name, generation, members, "consumer group has a new generation");
            }
            for command in commands {
                match command {
                    Command::Reply(token, answer) => {
                        if let Some(responder) = self.waiting.remove(&token) {
                            responder.answer(answer);
                        }
                    }
                    Command::Persist(write, metadata) => {
                        if let Some(failed) = self.persist(name, write, &metadata) {
                            events.push_back(failed);
                        }
                    }
                    Command::ArmTimer(deadline) => self.arm(name, deadline),
                }
            }
        }
    }

    fn persist(&mut self, name: &str, write: WriteId, metadata: &GroupMetadata) -> Option<Event> {
        match Record::group(name, metadata) {
            Ok(record) => {
                let value = record.value.clone().unwrap_or_default();
                let done = Done::Group { group: name.to_owned(), write, value };
                self.write(vec![record], done);
                None
            }
            Err(problem) => {
                tracing::warn!(group = name, %problem, "a consumer group cannot be written");
                Some(Event::Persisted(write, Err(GroupError::NotAvailable)))
            }
        }
    }

    /// Orders a write.
    pub(super) fn write(&mut self, records: Vec<Record>, done: Done) {
        for name in done.groups() {
            if let Some(entry) = self.groups.get_mut(name) {
                entry.writes += 1;
            }
        }
        self.writes.push(Write { records, done });
    }

    /// The writes ordered since the last call, in order.
    pub(super) fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    /// A write ended; writes end in the order they were ordered.
    pub(super) fn written(&mut self, ctx: &Context, done: Done, outcome: Result<(), GroupError>) {
        for name in done.groups() {
            if let Some(entry) = self.groups.get_mut(name) {
                entry.writes -= 1;
            }
        }
        match done {
            Done::Group { group, write, value } => {
                if let (Some(entry), Ok(())) = (self.groups.get_mut(&group), outcome) {
                    entry.stored = Some(value);
                }
                let outcome = outcome.map_err(|_| GroupError::NotAvailable);
                self.drive(ctx, &group, Event::Persisted(write, outcome));
            }
            Done::Commit { group, commits, answer } => self.committed(&group, commits, answer, outcome),
            Done::Erase { erased, answer } => self.erased(erased, answer, outcome),
        }
    }

    fn arm(&mut self, name: &str, deadline: Duration) {
        let Some(entry) = self.groups.get_mut(name) else { return };
        if let Some(old) = entry.timer.replace(deadline) {
            self.timers.remove(&(old, name.to_owned()));
        }
        self.timers.insert((deadline, name.to_owned()));
    }

    /// When the next timer rings, in monotonic time.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// Lets every timer ring that is due.
    pub(super) fn tick(&mut self, ctx: &Context) {
        while let Some((deadline, name)) = self.timers.first().cloned() {
            if deadline > ctx.now.monotonic {
                return;
            }
            self.timers.pop_first();
            if let Some(entry) = self.groups.get_mut(&name) {
                entry.timer = None;
            }
            self.drive(ctx, &name, Event::Tick);
            self.drop_if_unused(&name);
        }
    }

    /// Forgets a group that left no trace: nobody joined, nothing is stored.
    pub(super) fn drop_if_unused(&mut self, name: &str) {
        let unused = |e: &Entry| e.group.is_unused() && e.offsets.is_empty() && e.stored.is_none() && e.writes == 0;
        if self.groups.get(name).is_some_and(unused) {
            self.remove(name);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(Entry { timer: Some(deadline), .. }) = self.groups.remove(name) {
            self.timers.remove(&(deadline, name.to_owned()));
        }
    }

    /// Answers everything that waits: the shard gives up.
    pub(super) fn refuse_all(&mut self, error: &CoordinatorError) {
        for (_, responder) in self.waiting.drain() {
            responder.refuse(error.clone());
        }
    }

    /// Every record that is needed to get to this state again; right only while no write is under way.
    pub(super) fn live_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (name, entry) in &self.groups {
            for (topic, partition, value) in entry.offsets.iter() {
                // What was read or written before can be written again.
                records.extend(Record::offset(name, topic, partition, value).ok());
            }
            if let (Some(value), Ok(tombstone)) = (&entry.stored, Record::no_group(name)) {
                records.push(Record { value: Some(value.clone()), ..tombstone });
            }
        }
        records
    }

    /// Sizes and offsets of all groups.
    pub(super) fn report(&self) -> Vec<GroupReport> {
        let report = |(name, entry): (&String, &Entry)| GroupReport {
            group: name.clone(),
            members: entry.group.member_count(),
            offsets: entry.offsets.iter().map(|(topic, p, value)| (topic.to_owned(), p, value.offset)).collect(),
        };
        self.groups.iter().map(report).collect()
    }
}

impl Done {
    /// The groups whose writes these are.
    fn groups(&self) -> Vec<&str> {
        match self {
            Self::Group { group, .. } | Self::Commit { group, .. } => vec![group],
            Self::Erase { erased, .. } => erased.iter().map(|e| e.group.as_str()).collect(),
        }
    }
}

//! Random histories: whatever clients send, and however late writes end, every request is answered exactly once, with a
//! code its API knows, generations only grow, and the machine's own invariants hold after each step.

use super::allowed;
use crate::group::{
    error::GroupError,
    machine::{Answer, Command, Event, Group, GroupLimits, Join, MemberRef, Now, Sync, Token, WriteId, subscription},
    records::GroupMetadata,
};
use bytes::Bytes;
use proptest::prelude::*;
use protocol::id::Timestamp;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// One step; clients are numbered, and remember what they were told.
#[derive(Debug, Clone)]
enum Step {
    Join { client: usize, fresh: bool, topics: bool },
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Commit(usize),
    Pass(u16),
    Written(bool),
    Restart,
}

const CLIENTS: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        6 => (client.clone(), prop::bool::weighted(0.3), prop::bool::weighted(0.1))
            .prop_map(|(client, fresh, topics)| Step::Join { client, fresh, topics }),
        6 => client.clone().prop_map(Step::Sync),
        3 => client.clone().prop_map(Step::Heartbeat),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.prop_map(Step::Commit),
        3 => (0_u16..20).prop_map(Step::Pass),
        5 => prop::bool::weighted(0.9).prop_map(Step::Written),
        1 => Just(Step::Restart),
    ]
}

#[derive(Debug, Clone, Default)]
struct Client {
    member_id: String,
    generation: i32,
    others: Vec<String>,
}

struct World {
    group: Group,
    clients: Vec<Client>,
    /// Who asked, and what the answer may be.
    open: BTreeMap<u64, (usize, &'static [i16])>,
    writes: VecDeque<(WriteId, GroupMetadata)>,
    stored: Option<GroupMetadata>,
    now: Duration,
    next: u64,
}

const LIMITS: GroupLimits = GroupLimits {
    min_session: Duration::from_secs(1),
    max_session: Duration::from_secs(60),
    max_size: 4,
    initial_rebalance_delay: Duration::from_secs(3),
};

impl World {
    fn new() -> Self {
        Self {
            group: Group::new(LIMITS, Timestamp(0)),
            clients: vec![Client::default(); CLIENTS],
            open: BTreeMap::new(),
            writes: VecDeque::new(),
            stored: None,
            now: Duration::ZERO,
            next: 0,
        }
    }

    fn time(&self) -> Now {
        Now { monotonic: self.now, wall: Timestamp(i64::try_from(self.now.as_millis()).unwrap()) }
    }

    fn ask(&mut self, client: usize, set: &'static [i16]) -> Token {
        self.next += 1;
        self.open.insert(self.next, (client, set));
        Token(self.next)
    }

    /// The last two clients are static.
    fn member(&self, client: usize) -> MemberRef {
        let instance_id = (client >= CLIENTS - 2).then(|| format!("i{client}"));
        MemberRef { member_id: self.clients[client].member_id.clone(), instance_id }
    }

    fn step(&mut self, step: Step) {
        let event = match step {
            Step::Join { client, fresh, topics } => self.join(client, fresh, topics),
            Step::Sync(client) => {
                let Client { generation, others, .. } = self.clients[client].clone();
                let give = |id| (id, Bytes::from_static(b"x"));
                let sync = Sync {
                    member: self.member(client),
                    generation,
                    protocol_type: None,
                    protocol: None,
                    assignments: others.into_iter().map(give).collect(),
                };
                Event::Sync(self.ask(client, allowed::SYNC), sync)
            }
            Step::Heartbeat(client) => {
                let (member, generation) = (self.member(client), self.clients[client].generation);
                Event::Heartbeat(self.ask(client, allowed::HEARTBEAT), member, generation)
            }
            Step::Leave(client) => {
                let members = vec![self.member(client)];
                Event::Leave(self.ask(client, allowed::LEAVE), members)
            }
            Step::Commit(client) => {
                let (member, generation) = (self.member(client), self.clients[client].generation);
                let result = self.group.admit_commit(self.time(), &member, generation);
                let code = GroupError::code_of(&result);
                assert!(code == 0 || allowed::OFFSET_COMMIT.contains(&code));
                return;
            }
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                Event::Tick
            }
            Step::Written(ok) => {
                let Some((write, metadata)) = self.writes.pop_front() else { return };
                if ok {
                    self.stored = Some(metadata);
                }
                Event::Persisted(write, if ok { Ok(()) } else { Err(GroupError::NotAvailable) })
            }
            Step::Restart => return self.restart(),
        };
        self.handle(event);
    }

    fn join(&mut self, client: usize, fresh: bool, topics: bool) -> Event {
        if fresh {
            self.clients[client].member_id.clear();
        }
        let MemberRef { member_id, instance_id } = self.member(client);
        let topics: &[&str] = if topics { &["t", "u"] } else { &["t"] };
        let token = self.ask(client, allowed::JOIN);
        let join = Join {
            member_id,
            instance_id,
            client_id: format!("c{client}"),
            client_host: String::new(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(20),
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), subscription::encode(topics))],
            require_known_member: client.is_multiple_of(2),
            may_skip_assignment: client == CLIENTS - 1,
            fresh: token.0.to_string(),
        };
        Event::Join(token, Box::new(join))
    }

    /// Another coordinator takes over: it knows what was acknowledged, and this one's requests are answered by nobody.
    fn restart(&mut self) {
        let Some(stored) = &self.stored else { return };
        self.group = Group::restore(stored, LIMITS, self.time());
        self.open.clear();
        self.writes.clear();
        self.handle(Event::Tick);
    }

    fn handle(&mut self, event: Event) {
        let before = self.group.generation();
        for command in self.group.handle(self.time(), event) {
            match command {
                Command::Reply(token, answer) => self.answered(token, answer),
                Command::Persist(write, metadata) => self.writes.push_back((write, *metadata)),
                Command::ArmTimer(_) => {}
            }
        }
        assert!(self.group.generation() >= before, "generations grow");
    }

    fn answered(&mut self, token: Token, answer: Answer) {
        let (client, set) = self.open.remove(&token.0).expect("a request is answered once");
        let client = &mut self.clients[client];
        let code = match answer {
            Answer::Joined(joined) => {
                client.member_id = joined.member_id;
                client.generation = joined.generation;
                client.others = joined.members.into_iter().map(|m| m.member_id).collect();
                0
            }
            Answer::JoinRefused(error, id) => {
                if error == GroupError::MemberIdRequired {
                    client.member_id = id;
                } else if error == GroupError::UnknownMember {
                    client.member_id.clear();
                }
                error.code()
            }
            Answer::Synced(result) => GroupError::code_of(&result),
            Answer::Beat(result) => GroupError::code_of(&result),
            Answer::Left(members) => GroupError::code_of(&members[0].1),
        };
        assert!(code == 0 || set.contains(&code), "{code} is not one of {set:?}");
    }

    /// Lets all writes end and time pass: then nobody may be left waiting.
    fn settle(&mut self) {
        for _ in 0..50 {
            while !self.writes.is_empty() {
                self.step(Step::Written(true));
            }
            self.step(Step::Pass(400));
        }
        assert!(self.open.is_empty(), "nobody answers {:?}", self.open.keys());
        assert_eq!(self.group.member_count(), 0, "silent members are gone");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_request_is_answered(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}

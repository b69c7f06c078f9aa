//! One client of a run: chooses a call, makes it, and writes down what it learnt. Owns its choices, its request ids, and
//! what it remembers of the versions that it saw.

use super::{Ground, History};
use crate::{
    id::Revision,
    service::metadata::{self, Condition, Consistency, MetadataError, Operation, RequestId, Transaction, Versioned},
    testing::{
        linearizability::{Action, Call, Effect, Held, Outcome, When},
        oracles::sequences::Taken,
    },
};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};

/// How often a write without an answer is made again under its request id.
const RETRIES: usize = 3;
/// How long a client waits after a call that did not happen, so that an outage is not one busy loop.
const PAUSE: Duration = Duration::from_millis(10);

/// One of the clients.
pub(super) struct Client<'a> {
    ground: &'a Ground<'a>,
    number: u32,
    dice: Dice,
    identity: u128,
    /// The number of the latest request.
    requests: u64,
    /// What it last saw of each key: its version, or that it is absent.
    known: HashMap<String, Option<Revision>>,
    history: History,
}

/// What became of a write: its outcome, and the first number of each sequence.
type Answered = (Outcome, Vec<u64>);

impl<'a> Client<'a> {
    pub(super) fn new(ground: &'a Ground<'a>, number: u32) -> Self {
        let dice = Dice(ground.load.seed ^ (u64::from(number) << 32));
        let identity = uuid::Uuid::new_v4().as_u128();
        let (requests, known, history) = (0, HashMap::new(), History::default());
        Self { ground, number, dice, identity, requests, known, history }
    }

    pub(super) async fn run(mut self) -> History {
        while self.ground.goes_on() {
            let happened = match self.dice.below(100) {
                0..40 => self.get().await,
                40..95 => self.write().await,
                _ => self.take().await,
            };
            if !happened {
                let _ = tokio::time::timeout(PAUSE, self.ground.stop.cancelled()).await;
            }
        }
        self.history
    }

    async fn get(&mut self) -> bool {
        let key = self.key();
        let invoked = self.ground.now();
        let handle = &self.ground.handles[self.number as usize % self.ground.handles.len()];
        let answer = handle.get(key.clone(), Consistency::Linearizable);
        let outcome = match tokio::time::timeout(self.ground.load.patience, answer).await {
            Ok(Ok(item)) => Outcome::Read(item.map(held)),
            Ok(Err(_)) | Err(_) => Outcome::Failed,
        };
        self.record(invoked, Action::Get(key), outcome)
    }

    async fn write(&mut self) -> bool {
        let key = self.key();
        // The position is unique, so the value is.
        let invoked = self.ground.now();
        let value = Bytes::from(format!("{}-{invoked}", self.number));
        let put = |key: &str| Effect { key: key.into(), value: Some(value.clone()) };
        let seen = match self.known.get(&key) {
            Some(Some(version)) => When::Version(*version),
            Some(None) => When::Absent,
            None => When::Always,
        };
        let (when, effects) = match self.dice.below(55) {
            0..20 => (When::Always, vec![put(&key)]),
            20..35 => (seen, vec![put(&key)]),
            35..45 => (When::Always, vec![Effect { key: key.clone(), value: None }]),
            choice => {
                let other = self.other(&key);
                let when = if choice < 50 { When::Always } else { seen };
                (when, vec![put(&key), put(&other)])
            }
        };
        let conditions = match when {
            When::Always => Vec::new(),
            When::Absent => vec![Condition::Absent(key)],
            When::Version(version) => vec![Condition::Version(key, version)],
        };
        let operations = effects.iter().cloned().map(operation).collect();
        let (outcome, _) = self.transact(Transaction { conditions, operations, request: None }).await;
        self.record(invoked, Action::Write { when, effects }, outcome)
    }

    async fn take(&mut self) -> bool {
        let name = format!("{}sequence-{}", self.ground.load.prefix, self.dice.below(2));
        let count = 1 + self.dice.below(10);
        let operations = vec![Operation::Sequence { name: name.clone(), count }];
        self.history.asked_numbers += 1;
        let (outcome, first) = self.transact(Transaction { operations, ..Transaction::default() }).await;
        let client = self.number;
        let taken = first.first().map(|first| Taken { client, name, first: *first, count });
        self.history.taken.extend(taken);
        outcome != Outcome::Failed
    }

    /// Makes a write, and half of the time again under its request id until the outcome is known.
    async fn transact(&mut self, mut transaction: Transaction) -> Answered {
        let retries = if self.dice.below(2) == 0 { RETRIES } else { 0 };
        if retries > 0 {
            self.requests += 1;
            transaction.request = Some(RequestId { client: self.identity, sequence: self.requests });
        }
        // Once an answer was lost, "did not happen" of a later attempt says nothing about the first one.
        let mut doubtful = false;
        for attempt in 0..=retries {
            let handle = &self.ground.handles[(self.number as usize + attempt) % self.ground.handles.len()];
            let answer = handle.transact(transaction.clone());
            match tokio::time::timeout(self.ground.load.patience, answer).await {
                Ok(Ok(metadata::Outcome::Committed { revision, sequences })) => {
                    return (Outcome::Written(revision), sequences);
                }
                Ok(Ok(metadata::Outcome::Conflict { current, .. })) => {
                    return (Outcome::Conflict(current.map(held)), Vec::new());
                }
                Ok(Err(MetadataError::OutcomeUnknown { .. })) | Err(_) => doubtful = true,
                Ok(Err(_)) if doubtful => {}
                Ok(Err(_)) => return (Outcome::Failed, Vec::new()),
            }
        }
        (Outcome::Unknown, Vec::new())
    }

    /// Writes a call down; whether it may have happened.
    fn record(&mut self, invoked: u64, action: Action, outcome: Outcome) -> bool {
        self.remember(&action, &outcome);
        let happened = outcome != Outcome::Failed;
        let (client, returned) = (self.number, self.ground.now());
        self.history.calls.push(Call { client, invoked, returned, action, outcome });
        happened
    }

    fn remember(&mut self, action: &Action, outcome: &Outcome) {
        let version = |held: &Option<Held>| held.as_ref().map(|held| held.version);
        match (action, outcome) {
            (Action::Get(key), Outcome::Read(held)) => {
                self.known.insert(key.clone(), version(held));
            }
            (Action::Write { effects, .. }, Outcome::Conflict(held)) => {
                self.known.insert(effects[0].key.clone(), version(held));
            }
            (Action::Write { effects, .. }, Outcome::Written(revision)) => {
                for effect in effects {
                    self.known.insert(effect.key.clone(), effect.value.as_ref().map(|_| *revision));
                }
            }
            _ => {}
        }
    }

    fn key(&mut self) -> String {
        let number = self.dice.below(u64::from(self.ground.load.keys));
        self.ground.key(number)
    }

    /// Another key than this one.
    fn other(&mut self, key: &str) -> String {
        let keys = u64::from(self.ground.load.keys.max(2));
        let number = self.dice.below(keys);
        let candidate = self.ground.key(number);
        if candidate == key { self.ground.key((number + 1) % keys) } else { candidate }
    }
}

fn held(item: Versioned) -> Held {
    Held { value: item.value, version: item.version }
}

fn operation(effect: Effect) -> Operation {
    match effect.value {
        Some(value) => Operation::Put { key: effect.key, value, session: None },
        None => Operation::Delete(effect.key),
    }
}

/// Numbers that look random and are the same for the same seed: Steele, Lea and Flood's SplitMix64.
struct Dice(u64);

impl Dice {
    /// A number from 0 to below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

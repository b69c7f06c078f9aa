//! A network between the members of a test: messages go from desk to desk within the process, and can be cut in either
//! direction, lost and delayed, by seed.

use super::members::hold;
use bytes::Bytes;
use metadata::raft::courier::{Courier, Lane};
use parking_lot::Mutex;
use protocol::service::{
    Answer,
    peer::{PeerCall, PeerError, PeerService, PeerVerb},
    quorum::Member,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What goes wrong.
#[derive(Debug, Default)]
struct Faults {
    /// Directions in which nothing arrives.
    cut: BTreeSet<(u64, u64)>,
    /// A kind of message that does not arrive anywhere.
    mute: Option<PeerVerb>,
    /// A kind of message that arrives so much later.
    slow: Option<(PeerVerb, Duration)>,
    /// Of 1,000 messages so many are lost.
    loss: u64,
    /// The longest delay of a message.
    delay: Duration,
    /// The state of the generator.
    seed: u64,
}

impl Faults {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The fate of a message: lost, or delayed.
    fn fate(&mut self, from: u64, to: u64, verb: PeerVerb) -> Option<Duration> {
        let is_lost = self.mute == Some(verb) || self.cut.contains(&(from, to)) || self.random() % 1_000 < self.loss;
        let part = u32::try_from(self.random() % 1_000).expect("small");
        let more = self.slow.filter(|(slow, _)| *slow == verb).map_or(Duration::ZERO, |(_, more)| more);
        (!is_lost).then(|| self.delay * part / 1_000 + more)
    }
}

/// The network. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Net {
    faults: Arc<Mutex<Faults>>,
    desks: Arc<Mutex<BTreeMap<u64, Arc<dyn PeerService>>>>,
}

impl Net {
    /// The desk of a member opens.
    pub(crate) fn publish(&self, id: u64, desk: Arc<dyn PeerService>) {
        self.desks.lock().insert(id, desk);
    }

    /// A member is gone.
    pub(crate) fn remove(&self, id: u64) {
        self.desks.lock().remove(&id);
    }

    /// Nothing arrives any more from one at the other.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.faults.lock().cut.insert((from, to));
    }

    /// No message of this kind arrives any more.
    pub(crate) fn mute(&self, verb: PeerVerb) {
        self.faults.lock().mute = Some(verb);
    }

    /// Every message of this kind, and every answer to one, arrives so much later.
    pub(crate) fn slow(&self, verb: PeerVerb, more: Duration) {
        self.faults.lock().slow = Some((verb, more));
    }

    /// Nothing arrives any more at this member, nor from it.
    pub(crate) fn isolate(&self, id: u64, others: impl IntoIterator<Item = u64>) {
        for other in others.into_iter().filter(|other| *other != id) {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    /// Everything arrives again.
    pub(crate) fn heal(&self) {
        let mut faults = self.faults.lock();
        (faults.loss, faults.delay) = (0, Duration::ZERO);
        faults.cut.clear();
        (faults.mute, faults.slow) = (None, None);
    }

    /// Of 1,000 messages so many are lost, and the others are delayed up to this long.
    pub(crate) fn disturb(&self, loss: u64, delay: Duration, seed: u64) {
        let mut faults = self.faults.lock();
        (faults.loss, faults.delay, faults.seed) = (loss, delay, seed);
    }
}

impl Courier for Net {
    fn reach(&self, member: &Member, _lane: Lane) -> Arc<dyn PeerService> {
        Arc::new(Way { net: self.clone(), to: member.id })
    }
}

struct Way {
    net: Net,
    to: u64,
}

impl PeerService for Way {
    fn call(&self, call: PeerCall) -> Answer<Bytes, PeerError> {
        let (net, from, to, patience, verb) = (self.net.clone(), call.from.id, self.to, call.patience, call.verb);
        let desk = net.desks.lock().get(&to).cloned();
        let lost = || PeerError::Lost { reason: "lost on the way".into() };
        let Some(desk) = desk else {
            let reason = format!("member {to} is not there");
            return protocol::service::ready(Err(PeerError::Unreachable { reason }));
        };
        let arrival = net.faults.lock().fate(from, to, verb);
        let exchange = async move {
            match arrival {
                Some(delay) => hold(delay).await,
                None => std::future::pending().await,
            }
            // Once it has arrived it is worked off, whether or not the answer arrives.
            let answer = tokio::spawn(desk.call(call)).await.map_err(|_| lost())??;
            let back = net.faults.lock().fate(to, from, verb);
            match back {
                Some(delay) => hold(delay).await,
                None => std::future::pending().await,
            }
            Ok(answer)
        };
        Box::pin(async move { tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| Err(lost())) })
    }
}

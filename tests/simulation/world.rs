//! The world of one run: time, randomness, the cluster's parts, and what is known to be true of it. Owns access to them;
//! knows no protocol.

use crate::{
    broker::{BrokerNode, Serving},
    chain::Chain,
    duel::Duel,
    engine::{Engine, ProcessId, Sleep, WORLD},
    metadata::Metadata,
    node::Node,
    oracle::Oracle,
    plan::Plan,
    report::{Report, Violation},
    trace::Trace,
};
use protocol::{
    id::{BookieId, Timestamp},
    ledger::metadata::BookieMember,
    model::BookieRecord,
    mutant::Mutants,
    testing::ManualClock,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

/// Where a process stands, as far as the network is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// The metadata service.
    Metadata,
    /// A bookie.
    Bookie(BookieId),
    /// A broker, by number.
    Broker(usize),
    /// Readers of other brokers.
    Reader,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Metadata => f.write_str("metadata"),
            Self::Bookie(id) => write!(f, "b{id}"),
            Self::Broker(number) => write!(f, "broker{number}"),
            Self::Reader => f.write_str("reader"),
        }
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) engine: Rc<Engine>,
    pub(crate) plan: Plan,
    pub(crate) mutants: Mutants,
    pub(crate) trace: Trace,
    pub(crate) metadata: Metadata,
    pub(crate) nodes: RefCell<BTreeMap<BookieId, Node>>,
    pub(crate) brokers: RefCell<BTreeMap<usize, BrokerNode>>,
    pub(crate) serving: RefCell<BTreeMap<usize, Rc<Serving>>>,
    pub(crate) oracle: RefCell<Oracle>,
    pub(crate) chain: RefCell<Chain>,
    pub(crate) report: RefCell<Report>,
    pub(crate) violation: RefCell<Option<Violation>>,
    /// Nothing goes wrong any more.
    pub(crate) is_calm: Cell<bool>,
    /// Until when messages of bookies take any time up to seconds.
    pub(crate) jammed_until: Cell<Duration>,
    /// Which bookies are far away meanwhile.
    pub(crate) duel: RefCell<Duel>,
    /// And everything that went wrong is mended.
    pub(crate) is_healed: Cell<bool>,
    /// One-way connections that carry nothing.
    pub(crate) cuts: RefCell<BTreeSet<(Site, Site)>>,
    pub(crate) sites: RefCell<BTreeMap<ProcessId, Site>>,
    pub(crate) clock: ManualClock,
    rng: RefCell<SmallRng>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, mutants: Mutants, trace: Trace) -> Rc<Self> {
        let engine = Engine::new();
        Rc::new(Self {
            engine,
            plan,
            mutants,
            trace,
            metadata: Metadata::default(),
            nodes: RefCell::default(),
            brokers: RefCell::default(),
            serving: RefCell::default(),
            oracle: RefCell::default(),
            chain: RefCell::default(),
            report: RefCell::default(),
            violation: RefCell::default(),
            is_calm: Cell::default(),
            jammed_until: Cell::default(),
            duel: RefCell::default(),
            is_healed: Cell::default(),
            cuts: RefCell::default(),
            sites: RefCell::new(BTreeMap::from([(WORLD, Site::Metadata)])),
            clock: ManualClock::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(seed)),
        })
    }

    /// Whether something with this chance happens now; in calm nothing does.
    pub(crate) fn strikes(&self, chance: f64) -> bool {
        chance > 0.0 && !self.is_calm.get() && self.rng.borrow_mut().random_bool(chance)
    }

    /// Whether a coin with this bias falls on its face, in calm as well.
    pub(crate) fn flips(&self, chance: f64) -> bool {
        self.rng.borrow_mut().random_bool(chance)
    }

    /// A number of a range.
    pub(crate) fn number(&self, range: std::ops::Range<u64>) -> u64 {
        self.rng.borrow_mut().random_range(range)
    }

    /// A time between two.
    pub(crate) fn time(&self, from: Duration, to: Duration) -> Duration {
        Duration::from_micros(self.number(from.as_micros() as u64..to.as_micros() as u64 + 1))
    }

    /// A time of milliseconds between two.
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        self.time(Duration::from_millis(from), Duration::from_millis(to))
    }

    /// One of several; none of nothing.
    pub(crate) fn pick<T: Clone>(&self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.number(0..of.len() as u64) as usize].clone())
    }

    /// Waits.
    pub(crate) fn sleep(&self, time: Duration) -> Sleep {
        self.engine.sleep(time)
    }

    /// Waits for about this long; in the lull about a minute, so that an hour without events costs little.
    pub(crate) fn rest(&self, time: Duration) -> Sleep {
        let now = self.engine.now();
        let time = match self.plan.lull() {
            Some((from, to)) if now >= from && now < to => {
                time.max(Duration::from_secs(60)).min(to - now + time.min(Duration::from_secs(1)))
            }
            _ => time,
        };
        self.sleep(self.time(time / 2, time * 3 / 2))
    }

    /// How long somebody may be silent who is looked after once in a while: longer in the lull.
    pub(crate) fn silence(&self) -> Duration {
        let now = self.engine.now();
        let is_lull = self.plan.lull().is_some_and(|(from, to)| now >= from && now < to + Duration::from_secs(10));
        if is_lull { Duration::from_secs(200) } else { Duration::ZERO }
    }

    /// Whether nothing has gone wrong yet, or everything is healed.
    pub(crate) fn is_fair(&self) -> bool {
        self.is_healed.get() || self.engine.now() < crate::faults::FROM
    }

    /// The wall clock.
    pub(crate) fn wall(&self) -> Timestamp {
        self.wall_at(self.engine.now())
    }

    /// What the wall clock shows at a time.
    pub(crate) fn wall_at(&self, time: Duration) -> Timestamp {
        Timestamp(1_700_000_000_000 + time.as_millis() as i64)
    }

    pub(crate) fn count(&self, what: &'static str) {
        self.report.borrow_mut().count(what);
    }

    /// An invariant does not hold. The first one is reported.
    pub(crate) fn violate(&self, rule: &'static str, what: impl Into<String>) {
        let mut violation = self.violation.borrow_mut();
        if violation.is_none() {
            let violated = Violation { rule, what: what.into() };
            self.trace.tell(self.engine.now(), format_args!("VIOLATION {violated}"));
            *violation = Some(violated);
        }
    }

    /// Where the process stands that runs now.
    pub(crate) fn here(&self) -> Site {
        self.sites.borrow().get(&self.engine.current()).copied().unwrap_or(Site::Metadata)
    }

    /// A process at a place.
    pub(crate) fn process_at(&self, site: Site) -> ProcessId {
        let process = self.engine.process();
        self.sites.borrow_mut().insert(process, site);
        process
    }

    pub(crate) fn is_cut(&self, from: Site, to: Site) -> bool {
        self.cuts.borrow().contains(&(from, to))
    }

    /// The bookies that the cluster takes for alive.
    pub(crate) fn live(&self) -> Rc<Vec<BookieRecord>> {
        self.metadata.live()
    }

    /// Whether this life of a bookie is in use: the disk that the bookie has now is its own.
    pub(crate) fn is_current(&self, member: BookieMember) -> bool {
        self.nodes.borrow().get(&member.id).is_some_and(|node| node.member == member)
    }
}

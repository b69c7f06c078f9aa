//! What one run is like, drawn from its seed: quorum, cluster, load, and which faults happen how often. Every kind of
//! fault is left out of some runs, because a fault that always happens hides what the others would find.

use protocol::ledger::quorum::Quorum;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::time::Duration;

/// One hour: how long the longest pauses and the latest messages take.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// What happens to messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    /// A message is lost.
    pub(crate) lose: f64,
    /// A message is delivered twice.
    pub(crate) repeat: f64,
    /// A message takes 10 to 500 ms, and is overtaken.
    pub(crate) slow: f64,
    /// A message is delivered an hour later.
    pub(crate) late: f64,
}

/// What happens to calls of the metadata service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetadataFaults {
    /// A call is lost before it takes effect.
    pub(crate) lose_call: f64,
    /// A call takes effect, and its answer is lost.
    pub(crate) lose_answer: f64,
    /// A call takes effect long after its caller has given it up.
    pub(crate) late: f64,
}

/// Faults that come by themselves, by the mean time between two of a kind; none if they do not happen in this run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) crash_bookie: Option<Duration>,
    pub(crate) pause_bookie: Option<Duration>,
    pub(crate) wipe_bookie: Option<Duration>,
    pub(crate) cut_journal: Option<Duration>,
    pub(crate) flip_bit: Option<Duration>,
    pub(crate) fail_sync: Option<Duration>,
    pub(crate) slow_disk: Option<Duration>,
    pub(crate) full_disk: Option<Duration>,
    pub(crate) crash_broker: Option<Duration>,
    pub(crate) pause_broker: Option<Duration>,
    pub(crate) move_partition: Option<Duration>,
    pub(crate) cut_network: Option<Duration>,
    pub(crate) stall_metadata: Option<Duration>,
    pub(crate) replace_bookie: Option<Duration>,
    pub(crate) trim_log: Option<Duration>,
    pub(crate) jam_network: Option<Duration>,
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) quorum: Quorum,
    pub(crate) bookies: u32,
    pub(crate) brokers: usize,
    /// How long faults happen, without the lull.
    pub(crate) active: Duration,
    /// An hour in the middle in which hardly anything happens.
    pub(crate) has_lull: bool,
    pub(crate) clients: usize,
    /// The mean pause of a client between two appends.
    pub(crate) think: Duration,
    /// Entries after which a ledger is closed.
    pub(crate) ledger_entries: u64,
    /// Confirmed entries that one answer may hold up; small in some runs, so that members are left behind.
    pub(crate) owed_entries: usize,
    pub(crate) wire: Wire,
    pub(crate) metadata: MetadataFaults,
    pub(crate) rates: Rates,
    /// A sync during which the power goes.
    pub(crate) torn_sync: f64,
    /// Jams are duels.
    pub(crate) duels: bool,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
        let quorum = |write, ack| Quorum::new(write, write, ack).expect("legal");
        let choices = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 2), (3, 2), (3, 2), (5, 3)];
        let (write, ack) = *choices.choose(&mut rng).expect("not empty");
        let bookies = u32::from(write) + rng.random_range(u32::from(write < 3)..=if write < 5 { 2 } else { 1 });
        let stormy = rng.random_bool(0.15);
        let mut mean = |chance: f64, seconds: std::ops::Range<f64>| {
            let (happens, every) = (rng.random_bool(chance), rng.random_range(seconds));
            happens.then(|| Duration::from_secs_f64(if stormy { every / 2.0 } else { every }))
        };
        let rates = Rates {
            crash_bookie: mean(0.8, 5.0..40.0),
            pause_bookie: mean(0.5, 10.0..60.0),
            wipe_bookie: mean(0.5, 15.0..60.0),
            cut_journal: mean(0.5, 15.0..60.0),
            flip_bit: mean(0.5, 5.0..40.0),
            fail_sync: mean(0.4, 10.0..60.0),
            slow_disk: mean(0.4, 10.0..60.0),
            full_disk: mean(0.4, 10.0..60.0),
            crash_broker: mean(0.8, 8.0..40.0),
            pause_broker: mean(0.7, 8.0..40.0),
            move_partition: mean(0.8, 3.0..30.0),
            cut_network: mean(0.6, 5.0..40.0),
            stall_metadata: mean(0.5, 10.0..60.0),
            replace_bookie: mean(0.4, 20.0..80.0),
            trim_log: mean(0.6, 5.0..40.0),
            jam_network: mean(0.5, 5.0..30.0),
        };
        let mut some = |chance: f64, most: f64| if rng.random_bool(chance) { rng.random_range(0.0..most) } else { 0.0 };
        let wire =
            Wire { lose: some(0.6, 0.03), repeat: some(0.5, 0.03), slow: some(0.7, 0.1), late: some(0.5, 0.005) };
        let metadata =
            MetadataFaults { lose_call: some(0.5, 0.05), lose_answer: some(0.6, 0.1), late: some(0.4, 0.02) };
        let torn_sync = some(0.4, 0.002);
        Self {
            quorum: quorum(write, ack),
            bookies,
            brokers: rng.random_range(2..=3),
            active: Duration::from_secs(120),
            has_lull: rng.random_bool(0.4),
            clients: rng.random_range(1..=4),
            think: Duration::from_millis(rng.random_range(100..800)),
            ledger_entries: rng.random_range(5..80),
            owed_entries: if rng.random_bool(0.3) { rng.random_range(1..20) } else { 10_000 },
            wire,
            metadata,
            rates,
            torn_sync,
            duels: false,
        }
    }

    /// The same, with brokers that take the partition from each other while messages are jammed and many entries are in
    /// flight: writers and recoverers of one ledger meet at the bookies more often than in any other run.
    pub(crate) fn contended(self) -> Self {
        let rates = Rates {
            jam_network: Some(Duration::from_millis(2500)),
            pause_broker: Some(Duration::from_secs(6)),
            ..self.rates
        };
        Self { clients: 6, think: Duration::from_millis(50), rates, ..self }
    }

    /// A run of nothing but duels ([`crate::duel`]): brokers take a busy partition from each other, and crash now and then.
    pub(crate) fn dueling(self) -> Self {
        let rates = Rates {
            jam_network: Some(Duration::from_secs(5)),
            crash_broker: Some(Duration::from_secs(30)),
            ..Rates::default()
        };
        Self {
            quorum: Quorum::new(3, 3, 2).expect("legal"),
            bookies: 5,
            brokers: 3,
            has_lull: false,
            clients: self.clients * 3,
            think: Duration::from_millis(30),
            wire: Wire { lose: 0.0, repeat: 0.0, slow: 0.0, late: 0.0 },
            metadata: MetadataFaults { lose_call: 0.0, lose_answer: 0.0, late: 0.0 },
            rates,
            torn_sync: 0.0,
            duels: true,
            ..self
        }
    }

    /// When the hour begins in which hardly anything happens, and when it ends.
    pub(crate) fn lull(&self) -> Option<(Duration, Duration)> {
        self.has_lull.then(|| (self.active / 2, self.active / 2 + HOUR + Duration::from_secs(10)))
    }

    /// When faults stop.
    pub(crate) fn end(&self) -> Duration {
        self.lull().map_or(self.active, |(_, end)| end + self.active / 2)
    }
}

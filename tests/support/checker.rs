//! The checker: takes what producers were told and what readers saw, and names every way in which that is not what
//! Kafka promises. Pure: no clock, no client, no server; O(n log n) in the number of records. Owns the anomaly classes
//! (after the Kafka workload of Jepsen) and the floor under which a run proves nothing.
//!
//! Assumptions: every value is sent once and names its sender; producers are idempotent with acks=all; readers assign
//! partitions themselves and read without seeking. A send without an answer may or may not be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What was sent: who sent it and as which of theirs. Numbers of one producer and partition rise in sending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Which producer.
    pub producer: u32,
    /// Its number.
    pub number: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:010}", self.producer, self.number)
    }
}

impl Value {
    /// The payload that carries this value, `size` bytes long if that is enough for its name. Every byte follows from
    /// the name, so that a changed byte is seen.
    pub fn payload(self, size: usize) -> String {
        let name = format!("{self}.{size}.");
        let fill = (b'a' + ((u64::from(self.producer) + self.number) % 26) as u8) as char;
        let missing = size.saturating_sub(name.len());
        name + &fill.to_string().repeat(missing)
    }

    /// The value in a payload; none if it is not one that [`Value::payload`] makes.
    pub fn of(payload: &str) -> Option<Self> {
        let mut parts = payload.splitn(3, '.');
        let (producer, number) = parts.next()?.split_once('-')?;
        let value = Self { producer: producer.parse().ok()?, number: number.parse().ok()? };
        let size = parts.next()?.parse::<usize>().ok().filter(|size| *size <= 1 << 24)?;
        (value.payload(size) == payload).then_some(value)
    }
}

/// A place: partition and offset.
pub type Place = (i32, i64);

/// One record as a reader got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// What; none if the payload is no value of ours.
    pub value: Option<Value>,
}

/// What one reader saw, in the order in which it did.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// For messages.
    pub name: String,
    /// All it saw.
    pub seen: Vec<Seen>,
    /// It read every partition from the beginning to the end after all faults had healed.
    pub is_final: bool,
}

/// A whole run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Every value that was handed to a producer, with its partition.
    pub sent: BTreeMap<Value, i32>,
    /// Those that were acknowledged, and where.
    pub acked: Vec<(Value, Place)>,
    /// Those that were acknowledged without a place: the server knew them as duplicates of what it has, and no longer
    /// where that is.
    pub acked_somewhere: Vec<(Value, i32)>,
    /// All readers.
    pub readers: Vec<Reader>,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// Acknowledged at a place below others that were read, and not there.
    Lost(Value, Place),
    /// Acknowledged beyond everything that could be read after healing.
    Unseen(Value, Place),
    /// Acknowledged in a partition, without a place, and nowhere to be found.
    Missing(Value, i32),
    /// At two places.
    Duplicate(Value, Place, Place),
    /// Two values at one place, whether acknowledged or read.
    Inconsistent(Place, Value, Value),
    /// Read, and nobody sent it there; the payload may be damaged.
    Foreign(Place, Option<Value>),
    /// One producer's records in another order than they were sent.
    Reordered(Place, Value, Value),
    /// A reader went back or saw an offset twice.
    NotMonotonic(String, Place, Place),
    /// A reader passed over an offset that holds a record.
    Skipped(String, Place),
    /// Two readers to the end saw prefixes of different content.
    Diverged(String, String, i32),
    /// Too little was acknowledged for the run to show anything.
    TooLittle {
        /// Acknowledged.
        acked: usize,
        /// Sent.
        sent: usize,
    },
}

/// All anomalies of a history; a share of sends below `floor` percent acknowledged is one, too.
pub fn check(history: &History, floor: usize) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let (acked, sent) = (history.acked.len() + history.acked_somewhere.len(), history.sent.len());
    if acked == 0 || acked * 100 < sent * floor {
        found.push(Anomaly::TooLittle { acked, sent });
    }
    let places = places(history, &mut found);
    lost(history, &mut found);
    orders(&places, &mut found);
    for reader in &history.readers {
        polls(reader, &places, &mut found);
    }
    diverging(history, &mut found);
    found.sort();
    found.dedup();
    found
}

/// What is at every place; two values at one are reported, and so is what nobody sent.
fn places(history: &History, found: &mut Vec<Anomaly>) -> BTreeMap<Place, Value> {
    let mut places = BTreeMap::new();
    let mut put = |place: Place, value: Value, found: &mut Vec<Anomaly>| {
        let there = *places.entry(place).or_insert(value);
        if there != value {
            found.push(Anomaly::Inconsistent(place, there.min(value), there.max(value)));
        }
    };
    for (value, place) in &history.acked {
        put(*place, *value, found);
    }
    for seen in history.readers.iter().flat_map(|r| &r.seen) {
        match seen.value.filter(|v| history.sent.get(v) == Some(&seen.place.0)) {
            Some(value) => put(seen.place, value, found),
            None => found.push(Anomaly::Foreign(seen.place, seen.value)),
        }
    }
    places
}

/// Acknowledged records that a final reader did not see where they were acknowledged.
fn lost(history: &History, found: &mut Vec<Anomaly>) {
    for reader in history.readers.iter().filter(|r| r.is_final) {
        let seen: BTreeMap<Place, Option<Value>> = reader.seen.iter().map(|s| (s.place, s.value)).collect();
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, offset) in seen.keys() {
            ends.insert(*partition, *offset);
        }
        for (value, place) in &history.acked {
            if seen.contains_key(place) {
                continue; // Another value at its place is an inconsistency.
            }
            let below = ends.get(&place.0).is_some_and(|end| place.1 <= *end);
            found.push(if below { Anomaly::Lost(*value, *place) } else { Anomaly::Unseen(*value, *place) });
        }
        let values: BTreeSet<Value> = reader.seen.iter().filter_map(|s| s.value).collect();
        let missing = history.acked_somewhere.iter().filter(|(value, _)| !values.contains(value));
        found.extend(missing.map(|(value, partition)| Anomaly::Missing(*value, *partition)));
    }
}

/// Every value once, and those of one producer in sending order.
fn orders(places: &BTreeMap<Place, Value>, found: &mut Vec<Anomaly>) {
    let mut first: BTreeMap<Value, Place> = BTreeMap::new();
    let mut last: BTreeMap<(i32, u32), Value> = BTreeMap::new();
    for (place, value) in places {
        if let Some(before) = first.insert(*value, *place) {
            found.push(Anomaly::Duplicate(*value, before, *place));
            continue;
        }
        if let Some(before) = last.insert((place.0, value.producer), *value)
            && before > *value
        {
            found.push(Anomaly::Reordered(*place, before, *value));
        }
    }
}

/// A reader's offsets rise, and it leaves out none that holds a record.
fn polls(reader: &Reader, places: &BTreeMap<Place, Value>, found: &mut Vec<Anomaly>) {
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    for seen in &reader.seen {
        let (partition, offset) = seen.place;
        let before = match last.insert(partition, offset) {
            Some(before) => before,
            None if reader.is_final => -1,
            None => continue,
        };
        if offset <= before {
            found.push(Anomaly::NotMonotonic(reader.name.clone(), (partition, before), seen.place));
        } else if offset > before + 1 {
            let between = (partition, before + 1)..(partition, offset);
            found.extend(places.range(between).map(|(place, _)| Anomaly::Skipped(reader.name.clone(), *place)));
        }
    }
}

/// Final readers agree on every partition, up to the end of the shorter one.
fn diverging(history: &History, found: &mut Vec<Anomaly>) {
    let finals: Vec<&Reader> = history.readers.iter().filter(|r| r.is_final).collect();
    let by_partition = |reader: &Reader| {
        let mut parts: BTreeMap<i32, Vec<Seen>> = BTreeMap::new();
        for seen in &reader.seen {
            parts.entry(seen.place.0).or_default().push(seen.clone());
        }
        parts
    };
    let Some((first, others)) = finals.split_first() else { return };
    let parts = by_partition(first);
    for other in others {
        let theirs = by_partition(other);
        let partitions: BTreeSet<i32> = parts.keys().chain(theirs.keys()).copied().collect();
        for p in partitions {
            let (a, b) = (parts.get(&p).map_or(&[][..], |v| v), theirs.get(&p).map_or(&[][..], |v| v));
            let common = a.len().min(b.len());
            if a[..common] != b[..common] {
                found.push(Anomaly::Diverged(first.name.clone(), other.name.clone(), p));
            }
        }
    }
}

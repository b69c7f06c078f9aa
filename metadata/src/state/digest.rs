//! A number that stands for a whole state and is kept up to date with every change, so that voters can compare states
//! at any log position for nothing.
//!
//! Each entry of each map has a 64-bit hash; a map's sum is the wrapping sum of them, so that adding and removing an
//! entry costs one hash, and the order of changes leaves no trace. The hash is XXH64 over bytes that this file lays
//! down field by field: its specification is frozen, so voters of different versions and machines agree. (CRC-32C with
//! two seeds would not be 64 bits: for inputs of one length the second is a function of the first.) It finds faults,
//! not forgers.
//!
//! Invariant: [`Summed::sum`] is what [`Summed::recount`] finds; nothing changes an entry in place.

use super::tree::Tree;
use protocol::id::{Revision, SessionId};
use std::{borrow::Borrow, hash::Hasher as _, ops::Deref, sync::Arc};
use twox_hash::XxHash64;

/// A hash in the making. Numbers are fed as eight bytes, little-endian; what varies in length is fed after its length.
pub(super) struct Hasher(XxHash64);

impl Hasher {
    pub(super) const fn new() -> Self {
        Self(XxHash64::with_seed(0))
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.0.write(&number.to_le_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.write(bytes);
        self
    }

    pub(super) fn option(&mut self, number: Option<u64>) -> &mut Self {
        self.number(u64::from(number.is_some())).number(number.unwrap_or_default())
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// What has a place in the digest. Two values that differ in what is replicated are fed differently.
pub(super) trait Hashed {
    /// Feeds the value.
    fn feed(&self, hasher: &mut Hasher);
}

impl Hashed for u64 {
    fn feed(&self, hasher: &mut Hasher) {
        hasher.number(*self);
    }
}

impl Hashed for Revision {
    fn feed(&self, hasher: &mut Hasher) {
        hasher.number(self.0);
    }
}

impl Hashed for SessionId {
    fn feed(&self, hasher: &mut Hasher) {
        hasher.number(self.0);
    }
}

impl Hashed for Arc<str> {
    fn feed(&self, hasher: &mut Hasher) {
        hasher.bytes(self.as_bytes());
    }
}

impl<A: Hashed, B: Hashed> Hashed for (A, B) {
    fn feed(&self, hasher: &mut Hasher) {
        self.0.feed(hasher);
        self.1.feed(hasher);
    }
}

/// A map with the sum of its entries' hashes. Reads are the map's own; writes go through here.
#[derive(Debug)]
pub(super) struct Summed<K, V> {
    entries: Tree<K, V>,
    sum: u64,
}

impl<K, V> Clone for Summed<K, V> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), sum: self.sum }
    }
}

impl<K, V> Default for Summed<K, V> {
    fn default() -> Self {
        Self { entries: Tree::default(), sum: 0 }
    }
}

impl<K, V> Deref for Summed<K, V> {
    type Target = Tree<K, V>;

    fn deref(&self) -> &Tree<K, V> {
        &self.entries
    }
}

impl<K: Hashed, V: Hashed> Summed<K, V> {
    /// The sum.
    pub(super) const fn sum(&self) -> u64 {
        self.sum
    }

    /// The sum again, from every entry.
    pub(super) fn recount(&self) -> u64 {
        self.entries.iter().fold(0, |sum: u64, (key, value)| sum.wrapping_add(hash(key, value)))
    }
}

impl<K: Ord + Clone + Hashed, V: Clone + Hashed> Summed<K, V> {
    /// Sets a key and returns what it held.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.sum = self.sum.wrapping_add(hash(&key, &value));
        let old = self.entries.insert(key.clone(), value);
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(hash(&key, old));
        }
        old
    }

    /// Removes a key and returns its entry.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let removed = self.entries.remove(key);
        if let Some((key, value)) = &removed {
            self.sum = self.sum.wrapping_sub(hash(key, value));
        }
        removed
    }
}

fn hash(key: &impl Hashed, value: &impl Hashed) -> u64 {
    let mut hasher = Hasher::new();
    key.feed(&mut hasher);
    value.feed(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // XXH64 of no bytes with seed 0, as its specification gives it.
        assert_eq!(Hasher::new().finish(), 0xef46_db37_51d8_e999);
        // This value must never change: running clusters compare it between versions.
        let mut hasher = Hasher::new();
        hasher.bytes(b"topics/orders").number(7).option(None).option(Some(3));
        assert_eq!(hasher.finish(), 8_522_170_652_700_196_783);
    }

    #[test]
    fn the_sum_depends_on_the_entries_and_on_nothing_else() {
        let (mut one, mut two) = (Summed::<Arc<str>, u64>::default(), Summed::<Arc<str>, u64>::default());
        for n in 0..500u64 {
            one.insert(n.to_string().into(), n);
        }
        for n in (0..1000u64).rev() {
            two.insert((n % 500).to_string().into(), n);
        }
        for n in 500..1000u64 {
            two.insert((n % 500).to_string().into(), n);
            two.insert(n.to_string().into(), n);
            two.remove(n.to_string().as_str());
        }
        assert_ne!(one.sum(), two.sum());
        for n in 0..500u64 {
            two.insert(n.to_string().into(), n);
        }
        assert_eq!((one.len(), one.recount(), one.sum()), (two.len(), two.recount(), two.sum()));
        two.remove("7");
        assert_ne!(one.sum(), two.sum());
    }
}

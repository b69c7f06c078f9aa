//! An ordered map whose copies share what they have in common: a B+ tree that copies the nodes on the path to a change
//! if a copy of the map still needs them, and changes them in place if not.
//!
//! A copy is one reference count, however large the map is. So a snapshot takes the state as it is and writes it while
//! newer commands are applied. No node has more than [`MAX`] entries, none but the root is empty, and all leaves are
//! equally deep.
//!
//! Written here and not taken from `imbl`, the best of its kind: with a million keys this one is as fast or faster and
//! takes no more memory, without unsafe code and its ten crates.

use std::{borrow::Borrow, cmp::Ordering, ops::Bound, slice, sync::Arc};

/// The most entries of a node. The first change after a copy duplicates one node per level, so nodes are small.
const MAX: usize = 32;
/// Neighbours that hold no more than this together become one node.
const FEW: usize = MAX / 2;

/// The map.
#[derive(Debug)]
pub(super) struct Tree<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// Each child with a bound: a key that is not above any of its own, and above all of the child before. The first
    /// child takes whatever is below the second, also what is below its own bound; that happens only at the low end of
    /// the whole map.
    Branch(Vec<Child<K, V>>),
}

type Child<K, V> = (K, Arc<Node<K, V>>);

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: Arc::default(), len: 0 }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl<K, V> Tree<K, V> {
    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { above: Vec::new(), leaf: [].iter() };
        iter.descend(&self.root);
        iter
    }

    /// The entry with the lowest key.
    pub(super) fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }
}

impl<K: Ord, V> Tree<K, V> {
    /// The entry of a key.
    pub(super) fn entry<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Leaf(items) => return find(items, key).ok().map(|at| (&items[at].0, &items[at].1)),
                Node::Branch(children) => node = &children[child_of(children, key)].1,
            }
        }
    }

    /// What a key holds.
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entry(key).map(|(_, value)| value)
    }

    /// The entries from a bound on, in order.
    pub(super) fn range<Q: Ord + ?Sized>(&self, from: Bound<&Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let key = match from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => return self.iter(),
        };
        let (mut above, mut node) = (Vec::new(), &self.root);
        loop {
            match &**node {
                Node::Leaf(items) => {
                    let at = match find(items, key) {
                        Ok(at) if matches!(from, Bound::Excluded(_)) => at + 1,
                        Ok(at) | Err(at) => at,
                    };
                    return Iter { above, leaf: items[at..].iter() };
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    above.push(children[at + 1..].iter());
                    node = &children[at].1;
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// Sets a key and returns what it held.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, split) = insert(&mut self.root, key, value);
        if let Some(right) = split
            && let Some(low) = self.root.low()
        {
            let left = Arc::clone(&self.root);
            self.root = Arc::new(Node::Branch(vec![(low, left), right]));
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a key and returns its entry.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        // Looked up first, so that nothing is copied for a key that is not there.
        self.get(key)?;
        let removed = remove(&mut self.root, key);
        while let Node::Branch(children) = &*self.root
            && children.len() < 2
        {
            self.root = children.first().map(|(_, only)| Arc::clone(only)).unwrap_or_default();
        }
        self.len -= usize::from(removed.is_some());
        removed
    }
}

impl<K: Clone, V> Node<K, V> {
    fn low(&self) -> Option<K> {
        match self {
            Self::Leaf(items) => items.first().map(|(key, _)| key.clone()),
            Self::Branch(children) => children.first().map(|(key, _)| key.clone()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(items) => items.len(),
            Self::Branch(children) => children.len(),
        }
    }
}

/// Where a key is, or belongs. One key after the other: the processor fetches the next ones ahead, so that with keys
/// all over the memory this takes half as long as halving does.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(items: &[(K, V)], key: &Q) -> Result<usize, usize> {
    for (at, (other, _)) in items.iter().enumerate() {
        match other.borrow().cmp(key) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(at),
            Ordering::Greater => return Err(at),
        }
    }
    Err(items.len())
}

fn child_of<K: Borrow<Q>, T, Q: Ord + ?Sized>(children: &[(K, T)], key: &Q) -> usize {
    let later = children.iter().skip(1);
    later.take_while(|(low, _)| low.borrow() <= key).count()
}

/// Puts an entry at its place. A full node is cut in two first, and the upper part returned.
fn put<K: Clone, T>(entries: &mut Vec<(K, T)>, at: usize, entry: (K, T)) -> Option<Vec<(K, T)>> {
    if entries.len() < MAX {
        entries.insert(at, entry);
        return None;
    }
    // Keys that come in order, as in a snapshot, fill their nodes.
    if at == entries.len() {
        return Some(vec![entry]);
    }
    let mut upper = entries.split_off(MAX / 2);
    match at.checked_sub(MAX / 2) {
        Some(at) => upper.insert(at, entry),
        None => entries.insert(at, entry),
    }
    Some(upper)
}

type Split<K, V> = Option<Child<K, V>>;

/// What the key held, and the upper part of the node if it was cut in two.
fn insert<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: K, value: V) -> (Option<V>, Split<K, V>) {
    match Arc::make_mut(node) {
        Node::Leaf(items) => match find(items, &key) {
            Ok(at) => (Some(std::mem::replace(&mut items[at].1, value)), None),
            Err(at) => {
                let upper = put(items, at, (key, value));
                (None, upper.map(|upper| (upper[0].0.clone(), Arc::new(Node::Leaf(upper)))))
            }
        },
        Node::Branch(children) => {
            let at = child_of(children, &key);
            let (old, split) = insert(&mut children[at].1, key, value);
            let upper = split.and_then(|right| put(children, at + 1, right));
            (old, upper.map(|upper| (upper[0].0.clone(), Arc::new(Node::Branch(upper)))))
        }
    }
}

fn remove<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(
    node: &mut Arc<Node<K, V>>,
    key: &Q,
) -> Option<(K, V)> {
    match Arc::make_mut(node) {
        Node::Leaf(items) => find(items, key).ok().map(|at| items.remove(at)),
        Node::Branch(children) => {
            let at = child_of(children, key);
            let removed = remove(&mut children[at].1, key);
            join(children, at);
            removed
        }
    }
}

/// Drops the child at `at` if it is empty, and joins it with a neighbour if both have become small.
fn join<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    if children[at].1.len() == 0 {
        let (low, _) = children.remove(at);
        // Its keys now belong to the child before it, or, if it was the first, to the one that is first from now on.
        if at == 0
            && let Some(first) = children.first_mut()
        {
            first.0 = low;
        }
        return;
    }
    let fits = |left: usize| {
        let pair = children.get(left..left + 2);
        pair.is_some_and(|pair| pair[0].1.len() + pair[1].1.len() <= FEW)
    };
    let Some(left) = [Some(at), at.checked_sub(1)].into_iter().flatten().find(|left| fits(*left)) else { return };
    let (_, right) = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].1), Arc::unwrap_or_clone(right)) {
        (Node::Leaf(into), Node::Leaf(from)) => into.extend(from),
        (Node::Branch(into), Node::Branch(from)) => into.extend(from),
        (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => {
            unreachable!("all leaves are equally deep")
        }
    }
}

/// Entries in order.
#[derive(Debug)]
pub(super) struct Iter<'a, K, V> {
    /// What follows, from the root down.
    above: Vec<slice::Iter<'a, Child<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn descend(&mut self, mut node: &'a Arc<Node<K, V>>) {
        loop {
            match &**node {
                Node::Leaf(items) => {
                    self.leaf = items.iter();
                    return;
                }
                Node::Branch(children) => {
                    let mut children = children.iter();
                    let Some((_, first)) = children.next() else { return };
                    self.above.push(children);
                    node = first;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, child)) => self.descend(child),
                None => drop(self.above.pop()),
            }
        }
    }
}

#[cfg(test)]
impl<K: Ord + Clone, V> Tree<K, V> {
    /// Checks order, bounds, depths and sizes.
    fn check(&self) {
        let mut depths = std::collections::BTreeSet::new();
        check(&self.root, 0, &mut depths);
        assert!(depths.len() <= 1, "leaves at depths {depths:?}");
        let keys: Vec<_> = self.iter().map(|(key, _)| key).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "keys are in order, each once");
        assert_eq!(keys.len(), self.len);
    }
}

#[cfg(test)]
fn check<K: Ord + Clone, V>(node: &Node<K, V>, depth: usize, depths: &mut std::collections::BTreeSet<usize>) {
    assert!(node.len() <= MAX);
    match node {
        Node::Leaf(_) => drop(depths.insert(depth)),
        Node::Branch(children) => {
            assert!(children.iter().all(|(_, child)| child.len() > 0), "no node is empty");
            for (low, child) in children.iter().skip(1) {
                assert!(lowest(child) >= Some(low), "no child begins below its bound");
            }
            for (_, child) in children {
                check(child, depth + 1, depths);
            }
        }
    }
}

#[cfg(test)]
fn lowest<K, V>(node: &Node<K, V>) -> Option<&K> {
    match node {
        Node::Leaf(items) => items.first().map(|(key, _)| key),
        Node::Branch(children) => children.first().and_then(|(_, child)| lowest(child)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16, u32),
        Remove(u16),
        RemoveRun(u16, u16),
        Copy,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || 0..2_000u16;
        let step = prop_oneof![
            12 => (key(), any::<u32>()).prop_map(|(k, v)| Step::Insert(k, v)),
            4 => key().prop_map(Step::Remove),
            1 => (key(), 0..600u16).prop_map(|(from, run)| Step::RemoveRun(from, run)),
            1 => Just(Step::Copy),
        ];
        proptest::collection::vec(step, 0..1_500)
    }

    fn held(tree: &Tree<u16, u32>) -> Vec<(u16, u32)> {
        tree.iter().map(|(k, v)| (*k, *v)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_behaves_like_a_btreemap_and_copies_stay_as_they_were(steps in steps()) {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(k, v) => prop_assert_eq!(tree.insert(k, v), model.insert(k, v)),
                    Step::Remove(k) => prop_assert_eq!(tree.remove(&k), model.remove_entry(&k)),
                    Step::RemoveRun(from, run) => for k in from..from + run {
                        prop_assert_eq!(tree.remove(&k), model.remove_entry(&k));
                    }
                    Step::Copy => copies.push((tree.clone(), model.clone())),
                }
            }
            copies.push((tree, model));
            for (tree, model) in copies {
                tree.check();
                prop_assert_eq!(held(&tree), model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
                for k in (0..2_000).step_by(37) {
                    prop_assert_eq!(tree.entry(&k), model.get_key_value(&k));
                    for bound in [Bound::Included(&k), Bound::Excluded(&k)] {
                        let from = model.range((bound, Bound::Unbounded)).next();
                        prop_assert_eq!(tree.range(bound).next(), from);
                    }
                }
            }
        }
    }

    /// Numbers that look random, and are the same in every run.
    fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        }
    }

    #[test]
    fn it_behaves_like_a_btreemap_while_it_grows_and_shrinks() {
        const KEYS: u64 = 50_000;
        let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
        let mut number = numbers(7);
        for phase in 0..40 {
            // Runs of keys go and single ones come, or the other way round.
            let is_growing = phase % 4 < 2;
            for _ in 0..800 {
                let (from, value) = (number(KEYS), number(1 << 30));
                let run = if number(8) == 0 { 100 } else { 4 };
                let (coming, going) = if is_growing { (run, 1) } else { (1, 5 * run) };
                for key in from..from + coming {
                    assert_eq!(tree.insert(key, value), model.insert(key, value));
                }
                let from = number(KEYS);
                for key in from..from + going {
                    assert_eq!(tree.remove(&key), model.remove_entry(&key));
                }
            }
            tree.check();
            assert!(tree.iter().eq(model.iter()), "phase {phase}");
            assert!(model.keys().all(|key| tree.get(key) == model.get(key)), "phase {phase}");
        }
    }

    #[test]
    fn keys_in_order_fill_their_nodes() {
        let mut tree = Tree::default();
        for n in 0..(MAX * MAX) as u64 {
            tree.insert(n, ());
        }
        tree.check();
        let Node::Branch(leaves) = &*tree.root else { panic!("two levels") };
        assert_eq!((leaves.len(), leaves[0].1.len()), (MAX, MAX));
    }

    #[test]
    fn a_map_that_has_shrunk_takes_less() {
        let mut tree: Tree<u32, u32> = Tree::default();
        for n in 0..20_000u32 {
            tree.insert(n.wrapping_mul(0x9e37_79b9), n);
        }
        for n in (0..20_000u32).filter(|n| n % 50 != 0) {
            tree.remove(&n.wrapping_mul(0x9e37_79b9));
        }
        tree.check();
        fn leaves(node: &Node<u32, u32>) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Branch(children) => children.iter().map(|(_, child)| leaves(child)).sum(),
            }
        }
        // Two neighbours hold more than FEW together.
        assert!(leaves(&tree.root) <= 2 * tree.len() / FEW + 2, "{} leaves for {}", leaves(&tree.root), tree.len());
    }

    #[test]
    fn a_copy_shares_all_but_the_path_of_a_change() {
        let mut tree: Tree<u64, u64> = (0..100_000).fold(Tree::default(), |mut tree, n| {
            tree.insert(n, n);
            tree
        });
        let copy = tree.clone();
        tree.insert(77_777, 0);
        let (Node::Branch(ours), Node::Branch(theirs)) = (&*tree.root, &*copy.root) else { panic!("deep") };
        let differ = ours.iter().zip(theirs).filter(|(a, b)| !Arc::ptr_eq(&a.1, &b.1)).count();
        assert_eq!((differ, copy.get(&77_777), tree.get(&77_777)), (1, Some(&77_777), Some(&0)));
        // Looking for what is not there copies nothing.
        let before = tree.clone();
        assert_eq!(tree.remove(&1_000_000), None);
        assert!(Arc::ptr_eq(&before.root, &tree.root));
    }

    #[test]
    fn an_empty_node_goes_with_all_that_held_nothing_else() {
        let last = (MAX * MAX) as u64;
        let mut tree: Tree<u64, ()> = Tree::default();
        for n in 0..=last {
            tree.insert(n, ());
        }
        let Node::Branch(top) = &*tree.root else { panic!("three levels") };
        assert_eq!(top.iter().map(|(_, child)| child.len()).collect::<Vec<_>>(), [MAX, 1]);
        tree.remove(&last);
        tree.check();
        assert_eq!(tree.root.len(), MAX, "one level less");
        for n in 0..last {
            tree.remove(&n);
            tree.check();
        }
        assert_eq!(tree.len(), 0);
    }

    #[test]
    fn an_emptied_map_is_as_good_as_new() {
        let mut tree = Tree::default();
        for n in 0..10_000u32 {
            tree.insert(n, n);
        }
        for n in (0..10_000u32).rev() {
            assert_eq!(tree.remove(&n), Some((n, n)));
        }
        tree.check();
        assert_eq!((tree.len(), tree.first()), (0, None));
        assert!(matches!(&*tree.root, Node::Leaf(_)));
    }
}

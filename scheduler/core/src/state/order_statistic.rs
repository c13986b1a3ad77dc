//! An order-statistic tree: a sorted set that knows each element's rank, in steps in the logarithm of its size.
//!
//! A treap (Seidel and Aragon 1996): sorted by key, a heap by a number that is drawn for each node. The
//! numbers are a fixed sequence, so that equal histories make equal sets.

use std::cmp::Ordering;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Node<K> {
    key: K,
    weight: u32,
    left: u32,
    right: u32,
    /// Nodes of this subtree.
    size: u32,
}

/// A sorted set with ranks. Holds fewer than 2³² elements.
#[derive(Debug, Clone)]
pub struct OrderedSet<K> {
    nodes: Vec<Node<K>>,
    /// Places of removed nodes.
    free: Vec<u32>,
    root: u32,
    drawn: u64,
}

impl<K> Default for OrderedSet<K> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, drawn: 0 }
    }
}

impl<K: Ord + Copy> OrderedSet<K> {
    /// Adds an element; `false` when it is there already.
    pub fn insert(&mut self, key: K) -> bool {
        if self.contains(&key) {
            return false;
        }
        let node = Node { key, weight: self.draw(), left: NONE, right: NONE, size: 1 };
        let place = match self.free.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        let (before, after) = self.split(self.root, &key);
        let left = self.merge(before, place);
        self.root = self.merge(left, after);
        true
    }

    /// Takes an element out; `false` when it is not there.
    pub fn remove(&mut self, key: &K) -> bool {
        let mut path = Vec::new();
        let mut at = self.root;
        while at != NONE {
            match key.cmp(&self.nodes[at as usize].key) {
                Ordering::Equal => break,
                Ordering::Less => {
                    path.push(at);
                    at = self.nodes[at as usize].left;
                }
                Ordering::Greater => {
                    path.push(at);
                    at = self.nodes[at as usize].right;
                }
            }
        }
        if at == NONE {
            return false;
        }
        let Node { left, right, .. } = self.nodes[at as usize];
        let merged = self.merge(left, right);
        match path.last() {
            None => self.root = merged,
            Some(&parent) if self.nodes[parent as usize].left == at => {
                self.nodes[parent as usize].left = merged;
            }
            Some(&parent) => self.nodes[parent as usize].right = merged,
        }
        for &above in &path {
            self.nodes[above as usize].size -= 1;
        }
        self.free.push(at);
        true
    }

    /// How many elements are smaller.
    pub fn rank(&self, key: &K) -> usize {
        let (mut at, mut rank) = (self.root, 0);
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.key < *key {
                rank += self.size(node.left) as usize + 1;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        rank
    }

    /// Whether the element is there.
    pub fn contains(&self, key: &K) -> bool {
        let mut at = self.root;
        while at != NONE {
            let node = &self.nodes[at as usize];
            match key.cmp(&node.key) {
                Ordering::Equal => return true,
                Ordering::Less => at = node.left,
                Ordering::Greater => at = node.right,
            }
        }
        false
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.size(self.root) as usize
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.root == NONE
    }

    /// From the smallest on. Costs steps in the logarithm of the set's size, and few for each element.
    pub fn iter(&self) -> Iter<'_, K> {
        let mut iter = Iter { nodes: &self.nodes, path: Vec::new() };
        iter.descend(self.root);
        iter
    }

    fn size(&self, at: u32) -> u32 {
        if at == NONE { 0 } else { self.nodes[at as usize].size }
    }

    /// SplitMix64's mixing of a counter.
    fn draw(&mut self) -> u32 {
        self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.drawn ^ (self.drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
    }

    fn update(&mut self, at: u32) {
        let Node { left, right, .. } = self.nodes[at as usize];
        self.nodes[at as usize].size = self.size(left) + self.size(right) + 1;
    }

    /// Those below `key`, and the others.
    fn split(&mut self, at: u32, key: &K) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        let Node { left, right, .. } = self.nodes[at as usize];
        if self.nodes[at as usize].key < *key {
            let (before, after) = self.split(right, key);
            self.nodes[at as usize].right = before;
            self.update(at);
            (at, after)
        } else {
            let (before, after) = self.split(left, key);
            self.nodes[at as usize].left = after;
            self.update(at);
            (before, at)
        }
    }

    /// Joins two trees; everything in the first is smaller.
    fn merge(&mut self, first: u32, second: u32) -> u32 {
        if first == NONE || second == NONE {
            return if first == NONE { second } else { first };
        }
        if self.nodes[first as usize].weight >= self.nodes[second as usize].weight {
            let right = self.nodes[first as usize].right;
            self.nodes[first as usize].right = self.merge(right, second);
            self.update(first);
            first
        } else {
            let left = self.nodes[second as usize].left;
            self.nodes[second as usize].left = self.merge(first, left);
            self.update(second);
            second
        }
    }
}

/// Walks the keys of an [`OrderedSet`] in order.
#[derive(Debug)]
pub struct Iter<'a, K> {
    nodes: &'a [Node<K>],
    /// Nodes whose left side is done.
    path: Vec<u32>,
}

impl<K> Iter<'_, K> {
    fn descend(&mut self, mut at: u32) {
        while at != NONE {
            self.path.push(at);
            at = self.nodes[at as usize].left;
        }
    }
}

impl<'a, K> Iterator for Iter<'a, K> {
    type Item = &'a K;

    fn next(&mut self) -> Option<&'a K> {
        let node = &self.nodes[self.path.pop()? as usize];
        self.descend(node.right);
        Some(&node.key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_are_those_of_a_sorted_list(steps in prop::collection::vec((any::<bool>(), 0..60_u32), 0..300)) {
            let (mut set, mut sorted) = (OrderedSet::default(), BTreeSet::new());
            for (add, key) in steps {
                if add {
                    prop_assert_eq!(set.insert(key), sorted.insert(key));
                } else {
                    prop_assert_eq!(set.remove(&key), sorted.remove(&key));
                }
                prop_assert_eq!((set.len(), set.is_empty()), (sorted.len(), sorted.is_empty()));
                for probe in [0, key, 59] {
                    prop_assert_eq!(set.rank(&probe), sorted.range(..probe).count());
                    prop_assert_eq!(set.contains(&probe), sorted.contains(&probe));
                }
            }
        }
    }

    #[test]
    fn a_hundred_thousand_in_order_make_no_deep_tree() {
        let mut set = OrderedSet::default();
        for key in 0..100_000_u32 {
            set.insert(key);
        }
        fn depth(set: &OrderedSet<u32>, at: u32) -> usize {
            if at == NONE {
                return 0;
            }
            let node = &set.nodes[at as usize];
            1 + depth(set, node.left).max(depth(set, node.right))
        }
        assert!(depth(&set, set.root) < 80);
        assert_eq!(set.rank(&70_000), 70_000);
    }
}

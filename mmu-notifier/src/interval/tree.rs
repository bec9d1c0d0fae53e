//! An interval tree that never changes: an insertion or removal makes a new one that shares all but a path with the
//! old one.
//!
//! So an invalidation walks the tree it began with, without a lock, twice (start and end) with the same result,
//! while others come and go. No crate that we know has a persistent tree with interval queries.
//!
//! A weight-balanced search tree (Nievergelt and Reingold 1973; the parameters 3 and 2 are those that Hirai and
//! Yamamoto proved, *Balancing weight-balanced trees*, 2011) ordered by start and key, where each node knows the
//! greatest end below it.

use std::{ops::ControlFlow, sync::Arc};

use crate::AddressRange;

/// How many times heavier one side may be than the other.
const DELTA: usize = 3;
/// From which ratio of the heavy side's inner child to its outer one a double rotation is needed.
const GAMMA: usize = 2;

/// A set of values, each on a range and with a key of its own.
#[derive(Debug)]
pub(crate) struct Tree<V>(Link<V>);

type Link<V> = Option<Arc<Node<V>>>;

#[derive(Debug)]
struct Node<V> {
    range: AddressRange,
    key: u64,
    value: Arc<V>,
    left: Link<V>,
    right: Link<V>,
    /// Nodes in this subtree.
    size: usize,
    /// The greatest end of a range in this subtree.
    max_end: u64,
}

impl<V> Clone for Tree<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<V> Tree<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// This tree and `value`. The key must not be in the tree yet. Allocates as many nodes as the tree is deep.
    #[must_use]
    pub(crate) fn inserted(&self, range: AddressRange, key: u64, value: Arc<V>) -> Self {
        Self(Some(insert(self.0.as_ref(), range, key, value)))
    }

    /// This tree without `key`, which was inserted on `range`; the same tree if it is not there.
    #[must_use]
    pub(crate) fn removed(&self, range: AddressRange, key: u64) -> Self {
        Self(remove(self.0.as_ref(), range.start(), key))
    }

    /// Calls `visit` for each value whose range overlaps `range`, by start and then key, until it breaks. Visits
    /// O(log n) nodes besides.
    #[inline]
    pub(crate) fn overlapping<'a, B>(
        &'a self,
        range: AddressRange,
        mut visit: impl FnMut(&'a V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        walk(self.0.as_ref(), range, &mut visit)
    }
}

fn walk<'a, V, B>(
    link: Option<&'a Arc<Node<V>>>,
    range: AddressRange,
    visit: &mut impl FnMut(&'a V) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let Some(node) = link else {
        return ControlFlow::Continue(());
    };
    if node.max_end <= range.start() {
        return ControlFlow::Continue(());
    }
    walk(node.left.as_ref(), range, visit)?;
    if node.range.start() >= range.end() {
        return ControlFlow::Continue(());
    }
    if node.range.overlaps(range) {
        visit(&node.value)?;
    }
    walk(node.right.as_ref(), range, visit)
}

fn size<V>(link: Option<&Arc<Node<V>>>) -> usize {
    link.map_or(0, |node| node.size)
}

/// The node `like` over other children.
fn join<V>(like: &Node<V>, left: Link<V>, right: Link<V>) -> Arc<Node<V>> {
    let max_end =
        [&left, &right].into_iter().flatten().map(|child| child.max_end).fold(like.range.end(), u64::max);
    Arc::new(Node {
        range: like.range,
        key: like.key,
        value: like.value.clone(),
        size: size(left.as_ref()) + size(right.as_ref()) + 1,
        max_end,
        left,
        right,
    })
}

/// As [`join`], where one of the children may have gained or lost one node since the two were in balance.
fn balance<V>(like: &Node<V>, left: Link<V>, right: Link<V>) -> Arc<Node<V>> {
    let (weight_left, weight_right) = (size(left.as_ref()) + 1, size(right.as_ref()) + 1);
    match (&left, &right) {
        (_, Some(heavy)) if weight_right > DELTA * weight_left => match &heavy.left {
            Some(inner) if inner.size + 1 >= GAMMA * (size(heavy.right.as_ref()) + 1) => {
                let outer = join(heavy, inner.right.clone(), heavy.right.clone());
                join(inner, Some(join(like, left, inner.left.clone())), Some(outer))
            }
            inner => join(heavy, Some(join(like, left, inner.clone())), heavy.right.clone()),
        },
        (Some(heavy), _) if weight_left > DELTA * weight_right => match &heavy.right {
            Some(inner) if inner.size + 1 >= GAMMA * (size(heavy.left.as_ref()) + 1) => {
                let outer = join(heavy, heavy.left.clone(), inner.left.clone());
                join(inner, Some(outer), Some(join(like, inner.right.clone(), right)))
            }
            inner => join(heavy, heavy.left.clone(), Some(join(like, inner.clone(), right))),
        },
        _ => join(like, left, right),
    }
}

fn insert<V>(link: Option<&Arc<Node<V>>>, range: AddressRange, key: u64, value: Arc<V>) -> Arc<Node<V>> {
    let Some(node) = link else {
        return Arc::new(Node { range, key, value, left: None, right: None, size: 1, max_end: range.end() });
    };
    if (range.start(), key) < (node.range.start(), node.key) {
        balance(node, Some(insert(node.left.as_ref(), range, key, value)), node.right.clone())
    } else {
        balance(node, node.left.clone(), Some(insert(node.right.as_ref(), range, key, value)))
    }
}

fn remove<V>(link: Option<&Arc<Node<V>>>, start: u64, key: u64) -> Link<V> {
    let node = link?;
    match (start, key).cmp(&(node.range.start(), node.key)) {
        std::cmp::Ordering::Less => {
            Some(balance(node, remove(node.left.as_ref(), start, key), node.right.clone()))
        }
        std::cmp::Ordering::Greater => {
            Some(balance(node, node.left.clone(), remove(node.right.as_ref(), start, key)))
        }
        std::cmp::Ordering::Equal => match (&node.left, &node.right) {
            (None, only) | (only, None) => only.clone(),
            (left, Some(right)) => {
                let mut next = right;
                while let Some(lower) = &next.left {
                    next = lower;
                }
                let right = remove(Some(right), next.range.start(), next.key);
                Some(balance(next, left.clone(), right))
            }
        },
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

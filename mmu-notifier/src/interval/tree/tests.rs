//! Against the naive model: a list.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use proptest::prelude::*;

use super::*;
use crate::PAGE_SIZE;

fn range(page: u64, pages: u64) -> AddressRange {
    AddressRange::new(page * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
}

/// Panics if the subtree is out of balance or its summaries are wrong; its ranges and keys in order.
fn check(link: Option<&Arc<Node<u64>>>) -> Vec<(AddressRange, u64)> {
    let Some(node) = link else { return Vec::new() };
    let mut all = check(node.left.as_ref());
    all.push((node.range, node.key));
    all.extend(check(node.right.as_ref()));

    let (left, right) = (size(node.left.as_ref()) + 1, size(node.right.as_ref()) + 1);
    assert!(left <= DELTA * right && right <= DELTA * left, "{left} against {right}");
    assert_eq!(node.size, all.len());
    assert_eq!(Some(node.max_end), all.iter().map(|(range, _)| range.end()).max());
    all
}

fn keys(tree: &Tree<u64>, range: AddressRange) -> Vec<u64> {
    let mut keys = Vec::new();
    let _ = tree.overlapping::<()>(range, |&key| {
        keys.push(key);
        ControlFlow::Continue(())
    });
    keys
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    Remove(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..60, 1_u64..12).prop_map(|(page, pages)| Step::Insert(page, pages)),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 1..if cfg!(miri) { 12 } else { 120 })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_a_list_finds(steps in steps(), (page, pages) in (0_u64..60, 1_u64..12)) {
        let mut tree = Tree::default();
        let mut list: Vec<(AddressRange, u64)> = Vec::new();
        for (key, step) in (0..).zip(steps) {
            let before = (tree.clone(), list.clone());
            match step {
                Step::Insert(page, pages) => {
                    tree = tree.inserted(range(page, pages), key, Arc::new(key));
                    list.push((range(page, pages), key));
                }
                Step::Remove(index) if !list.is_empty() => {
                    let (range, key) = list.swap_remove(index.index(list.len()));
                    tree = tree.removed(range, key);
                }
                Step::Remove(_) => tree = tree.removed(range(0, 1), u64::MAX),
            }
            list.sort_by_key(|(range, key)| (range.start(), *key));

            prop_assert_eq!(&check(tree.0.as_ref()), &list);
            prop_assert_eq!(&check(before.0.0.as_ref()), &before.1, "the old tree has changed");
        }
        let naive: Vec<u64> = list.iter().filter(|(r, _)| r.overlaps(range(page, pages))).map(|(_, key)| *key).collect();
        prop_assert_eq!(keys(&tree, range(page, pages)), naive);
        prop_assert_eq!(tree.is_empty(), list.is_empty());
    }

    /// Insertion in order is the worst case of a tree that does not balance.
    #[test]
    fn a_walk_stops_where_it_is_told(count in 1_u64..200, stop in 0_u64..200) {
        let tree = (0..count).fold(Tree::default(), |tree, key| tree.inserted(range(key, 1), key, Arc::new(key)));
        check(tree.0.as_ref());

        let stopped = tree.overlapping(range(0, 200), |&key| if key == stop { ControlFlow::Break(key) } else { ControlFlow::Continue(()) });

        prop_assert_eq!(stopped.is_break(), stop < count);
    }
}

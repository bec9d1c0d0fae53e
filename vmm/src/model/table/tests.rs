//! The table against one entry for each page.

use std::collections::BTreeMap;

use guest_mem::Pfn;
use proptest::{collection::vec, prelude::*};

use super::*;

const G1: u64 = Level::G1.bytes();

/// What is done to a table; addresses and lengths are in units of 64 KiB, to meet the ends of leaves of every size.
#[derive(Clone, Debug)]
enum Op {
    Install { at: u64, level: Level, writable: bool },
    Drop { at: u64, units: u64 },
    Touch { at: u64, write: bool },
}

const UNIT: u64 = 64 << 10;
/// Two ranges of 1 GiB and a bit, which begin below an entry of the root.
const BASE: u64 = Level::Root.bytes() - G1;
const UNITS: u64 = 2 * G1 / UNIT + 48;

fn op() -> impl Strategy<Value = Op> {
    let level = prop_oneof![6 => Just(Level::K4), 3 => Just(Level::M2), 1 => Just(Level::G1)];
    // Near the ends of the range, so that they meet.
    let at = prop_oneof![0..80_u64, UNITS - 80..UNITS, 0..UNITS];
    let units = prop_oneof![1..80_u64, 1..UNITS];
    prop_oneof![
        4 => (at.clone(), level, any::<bool>())
            .prop_map(|(at, level, writable)| Op::Install { at, level, writable }),
        2 => (at.clone(), units).prop_map(|(at, units)| Op::Drop { at, units }),
        3 => (at, any::<bool>()).prop_map(|(at, write)| Op::Touch { at, write }),
    ]
}

/// Leaves by where they start.
type Naive = BTreeMap<u64, Leaf>;

fn drop_all(naive: &mut Naive, start: u64, end: u64) {
    naive.retain(|at, leaf| *at >= end || at + leaf.level.bytes() <= start);
}

fn apply(table: &mut Table, naive: &mut Naive, number: u64, op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Install { at, level, writable } => {
            let address = BASE + at * UNIT;
            let start = level.start(address);
            let leaf = Leaf::new(Pfn::new(3, number << 18), level, writable);

            table.install(address, &leaf);

            drop_all(naive, start, start + level.bytes());
            naive.insert(start, leaf);
        }
        Op::Drop { at, units } => {
            let range = AddressRange::new(BASE + at * UNIT, units * UNIT).unwrap();

            table.drop_range(range);

            drop_all(naive, range.start(), range.end());
        }
        Op::Touch { at, write } => {
            let address = BASE + at * UNIT + 8;

            let found = table.walk(address, write);

            let there = naive
                .range_mut(..=address)
                .next_back()
                .filter(|(at, leaf)| address < **at + leaf.level.bytes() && (leaf.writable || !write));
            prop_assert_eq!(found, there.as_ref().map(|(_, leaf)| **leaf));
            if let Some((_, leaf)) = there {
                leaf.accessed = true;
                leaf.dirty |= write;
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn it_holds_what_a_map_of_leaves_holds(ops in vec(op(), 1..60)) {
        let (mut table, mut naive) = (Table::new(), Naive::new());
        for (number, op) in (1..).zip(&ops) {
            apply(&mut table, &mut naive, number, op)?;

            let mut held = Naive::new();
            table.visit(AddressRange::ALL, &mut |at, _, leaf| held.insert(at, leaf).is_none());
            prop_assert_eq!(&held, &naive);
            let count = |level| naive.values().filter(|leaf| leaf.level == level).count() as u64;
            let mapped = table.mapped();
            prop_assert_eq!(
                (mapped.pages_4k, mapped.pages_2m, mapped.pages_1g),
                (count(Level::K4), count(Level::M2), count(Level::G1))
            );
        }

        table.drop_range(AddressRange::ALL);

        prop_assert_eq!(table.tables(), 1, "only the root is left");
    }
}

#[test]
fn a_walk_marks_every_entry_on_its_way_and_only_a_write_the_leaf_as_dirty() {
    let mut table = Table::new();
    table.install(G1, &Leaf::new(Pfn::new(0, 5), Level::K4, true));

    let read = table.walk(G1, false);
    let write = table.walk(G1, true);

    assert_eq!(read.map(|leaf| leaf.accessed), Some(false), "as it was found");
    assert_eq!(write.map(|leaf| (leaf.accessed, leaf.dirty)), Some((true, false)));
    assert_eq!(table.find(G1).map(|leaf| (leaf.accessed, leaf.dirty)), Some((true, true)));
    let marked: Vec<_> =
        [ROOT, 1, 2].map(|number| table.page(number).cells[usize::from(number == 1)].get()).into();
    assert!(marked.iter().all(|entry| entry.is_accessed() && entry.as_table().is_some()), "{marked:?}");
}

#[test]
fn tables_are_used_again() {
    let mut table = Table::new();
    for round in 0..10 {
        let address = round * Level::Root.bytes();
        table.install(address, &Leaf::new(Pfn::new(0, round), Level::K4, true));
        table.drop_range(AddressRange::new(address, Level::K4.bytes()).unwrap());
    }

    assert_eq!((table.tables(), table.tables.len()), (1, 4));
}

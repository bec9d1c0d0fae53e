//! Single steps: what a fault installs, and what it costs.

use guest_mem::{
    BLOCK_PAGES, FaultAround,
    vma::{HugePolicy, VmaChange},
};
use vmm::model::{AccessError, FaultCounts, Level, SecondStage};

use crate::space::{PAGES, address, gfn, mm, pages};

#[test]
fn a_leaf_is_as_large_as_the_entry_but_no_larger_than_allowed() {
    let mm = mm(HugePolicy::Always, FaultAround::OFF);
    let (large, small) = (SecondStage::new(&mm).unwrap(), SecondStage::with_leaves(&mm, Level::K4).unwrap());

    for stage in [&large, &small] {
        stage.access(address(7), true).unwrap();
        stage.access(address(PAGES - 1), true).unwrap();
    }

    let mapped = |stage: &SecondStage| (stage.mapped().pages_4k, stage.mapped().pages_2m);
    assert_eq!((mapped(&large), mapped(&small)), ((1, 1), (2, 0)), "the tail is no whole block");
    assert_eq!(large.translation(address(8)).unwrap().first, mm.page_table().walk(gfn(0)).pfn());
    assert_eq!(small.translation(address(8)), None);
}

#[test]
fn a_fault_is_counted_once_and_the_second_touch_takes_none() {
    let mm = mm(HugePolicy::Never, FaultAround::OFF);
    let stage = SecondStage::new(&mm).unwrap();

    for _ in 0..2 {
        for page in 0..10 {
            stage.access(address(page), true).unwrap();
        }
    }

    assert_eq!(stage.faults(), FaultCounts { taken: 10, fixed: 10, ..FaultCounts::default() });
    assert_eq!(stage.check(), Ok(()));
}

#[test]
fn a_write_marks_its_leaf_dirty_and_a_read_does_not() {
    let mm = mm(HugePolicy::Never, FaultAround::OFF);
    let stage = SecondStage::new(&mm).unwrap();

    stage.access(address(0), false).unwrap();
    stage.access(address(1), true).unwrap();

    let [read, written] = [0, 1].map(|page| stage.translation(address(page)).unwrap());
    assert!((read.accessed && !read.dirty) && (written.accessed && written.dirty));
}

#[test]
fn who_asks_for_young_pages_gets_each_mark_once() {
    let mm = mm(HugePolicy::Always, FaultAround::OFF);
    let stage = SecondStage::new(&mm).unwrap();
    stage.access(address(3), false).unwrap();

    let young = |page| mm.owner().test_young(address(page));
    let before = (young(3), young(BLOCK_PAGES));
    let cleared = [(); 2].map(|()| mm.owner().clear_young(pages(0, BLOCK_PAGES)));

    assert_eq!((before, cleared, young(3)), ((true, false), [true, false], false));
}

#[test]
fn a_write_faults_again_when_writes_are_tracked_and_a_read_sees_no_difference() {
    let mm = mm(HugePolicy::Never, FaultAround::OFF);
    let stage = SecondStage::new(&mm).unwrap();
    stage.access(address(0), true).unwrap();

    mm.modify(pages(0, PAGES), &VmaChange::DirtyTracked(true)).unwrap();
    let held = stage.translation(address(0));
    stage.access(address(0), false).unwrap();
    let clean = mm.dirty_pages(pages(0, PAGES), false).unwrap();
    stage.access(address(0), true).unwrap();

    assert_eq!((held, clean), (None, Vec::new()));
    assert_eq!(mm.dirty_pages(pages(0, PAGES), true).unwrap(), [gfn(0)]);
    assert_eq!(stage.faults().fixed, 3);
}

#[test]
fn a_write_that_is_denied_is_an_error_and_leaves_nothing() {
    let mm = mm(HugePolicy::Never, FaultAround::OFF);
    let stage = SecondStage::new(&mm).unwrap();
    mm.modify(pages(0, PAGES), &VmaChange::Writable(false)).unwrap();

    let denied = stage.access(address(0), true);

    assert!(matches!(denied, Err(AccessError::Fault(_))), "{denied:?}");
    assert_eq!(stage.translation(address(0)), None);
}

#[test]
fn when_the_address_space_ends_nothing_is_translated_any_more() {
    let mm = mm(HugePolicy::Always, FaultAround::OFF);
    let stage = SecondStage::new(&mm).unwrap();
    stage.access(address(0), true).unwrap();

    mm.owner().release().unwrap();

    assert_eq!(stage.mapped().bytes(), 0);
    assert!(matches!(stage.access(address(0), false), Err(AccessError::Released)));
}

#[test]
fn one_that_is_dropped_is_told_nothing_any_more() {
    let mm = mm(HugePolicy::Never, FaultAround::OFF);

    drop(SecondStage::new(&mm).unwrap());
    mm.discard(pages(0, PAGES)).unwrap();

    assert_eq!(std::sync::Arc::strong_count(&mm), 1);
}

//! What the histories came upon, one by one.

use super::{faulty::mm_on_faulty, *};
use crate::{
    BLOCK_PAGES, FaultAround,
    mm::{Cause, Resolved, Scratch},
    vma::{HugePolicy, VmaChange, VmaFlags},
};

#[test]
fn what_was_mapped_before_it_could_be_written_is_tracked_as_well() {
    let flags = VmaFlags { dirty_tracked: true, ..VmaFlags::default() };
    let (mm, _pool) = mm(&MmConfig { flags, around: FaultAround::OFF, ..MmConfig::new(pages(0, 4)) });
    mm.touch(gfn(1).address(), false).unwrap();
    mm.modify(pages(0, 4), &VmaChange::Writable(true)).unwrap();

    mm.touch(gfn(1).address(), true).unwrap();

    assert_eq!(mm.dirty_pages(pages(0, 4), false).unwrap(), [gfn(1)]);
}

#[test]
fn a_part_of_a_huge_page_is_frozen_while_it_is_zeroed_and_usable_afterwards() {
    let flags = VmaFlags { writable: true, huge: HugePolicy::Always, ..VmaFlags::default() };
    let (mm, pool) = mm(&MmConfig { flags, ..MmConfig::new(pages(0, BLOCK_PAGES)) });
    mm.touch(gfn(0).address(), true).unwrap();
    write(&mm, gfn(3), 7);

    let discarded = mm.discard(pages(3, 1)).unwrap();
    let pin = mm.page_table().pin(pages(3, 1), true, mm.folios()).unwrap();
    write(&mm, gfn(3), 8);
    let refused = mm.discard(pages(3, 1)).unwrap();

    assert_eq!((discarded.zeroed_bytes, refused.pinned_bytes), (PAGE_SIZE, PAGE_SIZE));
    assert_eq!(read(&mm, gfn(3)), [8; 2]);
    drop(pin);
    drop(mm);
    pool.assert_all_free();
}

#[test]
fn a_fault_is_stamped_before_whoever_waits_is_woken() {
    let with = |filler: Option<Arc<dyn Filler>>| MmConfig { filler, ..MmConfig::new(pages(0, 64)) };
    for config in [with(None), with(Some(Arc::<Numbers>::default()))] {
        let (mm, host) = mm_on_faulty(&config, None);
        for page in [0, 20, 63, 0] {
            let before = crate::host::time_stamp();

            let resolved = mm.fault(gfn(page), Cause::NotMapped, &mut Scratch::default()).unwrap();

            let wakes = host.take_wakes();
            assert!(wakes[0].0.contains(&(page * PAGE_SIZE)), "{wakes:?}");
            let Resolved::Done { at } = resolved else { panic!("{resolved:?}") };
            assert!(before <= at && at <= wakes[0].1, "{before} {at} {wakes:?}");
        }
    }
}

/// An address space of base pages whose writes are tracked.
fn tracked(count: u64) -> MmConfig {
    let flags = VmaFlags { writable: true, dirty_tracked: true, ..VmaFlags::default() };
    MmConfig { flags, around: FaultAround::OFF, ..MmConfig::new(pages(0, count)) }
}

#[test]
fn what_is_discarded_while_writes_are_tracked_has_changed() {
    let (mm, _pool) = mm(&tracked(16));
    for page in [1, 2, 5] {
        mm.touch(gfn(page).address(), true).unwrap();
    }
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [1, 2, 5].map(gfn));

    mm.discard(pages(2, 8)).unwrap();
    mm.touch(gfn(5).address(), false).unwrap();

    assert_eq!(mm.dirty_pages(pages(3, 9), false).unwrap(), [gfn(5)]);
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [2, 5].map(gfn));
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), []);
    // Tracking that begins anew knows of nothing before.
    mm.discard(pages(0, 2)).unwrap();
    mm.modify(mm.range(), &VmaChange::DirtyTracked(false)).unwrap();
    mm.modify(mm.range(), &VmaChange::DirtyTracked(true)).unwrap();
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), []);
}

#[test]
fn a_part_of_a_huge_page_that_is_zeroed_has_changed_and_so_has_the_page_when_it_goes() {
    let mut config = tracked(BLOCK_PAGES);
    config.flags.huge = HugePolicy::Always;
    config.filler = Some(Arc::<Numbers>::default());
    let (mm, _pool) = mm(&config);
    mm.touch(gfn(0).address(), false).unwrap();

    mm.discard(pages(7, 2)).unwrap();
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [gfn(7), gfn(8)]);
    mm.discard(pages(0, 7)).unwrap();
    mm.discard(pages(9, BLOCK_PAGES - 9)).unwrap();

    // What was zeros is what the filler has.
    assert_eq!(mm.page_table().mapped().huge, 0);
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap().len() as u64, BLOCK_PAGES);
}

#[test]
fn no_dirty_page_is_forgotten_when_the_host_does_not_protect_all() {
    let (mm, host) = mm_on_faulty(&tracked(8), None);
    for page in [1, 3, 6] {
        mm.fault(gfn(page), Cause::NotMapped, &mut Scratch::default()).unwrap();
        mm.fault(gfn(page), Cause::WriteProtected, &mut Scratch::default()).unwrap();
    }
    host.fail_protect_after(2);

    mm.dirty_pages(mm.range(), true).unwrap_err();

    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [1, 3, 6].map(gfn));
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), []);
}

#[test]
fn what_a_device_may_write_already_is_dirty_from_the_start() {
    let mut config = tracked(4);
    config.flags.dirty_tracked = false;
    let (mm, _pool) = mm(&config);
    mm.touch(gfn(1).address(), true).unwrap();
    mm.touch(gfn(2).address(), true).unwrap();
    let pin = mm.page_table().pin(pages(1, 1), true, mm.folios()).unwrap();

    mm.modify(mm.range(), &VmaChange::DirtyTracked(true)).unwrap();
    write(&mm, gfn(1), 7);
    drop(pin);

    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [gfn(1)]);
}

#[test]
fn what_a_device_may_still_write_stays_dirty() {
    let (mm, _pool) = mm(&tracked(4));
    mm.touch(gfn(1).address(), true).unwrap();
    let pin = mm.page_table().pin(pages(1, 1), true, mm.folios()).unwrap();

    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [gfn(1)]);
    write(&mm, gfn(1), 7);
    drop(pin);

    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [gfn(1)]);
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), []);
}

/// Where, in pages.
fn woken(host: &faulty::Faulty) -> Vec<std::ops::Range<u64>> {
    let wakes = host.take_wakes().into_iter();
    wakes.map(|(range, _)| range.start / PAGE_SIZE..range.end / PAGE_SIZE).collect()
}

#[test]
fn a_change_wakes_those_who_waited_for_it_and_nobody_else() {
    let config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(pages(0, 64)) };
    let (mm, host) = mm_on_faulty(&config, None);
    mm.modify(mm.range(), &VmaChange::Writable(false)).unwrap();
    for page in [3, 9, 40] {
        mm.fault(gfn(page), Cause::NotMapped, &mut Scratch::default()).unwrap();
        let denied = mm.fault(gfn(page), Cause::WriteProtected, &mut Scratch::default()).unwrap();
        assert_eq!(denied, Resolved::Left);
    }
    host.take_wakes();

    mm.modify(mm.range(), &VmaChange::Mergeable(true)).unwrap();
    mm.modify(mm.range(), &VmaChange::DirtyTracked(true)).unwrap();
    assert_eq!(woken(&host), []);
    mm.modify(pages(0, 20), &VmaChange::Writable(true)).unwrap();

    let mut wakes = woken(&host);
    wakes.sort_unstable_by_key(|wake| wake.start);
    assert_eq!(wakes, [3..4, 9..10]);
    mm.modify(mm.range(), &VmaChange::Writable(true)).unwrap();
    let last: Vec<_> = woken(&host).into_iter().flatten().collect();
    assert_eq!(last, [40]);
}

#[test]
fn a_discard_wakes_where_it_has_closed_pages_and_nowhere_else() {
    let config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(pages(0, 64)) };
    let (mm, host) = mm_on_faulty(&config, None);
    for page in [3, 4, 40] {
        mm.fault(gfn(page), Cause::NotMapped, &mut Scratch::default()).unwrap();
    }
    host.take_wakes();

    mm.discard(pages(0, 50)).unwrap();

    assert_eq!(woken(&host), [3..5, 40..41]);
}

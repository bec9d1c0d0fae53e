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
    let (mm, _pool) = mm(MmConfig { flags, around: FaultAround::OFF, ..MmConfig::new(pages(0, 4)) });
    mm.touch(gfn(1).address(), false).unwrap();
    mm.modify(pages(0, 4), &VmaChange::Writable(true)).unwrap();

    mm.touch(gfn(1).address(), true).unwrap();

    assert_eq!(mm.dirty_pages(pages(0, 4), false).unwrap(), [gfn(1)]);
}

#[test]
fn a_part_of_a_huge_page_is_frozen_while_it_is_zeroed_and_usable_afterwards() {
    let flags = VmaFlags { writable: true, huge: HugePolicy::Always, ..VmaFlags::default() };
    let (mm, pool) = mm(MmConfig { flags, ..MmConfig::new(pages(0, BLOCK_PAGES)) });
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
        let (mm, host) = mm_on_faulty(config, None);
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

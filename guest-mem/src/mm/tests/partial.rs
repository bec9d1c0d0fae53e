//! A host that maps a part of what it was asked to, and fails then: what the guest wrote meanwhile stays.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    faulty::{Faulty, Plan, STAMP, mm_on_faulty},
    *,
};
use crate::{
    BLOCK_PAGES, FaultAround, FaultReason,
    mm::{Cause, FaultError, Scratch},
    pgtable::Mapped,
    vma::{HugePolicy, VmaChange, VmaFlags},
};

/// Windows of 16 pages, always.
const AROUND: FaultAround = FaultAround {
    base_bytes: 16 * PAGE_SIZE,
    most_base_bytes: 16 * PAGE_SIZE,
    huge_pages: 1,
    most_huge_pages: 1,
};

fn two_blocks() -> MmConfig {
    MmConfig { around: AROUND, ..MmConfig::new(pages(0, 2 * BLOCK_PAGES)) }
}

fn huge() -> MmConfig {
    let flags = VmaFlags { writable: true, huge: HugePolicy::Always, ..VmaFlags::default() };
    MmConfig { flags, ..two_blocks() }
}

fn filled(mut config: MmConfig) -> MmConfig {
    config.filler = Some(Arc::<Numbers>::default());
    config
}

fn touch(mm: &Mm, page: u64) -> Result<(), FaultError> {
    mm.touch(gfn(page).address(), true)
}

/// What the guest does: it faults where the host maps nothing.
#[track_caller]
fn access(mm: &Mm, host: &Faulty, page: u64) {
    if !host.maps(page) {
        mm.fault(gfn(page), Cause::NotMapped, &mut Scratch::default()).unwrap();
    }
    assert!(host.maps(page), "page {page}");
}

/// Which pages are mapped.
fn mapped(mm: &Mm) -> Vec<u64> {
    mm.page_table().entries(mm.range()).map(|(gfn, _)| gfn.get() - super::gfn(0).get()).collect()
}

/// Touches every page, and asserts that each holds what the guest wrote when it was mapped.
#[track_caller]
fn assert_kept(mm: &Mm, host: &Faulty, pages: std::ops::Range<u64>) {
    for page in pages {
        access(mm, host, page);
        assert_eq!(read(mm, gfn(page))[0], STAMP, "page {page}");
    }
}

#[track_caller]
fn end(mm: Arc<Mm>, host: &Faulty) {
    drop(mm);
    host.assert_over();
}

#[test]
fn neighbours_that_the_host_has_mapped_are_entered_and_the_others_are_free() {
    let (mm, host) = mm_on_faulty(&two_blocks(), None);
    host.plan(&[Plan::Again(1), Plan::Again(3), Plan::Refuse]);

    touch(&mm, 0).unwrap();

    assert_eq!((mapped(&mm), mm.stretch().report().used), (vec![0, 1, 2, 3], 4));
    assert_eq!(mm.stats().of(FaultReason::Around), 3);
    assert_kept(&mm, &host, 0..32);
    end(mm, &host);
}

#[test]
fn neighbours_ahead_of_the_page_are_entered_too() {
    let (mm, host) = mm_on_faulty(&two_blocks(), None);
    host.plan(&[Plan::Again(1), Plan::Again(2), Plan::Refuse]);

    touch(&mm, 15).unwrap();

    assert_eq!(mapped(&mm), [0, 1, 15]);
    assert_kept(&mm, &host, 0..16);
    end(mm, &host);
}

#[test]
fn a_host_that_gets_on_is_asked_again_as_often_as_it_takes() {
    let (mm, host) = mm_on_faulty(&two_blocks(), None);
    host.plan(&[Plan::Again(1)]);
    host.plan(&[Plan::Again(1); 15]);

    touch(&mm, 0).unwrap();

    assert_eq!(mapped(&mm).len(), 16);
    end(mm, &host);
}

#[test]
fn a_part_of_a_fill_that_the_host_has_mapped_is_entered() {
    let (mm, host) = mm_on_faulty(&filled(two_blocks()), None);
    host.plan(&[Plan::Again(5), Plan::Refuse]);

    touch(&mm, 3).unwrap();

    assert_eq!((mapped(&mm), mm.stretch().report().used), (vec![0, 1, 2, 3, 4], 5));
    assert_kept(&mm, &host, 0..16);
    host.plan(&[Plan::Again(5), Plan::Refuse]);
    touch(&mm, 30).unwrap_err();
    assert_kept(&mm, &host, 16..32);
    end(mm, &host);
}

#[test]
fn a_part_of_a_huge_page_that_the_host_has_mapped_is_entered_as_base_pages() {
    for config in [huge(), filled(huge())] {
        let (mm, host) = mm_on_faulty(&config, None);
        host.plan(&[Plan::Again(7), Plan::Again(0), Plan::Refuse]);

        // What is behind it may be left to the next fault.
        let _ = touch(&mm, 20);

        assert_eq!(mm.page_table().mapped().huge, 0);
        assert_eq!(mapped(&mm)[..7], [0, 1, 2, 3, 4, 5, 6]);
        assert_kept(&mm, &host, 0..BLOCK_PAGES);
        end(mm, &host);
    }
}

#[test]
fn what_was_written_to_a_page_with_an_unknown_entry_stays() {
    let (mm, host) = mm_on_faulty(&two_blocks(), None);
    host.map_unknown(9);

    touch(&mm, 0).unwrap();

    assert_eq!(mapped(&mm).len(), 16);
    assert!(mm.stats().of(FaultReason::HostExists) > 0);
    assert_kept(&mm, &host, 0..16);
    end(mm, &host);
}

#[test]
fn an_unknown_entry_that_stays_is_entered_with_its_content_by_the_next_fault() {
    let (mm, host) = mm_on_faulty(&two_blocks(), None);
    host.map_unknown(9);
    host.fail_zaps(1);
    touch(&mm, 0).unwrap();
    assert_eq!((mapped(&mm).len(), mm.stretch().report().used), (9, 10));
    write(&mm, gfn(9), STAMP);

    touch(&mm, 9).unwrap();

    assert_kept(&mm, &host, 0..16);
    end(mm, &host);
}

#[test]
fn a_panic_before_the_host_maps_anything_leaves_frames_that_are_used_again() {
    for config in [two_blocks(), filled(two_blocks()), huge(), filled(huge())] {
        let (mm, host) = mm_on_faulty(&config, None);
        host.plan(&[Plan::Panic(0)]);
        catch_unwind(AssertUnwindSafe(|| touch(&mm, 2))).unwrap_err();
        assert_eq!(mm.page_table().mapped(), Mapped::default());

        access(&mm, &host, 2);

        let Mapped { base, huge } = mm.page_table().mapped();
        assert_eq!(mm.stretch().report().used, base + huge * BLOCK_PAGES);
        end(mm, &host);
    }
}

#[test]
fn a_panic_after_the_host_has_mapped_some_loses_nothing_that_was_written() {
    for (config, page) in [(two_blocks(), 0), (filled(two_blocks()), 3), (huge(), 3), (filled(huge()), 3)] {
        let (mm, host) = mm_on_faulty(&config, None);
        host.plan(&[Plan::Panic(1)]);
        catch_unwind(AssertUnwindSafe(|| touch(&mm, page))).unwrap_err();
        assert_eq!(mm.page_table().mapped(), Mapped::default());

        // What the supervisor does.
        mm.enter_all_stuck();

        assert_ne!(mm.page_table().mapped(), Mapped::default());
        assert_kept(&mm, &host, 0..BLOCK_PAGES);
        end(mm, &host);
    }
}

#[test]
fn what_a_panic_left_behind_is_discarded_like_anything_else() {
    let (mm, host) = mm_on_faulty(&two_blocks(), None);
    host.plan(&[Plan::Again(1), Plan::Panic(9)]);
    catch_unwind(AssertUnwindSafe(|| touch(&mm, 0))).unwrap_err();
    assert_eq!(mm.stretch().report().used, 16);

    mm.discard(pages(2, 3)).unwrap();

    assert_eq!(mm.stretch().report().used, 13);
    assert!(!host.maps(2));
    assert_kept(&mm, &host, 0..16);
    mm.discard(mm.range()).unwrap();
    assert_eq!(mm.stretch().report().used, 0);
    end(mm, &host);
}

#[test]
fn what_is_stuck_is_written_as_far_as_anybody_knows() {
    let flags = VmaFlags { writable: true, dirty_tracked: true, ..VmaFlags::default() };
    let (mm, host) = mm_on_faulty(&MmConfig { flags, ..two_blocks() }, None);
    host.plan(&[Plan::Panic(1)]);
    catch_unwind(AssertUnwindSafe(|| touch(&mm, 7))).unwrap_err();

    mm.enter_all_stuck();

    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [gfn(7)]);
    host.plan(&[Plan::Panic(1)]);
    catch_unwind(AssertUnwindSafe(|| touch(&mm, 40))).unwrap_err();
    mm.discard(mm.range()).unwrap();
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [gfn(7), gfn(40)]);
    end(mm, &host);
}

#[test]
fn where_no_huge_page_is_to_be_had_base_pages_are_mapped() {
    for config in [huge(), filled(huge())] {
        let (mm, host) = mm_on_faulty(&config, Some(BLOCK_PAGES + 40));
        touch(&mm, 0).unwrap();

        touch(&mm, BLOCK_PAGES + 3).unwrap();

        let mapped = mm.page_table().mapped();
        assert_eq!((mapped.huge, mapped.base), (1, 16));
        assert_eq!(mm.stats().of(FaultReason::HugeFallback), 1);
        assert_kept(&mm, &host, 0..BLOCK_PAGES + 32);
        end(mm, &host);
    }
}

#[test]
fn where_neither_is_to_be_had_a_fault_fails_and_says_so() {
    let (mm, host) = mm_on_faulty(&huge(), Some(BLOCK_PAGES));
    touch(&mm, 0).unwrap();

    let failed = mm.fault(gfn(BLOCK_PAGES), Cause::NotMapped, &mut Scratch::default());

    assert!(matches!(failed, Err(FaultError::NoFrame { .. })), "{failed:?}");
    mm.discard(pages(0, BLOCK_PAGES)).unwrap();
    touch(&mm, BLOCK_PAGES).unwrap();
    assert_eq!(mm.page_table().mapped().huge, 1);
    end(mm, &host);
}

#[test]
fn base_pages_that_stand_in_for_a_huge_one_make_room_for_it_when_they_go() {
    let (mm, host) = mm_on_faulty(&huge(), Some(BLOCK_PAGES + 40));
    touch(&mm, 0).unwrap();
    touch(&mm, BLOCK_PAGES).unwrap();
    mm.modify(pages(0, BLOCK_PAGES), &VmaChange::Name(Some("other".into()))).unwrap();

    mm.discard(mm.range()).unwrap();
    touch(&mm, BLOCK_PAGES).unwrap();

    assert_eq!(mm.page_table().mapped().huge, 1);
    end(mm, &host);
}

#[test]
fn a_page_that_is_stuck_keeps_nobody_from_the_others_of_its_huge_page() {
    let (mm, host) = mm_on_faulty(&huge(), None);
    host.map_unknown(0);
    host.fail_zaps(1);
    touch(&mm, 7).unwrap_err();
    assert_eq!(mm.stretch().report().used, 1);

    touch(&mm, 7).unwrap();

    assert_eq!(mm.stats().of(FaultReason::HugeFallback), 1);
    write(&mm, gfn(0), STAMP);
    access(&mm, &host, 0);
    touch(&mm, 0).unwrap();
    assert_kept(&mm, &host, 0..BLOCK_PAGES);
    end(mm, &host);
}

#[test]
fn where_there_are_not_frames_for_a_window_there_may_be_for_the_page() {
    let (mm, host) = mm_on_faulty(&filled(huge()), Some(20));

    for page in [3, 20, 21, 22, 23] {
        touch(&mm, page).unwrap();
    }

    assert_eq!(mm.stretch().report().used, 20);
    assert!(matches!(touch(&mm, 24), Err(FaultError::NoFrame { .. })));
    end(mm, &host);
}

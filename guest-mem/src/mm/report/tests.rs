//! Reports against what was done to the pages by hand.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::sync::Arc;

use super::*;
use crate::{
    BLOCK_SIZE, ByteSize, FaultAround, FaultReason, MmConfig, PageSize,
    pool::{FramePool, PoolConfig, PoolMemory},
    vma::{HugePolicy, VmaChange},
};

fn range(start: u64, len: u64) -> AddressRange {
    AddressRange::new(start, len).unwrap()
}

/// 8 MiB of which the first four are mapped huge when they are touched.
fn mm() -> Arc<Mm> {
    let size = ByteSize::new(4 * BLOCK_SIZE).unwrap();
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::None, size)).unwrap();
    let config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(range(0, size.bytes())) };
    let mm = Mm::modelled(&config, &pool).unwrap();
    mm.modify(range(0, 2 * BLOCK_SIZE), &VmaChange::Huge(HugePolicy::Always)).unwrap();
    mm
}

fn touch(mm: &Mm, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        mm.touch(page * PAGE_SIZE, true).unwrap();
    }
}

#[test]
fn each_vma_says_what_is_mapped_in_it() {
    let mm = mm();
    mm.modify(range(2 * BLOCK_SIZE, BLOCK_SIZE), &VmaChange::Name(Some("initrd".into()))).unwrap();
    touch(&mm, [0, 1024, 1030]);

    let report = mm.report();

    let vmas: Vec<_> = report
        .vmas
        .iter()
        .map(|vma| (vma.range.start(), vma.name.as_deref(), vma.usage.huge_bytes, vma.usage.base_bytes))
        .collect();
    assert_eq!(
        vmas,
        [
            (0, None, BLOCK_SIZE, 0),
            (2 * BLOCK_SIZE, Some("initrd"), 0, 2 * PAGE_SIZE),
            (3 * BLOCK_SIZE, None, 0, 0)
        ]
    );
    assert_eq!(report.usage.size_bytes, 4 * BLOCK_SIZE);
    assert_eq!(report.usage.mapped_bytes(), BLOCK_SIZE + 2 * PAGE_SIZE);
    assert_eq!(report.usage.pss_bytes, report.usage.mapped_bytes());
    assert_eq!(report.resident_bytes, report.usage.mapped_bytes());
    assert_eq!((report.usage.dirty_bytes, report.usage.pinned_bytes), (0, 0));
    let count = |reason| report.faults.iter().find(|fault| fault.reason == reason).unwrap().count;
    assert_eq!((count(FaultReason::Huge), count(FaultReason::Base)), (1, 2));
}

#[test]
fn a_share_is_a_page_divided_by_how_often_it_is_mapped() {
    let mm = mm();
    touch(&mm, [0, 1024, 1025]);
    // As another address space would that maps the same frames: one page of three, the huge page, and one page of that.
    let base = mm.folios().borrow(mm.frame(Gfn::new(1025)).index(), PageSize::Base).unwrap();
    let huge = mm.folios().borrow(mm.frame(Gfn::new(0)).index(), PageSize::Huge).unwrap();
    base.get_many(2);
    base.map_page(0);
    base.map_page(0);
    huge.get_many(2);
    huge.map_huge();
    huge.map_page(7);

    let report = mm.report();

    // 511 pages are mapped twice, and one is three times.
    assert_eq!(report.vmas[0].usage.pss_bytes, 511 * PAGE_SIZE / 2 + PAGE_SIZE / 3);
    assert_eq!(report.vmas[1].usage.pss_bytes, PAGE_SIZE + PAGE_SIZE / 3);
    assert_eq!(report.usage.pinned_bytes, 0);

    base.unmap_page(0);
    base.unmap_page(0);
    drop(base.put_many(2));
    huge.unmap_page(7);
    huge.unmap_huge();
    drop(huge.put_many(2));
    assert_eq!(mm.report().usage.pss_bytes, BLOCK_SIZE + 2 * PAGE_SIZE);
}

#[test]
fn pins_and_writes_are_reported_while_they_last() {
    let mm = mm();
    touch(&mm, [0, 1024, 1025]);
    let pin = mm.page_table().pin(range(1024 * PAGE_SIZE, PAGE_SIZE), true, mm.folios()).unwrap();

    let usage = mm.report().vmas[1].usage;

    assert_eq!((usage.pinned_bytes, usage.dirty_bytes), (PAGE_SIZE, PAGE_SIZE));
    drop(pin);
    assert_eq!(mm.report().usage.pinned_bytes, 0);
}

#[test]
fn metadata_comes_with_what_is_touched() {
    let mm = mm();
    let before = mm.report().metadata_bytes;

    touch(&mm, [1024]);

    let [after, huge] = [(); 2].map(|()| {
        let now = mm.report().metadata_bytes;
        touch(&mm, [0]);
        now
    });
    // The slots of 1 GiB, one page table, the folios of 128 MiB, those of the block's pages.
    assert_eq!(after - before, (32 << 10) + PAGE_SIZE + PAGE_SIZE + (8 << 10));
    assert_eq!(huge, after);
}

#[test]
fn metadata_is_at_most_64_bytes_a_frame_and_less_where_all_is_huge() {
    // What comes for 1 GiB at a time is all used.
    let size = ByteSize::new(1 << 30).unwrap();
    let config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(range(0, size.bytes())) };
    let bytes_a_frame = |huge: HugePolicy| {
        let pool = FramePool::new(&PoolConfig::new(PoolMemory::None, size)).unwrap();
        let mm = Mm::modelled(&config, &pool).unwrap();
        mm.modify(mm.range(), &VmaChange::Huge(huge)).unwrap();
        touch(&mm, (0..size.bytes() / PAGE_SIZE).step_by(usize::try_from(BLOCK_SIZE / PAGE_SIZE).unwrap()));
        mm.report().metadata_bytes * PAGE_SIZE / size.bytes()
    };

    let [base, huge] = [HugePolicy::Never, HugePolicy::Always].map(bytes_a_frame);

    assert!((16..=64).contains(&base), "{base} bytes a frame");
    assert!(huge <= 1, "{huge} bytes a frame");
}

#[test]
fn people_read_it_as_smaps() {
    let mm = mm();
    touch(&mm, [0, 1024]);

    let text = mm.report().to_string();

    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let at = lines.iter().position(|line| line == "000000000000-000000400000 rwxs").unwrap();
    assert_eq!(lines[at + 1..at + 4], ["Size: 4096 kB", "Rss: 2048 kB", "Pss: 2048 kB"]);
    assert!(lines.contains(&"Faults: huge 1 base 1".to_owned()), "{text}");
    assert_eq!(lines.last().unwrap(), "VmFlags: wr");
}

#[cfg(feature = "serde")]
#[test]
fn programs_read_it_as_json() {
    let mm = mm();
    touch(&mm, [0]);

    let json = serde_json::to_value(mm.report()).unwrap();

    assert_eq!(json["vmas"][0]["range"], serde_json::json!({ "start": 0, "bytes": 2 * BLOCK_SIZE }));
    assert_eq!(json["vmas"][0]["usage"]["huge_bytes"], BLOCK_SIZE);
    assert_eq!(json["vmas"][0]["flags"]["huge"], "always");
    assert_eq!((&json["faults"]["huge"], &json["faults"]["base"]), (&1.into(), &0.into()));
}

#[cfg(feature = "serde")]
#[test]
fn what_programs_read_is_the_report() {
    let mm = mm();
    touch(&mm, [0, 1024]);
    let report = mm.report();

    let mut json = serde_json::to_value(&report).unwrap();
    json["faults"]["a_reason_of_a_later_version"] = 1.into();

    assert_eq!(serde_json::from_value::<MmReport>(json).unwrap(), report);
}

use super::*;

#[test]
fn a_partial_discard_of_small_pages_keeps_what_is_outside() {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let ram = ram("partial", backing, "2M");
        fill(&ram, ram.range(), 3);

        let discarded = ram.discard(part(&ram, PAGE_SIZE, M)).unwrap();

        assert_eq!(discarded, Discarded { freed_bytes: M, zeroed_bytes: 0, pinned_bytes: 0 });
        assert_eq!(resident(&ram), M);
        assert_filled(&ram, part(&ram, 0, PAGE_SIZE), 3);
        assert_filled(&ram, part(&ram, PAGE_SIZE, M), 0);
        assert_filled(&ram, part(&ram, M + PAGE_SIZE, M - PAGE_SIZE), 3);
    }
}

#[test]
fn a_range_outside_the_ram_is_refused() {
    let ram = ram("outside", Backing::Anonymous, "2M");
    let range = part(&ram, M, 2 * M);

    let result = ram.discard(range);

    assert!(matches!(result, Err(DiscardError::OutOfRange { .. })), "{result:?}");
}

use super::*;

const LEN: usize = 8 * PAGE;

/// Readable and writable pages far below where the kernel looks for gaps: nothing but the test maps there.
#[track_caller]
fn pages_at(address: usize, len: usize) -> Pages {
    let at = NonNull::new(std::ptr::without_provenance_mut(address)).unwrap();
    Pages::map(Some(at), len, libc::PROT_READ | libc::PROT_WRITE, PLAIN, None).unwrap()
}

/// The `len` bytes from `offset` of `pages` on, as if they were somebody else's.
fn part(pages: &Pages, offset: usize, len: usize) -> Pages {
    let start = pages.start.as_ptr().wrapping_add(offset);
    Pages { start: NonNull::new(start).unwrap(), len }
}

#[track_caller]
fn write(pages: &Pages, byte: u8) {
    // SAFETY: the pages are mapped, writable and this test's alone.
    unsafe { pages.start.write(byte) };
}

#[track_caller]
fn read(pages: &Pages) -> u8 {
    // SAFETY: the pages are mapped, readable and this test's alone.
    unsafe { pages.start.read() }
}

#[test]
fn a_moved_stretch_takes_the_place_of_what_was_there() {
    let target = pages_at(0x10_0000_0000, LEN);
    let (place, source) = (part(&target, PAGE, PAGE), pages_at(0x10_1000_0000, PAGE));
    write(&place, 1);
    write(&source, 2);
    let from = source.start;

    source.move_over(&target, PAGE).unwrap();

    assert_eq!(read(&place), 2);
    assert!(!is_mapped(from, PAGE));
    std::mem::forget(place);
}

#[test]
fn a_refused_move_changes_nothing() {
    let target = pages_at(0x11_0000_0000, LEN);
    write(&target, 1);
    // Nothing is mapped there to be moved.
    let source = pages_at(0x11_1000_0000, LEN);
    drop(part(&source, 0, LEN));

    let result = source.move_over(&target, 0);

    assert!(matches!(result, Err(MoveError::Refused(_))), "{result:?}");
    assert!(is_mapped(target.start, LEN));
    assert_eq!(read(&target), 1);
}

#[test]
fn a_place_beyond_the_target_is_refused() {
    let target = pages_at(0x12_0000_0000, LEN);
    let source = pages_at(0x12_1000_0000, 2 * PAGE);

    let result = source.move_over(&target, LEN - PAGE);

    assert!(matches!(result, Err(MoveError::Refused(_))), "{result:?}");
}

#[test]
fn a_place_that_a_failed_move_emptied_gets_plain_memory() {
    let target = pages_at(0x13_0000_0000, LEN);
    write(&target, 1);
    drop(part(&target, 0, LEN));

    let error = Pages::refill(target.start, LEN, io::ErrorKind::OutOfMemory.into());

    assert!(matches!(error, MoveError::Emptied(_)), "{error:?}");
    assert!(is_mapped(target.start, LEN));
    assert_eq!(read(&target), 0);
}

#[test]
fn a_place_that_somebody_else_took_is_left_to_them() {
    let mut target = pages_at(0x14_0000_0000, LEN);
    drop(part(&target, 0, LEN));
    let others = pages_at(0x14_0000_0000 + PAGE, PAGE);
    write(&others, 3);

    let error = Pages::refill(target.start, LEN, io::ErrorKind::OutOfMemory.into());
    target.leak();
    drop(target);

    assert!(matches!(error, MoveError::Lost(_)), "{error:?}");
    assert_eq!(read(&others), 3);
    assert!(!is_mapped(others.start, 2 * PAGE));
}

use std::{io::Write, os::fd::AsFd};

use super::*;
use crate::virtio::testing::{DATA, Driver, MEMORY};

#[test]
fn bytes_are_read_in_order_across_buffers() {
    let driver = Driver::new(16);
    driver.put(DATA, b"abc");
    driver.put(DATA + 0x1000, b"defgh");
    let mut buffers = ReadBuffers::new(driver.memory().view().clone());
    buffers.push(GuestAddress(DATA), 3).unwrap();
    buffers.push(GuestAddress(DATA), 0).unwrap();
    buffers.push(GuestAddress(DATA + 0x1000), 5).unwrap();

    let (mut first, mut second) = ([0; 4], [0; 3]);
    buffers.read_exact(&mut first).unwrap();
    buffers.read_exact(&mut second).unwrap();

    assert_eq!((&first, &second), (b"abcd", b"efg"));
    assert_eq!(buffers.len(), 1);
    assert_eq!(buffers.guest_ranges().collect::<Vec<_>>(), [(GuestAddress(DATA + 0x1004), 1)]);
    assert_eq!(buffers.read_exact(&mut first), Err(TooShort));
    assert_eq!(buffers.len(), 1);
}

#[test]
fn bytes_are_written_in_order_across_buffers() {
    let driver = Driver::new(16);
    let mut buffers = WriteBuffers::new(driver.memory().view().clone());
    buffers.push(GuestAddress(DATA), 3).unwrap();
    buffers.push(GuestAddress(DATA + 16), 3).unwrap();

    buffers.write_all(b"ab").unwrap();
    buffers.write_all(b"cd").unwrap();

    assert_eq!(&driver.read::<4>(DATA), b"abc\0");
    assert_eq!(&driver.read::<4>(DATA + 16), b"d\0\0\0");
    assert_eq!(buffers.write_all(b"xyz"), Err(TooShort));
    assert_eq!(buffers.len(), 2);
}

#[test]
fn the_last_byte_is_taken_off_whatever_buffer_it_is_in() {
    let driver = Driver::new(16);
    let mut buffers = WriteBuffers::new(driver.memory().view().clone());
    buffers.push(GuestAddress(DATA), 2).unwrap();
    buffers.push(GuestAddress(DATA + 16), 1).unwrap();

    assert_eq!(buffers.take_last_byte(), Some(GuestAddress(DATA + 16)));
    assert_eq!(buffers.take_last_byte(), Some(GuestAddress(DATA + 1)));
    assert_eq!(buffers.take_last_byte(), Some(GuestAddress(DATA)));
    assert_eq!(buffers.take_last_byte(), None);
    assert!(buffers.is_empty());
}

#[test]
fn what_is_not_memory_is_refused() {
    let driver = Driver::new(16);
    let mut buffers = WriteBuffers::new(driver.memory().view().clone());

    buffers.push(GuestAddress(MEMORY - 4), 4).unwrap();
    buffers.push(GuestAddress(MEMORY - 4), 5).unwrap_err();
    buffers.push(GuestAddress(MEMORY), 1).unwrap_err();
    buffers.push(GuestAddress(u64::MAX), usize::MAX).unwrap_err();
}

#[test]
fn more_stretches_than_a_call_takes_are_refused() {
    let driver = Driver::new(16);
    let mut buffers = ReadBuffers::new(driver.memory().view().clone());
    for _ in 0..MAX_SEGMENTS {
        buffers.push(GuestAddress(DATA), 1).unwrap();
    }

    buffers.push(GuestAddress(DATA), 1).unwrap_err();
}

#[test]
fn a_file_goes_straight_into_memory_and_back() {
    let driver = Driver::new(16);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    let view = driver.memory().view();
    let mut to_memory = WriteBuffers::new(view.clone());
    to_memory.push(GuestAddress(DATA), 3).unwrap();
    to_memory.push(GuestAddress(DATA + 8), 4).unwrap();
    let mut from_memory = ReadBuffers::new(view.clone());
    from_memory.push(GuestAddress(DATA + 8), 4).unwrap();
    from_memory.push(GuestAddress(DATA), 3).unwrap();

    to_memory.read_from(file.as_fd(), 2).unwrap();
    from_memory.write_to(file.as_fd(), 10).unwrap();

    assert_eq!(&driver.read::<12>(DATA), b"234\0\0\0\0\x005678");
    let mut whole = vec![0; 17];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut whole, 0).unwrap();
    assert_eq!(whole, b"01234567895678234");
    assert!(to_memory.is_empty() && from_memory.is_empty());
}

#[test]
fn the_end_of_a_file_is_an_error() {
    let driver = Driver::new(16);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"abc").unwrap();
    let mut buffers = WriteBuffers::new(driver.memory().view().clone());
    buffers.push(GuestAddress(DATA), 8).unwrap();

    let error = buffers.read_from(file.as_fd(), 0).unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(&driver.read::<3>(DATA), b"abc");
}

#[test]
fn alignment_is_that_of_every_piece() {
    let driver = Driver::new(16);
    let mut buffers = WriteBuffers::new(driver.memory().view().clone());

    buffers.push(GuestAddress(DATA), 1024).unwrap();
    assert!(buffers.is_aligned(512));
    assert!(!buffers.is_aligned(2048));
    buffers.push(GuestAddress(DATA + 1), 512).unwrap();
    assert!(!buffers.is_aligned(512));
}

//! A window of a file in memory whose faults the test resolves, and the file's direct map beside it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use mmu_notifier::AddressRange;
use vm_memory::Bytes;

use crate::HugePageSize;
use crate::host::inject::Injector;
use crate::host::mapping::{Advice, Mapping, Source};
use crate::host::memfd::memfd;
use crate::host::userfaultfd::{Event, OpenUserfaultfdError, Protection, Userfaultfd};

/// Longer than any event takes; only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a thread gets to wake up by mistake.
const NAP: Duration = Duration::from_millis(20);
/// How long a test waits before it looks again.
const PAUSE: Duration = Duration::from_micros(100);

pub(super) struct Window {
    pub(super) faults: Userfaultfd,
    pub(super) memory: Mapping,
    pub(super) file: File,
    pub(super) injector: Injector,
    direct: Mapping,
    page: u64,
}

/// A userfaultfd, or the reason why the test is skipped.
pub(super) fn userfaultfd(injector: &Injector) -> Option<Userfaultfd> {
    match Userfaultfd::for_guests(injector.clone()) {
        Ok(userfaultfd) => Some(userfaultfd),
        Err(reason @ (OpenUserfaultfdError::Refused { .. } | OpenUserfaultfdError::Lacks { .. })) => {
            eprintln!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Window {
    /// A registered window of `pages` pages of 4 KiB that the file does not have yet, unless the test is skipped.
    pub(super) fn shmem(pages: u64) -> Option<Self> {
        Self::new(pages, 4096, None)
    }

    /// As [`shmem`](Self::shmem), of 2 MiB.
    #[cfg(feature = "testing")]
    pub(super) fn hugetlb(pages: u64) -> Option<Self> {
        Self::new(pages, 2 << 20, Some(HugePageSize::Mb2))
    }

    fn new(pages: u64, page: u64, huge: Option<HugePageSize>) -> Option<Self> {
        let injector = Injector::armable();
        let faults = userfaultfd(&injector)?;
        let file = memfd(c"window", pages * page, huge).unwrap();
        let map = || Mapping::new(pages * page, page, Source::Shared(file.as_fd())).unwrap();
        let (memory, direct) = (map(), map());
        faults.register(&memory, 0..memory.len()).unwrap();
        Some(Self { faults, memory, file, injector, direct, page })
    }

    /// Runs `test`, which starts threads that fault. Whatever becomes of it, none of them sleeps on.
    pub(super) fn threads<'env, T>(
        &'env self,
        test: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
    ) -> T {
        struct Release<'a>(&'a Window);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                let Window { faults, memory, .. } = self.0;
                faults.unregister(memory, 0..memory.len()).unwrap();
            }
        }
        thread::scope(|scope| {
            let _release = Release(self);
            test(scope)
        })
    }

    /// The bytes of `pages` in the file, in the window and in its direct map.
    pub(super) fn bytes(&self, pages: Range<u64>) -> Range<u64> {
        pages.start * self.page..pages.end * self.page
    }

    /// The host addresses of `pages` in the window.
    pub(super) fn range(&self, pages: Range<u64>) -> AddressRange {
        let bytes = self.bytes(pages);
        AddressRange::new(self.memory.address() as u64 + bytes.start, bytes.end - bytes.start).unwrap()
    }

    /// Gives the file `page`, with `value` at its beginning.
    pub(super) fn fill(&self, page: u64, value: u64) {
        self.direct.advise(self.bytes(page..page + 1), Advice::PopulateWrite).unwrap();
        let slice = self.direct.slice(page * self.page, 8).unwrap();
        slice.store(value, 0, std::sync::atomic::Ordering::Relaxed).unwrap();
    }

    /// What the file has at the beginning of `page`.
    pub(super) fn filed(&self, page: u64) -> u64 {
        load(&self.direct, page * self.page)
    }

    /// Reads the beginning of `page` in the window, on this thread: it has an entry.
    pub(super) fn load(&self, page: u64) -> u64 {
        load(&self.memory, page * self.page)
    }

    /// Writes to the beginning of `page` in the window, on this thread: it has a writable entry.
    pub(super) fn store(&self, page: u64, value: u64) {
        let slice = self.memory.slice(page * self.page, 8).unwrap();
        slice.store(value, 0, std::sync::atomic::Ordering::Relaxed).unwrap();
    }

    /// Starts a thread that reads the beginning of `page`.
    pub(super) fn read<'scope>(
        &'scope self,
        threads: &'scope Scope<'scope, '_>,
        page: u64,
    ) -> ScopedJoinHandle<'scope, u64> {
        threads.spawn(move || self.load(page))
    }

    /// Starts a thread that writes `value` to the beginning of `page`.
    pub(super) fn write<'scope>(
        &'scope self,
        threads: &'scope Scope<'scope, '_>,
        page: u64,
        value: u64,
    ) -> ScopedJoinHandle<'scope, ()> {
        threads.spawn(move || self.store(page, value))
    }

    /// Maps the file once more in the place of the window, and registers nothing.
    pub(super) fn map_anew(&self) {
        let start = self.memory.pointer(0, self.memory.len()).unwrap();
        let len = usize::try_from(self.memory.len()).unwrap();
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: the window's mapping owns these addresses, of which no Rust reference is ever made, and goes on to
        // own what takes their place.
        let mapped = unsafe { libc::mmap(start.cast(), len, prot, flags, self.file.as_raw_fd(), 0) };
        assert_eq!(mapped, start.cast());
    }

    /// Maps `pages` of the file, which it has, and wakes whoever waits for them.
    #[track_caller]
    pub(super) fn resolve(&self, pages: AddressRange, protection: Protection) {
        self.faults.continue_(pages, protection).unwrap();
        self.faults.wake(pages).unwrap();
    }

    /// Lets writes to `pages` through again, and wakes whoever waits for them.
    #[track_caller]
    pub(super) fn unprotect(&self, pages: AddressRange) {
        self.faults.write_unprotect(pages).unwrap();
        self.faults.wake(pages).unwrap();
    }

    /// The next event.
    #[track_caller]
    pub(super) fn event(&self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        let mut batch = [Event::default(); 1];
        loop {
            if let [event] = self.faults.read_batch(&mut batch).unwrap() {
                return *event;
            }
            assert!(Instant::now() < deadline, "no event came");
            thread::sleep(PAUSE);
        }
    }

    /// Whether there is no event.
    pub(super) fn is_quiet(&self) -> bool {
        self.faults.read_batch(&mut [Event::default(); 1]).unwrap().is_empty()
    }
}

fn load(memory: &Mapping, offset: u64) -> u64 {
    memory.slice(offset, 8).unwrap().load(0, std::sync::atomic::Ordering::Relaxed).unwrap()
}

/// Whether a thread that was not woken still sleeps.
pub(super) fn sleeps<T>(thread: &ScopedJoinHandle<'_, T>) -> bool {
    thread::sleep(NAP);
    !thread.is_finished()
}

/// What `thread` returns; fails if it still sleeps after a long while.
#[track_caller]
pub(super) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(Instant::now() < deadline, "the thread still sleeps");
        thread::sleep(PAUSE);
    }
    thread.join().unwrap()
}

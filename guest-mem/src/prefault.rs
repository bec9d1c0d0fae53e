//! Populating guest RAM ahead of the guest.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::{CreateRamError, Prefault};

/// Bytes that a thread populates between two looks at the interrupt, unless one page is larger.
const CHUNK: u64 = 16 << 20;

/// Calls `populate` for every part of `0..len`, from several threads, until one call fails or `interrupt` is set.
///
/// The parts are multiples of `page` but for the last, which ends at `len`.
pub(crate) fn prefault(
    len: u64,
    page: u64,
    prefault: Prefault,
    interrupt: Option<&AtomicBool>,
    populate: &(dyn Fn(Range<u64>) -> io::Result<()> + Sync),
) -> Result<(), CreateRamError> {
    let work = Work {
        len,
        chunk: CHUNK.max(page),
        next: AtomicU64::new(0),
        interrupt,
        populate,
        failure: Mutex::new(None),
    };
    let chunks = usize::try_from(len.div_ceil(work.chunk)).unwrap_or(usize::MAX);
    let helpers = prefault.threads.get().min(chunks).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            let builder = thread::Builder::new().name("prefault".to_owned());
            if let Err(source) = builder.spawn_scoped(scope, || work.run()) {
                work.fail(CreateRamError::PrefaultThread { source });
                break;
            }
        }
        work.run();
    });
    let failure = work.failure.into_inner();
    failure.unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// What the threads share.
struct Work<'a> {
    len: u64,
    chunk: u64,
    /// The number of the chunk that nobody has taken yet; it says nothing about other memory, so it may be relaxed.
    next: AtomicU64,
    interrupt: Option<&'a AtomicBool>,
    populate: &'a (dyn Fn(Range<u64>) -> io::Result<()> + Sync),
    failure: Mutex<Option<CreateRamError>>,
}

impl Work<'_> {
    /// Takes chunk after chunk until there is none, or a failure.
    fn run(&self) {
        while self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            if self.interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Relaxed)) {
                return self.fail(CreateRamError::Interrupted);
            }
            let taken = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(start) = taken.checked_mul(self.chunk).filter(|&start| start < self.len) else {
                return;
            };
            let end = start.saturating_add(self.chunk).min(self.len);
            if let Err(source) = (self.populate)(start..end) {
                return self.fail(failure_at(start, source));
            }
        }
    }

    /// Stops all threads with `error`, unless an earlier one did.
    fn fail(&self, error: CreateRamError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }
}

fn failure_at(offset: u64, source: io::Error) -> CreateRamError {
    match source.raw_os_error() {
        Some(libc::EINVAL) => CreateRamError::PrefaultUnsupported,
        // What the kernel answers where a touch would raise SIGBUS.
        Some(libc::EFAULT) => CreateRamError::NoPage { offset },
        _ => CreateRamError::Populate { offset, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroUsize;

    fn threads(count: usize) -> Prefault {
        Prefault { threads: NonZeroUsize::new(count).unwrap() }
    }

    proptest! {
        #[test]
        fn every_byte_is_populated_once(
            pages in 1_u64..200, shift in prop_oneof![Just(12_u32), Just(21), Just(30)], count in 1_usize..5,
        ) {
            let (page, len) = (1 << shift, pages << shift);
            let parts = Mutex::new(Vec::new());

            prefault(len, page, threads(count), None, &|part| {
                parts.lock().unwrap().push(part);
                Ok(())
            }).unwrap();

            let mut parts = parts.into_inner().unwrap();
            parts.sort_by_key(|part| part.start);
            let mut end = 0;
            for part in parts {
                prop_assert_eq!(part.start, end);
                prop_assert!(part.start.is_multiple_of(page));
                end = part.end;
            }
            prop_assert_eq!(end, len);
        }
    }

    #[test]
    fn the_first_error_stops_the_others() {
        let calls = AtomicU64::new(0);

        let result = prefault(1 << 60, 4096, threads(3), None, &|part| {
            calls.fetch_add(1, Ordering::Relaxed);
            match part.start {
                0 => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
                _ => Ok(()),
            }
        });

        assert!(matches!(result, Err(CreateRamError::Populate { offset: 0, .. })), "{result:?}");
        assert!(calls.into_inner() < (1 << 60) / CHUNK);
    }

    #[test]
    fn an_interrupt_is_seen_before_the_next_chunk() {
        let interrupt = AtomicBool::new(false);
        let calls = AtomicU64::new(0);

        let result = prefault(8 * CHUNK, 4096, threads(1), Some(&interrupt), &|_| {
            calls.fetch_add(1, Ordering::Relaxed);
            interrupt.store(true, Ordering::Relaxed);
            Ok(())
        });

        assert!(matches!(result, Err(CreateRamError::Interrupted)), "{result:?}");
        assert_eq!(calls.into_inner(), 1);
    }

    #[test]
    fn the_kernels_answers_are_told_apart() {
        let answer = |errno| {
            let populate = move |_| Err(io::Error::from_raw_os_error(errno));
            prefault(CHUNK, 4096, threads(1), None, &populate).unwrap_err()
        };
        assert!(matches!(answer(libc::EINVAL), CreateRamError::PrefaultUnsupported));
        assert!(matches!(answer(libc::EFAULT), CreateRamError::NoPage { offset: 0 }));
        assert!(matches!(answer(libc::ENOMEM), CreateRamError::Populate { .. }));
    }
}

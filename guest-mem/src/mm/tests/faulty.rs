//! A host that fails as it is told to, under a guest that writes whatever it can at once.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    ops::Range,
    sync::Mutex,
};

use super::*;
use crate::{
    Pfn,
    mm::{Install, InstallError, MemoryObject},
    pool::Commitment,
};

/// What the guest writes to every page as soon as the host maps it.
pub(super) const STAMP: u64 = 0x5a5a_5a5a;

/// What comes of a call that maps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// So many pages are mapped, then it is to be tried again.
    Again(u64),
    /// Nothing is mapped.
    Refuse,
    /// So many pages are mapped, then the handler panics.
    Panic(u64),
}

/// A host of which one knows what it maps.
pub(super) struct Faulty {
    pool: Arc<FramePool>,
    first: Pfn,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pages, by their number.
    mapped: BTreeSet<u64>,
    plans: VecDeque<Plan>,
    /// Calls to zap that are to fail.
    bad_zaps: u32,
    /// Calls to protect that are to go well before one fails.
    good_protects: Option<u32>,
    /// What was woken, and when, in bytes of the window and ticks of the time stamp counter.
    wakes: Vec<(Range<u64>, u64)>,
}

/// An address space on a pool of its own that has at most `budget` pages, over such a host.
pub(super) fn mm_on_faulty(config: &MmConfig, budget: Option<u64>) -> (Arc<Mm>, Arc<Faulty>) {
    let budget = budget.map(|pages| crate::ByteSize::new(pages * PAGE_SIZE).unwrap());
    let config_of_pool = PoolConfig { budget, ..PoolConfig::new(PoolMemory::Shmem, "8M".parse().unwrap()) };
    let pool = FramePool::new(&config_of_pool).unwrap();
    let stretch = pool.reserve(config.blocks(), Commitment::Overcommitted).unwrap();
    let host = Arc::new(Faulty { pool, first: stretch.start(), state: Mutex::default() });
    let object = MemoryObject::own(stretch, config.filler.clone(), config.handlers);
    (Mm::new(config, object, host.clone()).unwrap(), host)
}

impl Faulty {
    /// What comes of the next calls.
    pub(super) fn plan(&self, plans: &[Plan]) {
        self.state.lock().unwrap().plans.extend(plans);
    }

    pub(super) fn fail_zaps(&self, count: u32) {
        self.state.lock().unwrap().bad_zaps = count;
    }

    /// Has the call to protect behind the next `count` fail.
    pub(super) fn fail_protect_after(&self, count: u32) {
        self.state.lock().unwrap().good_protects = Some(count);
    }

    /// Has the host map `page`, unknown to the manager.
    pub(super) fn map_unknown(&self, page: u64) {
        self.state.lock().unwrap().mapped.insert(page);
    }

    /// What was woken since this was last asked, and when.
    pub(super) fn take_wakes(&self) -> Vec<(Range<u64>, u64)> {
        std::mem::take(&mut self.state.lock().unwrap().wakes)
    }

    pub(super) fn maps(&self, page: u64) -> bool {
        self.state.lock().unwrap().mapped.contains(&page)
    }

    /// Asserts that all frames are free, and all that was planned has happened.
    #[track_caller]
    pub(super) fn assert_over(&self) {
        assert!(self.state.lock().unwrap().plans.is_empty(), "not all that was planned has happened");
        self.pool.assert_all_free();
    }

    /// Maps what is not mapped of `range`, at most `most` pages, up to one that is; returns how many.
    fn map_some(&self, range: &Range<u64>, most: u64) -> u64 {
        let mut state = self.state.lock().unwrap();
        let pages = (range.start / PAGE_SIZE..range.end / PAGE_SIZE).take(usize::try_from(most).unwrap());
        let mut done = 0;
        for page in pages.take_while(|page| !state.mapped.contains(page)).collect::<Vec<_>>() {
            state.mapped.insert(page);
            self.pool.write(self.first.plus(page), 0, &STAMP.to_ne_bytes()).unwrap();
            done += 1;
        }
        done
    }
}

impl Install for Faulty {
    fn map(&self, range: Range<u64>, _: bool) -> Result<(), InstallError> {
        let plan = self.state.lock().unwrap().plans.pop_front();
        match plan {
            Some(Plan::Again(pages)) => {
                Err(InstallError::Again { done: self.map_some(&range, pages) * PAGE_SIZE })
            }
            Some(Plan::Refuse) => Err(io::Error::from_raw_os_error(libc::ENOMEM).into()),
            Some(Plan::Panic(pages)) => {
                self.map_some(&range, pages);
                std::panic::resume_unwind(Box::new("planned"))
            }
            None => match self.map_some(&range, u64::MAX) * PAGE_SIZE {
                0 => Err(InstallError::Exists { done: 0 }),
                done if done < range.end - range.start => Err(InstallError::Again { done }),
                _ => Ok(()),
            },
        }
    }

    fn zap(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.bad_zaps > 0 {
            state.bad_zaps -= 1;
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        state.mapped.retain(|page| !range.contains(&(page * PAGE_SIZE)));
        Ok(())
    }

    fn protect(&self, _: Range<u64>, _: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.good_protects == Some(0) {
            state.good_protects = None;
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        state.good_protects = state.good_protects.map(|left| left - 1);
        Ok(())
    }

    fn poison(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn wake(&self, range: Range<u64>) -> io::Result<()> {
        self.state.lock().unwrap().wakes.push((range, crate::host::time_stamp()));
        Ok(())
    }
}

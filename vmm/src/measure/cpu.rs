//! Processor time, of the whole process: whichever thread does the work, the vCPU's, a fault handler or the one that
//! zeroes ahead, it is paid for.

use std::time::Duration;

use nix::sys::{
    resource::{Usage, UsageWho, getrusage},
    time::TimeVal,
};

use crate::machine::Stage;

/// What the making of a machine costs, but for what does not depend on its RAM.
#[derive(Debug, Default)]
pub(super) struct Making {
    /// Of the process, just before RAM was made.
    before_ram: Duration,
    /// Of the thread that makes the machine, when RAM was made.
    ram_made: Duration,
    /// What that thread took for the rest: memory slots, page tables, vCPUs.
    rest: Duration,
}

impl Making {
    /// The machine has come so far.
    pub(super) fn reached(&mut self, stage: Stage) {
        match stage {
            Stage::VmMade => self.before_ram = of_process(),
            Stage::MemoryMade => self.ram_made = of_thread(),
            Stage::VcpusReady => self.rest = of_thread().saturating_sub(self.ram_made),
            Stage::SlotsSet | Stage::GuestLoaded => {}
        }
    }

    /// What RAM has cost by now: the pages that were made ready meanwhile, by whatever thread, are in it.
    pub(super) fn spent(&self) -> Duration {
        of_process().saturating_sub(self.before_ram).saturating_sub(self.rest)
    }
}

/// User and system time of all threads, since the process began.
pub(super) fn of_process() -> Duration {
    of(UsageWho::RUSAGE_SELF)
}

/// User and system time of the calling thread, since it began.
fn of_thread() -> Duration {
    of(UsageWho::RUSAGE_THREAD)
}

fn of(who: UsageWho) -> Duration {
    let sum = |usage: Usage| duration(usage.user_time()) + duration(usage.system_time());
    // It fails only for something that is not `who`.
    getrusage(who).map_or(Duration::ZERO, sum)
}

fn duration(time: TimeVal) -> Duration {
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec())) + Duration::from_micros(part(time.tv_usec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the calling thread busy for so long.
    fn burn(time: Duration) {
        let until = of_thread() + time;
        while of_thread() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_process_pays_for_every_thread() {
        let time = Duration::from_millis(5);
        let before = of_process();

        std::thread::scope(|scope| drop(scope.spawn(|| burn(time))));

        assert!(of_process() >= before + time);
        assert!(of_process() >= of_thread());
    }

    #[test]
    fn what_the_maker_does_for_the_rest_is_not_of_ram() {
        let mut making = Making::default();

        making.reached(Stage::VmMade);
        burn(Duration::from_millis(3));
        making.reached(Stage::MemoryMade);
        burn(Duration::from_millis(5));
        making.reached(Stage::VcpusReady);

        assert!(making.spent() >= Duration::from_millis(3));
        assert!(making.rest >= Duration::from_millis(5));
    }
}

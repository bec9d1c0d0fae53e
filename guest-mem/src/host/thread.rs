//! The calling thread, and the processor it runs on.

use std::{io, mem};

use super::checked;

/// Lets the calling thread run on processor `cpu` only.
pub(crate) fn bind_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `cpu_set_t` is an array of integers, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: sets one bit of the set, which has room for `cpu`.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads one `cpu_set_t`, of the size it is told.
    checked(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// The processor's time stamp counter, in ticks.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: every processor of the architecture has the instruction, and Linux lets processes use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

//! The host's time stamp counter, to be held against the guest's.
#![expect(unsafe_code, reason = "the processor's counter is read by an intrinsic of the architecture")]

use std::arch::x86_64::_rdtsc;

/// The counter now, in ticks.
///
/// No later than what comes next by some tens of ticks, and no earlier than a system call before it.
pub(crate) fn now() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and Linux lets processes use it.
    unsafe { _rdtsc() }
}

//! The time stamp counter, for times that are compared with a guest's.

/// The processor's time stamp counter now, in ticks.
///
/// Not ordered with anything around it to better than some tens of ticks.
pub(super) fn now() -> u64 {
    crate::host::time_stamp()
}

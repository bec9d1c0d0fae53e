//! What holds for the whole process.

/// Whether this process, or who started it, refused transparent huge pages for it (`PR_SET_THP_DISABLE`).
pub(crate) fn thp_disabled_for_process() -> bool {
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: PR_GET_THP_DISABLE takes no pointer and changes nothing; the unused arguments are 0 as it demands.
    let answer = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, UNUSED, UNUSED, UNUSED, UNUSED) };
    answer > 0
}

//! Why a test did not pass.

use core::fmt;

use rustix::io::Errno;

/// Each kind has a status of its own, which the VMM gets to see.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the guest found is not what it ought to be.
    Wrong(&'static str),
    /// The command line asks for what there is not.
    Usage(&'static str),
    /// Linux refused what the test needs.
    Refused(&'static str, Errno),
    /// `exit:STATUS` was asked for.
    Asked(u8),
}

impl Failure {
    /// Status of a panic of this program.
    pub(crate) const PANIC: u8 = 101;

    /// For a result's error: names what was tried.
    pub(crate) fn refused(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Refused(what, errno)
    }

    /// What the debug exit port is told.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(..) => 3,
            Self::Asked(status) => *status,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Wrong(what) | Self::Usage(what) => f.write_str(what),
            Self::Refused(what, errno) => write!(f, "{what}: errno {}", errno.raw_os_error()),
            Self::Asked(_) => f.write_str("asked for"),
        }
    }
}

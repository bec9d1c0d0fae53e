//! The errors that each operation documents: what a random plan chooses from.

use super::Operation;

impl Operation {
    /// The errors that the manual pages and the kernel's documentation tell callers to expect, never none.
    ///
    /// Left out are those that only a wrong argument brings about, such as EBADF and EFAULT of an argument, but not
    /// EINVAL where an older kernel answers so to what it does not know.
    #[must_use]
    pub(crate) const fn errnos(self) -> &'static [i32] {
        use libc::{
            EACCES, EAGAIN, EBUSY, EEXIST, EFAULT, EFBIG, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENODEV, ENOENT,
            ENOMEM, ENOSPC, ENOSYS, EPERM, ESRCH,
        };
        match self {
            Self::Open => &[EACCES, EPERM, ENOENT, ENOSYS, EMFILE, ENFILE, ENOMEM],
            Self::Handshake => &[EINVAL, EPERM],
            Self::Register => &[EBUSY, EINVAL, ENOMEM, EPERM],
            Self::Unregister => &[EINVAL, ENOMEM],
            Self::Continue => &[EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ESRCH],
            Self::WriteProtect => &[EAGAIN, EINVAL, ENOENT, ENOMEM, ESRCH],
            Self::Wake => &[EINVAL],
            Self::Poison => &[EAGAIN, EEXIST, EINVAL, ENOENT, ENOMEM, ESRCH],
            Self::Zap => &[EAGAIN, EINTR, EINVAL, ENOMEM],
            Self::ReadEvents => &[EAGAIN, EINTR],
            Self::Poll => &[EINTR, ENOMEM],
            Self::EventFd => &[EMFILE, ENFILE, ENODEV, ENOMEM],
            Self::MemfdCreate => &[EMFILE, ENFILE, ENOMEM, EINVAL],
            Self::Truncate => &[EINTR, EFBIG, EINVAL, EIO],
            Self::Seal => &[EBUSY, EINVAL, EPERM],
            Self::Map => &[EAGAIN, EEXIST, ENFILE, ENODEV, ENOMEM, EPERM],
            Self::Fallocate => &[EINTR, EIO, ENOMEM, ENOSPC],
            Self::Punch => &[EINTR, EIO, ENOSPC, EPERM],
            Self::Advise => &[EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENOMEM],
            Self::Spawn => &[EAGAIN],
        }
    }
}

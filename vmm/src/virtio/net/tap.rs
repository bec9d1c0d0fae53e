//! A tap device: a network interface of the host's whose packets a file gives and takes.
#![expect(unsafe_code, reason = "tap devices are set up by ioctls that have no safe wrapper")]

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixDatagram},
    },
};

const CONTROL: &str = "/dev/net/tun";

/// An attached tap device: nobody else can attach it while this lives.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// A socket in its place knows no offloads.
    has_offloads: bool,
}

/// Why a tap device could not be attached. Nothing was made or changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenTapError {
    /// No interface has such a name.
    #[error("{name:?} is no name of a network interface: they have 1 to 15 bytes without spaces and slashes")]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel has no tap devices.
    #[error("there is no {CONTROL}: load the driver with `modprobe tun`")]
    NoDriver(#[source] io::Error),
    /// There is no interface of that name.
    #[error("there is no network interface {name}: make one with `ip tuntap add dev {name} mode tap`")]
    Missing {
        /// The name.
        name: String,
    },
    /// Another process has it.
    #[error("the tap device {name} is in use by another process: give each microVM its own")]
    Busy {
        /// The name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is another kind of interface.
    #[error(
        "the network interface {name} is no tap device with one queue: make one with `ip tuntap add dev NAME mode tap`"
    )]
    NotATap {
        /// The name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// This user may not.
    #[error(
        "no permission for the tap device {name}: run as root, or make it with `ip tuntap add dev {name} mode tap user $USER`"
    )]
    Permission {
        /// The name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused for another reason.
    #[error("cannot set up the tap device {name}")]
    Host {
        /// The name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Tap {
    /// Attaches the tap device `name`, whose packets begin with a virtio header of `header` bytes. It is not made if
    /// there is none.
    ///
    /// # Errors
    /// [`OpenTapError`].
    pub fn open(name: &str, header: usize) -> Result<Self, OpenTapError> {
        let owned = || name.to_owned();
        let fits = (1..libc::IFNAMSIZ).contains(&name.len())
            && !name.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control());
        if !fits {
            return Err(OpenTapError::Name { name: owned() });
        }
        // The ioctl that attaches an interface would make one.
        if !is_interface(name) {
            return Err(OpenTapError::Missing { name: owned() });
        }
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CONTROL);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenTapError::NoDriver(source),
            io::ErrorKind::PermissionDenied => OpenTapError::Permission { name: owned(), source },
            _ => OpenTapError::Host { name: owned(), source },
        })?;
        attach(&file, name).map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => OpenTapError::Busy { name: owned(), source },
            Some(libc::EINVAL) => OpenTapError::NotATap { name: owned(), source },
            Some(libc::EPERM) => OpenTapError::Permission { name: owned(), source },
            _ => OpenTapError::Host { name: owned(), source },
        })?;
        let tap = Self { file, has_offloads: true };
        tap.set_header(header).map_err(|source| OpenTapError::Host { name: owned(), source })?;
        Ok(tap)
    }

    /// Says which packets may be given whose work is not done: bits of `TUN_F_*`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_offload(&self, offload: libc::c_uint) -> io::Result<()> {
        if !self.has_offloads {
            return Ok(());
        }
        // SAFETY: the argument is a number.
        result(unsafe {
            libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload))
        })
    }

    fn set_header(&self, bytes: usize) -> io::Result<()> {
        let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel reads an int, which lives until the call returns.
        result(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
    }

    /// A socket in place of a tap device: it gives and takes packets, with the same header, and does no work on them.
    ///
    /// # Errors
    /// What `fcntl` returned.
    pub fn over_socket(socket: UnixDatagram) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { file: OwnedFd::from(socket).into(), has_offloads: false })
    }
}

impl AsFd for Tap {
    /// Readable when there is a packet; never blocks.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn is_interface(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name ends in a zero, and lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    index != 0
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let ifru_flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    // The name is shorter than the field: a zero stays at its end.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the kernel reads and writes the request, which is as large as it expects and lives until the call returns.
    result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

fn result(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for name in ["", "a b", "a/b", "sixteen-bytes-ab"] {
            assert!(matches!(Tap::open(name, 12), Err(OpenTapError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn an_interface_that_is_missing_is_not_made() {
        let refused = Tap::open("no-such-tap", 12).unwrap_err();

        assert!(matches!(refused, OpenTapError::Missing { .. }), "{refused:?}");
        assert!(!is_interface("no-such-tap"));
    }
}

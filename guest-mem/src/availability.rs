//! Whether this host can offer a backing right now, and what would make it.

use std::fmt;

use crate::host_files::{HostFileError, HostFiles};
use crate::huge_pages::{HugePagePool, ReadPoolError};
use crate::{Backing, BackingFileError, ByteSize, HugePageSize, host};

const THP: &str = "sys/kernel/mm/transparent_hugepage";

/// A backing that this host cannot offer now.
#[derive(Debug)]
pub struct Unavailable {
    /// Why not.
    pub reason: UnavailableReason,
    /// The command to run as root, or the advice, that would change that; `None` where nothing would.
    pub enable: Option<String>,
}

/// Why a host cannot offer a backing of some size.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableReason {
    /// The size is not a multiple of the backing's page size.
    #[error("{size} is not a multiple of the page size of {backing}, {page} bytes")]
    UnalignedSize {
        /// The size asked for.
        size: ByteSize,
        /// The backing asked for.
        backing: Backing,
        /// Bytes in a page of it.
        page: u64,
    },
    /// The kernel was built without transparent huge pages, for this kind of memory at least.
    #[error("this kernel has no transparent huge pages for {backing}")]
    NoThp {
        /// The backing asked for.
        backing: Backing,
    },
    /// A setting of the kernel refuses transparent huge pages of 2 MiB.
    #[error("transparent huge pages are off for {backing}: {file} says {setting}")]
    ThpOff {
        /// The backing asked for.
        backing: Backing,
        /// The file that decides.
        file: String,
        /// What is chosen in it.
        setting: String,
    },
    /// This process may have no transparent huge pages (`PR_SET_THP_DISABLE`).
    #[error("transparent huge pages were refused for this process by prctl(PR_SET_THP_DISABLE)")]
    ThpRefusedForProcess,
    /// Neither CPU nor kernel knows huge pages of that size.
    #[error("this CPU or kernel has no huge pages of {0}")]
    NoSuchHugePages(HugePageSize),
    /// Huge pages of that many bytes cannot exist on this machine.
    #[error("{size} of huge pages is more than the {ram} bytes of memory this machine has")]
    LargerThanRam {
        /// The size asked for.
        size: ByteSize,
        /// Bytes of memory the kernel manages.
        ram: u64,
    },
    /// The pool has too few pages that nobody was promised.
    #[error("too few huge pages: {}", too_few(*needed, pool))]
    TooFewHugePages {
        /// Pages that are needed.
        needed: u64,
        /// The pool when it was looked at.
        pool: HugePagePool,
    },
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] BackingFileError),
    /// The kernel's answer could not be read.
    #[error("cannot find out what this host offers")]
    Unreadable(#[source] HostFileError),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.enable {
            Some(enable) => write!(f, "{}; to change that: {enable}", self.reason),
            None => self.reason.fmt(f),
        }
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.reason)
    }
}

impl From<UnavailableReason> for Unavailable {
    fn from(reason: UnavailableReason) -> Self {
        Self { reason, enable: None }
    }
}

impl From<HostFileError> for Unavailable {
    fn from(error: HostFileError) -> Self {
        UnavailableReason::Unreadable(error).into()
    }
}

impl Backing {
    /// Whether this host can offer `size` of this backing right now.
    ///
    /// The answer for [`Backing::GuestMemfd`] needs KVM, which this crate does not know: only its size is looked at.
    ///
    /// # Errors
    /// [`Unavailable`], with the command that would change it where there is one.
    pub fn check_host(&self, size: ByteSize) -> Result<(), Unavailable> {
        self.check_host_in(HostFiles::system(), size, None)?;
        if let Self::File(path) = self {
            host::open_regular(path, size).map_err(UnavailableReason::File)?;
        }
        Ok(())
    }

    /// As [`check_host`](Self::check_host), without a look at a backing file; hugetlb pages come from `node` if given.
    pub(crate) fn check_host_in(
        &self,
        files: HostFiles<'_>,
        size: ByteSize,
        node: Option<u32>,
    ) -> Result<(), Unavailable> {
        self.check_size(size)?;
        match self {
            Self::AnonymousThp => self.check_thp(files, "enabled", "madvise"),
            Self::ShmemThp | Self::ManagedThp => self.check_thp(files, "shmem_enabled", "advise"),
            _ => match self.hugetlb() {
                Some(page) => check_hugetlb(files, size, page, node),
                None => Ok(()),
            },
        }
    }

    fn check_size(&self, size: ByteSize) -> Result<(), Unavailable> {
        let page = self.page_size();
        if size.bytes().is_multiple_of(page) {
            return Ok(());
        }
        let below = size.bytes() / page * page;
        let nearest: Vec<_> = [Some(below), below.checked_add(page)]
            .into_iter()
            .flatten()
            .filter_map(ByteSize::new)
            .map(|size| size.to_string())
            .collect();
        Err(Unavailable {
            reason: UnavailableReason::UnalignedSize { size, backing: self.clone(), page },
            enable: Some(format!("use {}", nearest.join(" or "))),
        })
    }

    /// Whether the setting `name` lets memory that asks for it have transparent huge pages of 2 MiB; `advice` is the
    /// value that would.
    fn check_thp(&self, files: HostFiles<'_>, name: &str, advice: &str) -> Result<(), Unavailable> {
        let whole = format!("{THP}/{name}");
        // Since Linux 6.8 every size has a setting of its own, which may leave the decision to the whole.
        let sized = format!("{THP}/hugepages-2048kB/{name}");
        let absent = |error: HostFileError| {
            if error.is_missing() {
                UnavailableReason::NoThp { backing: self.clone() }.into()
            } else {
                Unavailable::from(error)
            }
        };
        let of_whole = files.choice(&whole).map_err(absent)?;
        let of_size = match files.choice(&sized) {
            Ok(choice) => choice,
            Err(error) if error.is_missing() => "inherit".to_owned(),
            Err(error) => return Err(error.into()),
        };
        if host::thp_disabled_for_process() {
            return Err(Unavailable {
                reason: UnavailableReason::ThpRefusedForProcess,
                enable: Some("start the process without PR_SET_THP_DISABLE".to_owned()),
            });
        }
        let (file, setting) = match (of_whole.as_str(), of_size.as_str()) {
            ("deny", _) | ("never", "inherit") => (whole, of_whole),
            (_, "never") => (sized, of_size),
            _ => return Ok(()),
        };
        let enable = Some(format!("echo {advice} > /{file}"));
        let file = format!("/{file}");
        Err(Unavailable {
            reason: UnavailableReason::ThpOff { backing: self.clone(), file, setting },
            enable,
        })
    }
}

fn check_hugetlb(
    files: HostFiles<'_>,
    size: ByteSize,
    page: HugePageSize,
    node: Option<u32>,
) -> Result<(), Unavailable> {
    let read = |node| {
        HugePagePool::read_in(files, page, node).map_err(|error| match error {
            ReadPoolError::Unsupported(page) => {
                Unavailable { reason: UnavailableReason::NoSuchHugePages(page), enable: None }
            }
            ReadPoolError::Unreadable(error) => error.into(),
        })
    };
    let machine = read(None)?;
    let ram = files.meminfo("MemTotal")?;
    if size.bytes() > ram {
        return Err(UnavailableReason::LargerThanRam { size, ram }.into());
    }
    let needed = size.bytes() / page.bytes();
    let node = node.map(|node| read(Some(node))).transpose()?;
    // The node's pool first: its command fills the machine's pool too.
    for pool in node.into_iter().chain([machine]) {
        if pool.available() < needed {
            return Err(Unavailable {
                reason: UnavailableReason::TooFewHugePages { needed, pool },
                enable: Some(pool.command_for(needed)),
            });
        }
    }
    Ok(())
}

fn too_few(needed: u64, pool: &HugePagePool) -> String {
    let place = pool.node.map_or_else(String::new, |node| format!(" on NUMA node {node}"));
    format!(
        "{needed} of {} are needed and {} can be had{place} ({} in the pool, {} free, {} of them reserved, {} more by overcommit)",
        pool.size,
        pool.available(),
        pool.total,
        pool.free,
        pool.reserved,
        pool.overcommit.saturating_sub(pool.surplus),
    )
}

#[cfg(test)]
mod tests;

//! What guest RAM is made of.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::HugePageSize;

/// Bytes in a base page.
pub(crate) const BASE_PAGE: u64 = mmu_notifier::PAGE_SIZE;
/// Bytes that one entry of the second-lowest page-table level maps: a transparent huge page.
const PMD_PAGE: u64 = 2 << 20;
/// What the names of file backings start with.
const FILE_PREFIX: &str = "file:";
/// How alike a name must be, from 0 to 1, to be worth suggesting.
const ALIKE: f64 = 0.7;

/// What guest RAM is made of: where its pages come from, and how large they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Private anonymous memory in 4 KiB pages: transparent huge pages are refused.
    Anonymous,
    /// Private anonymous memory that asks for transparent huge pages of 2 MiB.
    AnonymousThp,
    /// Private memory in 2 MiB pages of the hugetlb pool.
    AnonymousHugetlb2mb,
    /// Private memory in 1 GiB pages of the hugetlb pool.
    AnonymousHugetlb1gb,
    /// A shared memfd in 4 KiB pages: transparent huge pages are refused.
    Shmem,
    /// A shared memfd that asks for transparent huge pages of 2 MiB.
    ShmemThp,
    /// A shared memfd in 2 MiB pages of the hugetlb pool.
    SharedHugetlb2mb,
    /// A shared memfd in 1 GiB pages of the hugetlb pool.
    SharedHugetlb1gb,
    /// A private mapping of a regular file: it supplies the first content, and is never written.
    File(PathBuf),
    /// A mappable `guest_memfd`, made by whoever holds the KVM VM.
    GuestMemfd,
    /// Frames of 4 KiB of a pool of this process, which resolves the faults itself.
    Managed4kb,
    /// Frames of 2 MiB of a pool of this process on hugetlb, which resolves the faults itself.
    Managed2mb,
    /// Transparent huge pages of a pool of this process, which resolves the faults itself.
    ManagedThp,
}

/// Why a text names no [`Backing`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseBackingError {
    /// No backing has that name.
    #[error(
        "unknown backing {name:?}{}; the backings are {}",
        suggestion(*nearest),
        all_names()
    )]
    Unknown {
        /// The text as given.
        name: String,
        /// The name it is most like, if it is like any.
        nearest: Option<&'static str>,
    },
    /// `file:` came without a path.
    #[error("the backing file: needs the path of a regular file, as in file:/var/lib/guest.img")]
    FileWithoutPath,
}

impl Backing {
    /// Every backing that is named by one word: all but [`Backing::File`].
    pub const NAMED: &[Self] = &[
        Self::Anonymous,
        Self::AnonymousThp,
        Self::AnonymousHugetlb2mb,
        Self::AnonymousHugetlb1gb,
        Self::Shmem,
        Self::ShmemThp,
        Self::SharedHugetlb2mb,
        Self::SharedHugetlb1gb,
        Self::GuestMemfd,
        Self::Managed4kb,
        Self::Managed2mb,
        Self::ManagedThp,
    ];

    /// The word that names this kind of backing; `file` for every file.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::AnonymousThp => "anonymous_thp",
            Self::AnonymousHugetlb2mb => "anonymous_hugetlb_2mb",
            Self::AnonymousHugetlb1gb => "anonymous_hugetlb_1gb",
            Self::Shmem => "shmem",
            Self::ShmemThp => "shmem_thp",
            Self::SharedHugetlb2mb => "shared_hugetlb_2mb",
            Self::SharedHugetlb1gb => "shared_hugetlb_1gb",
            Self::File(_) => "file",
            Self::GuestMemfd => "guest_memfd",
            Self::Managed4kb => "managed_4kb",
            Self::Managed2mb => "managed_2mb",
            Self::ManagedThp => "managed_thp",
        }
    }

    /// The smallest unit in which the RAM is populated, in bytes; its size is a multiple of this.
    ///
    /// 4 KiB for the transparent huge page backings too: they fall back to it.
    #[must_use]
    pub const fn page_size(&self) -> u64 {
        match self.hugetlb() {
            Some(size) => size.bytes(),
            None => BASE_PAGE,
        }
    }

    /// The alignment of the RAM's host address in bytes: the largest page that could ever map it, at least 2 MiB.
    #[must_use]
    pub const fn largest_page(&self) -> u64 {
        match self.hugetlb() {
            Some(size) => size.bytes(),
            None => PMD_PAGE,
        }
    }

    /// Which pool of the hugetlb allocator the pages come from, if they do.
    #[must_use]
    pub const fn hugetlb(&self) -> Option<HugePageSize> {
        match self {
            Self::AnonymousHugetlb2mb | Self::SharedHugetlb2mb | Self::Managed2mb => Some(HugePageSize::Mb2),
            Self::AnonymousHugetlb1gb | Self::SharedHugetlb1gb => Some(HugePageSize::Gb1),
            _ => None,
        }
    }

    /// Whether the pages come from a pool of the hugetlb allocator.
    #[must_use]
    pub const fn is_hugetlb(&self) -> bool {
        self.hugetlb().is_some()
    }

    /// Whether the mapping is shared: its pages belong to a file of their own and not to the mapping.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(
            self,
            Self::Shmem
                | Self::ShmemThp
                | Self::SharedHugetlb2mb
                | Self::SharedHugetlb1gb
                | Self::GuestMemfd
                | Self::Managed4kb
                | Self::Managed2mb
                | Self::ManagedThp
        )
    }

    /// Whether this process resolves the faults; else the kernel does.
    #[must_use]
    pub const fn is_managed(&self) -> bool {
        matches!(self, Self::Managed4kb | Self::Managed2mb | Self::ManagedThp)
    }

    /// Who resolves the faults, as reports say it: `underlay` or `kernel`.
    #[must_use]
    pub const fn resolved_by(&self) -> &'static str {
        if self.is_managed() { "underlay" } else { "kernel" }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.pad(&format!("{FILE_PREFIX}{}", path.display())),
            named => f.pad(named.name()),
        }
    }
}

impl FromStr for Backing {
    type Err = ParseBackingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(backing) = Self::NAMED.iter().find(|backing| backing.name() == text) {
            return Ok(backing.clone());
        }
        match text.strip_prefix(FILE_PREFIX) {
            Some("") => Err(ParseBackingError::FileWithoutPath),
            Some(path) => Ok(Self::File(path.into())),
            None if text == "file" => Err(ParseBackingError::FileWithoutPath),
            None => Err(ParseBackingError::Unknown { name: text.to_owned(), nearest: nearest(text) }),
        }
    }
}

fn nearest(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase().replace('-', "_");
    Backing::NAMED
        .iter()
        .map(|backing| (strsim::jaro_winkler(&text, backing.name()), backing.name()))
        .filter(|&(likeness, _)| likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

fn all_names() -> String {
    let named = Backing::NAMED.iter().map(Backing::name);
    named.chain(["file:PATH"]).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_backing() {
        let file = Backing::File("/a b".into());
        for backing in Backing::NAMED.iter().chain([&file]) {
            assert_eq!(backing.to_string().parse().as_ref(), Ok(backing));
        }
    }

    #[track_caller]
    fn suggested_for(text: &str) -> Option<&'static str> {
        match text.parse::<Backing>() {
            Err(ParseBackingError::Unknown { nearest, .. }) => nearest,
            other => panic!("{text} gave {other:?}"),
        }
    }

    #[test]
    fn a_wrong_name_suggests_the_nearest() {
        assert_eq!(suggested_for("shmen"), Some("shmem"));
        assert_eq!(suggested_for("anonymous-thp"), Some("anonymous_thp"));
        assert_eq!(suggested_for("Guest_Memfd"), Some("guest_memfd"));
        assert_eq!(suggested_for("shared_hugetlb_1g"), Some("shared_hugetlb_1gb"));
        assert_eq!(suggested_for("qqq"), None);
        assert_eq!(suggested_for(""), None);
    }

    #[test]
    fn the_error_lists_every_name() {
        let message = "shmen".parse::<Backing>().unwrap_err().to_string();
        for backing in Backing::NAMED {
            assert!(message.contains(backing.name()), "{message}");
        }
        assert!(message.contains("file:PATH"), "{message}");
    }

    #[test]
    fn a_file_needs_a_path() {
        for text in ["file", "file:"] {
            assert_eq!(text.parse::<Backing>(), Err(ParseBackingError::FileWithoutPath));
        }
    }

    #[test]
    fn pages_and_alignment() {
        const M2: u64 = 2 << 20;
        const G1: u64 = 1 << 30;
        let pages = |backing: Backing| (backing.page_size(), backing.largest_page());
        assert_eq!(pages(Backing::Anonymous), (4096, M2));
        assert_eq!(pages(Backing::ShmemThp), (4096, M2));
        assert_eq!(pages(Backing::AnonymousHugetlb2mb), (M2, M2));
        assert_eq!(pages(Backing::SharedHugetlb1gb), (G1, G1));
    }
}

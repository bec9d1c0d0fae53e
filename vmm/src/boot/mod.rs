//! Booting a kernel: from files to a guest's memory and the state of its first CPU.
//!
//! Pure logic on vm-memory's traits. What is wrong with a kernel, an initrd or a command line is found before anything
//! runs, and told with what to do about it.

mod error;
mod image;
pub mod layout;
mod mp_table;
mod symbols;
mod tables;
#[cfg(test)]
mod testing;

pub use error::BootError;
pub use image::ImageError;
pub use mp_table::MAX_VCPUS;
pub use symbols::{Place, Symbols};

use std::{
    fs::File,
    io::{Read, Seek},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use linux_loader::cmdline::Cmdline;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, ReadVolatile};

use crate::kvm::KernelEntry;
use image::{Image, LoadedImage, Start};

/// The command line of a guest that was given none: the first serial port as console, and a reset by the keyboard
/// controller, also after a panic, which ends the guest.
pub const DEFAULT_COMMAND_LINE: &str = "console=ttyS0 reboot=k panic=-1";

/// No kernel and no table fits into less.
const LEAST_RAM: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// The most that has room before what comes next in memory.
const MOST_COMMAND_LINE_BYTES: u32 = 0xffff;

/// What to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSource {
    /// A vmlinux or a bzImage.
    pub kernel: PathBuf,
    /// What the kernel unpacks into its first root file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; devices add to it.
    pub command_line: String,
    /// How the kernel is entered.
    pub protocol: Protocol,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// By Linux's 64-bit boot protocol, a vmlinux at its entry. So is the vmlinux that is packed in a bzImage, taken out by
    /// this process: the guest spends no time on that, and has not chosen a random address for its kernel (KASLR). A
    /// bzImage whose compression is not known here is entered like [`Linux64`](Self::Linux64).
    #[default]
    Auto,
    /// Linux's 64-bit boot protocol: a vmlinux at its entry, a bzImage at its 64-bit entry, where it unpacks itself.
    Linux64,
    /// PVH: a vmlinux, or the one packed in a bzImage, at the entry that its notes tell.
    Pvh,
}

/// An initrd in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initrd {
    /// Guest-physical, 4 KiB-aligned.
    pub(crate) start: u64,
    /// In bytes.
    pub(crate) len: u64,
}

/// A virtio-mmio device that the kernel is told of on its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Where its registers are, guest-physical; they take 4 KiB.
    pub address: u64,
    /// Its interrupt.
    pub gsi: u32,
}

impl BootSource {
    /// `kernel` without an initrd, with the default command line.
    #[must_use]
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            initrd: None,
            command_line: DEFAULT_COMMAND_LINE.to_owned(),
            protocol: Protocol::Auto,
        }
    }

    /// Loads kernel, initrd, command line and tables into `memory`, for a guest of `cpus` CPUs and these `devices`, and
    /// says how its first CPU starts.
    ///
    /// # Errors
    /// [`BootError`]. Part of the memory may have been written.
    pub fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        cpus: u32,
        devices: &[MmioDevice],
    ) -> Result<KernelEntry, BootError> {
        let (kernel, _) = open("kernel", &self.kernel)?;
        let initrd = self.initrd.as_deref().map(|path| open("initrd", path)).transpose()?;
        self.load_from(memory, kernel, initrd, cpus, devices)
    }

    fn load_from<M: GuestMemoryBackend, K, I>(
        &self,
        memory: &M,
        kernel: K,
        initrd: Option<(I, u64)>,
        cpus: u32,
        devices: &[MmioDevice],
    ) -> Result<KernelEntry, BootError>
    where
        K: Read + ReadVolatile + Seek,
        I: ReadVolatile,
    {
        if cpus > MAX_VCPUS {
            return Err(BootError::TooManyVcpus { wanted: cpus, most: MAX_VCPUS });
        }
        let rams: Vec<_> = memory.iter().map(|region| (region.start_addr().0, region.len())).collect();
        let low_end = layout::low_end(&rams);
        if low_end < LEAST_RAM {
            return Err(BootError::RamTooSmall { ram: low_end });
        }
        let refused = |source| BootError::Image { path: self.kernel.clone(), source };
        let image = Image::check(kernel, low_end, self.protocol).map_err(refused)?;
        let image = image.load(memory, self.protocol).map_err(refused)?;
        self.write_command_line(memory, &image, devices)?;
        let initrd = match initrd {
            Some((file, len)) => Some(self.load_initrd(memory, file, len, &image, low_end)?),
            None => None,
        };
        tables::write_machine(memory, cpus)?;
        Ok(match image.start {
            Start::Long(rip) => {
                tables::write_boot_params(memory, image.header, image.command_line_bytes, initrd, &rams)?;
                KernelEntry::Long {
                    rip,
                    rsi: layout::ZERO_PAGE,
                    rsp: layout::STACK,
                    cr3: layout::PAGE_TABLES,
                    gdt: layout::GDT,
                }
            }
            Start::Pvh(rip) => {
                tables::write_start_info(memory, initrd, &rams)?;
                let ebx = u32::try_from(layout::START_INFO).unwrap_or(u32::MAX);
                KernelEntry::Protected { rip, ebx }
            }
        })
    }

    fn write_command_line<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        image: &LoadedImage,
        devices: &[MmioDevice],
    ) -> Result<(), BootError> {
        let text = self.command_line_for(devices)?;
        let most = usize::try_from(image.command_line_bytes.min(MOST_COMMAND_LINE_BYTES)).unwrap_or(0);
        if text.len() > most {
            return Err(BootError::CommandLineTooLong { len: text.len(), most });
        }
        let mut bytes = text.into_bytes();
        bytes.push(0);
        Ok(memory.write_slice(&bytes, GuestAddress(layout::COMMAND_LINE))?)
    }

    /// The command line with what tells the kernel of `devices`, before the arguments that are for init.
    ///
    /// # Errors
    /// [`BootError::CommandLineCharacters`] or [`BootError::CommandLineTooLong`].
    pub fn command_line_for(&self, devices: &[MmioDevice]) -> Result<String, BootError> {
        let most = usize::try_from(MOST_COMMAND_LINE_BYTES).unwrap_or(0);
        let too_long = || BootError::CommandLineTooLong { len: self.command_line.len(), most };
        if self.command_line.len() > most {
            return Err(too_long());
        }
        if !self.command_line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(BootError::CommandLineCharacters);
        }
        // What can still go wrong is that it is too long.
        let mut line = Cmdline::try_from(&self.command_line, most).map_err(|_| too_long())?;
        for device in devices {
            let address = GuestAddress(device.address);
            line.add_virtio_mmio_device(PAGE, address, device.gsi, None).map_err(|_| too_long())?;
        }
        let line = line.as_cstring().map_err(|_| too_long())?;
        line.into_string().map_err(|_| BootError::CommandLineCharacters)
    }

    fn load_initrd<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        mut file: impl ReadVolatile,
        len: u64,
        image: &LoadedImage,
        low_end: u64,
    ) -> Result<Initrd, BootError> {
        let path = || self.initrd.clone().unwrap_or_default();
        if len == 0 {
            return Err(BootError::InitrdEmpty { path: path() });
        }
        let first = image.end.next_multiple_of(PAGE);
        let end = low_end.min(image.initrd_end);
        let start = end.checked_sub(len).map(|start| start / PAGE * PAGE).filter(|start| *start >= first);
        let Some(start) = start else {
            return Err(BootError::InitrdTooLarge { path: path(), len, room: end.saturating_sub(first) });
        };
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut file, bytes)
            .map_err(|_| BootError::InitrdCut { path: path() })?;
        Ok(Initrd { start, len })
    }
}

/// Opens a regular file, and says how long it is. A pipe is not waited for.
fn open(what: &'static str, path: &Path) -> Result<(File, u64), BootError> {
    let failed = |source| BootError::Read { what, path: path.to_owned(), source };
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        Ok((file, metadata.len()))
    } else {
        Err(BootError::NotAFile { what, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests;

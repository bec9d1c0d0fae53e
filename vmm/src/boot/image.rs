//! Kernel images: what a file is, whether it is whole, and how much RAM it needs, all before a byte of it is loaded.
//!
//! linux-loader does the loading; what it would trip over is refused here first.

mod bzimage;
mod elf;
mod payload;

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use linux_loader::loader::{
    BzImage, Elf, KernelLoader, KernelLoaderResult, bootparam::setup_header, elf::PvhBootCapability,
};
use vm_memory::{GuestAddress, GuestMemoryBackend, ReadVolatile};

use super::{Protocol, layout::HIGH_MEMORY};

/// How a file begins that is neither.
const MAGIC_BYTES: usize = 6;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Why a kernel image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("{what}; give an x86_64 kernel: a vmlinux (ELF) or a bzImage, such as /boot/vmlinuz")]
    NotAKernel {
        /// What it seems to be.
        what: &'static str,
    },
    /// It ends before what its headers say.
    #[error("it is truncated: its headers speak of {needed} bytes and it has {len}; copy or build it again")]
    Truncated {
        /// Bytes that the headers speak of.
        needed: u64,
        /// Bytes that are there.
        len: u64,
    },
    /// Its headers contradict themselves.
    #[error("its headers make no sense: {what}; build it again")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// It wants to be where the boot parameters are, or where there is no RAM.
    #[error("it wants to be loaded at {address:#x}, and kernels lie between 1 MiB and the end of RAM")]
    OutsideRam {
        /// The lowest address of the part.
        address: u64,
    },
    /// It needs more RAM than there is.
    #[error("it needs RAM up to {needed:#x} and there is RAM up to {ram:#x}; give the guest more with --mem")]
    LargerThanRam {
        /// Where it ends when it has unpacked itself, guest-physical.
        needed: u64,
        /// Where RAM below 3 GiB ends.
        ram: u64,
    },
    /// The kernel that is packed in it cannot be taken out.
    #[error("the kernel packed in it, by {how}, is damaged; copy or build it again")]
    Unpack {
        /// The compressor.
        how: &'static str,
        /// What its decompressor says.
        #[source]
        source: io::Error,
    },
    /// The kernel that is packed in it cannot be used.
    #[error("the kernel packed in it cannot be used")]
    Packed(#[source] Box<Self>),
    /// It cannot be started in the way that was asked for.
    #[error("{what}; leave --protocol out, or choose another")]
    Protocol {
        /// What it lacks.
        what: &'static str,
    },
    /// linux-loader did not load it.
    #[error("it cannot be loaded")]
    Load(#[source] linux_loader::loader::Error),
}

/// A kernel image that was looked at.
#[derive(Debug)]
pub(super) struct Image<F> {
    file: F,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Elf(elf::Plan),
    /// To be entered in its own code, which unpacks it.
    BzImage(bzimage::Plan),
    /// What was packed in a bzImage.
    Unpacked(Cursor<Vec<u8>>, elf::Plan),
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LoadedImage {
    pub(super) start: Start,
    /// Where RAM begins that it does not need before it runs, guest-physical.
    pub(super) end: u64,
    /// The highest address that an initrd may have, exclusive.
    pub(super) initrd_end: u64,
    /// How long its command line may be, in bytes without the zero at its end.
    pub(super) command_line_bytes: u32,
    /// The header that it came with.
    pub(super) header: Option<setup_header>,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// In 64-bit mode, here.
    Long(u64),
    /// In protected mode, here.
    Pvh(u32),
}

impl<F: Read + ReadVolatile + Seek> Image<F> {
    /// Looks at `file`, of which RAM below `ram_end` is for, and takes out the kernel in it if it is to be entered in that.
    pub(super) fn check(mut file: F, ram_end: u64, protocol: Protocol) -> Result<Self, ImageError> {
        let len = file.seek(SeekFrom::End(0)).map_err(ImageError::Read)?;
        let mut magic = [0; MAGIC_BYTES];
        let known = usize::try_from(len).unwrap_or(usize::MAX).min(magic.len());
        file.rewind().map_err(ImageError::Read)?;
        file.read_exact(&mut magic[..known]).map_err(ImageError::Read)?;
        let format = if magic.starts_with(ELF_MAGIC) {
            Format::Elf(elf::Plan::of(&mut file, len, ram_end)?)
        } else if let Some(plan) = bzimage::Plan::of(&mut file, len, ram_end)? {
            Format::of_bzimage(plan, &mut file, ram_end, protocol)?
        } else {
            return Err(ImageError::NotAKernel { what: kind_of(&magic[..known]) });
        };
        Ok(Self { file, format })
    }

    /// Loads it, to be entered as it was checked for.
    pub(super) fn load<M: GuestMemoryBackend>(
        mut self,
        memory: &M,
        protocol: Protocol,
    ) -> Result<LoadedImage, ImageError> {
        match self.format {
            Format::Elf(plan) => load_elf(memory, &mut self.file, &plan, protocol),
            Format::Unpacked(mut file, plan) => load_elf(memory, &mut file, &plan, protocol),
            Format::BzImage(plan) => {
                let at = GuestAddress(HIGH_MEMORY);
                let loaded = load::<BzImage, _, _>(memory, &mut self.file, Some(at))?;
                Ok(LoadedImage {
                    start: Start::Long(plan.entry),
                    end: plan.end,
                    initrd_end: plan.initrd_end,
                    command_line_bytes: plan.command_line_bytes,
                    header: loaded.setup_header,
                })
            }
        }
    }
}

impl Format {
    /// How a bzImage is entered: in the kernel that is packed in it if that can be taken out here, which is faster than
    /// its own code and works where KVM emulates that code; else, or if `protocol` says so, in its own code.
    fn of_bzimage<F: Read + Seek>(
        plan: bzimage::Plan,
        file: &mut F,
        ram_end: u64,
        protocol: Protocol,
    ) -> Result<Self, ImageError> {
        if protocol == Protocol::Linux64 {
            return Ok(Self::BzImage(plan));
        }
        let unpacked = match plan.payload {
            Some(payload) => payload.unpack(file)?,
            None => None,
        };
        match (unpacked, protocol) {
            (Some(bytes), _) if !bytes.starts_with(ELF_MAGIC) => {
                Err(ImageError::Malformed { what: "what is packed in it is no vmlinux" })
            }
            (Some(bytes), _) => {
                let len = bytes.len() as u64;
                let mut file = Cursor::new(bytes);
                let packed = |error| ImageError::Packed(Box::new(error));
                let plan = elf::Plan::of(&mut file, len, ram_end).map_err(packed)?;
                Ok(Self::Unpacked(file, plan))
            }
            (None, Protocol::Pvh) => Err(ImageError::Protocol {
                what: "a bzImage has no entry for PVH, and the kernel packed in it cannot be taken out",
            }),
            (None, _) => {
                log::info!("the kernel packed in the bzImage cannot be taken out here: it unpacks itself");
                Ok(Self::BzImage(plan))
            }
        }
    }
}

fn load_elf<F: Read + ReadVolatile + Seek, M: GuestMemoryBackend>(
    memory: &M,
    file: &mut F,
    plan: &elf::Plan,
    protocol: Protocol,
) -> Result<LoadedImage, ImageError> {
    let loaded = load::<Elf, _, _>(memory, file, None)?;
    let start = match (protocol, loaded.pvh_boot_cap) {
        (Protocol::Pvh, PvhBootCapability::PvhEntryPresent(entry)) => Start::Pvh(plan.check_pvh(entry.0)?),
        (Protocol::Pvh, _) => return Err(ImageError::Protocol { what: "it has no entry for PVH" }),
        _ => Start::Long(plan.entry),
    };
    Ok(LoadedImage {
        start,
        end: plan.end,
        initrd_end: u64::MAX,
        command_line_bytes: elf::COMMAND_LINE_BYTES,
        header: None,
    })
}

fn load<L: KernelLoader, F: Read + ReadVolatile + Seek, M: GuestMemoryBackend>(
    memory: &M,
    file: &mut F,
    at: Option<GuestAddress>,
) -> Result<KernelLoaderResult, ImageError> {
    L::load(memory, at, file, None).map_err(ImageError::Load)
}

/// What a file seems to be that is no kernel.
fn kind_of(magic: &[u8]) -> &'static str {
    match magic {
        [] => "it is empty",
        [b'#', b'!', ..] => "it is a script",
        [0x1f, 0x8b, ..] => "it is compressed by gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed by zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "it is compressed by xz",
        [b'0', b'7', b'0', b'7', b'0', b'1' | b'2'] => "it is a cpio archive, as an initrd is",
        [b'M', b'Z', ..] => "it is a program for EFI or Windows without a Linux boot header",
        _ => "it is not a kernel",
    }
}

#[cfg(test)]
mod tests;

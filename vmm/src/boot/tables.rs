//! What is written into guest memory beside the kernel: descriptor table, page tables, boot parameters, start info.

use linux_loader::loader::{
    bootparam::{boot_e820_entry, boot_params, setup_header},
    elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::{Initrd, layout, mp_table::mp_table};
use crate::kvm::KernelEntry;

/// A page-table entry: present and writable; at the lowest level, a page of 2 MiB.
const TABLE: u64 = 0b11;
const HUGE: u64 = 1 << 7 | TABLE;

/// A boot loader without a number of its own.
const LOADER_TYPE: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const KERNEL_ALIGNMENT: u32 = 0x100_0000;
/// What PVH's start info begins with.
const START_INFO_MAGIC: u32 = 0x336e_c578;

/// What every kernel gets: its descriptor table, 1 GiB of identity mapping, and the MP table for `cpus` CPUs.
pub(super) fn write_machine<M: GuestMemoryBackend>(memory: &M, cpus: u32) -> Result<(), GuestMemoryError> {
    let gdt: Vec<u8> = KernelEntry::GDT.into_iter().flat_map(u64::to_le_bytes).collect();
    memory.write_slice(&gdt, GuestAddress(layout::GDT))?;

    let [top, middle, low] = [0, 1, 2].map(|level| layout::PAGE_TABLES + level * 0x1000);
    memory.write_obj(middle | TABLE, GuestAddress(top))?;
    memory.write_obj(low | TABLE, GuestAddress(middle))?;
    let pages: Vec<u8> = (0..512_u64).flat_map(|page| (page << 21 | HUGE).to_le_bytes()).collect();
    memory.write_slice(&pages, GuestAddress(low))?;

    let at = u32::try_from(layout::MP_TABLE).unwrap_or(u32::MAX);
    memory.write_slice(&mp_table(cpus, at), GuestAddress(layout::MP_TABLE))
}

/// Linux's boot parameters. `header` is the kernel's own, if it came with one.
pub(super) fn write_boot_params<M: GuestMemoryBackend>(
    memory: &M,
    header: Option<setup_header>,
    command_line_bytes: u32,
    initrd: Option<Initrd>,
    rams: &[(u64, u64)],
) -> Result<(), GuestMemoryError> {
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let mut params = boot_params { hdr: header.unwrap_or_default(), ..boot_params::default() };
    if header.is_none() {
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.header = HEADER_MAGIC;
        params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
        params.hdr.cmdline_size = command_line_bytes;
    }
    params.hdr.type_of_loader = LOADER_TYPE;
    params.hdr.cmd_line_ptr = low(layout::COMMAND_LINE);
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = low(initrd.start);
        params.hdr.ramdisk_size = low(initrd.len);
    }
    let map = layout::memory_map(rams);
    for (to, from) in params.e820_table.iter_mut().zip(&map) {
        *to = boot_e820_entry { addr: from.start, size: from.len, r#type: from.kind };
        params.e820_entries += 1;
    }
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))
}

/// What PVH gives a kernel: the same in another form.
pub(super) fn write_start_info<M: GuestMemoryBackend>(
    memory: &M,
    initrd: Option<Initrd>,
    rams: &[(u64, u64)],
) -> Result<(), GuestMemoryError> {
    let map = layout::memory_map(rams);
    let entry_bytes = size_of::<hvm_memmap_table_entry>() as u64;
    for (number, entry) in (0..).zip(&map) {
        let entry =
            hvm_memmap_table_entry { addr: entry.start, size: entry.len, type_: entry.kind, reserved: 0 };
        memory.write_obj(entry, GuestAddress(layout::ZERO_PAGE + number * entry_bytes))?;
    }
    let mut info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        cmdline_paddr: layout::COMMAND_LINE,
        memmap_paddr: layout::ZERO_PAGE,
        memmap_entries: u32::try_from(map.len()).unwrap_or(u32::MAX),
        ..hvm_start_info::default()
    };
    if let Some(initrd) = initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..hvm_modlist_entry::default() };
        memory.write_obj(module, GuestAddress(layout::MODULES))?;
        (info.nr_modules, info.modlist_paddr) = (1, layout::MODULES);
    }
    memory.write_obj(info, GuestAddress(layout::START_INFO))
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    const M: u64 = 1 << 20;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap()
    }

    fn word<T: vm_memory::ByteValued>(memory: &GuestMemoryMmap, address: u64) -> T {
        memory.read_obj(GuestAddress(address)).unwrap()
    }

    #[test]
    fn the_first_gibibyte_is_mapped_to_itself() {
        let memory = memory();
        write_machine(&memory, 2).unwrap();

        let address = 0x1234_5678_u64;
        let walk =
            |table: u64, shift: u32| word::<u64>(&memory, (table & !0xfff) + (address >> shift & 0x1ff) * 8);
        let [top, middle] = [walk(layout::PAGE_TABLES, 39), walk(walk(layout::PAGE_TABLES, 39), 30)];
        let page = walk(middle, 21);

        assert_eq!((top & 3, middle & 3, page & 0x83), (3, 3, 0x83));
        assert_eq!(page & !0x1f_ffff, address & !0x1f_ffff);
        assert_eq!(&memory.read_obj::<[u8; 4]>(GuestAddress(layout::MP_TABLE)).unwrap(), b"_MP_");
    }

    #[test]
    fn a_kernel_without_a_header_gets_one() {
        let memory = memory();
        let initrd = Initrd { start: 8 * M, len: 123 };

        write_boot_params(&memory, None, 2048, Some(initrd), &[(0, 16 * M)]).unwrap();

        let params: boot_params = word(&memory, layout::ZERO_PAGE);
        let header = params.hdr;
        assert_eq!(({ header.boot_flag }, { header.header }), (0xaa55, 0x5372_6448));
        assert_eq!(header.type_of_loader, 0xff);
        assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (8 << 20, 123));
        assert_eq!(params.e820_entries, 3);
    }

    #[test]
    fn a_header_that_came_with_the_kernel_is_kept() {
        let memory = memory();
        let header = setup_header { version: 0x20f, setup_sects: 31, ..setup_header::default() };

        write_boot_params(&memory, Some(header), 2048, None, &[(0, 16 * M)]).unwrap();

        let written = word::<boot_params>(&memory, layout::ZERO_PAGE).hdr;
        assert_eq!(({ written.version }, written.setup_sects), (0x20f, 31));
        assert_eq!({ written.cmd_line_ptr }, 0x2_0000);
    }

    #[test]
    fn pvh_finds_the_map_the_command_line_and_its_module() {
        let memory = memory();

        write_start_info(&memory, Some(Initrd { start: M, len: 7 }), &[(0, 16 * M)]).unwrap();

        let info: hvm_start_info = word(&memory, layout::START_INFO);
        assert_eq!((info.magic, info.nr_modules, info.memmap_entries), (0x336e_c578, 1, 3));
        assert_eq!(info.cmdline_paddr, layout::COMMAND_LINE);
        let module: hvm_modlist_entry = word(&memory, info.modlist_paddr);
        assert_eq!((module.paddr, module.size), (M, 7));
        let last: hvm_memmap_table_entry = word(&memory, info.memmap_paddr + 2 * 24);
        assert_eq!((last.addr, last.size, last.type_), (M, 15 * M, 1));
    }
}

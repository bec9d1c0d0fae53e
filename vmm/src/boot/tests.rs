use std::io::Cursor;

use linux_loader::loader::bootparam::boot_params;
use vm_memory::GuestMemoryMmap;

use super::{
    testing::{Segment, elf},
    *,
};

const M: u64 = 1 << 20;
const RAM: u64 = 8 * M;

fn memory(bytes: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(bytes).unwrap())]).unwrap()
}

/// A kernel of 4 KiB at 1 MiB.
fn kernel() -> Cursor<Vec<u8>> {
    Cursor::new(elf(M, &[Segment::load(M, &[0x90; 16], 4096)]))
}

fn source() -> BootSource {
    BootSource { initrd: Some("an-initrd".into()), ..BootSource::new("a-kernel") }
}

fn load(
    source: &BootSource,
    memory: &GuestMemoryMmap,
    initrd: Option<&[u8]>,
) -> Result<KernelEntry, BootError> {
    let initrd = initrd.map(|bytes| (Cursor::new(bytes), bytes.len() as u64));
    source.load_from(memory, kernel(), initrd, 1, &[])
}

#[track_caller]
fn refusal(result: Result<KernelEntry, BootError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_kernel_is_entered_with_its_boot_parameters() {
    let memory = memory(RAM);

    let entry = load(&source(), &memory, Some(&[7; 5000])).unwrap();

    assert_eq!(entry, KernelEntry::Long { rip: M, rsi: 0x7000, rsp: 0x8ff0, cr3: 0x9000, gdt: 0x500 });
    let header = memory.read_obj::<boot_params>(GuestAddress(0x7000)).unwrap().hdr;
    let start = u64::from(header.ramdisk_image);
    assert_eq!((start, { header.ramdisk_size }), (RAM - 8192, 5000));
    assert_eq!(memory.read_obj::<[u8; 16]>(GuestAddress(start)).unwrap(), [7; 16]);
    let line = memory.read_obj::<[u8; 32]>(GuestAddress(header.cmd_line_ptr.into())).unwrap();
    assert_eq!(&line, b"console=ttyS0 reboot=k panic=-1\0");
}

#[test]
fn an_initrd_fills_what_is_left_to_the_last_page_and_no_more() {
    let room = RAM - M - 4096;
    let bytes = vec![7; usize::try_from(room).unwrap() + 1];

    assert!(load(&source(), &memory(RAM), Some(&bytes[1..])).is_ok());
    let error = refusal(load(&source(), &memory(RAM), Some(&bytes)));
    assert!(error.contains(&format!("{room} bytes of RAM are left above the kernel")), "{error}");
    assert!(error.contains("--mem"), "{error}");
}

#[test]
fn an_empty_initrd_is_refused() {
    assert!(refusal(load(&source(), &memory(RAM), Some(&[]))).contains("is empty"));
}

#[test]
fn an_initrd_that_shrinks_while_it_is_read_is_refused() {
    let initrd = (Cursor::new([7; 10]), 11);

    let result = source().load_from(&memory(RAM), kernel(), Some(initrd), 1, &[]);

    assert!(refusal(result).contains("cut short"));
}

#[test]
fn a_command_line_of_2047_bytes_is_taken_and_a_longer_one_is_not() {
    let with = |len| BootSource { command_line: "a".repeat(len), ..source() };

    assert!(load(&with(2047), &memory(RAM), None).is_ok());
    let error = refusal(load(&with(2048), &memory(RAM), None));
    assert!(error.contains("has 2048 bytes, and this kernel takes at most 2047"), "{error}");
    assert!(refusal(load(&with(1 << 20), &memory(RAM), None)).contains("shorten --cmdline"));
}

#[test]
fn a_command_line_that_a_kernel_cannot_read_is_refused() {
    for command_line in ["tab\there", "naïve", "nul\0here"] {
        let source = BootSource { command_line: command_line.to_owned(), ..source() };
        assert!(refusal(load(&source, &memory(RAM), None)).contains("printable ASCII"));
    }
}

#[test]
fn devices_come_before_the_arguments_for_init() {
    let source = BootSource { command_line: "quiet -- -x".to_owned(), ..source() };
    let devices = [MmioDevice { address: 0xd000_0000, gsi: 5 }, MmioDevice { address: 0xd000_1000, gsi: 6 }];

    let line = source.command_line_for(&devices).unwrap();

    assert_eq!(line, "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 -- -x");
}

#[test]
fn too_little_ram_is_told() {
    assert!(refusal(load(&source(), &memory(M), None)).contains("at least 2M"));
}

#[test]
fn more_cpus_than_the_table_has_room_for_are_refused() {
    let result = source().load_from(&memory(RAM), kernel(), None::<(Cursor<&[u8]>, u64)>, 255, &[]);

    assert!(refusal(result).contains("at most 254"));
}

#[test]
fn what_is_no_file_is_refused_by_its_name() {
    let with = |path: &str| BootSource::new(path).load(&memory(RAM), 1, &[]).unwrap_err().to_string();

    assert!(with("/no/such/kernel").contains("cannot read the kernel /no/such/kernel"));
    assert!(with("/dev").contains("the kernel /dev is not a regular file"));
    assert!(with("/dev/null").contains("is not a regular file"));
}

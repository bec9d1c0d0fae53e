//! The table of Intel's MultiProcessor specification that tells a kernel of its CPUs and of the IOAPIC. Without it Linux
//! stays with the PICs.

/// The most CPUs that a guest can have: APIC ids have 8 bits here, the last two are the IOAPIC's and everybody's.
pub const MAX_VCPUS: u32 = 254;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Pins of the IOAPIC, and the ISA interrupts that they take.
const PINS: u8 = 24;
/// Version 1.4.
const SPECIFICATION: u8 = 4;
const APIC_VERSION: u8 = 0x14;

/// Kinds of entry.
const CPU: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
/// Kinds of interrupt.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTINT: u8 = 3;

/// The table of a guest with `cpus` CPUs, up to [`MAX_VCPUS`], for the guest-physical address `at`: a pointer that a kernel
/// finds, and what it points at.
pub(super) fn mp_table(cpus: u32, at: u32) -> Vec<u8> {
    let cpus = u8::try_from(cpus.min(MAX_VCPUS)).unwrap_or(u8::MAX);
    let entries = entries(cpus);
    let count = u16::from(cpus) + u16::from(PINS) + 4;

    let mut table = Vec::with_capacity(16 + 44 + entries.len());
    table.extend(pointer(at + 16));
    let len = u16::try_from(44 + entries.len()).unwrap_or(u16::MAX);
    let mut config = Vec::with_capacity(usize::from(len));
    config.extend(*b"PCMP");
    config.extend(len.to_le_bytes());
    config.extend([SPECIFICATION, 0]);
    config.extend(*b"UNDERLAYMICROVM     ");
    config.extend([0; 6]);
    config.extend(count.to_le_bytes());
    config.extend(LOCAL_APIC.to_le_bytes());
    config.extend([0; 4]);
    config.extend(entries);
    config[7] = checksum(&config);
    table.extend(config);
    table
}

/// What a kernel looks for.
fn pointer(table: u32) -> [u8; 16] {
    let mut pointer = *b"_MP_\0\0\0\0\x01\x04\0\0\0\0\0\0";
    pointer[4..8].copy_from_slice(&table.to_le_bytes());
    pointer[10] = checksum(&pointer);
    pointer
}

fn entries(cpus: u8) -> Vec<u8> {
    let ioapic = cpus;
    let mut entries = Vec::with_capacity(20 * usize::from(cpus) + 8 * (usize::from(PINS) + 4));
    for id in 0..cpus {
        let enabled = 1 | if id == 0 { 2 } else { 0 };
        // Signature and features: CPUID tells them better.
        let signature = 0x600_u32.to_le_bytes();
        let features = 0x201_u32.to_le_bytes();
        entries.extend([CPU, id, APIC_VERSION, enabled]);
        entries.extend(signature);
        entries.extend(features);
        entries.extend([0; 8]);
    }
    entries.extend([BUS, 0]);
    entries.extend(*b"ISA   ");
    entries.extend([IOAPIC, ioapic, APIC_VERSION, 1]);
    entries.extend(IO_APIC.to_le_bytes());
    for pin in 0..PINS {
        entries.extend([IO_INTERRUPT, VECTORED, 0, 0, 0, pin, ioapic, pin]);
    }
    entries.extend([LOCAL_INTERRUPT, EXTINT, 0, 0, 0, 0, 0, 0]);
    entries.extend([LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, 0xff, 1]);
    entries
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u32 = 0xf_0000;

    /// The entries of a table, each with its kind.
    fn parse(table: &[u8]) -> Vec<&[u8]> {
        let len = usize::from(u16::from_le_bytes([table[20], table[21]]));
        let mut rest = &table[16 + 44..16 + len];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, next) = rest.split_at(if rest[0] == CPU { 20 } else { 8 });
            entries.push(entry);
            rest = next;
        }
        entries
    }

    #[test]
    fn pointer_and_table_add_up_to_zero() {
        for cpus in [1, 2, MAX_VCPUS] {
            let table = mp_table(cpus, AT);

            assert_eq!(checksum(&table[..16]), 0);
            assert_eq!(checksum(&table[16..]), 0);
            assert_eq!(table[4..8], (AT + 16).to_le_bytes());
            assert!(table.len() < 0x1_0000);
        }
    }

    #[test]
    fn the_table_counts_its_entries_and_lists_every_cpu() {
        for cpus in [1, 2, 37, MAX_VCPUS] {
            let table = mp_table(cpus, AT);
            let entries = parse(&table);

            assert_eq!(usize::from(u16::from_le_bytes([table[50], table[51]])), entries.len());
            let ids: Vec<_> = entries.iter().filter(|entry| entry[0] == CPU).map(|entry| entry[1]).collect();
            assert!(ids.iter().copied().map(u32::from).eq(0..cpus));
            let boots = entries.iter().filter(|entry| entry[0] == CPU && entry[3] & 2 != 0).count();
            assert_eq!(boots, 1);
        }
    }

    #[test]
    fn every_isa_interrupt_goes_to_the_pin_of_its_number() {
        let table = mp_table(1, AT);
        let pins: Vec<_> = parse(&table)
            .into_iter()
            .filter(|entry| entry[0] == IO_INTERRUPT)
            .map(|entry| (entry[5], entry[7]))
            .collect();

        assert_eq!(pins, (0..24).map(|pin| (pin, pin)).collect::<Vec<_>>());
    }

    #[test]
    fn the_ioapic_has_an_id_of_its_own() {
        let table = mp_table(3, AT);
        let entries = parse(&table);

        assert!(entries.iter().any(|entry| entry[0] == IOAPIC && entry[1] == 3));
    }
}

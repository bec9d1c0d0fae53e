//! Why a guest does not go on, told so that the reader knows where it was and what to do.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Mnemonic};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    boot::Symbols,
    kvm::{EMULATION_FAILURE, Exit, InstructionBytes, Registers, Vcpu},
};
use guest_mem::GuestMemoryView;

/// Bytes that are read where a guest is: the longest instruction.
const LONGEST: usize = 15;
const PAGE: u64 = 4096;

/// A guest that does not go on.
#[derive(Clone, Debug)]
pub struct GuestStopped {
    vcpu: u32,
    exit: Exit,
    /// None where KVM did not tell them.
    registers: Option<Registers>,
    /// What it was about to execute; empty if that cannot be read.
    instruction: InstructionBytes,
}

impl GuestStopped {
    /// Asks KVM where `vcpu` is, and reads what it was to execute, unless `exit` tells that.
    pub(super) fn find_out(id: u32, exit: Exit, vcpu: &Vcpu, memory: &GuestMemoryView) -> Self {
        let registers = vcpu.registers().ok();
        let told = match exit {
            Exit::InternalError { instruction, .. } => instruction,
            _ => InstructionBytes::default(),
        };
        let instruction = match registers {
            Some(registers) if told.as_slice().is_empty() => {
                read_code(memory, registers.general.rip, |address| vcpu.translate(address))
            }
            _ => told,
        };
        Self { vcpu: id, exit, registers, instruction }
    }

    /// All of it as text, with the names that `symbols` has.
    #[must_use]
    pub fn describe(&self, symbols: &Symbols) -> String {
        let mut lines = vec![format!("vCPU {} stopped: {}", self.vcpu, self.why())];
        if let Some(registers) = &self.registers {
            lines.push(Located { registers, symbols }.to_string());
            let bytes = self.instruction.as_slice();
            match disassemble(self.instruction, registers) {
                Some(found) => lines.push(format!("bytes {}: {}", hex(&bytes[..found.len]), found.text)),
                None if bytes.is_empty() => lines.push("what it was to execute cannot be read".to_owned()),
                None => lines.push(format!("bytes {}: no instruction", hex(bytes))),
            }
        }
        lines.extend(self.advice());
        lines.join("\n")
    }

    fn why(&self) -> String {
        match self.exit {
            Exit::Shutdown => "triple fault: it faulted, and again in the handlers of that".to_owned(),
            exit => exit.to_string(),
        }
    }

    /// What the user can do.
    fn advice(&self) -> Option<String> {
        let Exit::InternalError { suberror, .. } = self.exit else {
            let advice = match self.exit {
                Exit::Shutdown => {
                    "if this is not a reboot of its own (use reboot=k), let it say more: add earlyprintk=ttyS0 and leave \
                     quiet out of --cmdline"
                }
                Exit::Poisoned { .. } | Exit::MemoryFault { .. } => {
                    "the host cannot give this guest a page: see its kernel's log, and whether its huge pages or its \
                     backing file are still there"
                }
                Exit::FailEntry { .. } => "see the kernel's log of the host, where KVM dumps what was wrong",
                _ => return None,
            };
            return Some(advice.to_owned());
        };
        if suberror != EMULATION_FAILURE {
            return Some("see the kernel's log of the host".to_owned());
        }
        let found = self.registers.and_then(|registers| disassemble(self.instruction, &registers));
        let option = found.and_then(|found| option_against(found.mnemonic));
        let what = "KVM emulates kernel code here and lacks this instruction";
        Some(match option {
            Some(option) => format!("{what}: add {option} to --cmdline, so that Linux does not use it"),
            None => format!(
                "{what}: use a host with EPT or NPT, or a kernel that does without it, such as resources/kernel/build.sh \
                 makes"
            ),
        })
    }
}

/// What keeps Linux from an instruction.
const fn option_against(mnemonic: Mnemonic) -> Option<&'static str> {
    Some(match mnemonic {
        Mnemonic::Xrstor
        | Mnemonic::Xrstor64
        | Mnemonic::Xrstors
        | Mnemonic::Xrstors64
        | Mnemonic::Xsave
        | Mnemonic::Xsave64
        | Mnemonic::Xsavec
        | Mnemonic::Xsavec64
        | Mnemonic::Xsaveopt
        | Mnemonic::Xsaveopt64
        | Mnemonic::Xsaves
        | Mnemonic::Xsaves64 => "noxsave",
        Mnemonic::Stac | Mnemonic::Clac => "clearcpuid=smap",
        Mnemonic::Popcnt => "clearcpuid=popcnt",
        Mnemonic::Cmpxchg16b => "clearcpuid=cx16",
        Mnemonic::Invpcid => "noinvpcid",
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// An instruction.
struct Found {
    mnemonic: Mnemonic,
    text: String,
    len: usize,
}

/// The first instruction of `bytes`, as the guest's mode has it.
fn disassemble(bytes: InstructionBytes, registers: &Registers) -> Option<Found> {
    let bytes = bytes.as_slice();
    let mut decoder =
        Decoder::with_ip(registers.code_bits, bytes, registers.general.rip, DecoderOptions::NONE);
    let instruction = decoder.can_decode().then(|| decoder.decode()).filter(|found| !found.is_invalid())?;
    let mut text = String::new();
    GasFormatter::new().format(&instruction, &mut text);
    Some(Found { mnemonic: instruction.mnemonic(), text, len: instruction.len().min(bytes.len()) })
}

/// Up to 15 bytes of code at the guest-virtual `address`, as far as they are mapped to RAM.
fn read_code(
    memory: &GuestMemoryView,
    address: u64,
    translate: impl Fn(u64) -> Option<u64>,
) -> InstructionBytes {
    let mut code = [0; LONGEST];
    let mut known = 0;
    while known < LONGEST {
        let next = address.wrapping_add(known as u64);
        let in_page = usize::try_from(PAGE - next % PAGE).unwrap_or(1).min(LONGEST - known);
        let part = &mut code[known..known + in_page];
        let read = translate(next).map(|place| memory.read_slice(part, GuestAddress(place)));
        if !matches!(read, Some(Ok(()))) {
            break;
        }
        known += in_page;
    }
    InstructionBytes::new(&code[..known])
}

/// Where RIP is, with the name of the function that it is in.
pub(super) struct Place<'a> {
    pub(super) address: u64,
    pub(super) symbols: &'a Symbols,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rip {:#018x}", self.address)?;
        match self.symbols.find(self.address) {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

/// Registers, with the name of the function that RIP is in.
struct Located<'a> {
    registers: &'a Registers,
    symbols: &'a Symbols,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Registers { general, cr2, cr3, .. } = self.registers;
        Place { address: general.rip, symbols: self.symbols }.fmt(f)?;
        write!(
            f,
            " rflags {:#x} cr2 {cr2:#x} cr3 {cr3:#x}\n\
             rax {:#018x} rbx {:#018x} rcx {:#018x} rdx {:#018x}\n\
             rsi {:#018x} rdi {:#018x} rbp {:#018x} rsp {:#018x}\n\
             r8  {:#018x} r9  {:#018x} r10 {:#018x} r11 {:#018x}\n\
             r12 {:#018x} r13 {:#018x} r14 {:#018x} r15 {:#018x}",
            general.rflags,
            general.rax,
            general.rbx,
            general.rcx,
            general.rdx,
            general.rsi,
            general.rdi,
            general.rbp,
            general.rsp,
            general.r8,
            general.r9,
            general.r10,
            general.r11,
            general.r12,
            general.r13,
            general.r14,
            general.r15,
        )
    }
}

#[cfg(test)]
mod tests {
    use guest_mem::{Backing, ByteSize, GuestRam, GuestRamConfig};

    use super::*;

    fn stopped(exit: Exit, code: &[u8]) -> String {
        let mut registers = Registers { code_bits: 64, ..Registers::default() };
        registers.general.rip = 0x1000;
        let instruction = InstructionBytes::new(code);
        let stopped = GuestStopped { vcpu: 1, exit, registers: Some(registers), instruction };
        stopped.describe(&Symbols::default())
    }

    fn emulation_failure(code: &[u8]) -> String {
        let instruction = InstructionBytes::new(code);
        stopped(Exit::InternalError { suberror: EMULATION_FAILURE, instruction }, code)
    }

    #[test]
    fn an_emulation_failure_says_what_keeps_linux_from_it() {
        let text = emulation_failure(&[0x48, 0x0f, 0xae, 0x2f]);

        assert!(text.starts_with("vCPU 1 stopped: KVM cannot emulate its next instruction"), "{text}");
        assert!(text.contains("rip 0x0000000000001000"), "{text}");
        assert!(text.contains("bytes 48 0f ae 2f: xrstor64 (%rdi)"), "{text}");
        assert!(text.contains("add noxsave to --cmdline"), "{text}");
    }

    #[test]
    fn options_are_known_for_what_emulators_lack() {
        let cases: [(&[u8], &str); 4] = [
            (&[0x0f, 0x01, 0xcb], "clearcpuid=smap"),
            (&[0xf3, 0x0f, 0xb8, 0xc0], "clearcpuid=popcnt"),
            (&[0x48, 0x0f, 0xc7, 0x0f], "clearcpuid=cx16"),
            (&[0x0f, 0x38, 0xf6, 0x00], "use a host with EPT or NPT"),
        ];
        for (code, option) in cases {
            let text = emulation_failure(code);
            assert!(text.contains(option), "{text}");
        }
    }

    #[test]
    fn a_triple_fault_says_where_and_how_to_see_more() {
        let text = stopped(Exit::Shutdown, &[0x0f, 0x0b]);

        assert!(text.contains("triple fault"), "{text}");
        assert!(text.contains("bytes 0f 0b: ud2"), "{text}");
        assert!(text.contains("earlyprintk=ttyS0"), "{text}");
    }

    #[test]
    fn code_is_read_as_far_as_it_is_mapped() {
        let config = GuestRamConfig::new(ByteSize::new(2 * PAGE).unwrap(), Backing::Anonymous);
        let ram = GuestRam::create(config).unwrap();
        ram.view().write_slice(&[1, 2, 3, 4, 5], GuestAddress(PAGE - 2)).unwrap();
        let identity = |address: u64| Some(address);
        let first_page = |address: u64| (address < PAGE).then_some(address);

        assert_eq!(read_code(ram.view(), PAGE - 2, identity).as_slice()[..6], [1, 2, 3, 4, 5, 0]);
        assert_eq!(read_code(ram.view(), PAGE - 2, first_page).as_slice(), [1, 2]);
        assert_eq!(read_code(ram.view(), 9 * PAGE, identity).as_slice(), [0; 0]);
        assert_eq!(read_code(ram.view(), u64::MAX, |_| None).as_slice(), [0; 0]);
    }
}

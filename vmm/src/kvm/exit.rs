//! Why a vCPU came back from KVM_RUN, and where it was.

use std::fmt;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_regs, kvm_run,
};

/// The suberror of an instruction that KVM cannot emulate.
pub const EMULATION_FAILURE: u32 = KVM_INTERNAL_ERROR_EMULATION;
/// No instruction of x86 is longer.
const LONGEST_INSTRUCTION: usize = 15;

/// The bytes of an instruction, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstructionBytes {
    len: u8,
    bytes: [u8; LONGEST_INSTRUCTION],
}

/// The registers that say where a guest is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Registers {
    /// General registers, RIP and RFLAGS, as KVM gives them.
    pub general: kvm_regs,
    /// The address of the last page fault.
    pub cr2: u64,
    /// The top-level page table.
    pub cr3: u64,
    /// How wide its code is: 16, 32 or 64 bits.
    pub code_bits: u32,
    /// Whether it has halted, and waits for an interrupt.
    pub is_halted: bool,
}

/// Why KVM_RUN came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote to an address without memory.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// The value, zero-extended.
        value: u64,
    },
    /// The guest read from an address without memory.
    MmioRead {
        /// Guest-physical address.
        address: u64,
    },
    /// A signal, or a request to stop.
    Interrupted,
    /// The guest touched memory that is lost for good: poisoned, by a fault of the hardware or by who runs the memory.
    Poisoned {
        /// The host address of the page.
        address: u64,
    },
    /// The guest took a fault while it had no way to handle one: a triple fault.
    Shutdown,
    /// KVM could not go on: an instruction that it cannot emulate, for one.
    InternalError {
        /// KVM's number for the reason; 1 is an emulation failure.
        suberror: u32,
        /// What KVM was to emulate; none where it does not say.
        instruction: InstructionBytes,
    },
    /// The processor refused the vCPU's state.
    FailEntry {
        /// The processor's number for the reason.
        reason: u64,
    },
    /// KVM found no host page behind a guest address.
    MemoryFault {
        /// Guest-physical address.
        address: u64,
    },
    /// A device that the guest spoke to has ended the run.
    Device,
    /// An exit that no guest of ours causes, by its KVM_EXIT number or name.
    Other(&'static str),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MmioWrite { address, .. } => {
                write!(f, "it wrote {address:#x}, where there is no memory")
            }
            Self::MmioRead { address } => {
                write!(f, "it read {address:#x}, where there is no memory")
            }
            Self::Interrupted => f.write_str("it was interrupted"),
            Self::Poisoned { address } => {
                write!(f, "it touched a page that is poisoned, at the host's {address:#x}")
            }
            Self::Shutdown => f.write_str("triple fault (it has no handler, so its first fault is its last)"),
            Self::InternalError { suberror: EMULATION_FAILURE, .. } => {
                f.write_str("KVM cannot emulate its next instruction")
            }
            Self::InternalError { suberror, .. } => {
                write!(f, "KVM internal error, suberror {suberror}")
            }
            Self::FailEntry { reason } => {
                write!(f, "the processor refused its state, reason {reason:#x}")
            }
            Self::MemoryFault { address } => {
                write!(f, "the host has no page for guest address {address:#x}")
            }
            Self::Device => f.write_str("a device has ended the run"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl InstructionBytes {
    /// The first 15 of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut this = Self::default();
        for (to, from) in this.bytes.iter_mut().zip(bytes) {
            *to = *from;
            this.len += 1;
        }
        this
    }

    /// The bytes; empty where none are known.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What a KVM_EXIT_INTERNAL_ERROR says.
pub(super) fn internal_error(run: &kvm_run) -> Exit {
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so this is the field that the kernel filled; it is plain data,
    // valid whatever its bytes.
    let error = unsafe { run.__bindgen_anon_1.internal };
    let told = usize::try_from(error.ndata).unwrap_or(0).min(error.data.len());
    Exit::InternalError {
        suberror: error.suberror,
        instruction: emulated(error.suberror, &error.data[..told]),
    }
}

/// The instruction in the data of an emulation failure: flags in the first word, then its length and its bytes.
fn emulated(suberror: u32, data: &[u64]) -> InstructionBytes {
    let &[flags, low, high, ..] = data else {
        return InstructionBytes::default();
    };
    let told = flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if suberror != EMULATION_FAILURE || !told {
        return InstructionBytes::default();
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    InstructionBytes::new(&bytes[1..][..usize::from(bytes[0]).min(LONGEST_INSTRUCTION)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulation_failure_tells_its_instruction() {
        // Length 3, then fwait; xrstor would be longer.
        let data = [1, u64::from_le_bytes([3, 0x0f, 0xae, 0x2f, 0xcc, 0xcc, 0xcc, 0xcc]), u64::MAX];

        assert_eq!(emulated(EMULATION_FAILURE, &data).as_slice(), [0x0f, 0xae, 0x2f]);
        assert_eq!(emulated(EMULATION_FAILURE, &[0, 3, 0]).as_slice(), [0; 0]);
        assert_eq!(emulated(EMULATION_FAILURE, &[1]).as_slice(), [0; 0]);
        assert_eq!(emulated(3, &data).as_slice(), [0; 0]);
    }

    #[test]
    fn a_length_beyond_every_instruction_is_cut() {
        assert_eq!(emulated(EMULATION_FAILURE, &[1, 0xff, 0]).as_slice(), [0; 15]);
        assert_eq!(InstructionBytes::new(&[7; 20]).as_slice(), [7; 15]);
    }
}

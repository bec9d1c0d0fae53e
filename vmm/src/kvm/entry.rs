//! The state in which a vCPU starts.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_AM: u64 = 1 << 18;
const CR0_PE_MP_ET_NE_WP_PG: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA_NXE: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// Bit 1 of RFLAGS is always set; everything else, interrupts included, is off.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// The state in which a vCPU starts: 64-bit mode at privilege level 3, so that its code runs natively also where
/// KVM emulates level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// The first instruction, a guest-virtual address.
    pub rip: u64,
    /// The first argument of the guest's code, in RDI.
    pub rdi: u64,
    /// The top-level page table, guest-physical and 4 KiB-aligned.
    pub cr3: u64,
}

impl EntryState {
    /// The general registers.
    pub(super) fn regs(self) -> kvm_regs {
        kvm_regs { rip: self.rip, rdi: self.rdi, rflags: RFLAGS_RESERVED, ..kvm_regs::default() }
    }

    /// `reset` changed to this state.
    pub(super) fn sregs(self, reset: &kvm_sregs) -> kvm_sregs {
        user_mode(reset, self.cr3)
    }
}

/// The state in which the boot vCPU starts a kernel, at privilege level 0 with interrupts off. The others wait for its
/// start-up message, as KVM makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEntry {
    /// 64-bit mode, as Linux's 64-bit boot protocol wants it.
    Long {
        /// The first instruction.
        rip: u64,
        /// What Linux finds in RSI: its boot parameters.
        rsi: u64,
        /// The top of a stack.
        rsp: u64,
        /// The top-level page table, guest-physical and 4 KiB-aligned.
        cr3: u64,
        /// The descriptor table; [`GDT`](KernelEntry::GDT) is in it.
        gdt: u64,
    },
    /// 32-bit protected mode without paging, as PVH wants it.
    Protected {
        /// The first instruction.
        rip: u32,
        /// What is found in EBX: the start info.
        ebx: u32,
    },
}

impl KernelEntry {
    /// What the descriptor table holds: nothing, nothing, flat 64-bit code (0x10), flat data (0x18), a busy task-state
    /// segment (0x20).
    pub const GDT: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

    /// The general registers.
    pub(super) fn regs(self) -> kvm_regs {
        let regs = kvm_regs { rflags: RFLAGS_RESERVED, ..kvm_regs::default() };
        match self {
            Self::Long { rip, rsi, rsp, .. } => kvm_regs { rip, rsi, rsp, rbp: rsp, ..regs },
            Self::Protected { rip, ebx } => kvm_regs { rip: rip.into(), rbx: ebx.into(), ..regs },
        }
    }

    /// `reset` changed to this state.
    pub(super) fn sregs(self, reset: &kvm_sregs) -> kvm_sregs {
        let long = matches!(self, Self::Long { .. });
        let flat = |selector: u16, type_: u8| kvm_segment {
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            s: 1,
            db: u8::from(type_ == DATA || !long),
            l: u8::from(type_ == CODE && long),
            g: 1,
            ..kvm_segment::default()
        };
        let data = flat(0x18, DATA);
        let sregs = kvm_sregs {
            cs: flat(0x10, CODE),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: kvm_segment { limit: 0x67, selector: 0x20, type_: 0xb, present: 1, ..kvm_segment::default() },
            ldt: kvm_segment { unusable: 1, ..kvm_segment::default() },
            gdt: kvm_dtable::default(),
            idt: kvm_dtable::default(),
            ..*reset
        };
        match self {
            Self::Long { cr3, gdt, .. } => kvm_sregs {
                gdt: kvm_dtable { base: gdt, limit: GDT_LIMIT, ..kvm_dtable::default() },
                cr0: CR0_PE_MP_ET_NE_WP_PG | CR0_AM,
                cr3,
                cr4: CR4_PAE,
                efer: EFER_LME_LMA_NXE,
                ..sregs
            },
            Self::Protected { .. } => kvm_sregs { cr0: CR0_PE | CR0_ET, cr4: 0, efer: 0, ..sregs },
        }
    }
}

/// Of a segment: code that was run and may be read.
const CODE: u8 = 0xb;
/// Data that was written.
const DATA: u8 = 0x3;
const GDT_LIMIT: u16 = 5 * 8 - 1;

/// `reset` changed to 64-bit mode at privilege level 3, with the page tables at `cr3` and no interrupt handler.
fn user_mode(reset: &kvm_sregs, cr3: u64) -> kvm_sregs {
    let segment = |selector: u16, type_: u8, long: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..kvm_segment::default()
    };
    let (code, data) = (segment(0x33, 0xb, 1), segment(0x2b, 0x3, 0));
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // A busy 64-bit task-state segment: processors with EPT check it on entry, nothing ever uses it.
        tr: kvm_segment { limit: 0x67, selector: 0x40, type_: 0xb, present: 1, ..kvm_segment::default() },
        ldt: kvm_segment { unusable: 1, ..kvm_segment::default() },
        gdt: kvm_dtable::default(),
        idt: kvm_dtable::default(),
        cr0: CR0_PE_MP_ET_NE_WP_PG,
        cr3,
        cr4: CR4_PAE,
        efer: EFER_LME_LMA_NXE,
        ..*reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_starts_in_long_mode_as_linux_wants_it() {
        let entry = KernelEntry::Long { rip: 0x100_0000, rsi: 0x7000, rsp: 0x8ff0, cr3: 0x9000, gdt: 0x500 };

        let sregs = entry.sregs(&kvm_sregs::default());

        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x8005_0033, 0x20, 0xd00));
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db, sregs.cs.dpl), (0x10, 1, 0, 0));
        assert_eq!((sregs.ds.selector, sregs.ds.l, sregs.ds.db), (0x18, 0, 1));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 39));
        assert_eq!((entry.regs().rsi, entry.regs().rflags), (0x7000, 2));
    }

    #[test]
    fn pvh_starts_in_protected_mode_without_paging() {
        let entry = KernelEntry::Protected { rip: 0x100_0000, ebx: 0x6000 };

        let sregs = entry.sregs(&kvm_sregs::default());

        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x11, 0, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
        assert_eq!(entry.regs().rbx, 0x6000);
    }
}

//! What a guest does to ports and to addresses without memory, as the devices of a VM see it.

use std::{io, ops::ControlFlow, ptr};

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{Exit, vcpu::Left};

/// Who answers a guest's port and MMIO accesses. Called on the vCPU's thread.
///
/// Data is little-endian, and as long as the access is wide; a string instruction's elements come one after the other.
/// [`ControlFlow::Break`] ends the run, with [`Exit::Device`].
pub trait GuestIo {
    /// The guest reads `data.len()` bytes from `port`.
    fn read_port(&mut self, port: u16, data: &mut [u8]);
    /// The guest writes `data` to `port`.
    fn write_port(&mut self, port: u16, data: &[u8]) -> ControlFlow<()>;
    /// The guest reads `data.len()` bytes at the guest-physical `address`.
    fn read_mmio(&mut self, address: u64, data: &mut [u8]);
    /// The guest writes `data` at the guest-physical `address`.
    fn write_mmio(&mut self, address: u64, data: &[u8]) -> ControlFlow<()>;
}

/// An access to a port: all elements of a string instruction in a row, in the memory that `kvm_run` begins.
enum Ports {
    Read(u16, *mut [u8]),
    Write(u16, *const [u8]),
}

/// Runs the guest once, and lets `io` answer if it left for I/O. Why it left, unless it is to go on.
pub(super) fn run_answered(fd: &mut VcpuFd, io: &mut dyn GuestIo) -> io::Result<Option<Left>> {
    let ports = match fd.run()? {
        VcpuExit::IoIn(port, data) => Ports::Read(port, data),
        VcpuExit::IoOut(port, data) => Ports::Write(port, ptr::from_ref(data)),
        VcpuExit::MmioRead(address, data) => {
            io.read_mmio(address, data);
            return Ok(None);
        }
        VcpuExit::MmioWrite(address, data) => return Ok(after(io.write_mmio(address, data))),
        other => return Ok(Some(Left::of(&other))),
    };
    let run = fd.get_kvm_run();
    // SAFETY: the exit reason is KVM_EXIT_IO, so this is the field that the kernel filled; it is plain data, valid whatever
    // its bytes.
    let access = unsafe { run.__bindgen_anon_1.io };
    let width = usize::from(access.size).max(1);
    Ok(match ports {
        Ports::Read(port, bytes) => {
            // SAFETY: the bytes lie in the mapping of `fd`, which is borrowed here, behind the structure that `run` was; the
            // kernel leaves them alone until KVM_RUN is called again, and nobody else knows of them.
            let bytes = unsafe { &mut *bytes };
            bytes.chunks_mut(width).for_each(|element| io.read_port(port, element));
            None
        }
        Ports::Write(port, bytes) => {
            // SAFETY: as above.
            let bytes = unsafe { &*bytes };
            after(bytes.chunks(width).try_for_each(|element| io.write_port(port, element)))
        }
    })
}

/// What an answer means for the run.
fn after(flow: ControlFlow<()>) -> Option<Left> {
    flow.is_break().then_some(Left::Known(Exit::Device))
}

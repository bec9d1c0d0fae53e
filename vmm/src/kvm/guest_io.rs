//! What a guest does to ports and to addresses without memory, as the devices of a VM see it.

use std::ops::ControlFlow;

use kvm_ioctls::VcpuExit;

/// Who answers a guest's port and MMIO accesses. Called on the vCPU's thread.
///
/// Data is little-endian; a string instruction's elements come in a row. [`ControlFlow::Break`] ends the run, with
/// [`Exit::Device`](super::Exit::Device).
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

/// Lets `io` answer `exit`; gives it back if it is none of I/O.
pub(super) fn answer<'a>(exit: VcpuExit<'a>, io: &mut dyn GuestIo) -> Result<ControlFlow<()>, VcpuExit<'a>> {
    match exit {
        VcpuExit::IoIn(port, data) => io.read_port(port, data),
        VcpuExit::IoOut(port, data) => return Ok(io.write_port(port, data)),
        VcpuExit::MmioRead(address, data) => io.read_mmio(address, data),
        VcpuExit::MmioWrite(address, data) => return Ok(io.write_mmio(address, data)),
        other => return Err(other),
    }
    Ok(ControlFlow::Continue(()))
}

//! What the control interface does with a microVM: the other side of [`api`](crate::api)'s traits.

mod memory;

pub use memory::MemoryControl;

//! The microVM monitor: KVM, vCPUs, the fault-driver guest, and what is measured with it.
//!
//! Guest memory comes from [`guest_mem`]; KVM's ioctls are all in [`kvm`].

pub mod api;
mod append;
pub mod boot;
pub mod control;
pub mod driver;
pub mod host;
pub mod interrupt;
pub mod kvm;
pub mod legacy;
pub mod logging;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod microvm;
pub mod model;
pub mod report;
pub mod startup;
pub mod stderr;
pub mod virtio;

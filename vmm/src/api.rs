//! The control interface of `underlay run`: Firecracker's API v1 over HTTP on a Unix socket, and what is ours beside it.
//!
//! ```text
//! socket ─► server ─► connection ─► routes ─► controller ─► Configuration     before the start
//!            (one thread, epoll)     (table)              └► dyn Operations    after it
//! ```
//!
//! - [`schema`] has the bodies, one file a resource, and what is wrong with each by itself.
//! - [`Configuration`] is what was configured, and what of it does not go together; [`config_file`] reads one at once.
//! - [`Launch`] and [`Operations`] are what the rest of the monitor does for it; nothing here knows of KVM or vCPUs.
//! - One thread serves all clients, request by request, each as soon as all of it is there. Whoever is slow waits for
//!   himself; the guest waits for nobody.
//!
//! Answers are Firecracker's: 204, or 200 with JSON, or 400 with `{"fault_message": ...}`, which names the field.

mod config;
pub mod config_file;
mod configuration;
mod connection;
mod controller;
mod fault;
pub mod metrics;
mod operations;
mod routes;
pub mod schema;
mod server;
mod socket;

pub use config::VmConfig;
pub use configuration::{Configuration, Misplaced};
pub use controller::{Controller, FIRECRACKER_VERSION, StartError};
pub use operations::{Launch, OperationError, Operations};
pub use server::{ApiThread, LONGEST_BODY};
pub use socket::{BindError, Socket};

#[cfg(test)]
mod tests;

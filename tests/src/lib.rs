//! What the tests of this crate share: what they need of the host, and the `underlay` program.
//!
//! A test says what it [`Need`]s. What the host lacks is found out before the tests run; a test that misses something
//! is skipped, which the runner shows and counts as `ignored`, and [`Suite::run`] says why at the end.

mod bzimage;
mod command;
mod linux;
mod needs;
mod network;
mod pipe;
mod python;
mod suite;
mod tiny;

pub use bzimage::bzimage;
pub use command::{Finished, underlay, underlay_path};
pub use linux::{Linux, Turn, debian_kernel};
pub use needs::{Need, huge_pages};
pub use network::{TAP, in_own_network, ip};
pub use pipe::pipe_without_room;
pub use python::PythonPackage;
pub use suite::Suite;
pub use tiny::{tiny_kernel, tiny_pvh_kernel, write_tiny_kernel};

//! `/boot-source`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Refusals, check_file};

/// The command line of a guest for which none was given: a reboot ends the microVM, and no time is spent on looking for
/// what it does not have.
pub const DEFAULT_BOOT_ARGS: &str =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// The longest command line that Linux takes on x86, in bytes with the zero that ends it.
const LONGEST_BOOT_ARGS: usize = 2048;

/// The body of PUT /boot-source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// The kernel.
    pub kernel_image_path: PathBuf,
    /// The initial RAM disk.
    pub initrd_path: Option<PathBuf>,
    /// The command line; [`DEFAULT_BOOT_ARGS`] if there is none.
    pub boot_args: Option<String>,
}

impl BootSource {
    pub(crate) fn check(&self) -> Refusals {
        let mut wrong = Refusals::default();
        wrong.note(check_file("kernel_image_path", &self.kernel_image_path));
        if let Some(initrd) = &self.initrd_path {
            wrong.note(check_file("initrd_path", initrd));
        }
        let args = self.boot_args.as_deref().unwrap_or_default();
        if args.len() >= LONGEST_BOOT_ARGS {
            let most = LONGEST_BOOT_ARGS - 1;
            wrong.add("boot_args", format!("has {} bytes; Linux takes at most {most}", args.len()));
        }
        if args.chars().any(char::is_control) {
            wrong.add("boot_args", "must not have control characters");
        }
        wrong
    }
}

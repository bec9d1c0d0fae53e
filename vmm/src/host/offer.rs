//! Something that a host has, or lacks for a reason.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// Something that a host has or lacks; if it lacks it, why and what would change that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it is called; stable.
    pub name: String,
    /// Whether the host has it.
    pub available: bool,
    /// Why not; `null` where it is available.
    pub reason: Option<String>,
    /// The command, run with root's rights, that makes it available (`$USER` is who wants it); `null` where none does
    /// or none is needed.
    pub enable: Option<String>,
}

impl Offer {
    /// The host has `name`.
    pub(super) fn yes(name: &str) -> Self {
        Self { name: name.to_owned(), available: true, reason: None, enable: None }
    }

    /// The host lacks `name`, for `reason`.
    pub(super) fn no(name: &str, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), available: false, reason: Some(reason.into()), enable: None }
    }

    /// The host lacks `name` because of `error`, and of what caused that.
    pub(super) fn failed(name: &str, error: &(dyn Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| (*error).source());
        let messages: Vec<_> = causes.map(ToString::to_string).collect();
        Self::no(name, messages.join(": "))
    }

    /// The same, and `command` would make it available.
    pub(super) fn enabled_by(mut self, command: impl Into<String>) -> Self {
        self.enable = Some(command.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_every_cause() {
        let error = crate::kvm::OpenKvmError::Open(std::io::Error::from_raw_os_error(libc::EIO));

        let offer = Offer::failed("/dev/kvm", &error);

        let reason = offer.reason.unwrap();
        assert!(!offer.available);
        assert!(reason.starts_with("cannot open /dev/kvm: Input/output error"), "{reason}");
    }
}

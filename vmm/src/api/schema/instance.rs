//! `/` and `/version`.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::VmState;

/// The longest name of a microVM, in characters.
const LONGEST_ID: usize = 64;

/// The answer to GET /.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceInfo {
    /// What the microVM is called.
    pub id: InstanceId,
    /// Whether it runs.
    pub state: VmState,
    /// The version of underlay.
    pub vmm_version: &'static str,
    /// `underlay`.
    pub app_name: &'static str,
}

/// The answer to GET /version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// The version of Firecracker whose API this is: clients decide by it what they may ask for.
    pub firecracker_version: &'static str,
}

/// What a microVM is called: 1 to 64 letters, digits and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct InstanceId(String);

/// A text that names no microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {LONGEST_ID} letters, digits and dashes")]
pub struct InvalidInstanceId;

impl InstanceId {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for InstanceId {
    fn default() -> Self {
        Self("anonymous-instance".to_owned())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstanceId {
    type Err = InvalidInstanceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=LONGEST_ID).contains(&text.chars().count())
            && text.chars().all(|c| c == '-' || c.is_alphanumeric());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidInstanceId) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        assert!("vm-1".parse::<InstanceId>().is_ok());
        assert!("a".repeat(64).parse::<InstanceId>().is_ok());
        for bad in ["", "a_b", "a/b", "a b", &"a".repeat(65)] {
            assert_eq!(bad.parse::<InstanceId>(), Err(InvalidInstanceId), "{bad:?}");
        }
    }
}

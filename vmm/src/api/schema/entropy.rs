//! `/entropy`.

use serde::{Deserialize, Serialize};

use super::{RateLimiter, Refused, rate_limiter};

/// The body of PUT /entropy: the guest gets a source of random bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Not to be had here.
    pub rate_limiter: Option<RateLimiter>,
}

impl Entropy {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        rate_limiter::check("rate_limiter", self.rate_limiter.as_ref())
    }
}

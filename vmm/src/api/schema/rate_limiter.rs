//! Rate limiters, which devices here do not have: read so that one that limits nothing is taken.

use serde::{Deserialize, Serialize};

use super::Refused;

/// What a device may use of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// In bytes.
    pub bandwidth: Option<TokenBucket>,
    /// In operations.
    pub ops: Option<TokenBucket>,
}

/// How much, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// How much fits.
    pub size: u64,
    /// How much more there is at the start.
    pub one_time_burst: Option<u64>,
    /// Milliseconds until it is full again.
    pub refill_time: u64,
}

impl TokenBucket {
    /// Firecracker switches a bucket off by zeros.
    const fn limits_nothing(self) -> bool {
        self.size == 0 || self.refill_time == 0
    }
}

/// Refuses a limiter that limits something.
pub(super) fn check(field: &'static str, limiter: Option<&RateLimiter>) -> Result<(), Refused> {
    let limits = limiter.is_some_and(|limiter| {
        [limiter.bandwidth, limiter.ops].into_iter().flatten().any(|bucket| !bucket.limits_nothing())
    });
    if limits {
        return Err(Refused::new(
            field,
            "underlay's devices have no rate limiters: leave it out, and limit the process by a cgroup",
        ));
    }
    Ok(())
}

//! Requests to the API.

use hyper::{Method, StatusCode};

use super::MetricSet;

/// The methods that are counted, and what they are called.
const METHODS: [(Method, &str, &str); 4] = [
    (Method::GET, "get_count", "get_fails"),
    (Method::PUT, "put_count", "put_fails"),
    (Method::PATCH, "patch_count", "patch_fails"),
    (Method::POST, "post_count", "post_fails"),
];

/// Requests by their method.
#[derive(Debug, Default)]
pub(in crate::api) struct Requests([Outcomes; METHODS.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    all: u64,
    failed: u64,
}

impl Requests {
    /// Counts one and its answer.
    pub(in crate::api) fn count(&mut self, method: &Method, status: StatusCode) {
        let place = METHODS.iter().position(|(counted, ..)| counted == method);
        if let Some(outcomes) = place.map(|place| &mut self.0[place]) {
            outcomes.all += 1;
            outcomes.failed += u64::from(!status.is_success());
        }
    }

    pub(in crate::api) fn add_to(&self, metrics: &mut MetricSet) {
        let group = metrics.group("api_requests");
        for ((_, all, failed), outcomes) in METHODS.iter().zip(&self.0) {
            group.counter(all, outcomes.all).counter(failed, outcomes.failed);
        }
    }
}

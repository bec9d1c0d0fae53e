//! Why a request was not done, as its client reads it.

use hyper::{Method, StatusCode};

use super::{
    operations::OperationError,
    schema::{Refusals, Refused},
};

/// A request that was not done. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("there is no {method} {path}{}", hint(.others))]
    NoRoute { method: Method, path: String, others: Vec<&'static str> },
    #[error("underlay has no {0}")]
    Lacking(&'static str),
    #[error("{0} takes no body")]
    UnexpectedBody(Method),
    #[error("{0} needs a body of JSON")]
    NoBody(Method),
    #[error("the body has {got} bytes or more: at most {most} are taken (--http-api-max-payload-size)")]
    TooLong { got: u64, most: usize },
    #[error("the body could not be read: {0}")]
    Body(#[source] hyper::Error),
    #[error("the body is not what it should be: {}", located(.0))]
    Json(#[source] serde_path_to_error::Error<serde_json::Error>),
    #[error("the body goes on after its end: {0}")]
    Trailing(#[source] serde_json::Error),
    #[error("{field}: the path has {path:?} and the body {body:?}")]
    OtherId { field: &'static str, path: String, body: String },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Unfit(#[from] Refusals),
    #[error("{0} cannot be changed after the microVM has started")]
    AfterStart(&'static str),
    #[error("the microVM has been started already")]
    StartedAlready,
    #[error("{0} is not possible before the microVM has started (PUT /actions InstanceStart)")]
    BeforeStart(&'static str),
    #[error("there is no {0}: configure it before the microVM is started")]
    NotConfigured(String),
    #[error("metrics_path: cannot write metrics to {path}: {source}")]
    Metrics { path: String, source: std::io::Error },
    #[error("metrics_path: metrics are written already, to {0}")]
    MetricsTwice(String),
    #[error("metrics cannot be flushed: none are configured (PUT /metrics)")]
    NoMetrics,
    #[error("log_path: cannot write the log: {0}")]
    Logger(#[source] std::io::Error),
    #[error(transparent)]
    Operation(#[from] OperationError),
}

impl Fault {
    /// The status of the answer.
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Where in the JSON it is, and what.
fn located(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string().as_str() {
        // Outside of any field, or where there is no JSON at all.
        "." | "?" => error.inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    }
}

fn hint(methods: &[&str]) -> String {
    if methods.is_empty() { String::new() } else { format!("; it takes {}", methods.join(", ")) }
}

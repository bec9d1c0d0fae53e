//! `/metrics` and `/logger`.

use hyper::{Method, StatusCode};

use super::{Answer, Controller, Fault, Phase};
use crate::{
    api::{
        metrics::{MetricSet, open_metrics},
        schema::{Logger, MetricsConfig},
    },
    logging,
};

impl Controller {
    pub(in crate::api) fn put_logger(&mut self, logger: Logger) -> Result<Answer, Fault> {
        self.before_start("the log")?;
        logging::configure(&logger).map_err(Fault::Logger)?;
        self.configuration.config_mut().logger = Some(logger);
        Ok(Answer::Done)
    }

    pub(in crate::api) fn put_metrics(&mut self, config: MetricsConfig) -> Result<Answer, Fault> {
        self.before_start("the metrics")?;
        if let Some(writer) = &self.metrics {
            return Err(Fault::MetricsTwice(writer.path().display().to_string()));
        }
        let path = config.metrics_path.display().to_string();
        self.write_metrics_to(config).map_err(|source| Fault::Metrics { path, source })?;
        Ok(Answer::Done)
    }

    /// Writes a line of metrics now.
    pub(in crate::api) fn flush_metrics(&mut self) -> Result<(), Fault> {
        let metrics = self.collect();
        let writer = self.metrics.as_mut().ok_or(Fault::NoMetrics)?;
        writer
            .write(&metrics)
            .map_err(|source| Fault::Metrics { path: writer.path().display().to_string(), source })
    }

    /// Whether metrics are written.
    #[must_use]
    pub const fn writes_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    pub(in crate::api) fn open_metrics(&mut self) -> String {
        open_metrics(&self.collect())
    }

    /// Counts a request and what came of it.
    pub(in crate::api) fn count(&mut self, method: &Method, status: StatusCode) {
        self.requests.count(method, status);
    }

    fn collect(&mut self) -> MetricSet {
        let mut metrics = MetricSet::default();
        self.requests.add_to(&mut metrics);
        if let Phase::Running(machine) | Phase::Paused(machine) = &mut self.phase {
            machine.metrics(&mut metrics);
        }
        metrics
    }
}

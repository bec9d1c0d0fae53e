//! The start: of what is configured already, before the API is served, and by InstanceStart.

use std::{io, path::PathBuf};

use super::{Controller, Fault, Phase};
use crate::{
    api::{metrics::MetricsWriter, operations::OperationError, schema::MetricsConfig},
    logging,
};

/// Why what is configured cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be written where the configuration says.
    #[error("logger.log_path: cannot write the log to {}", path.display())]
    Logger {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nor can the metrics.
    #[error("cannot write metrics to {}", path.display())]
    Metrics {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The microVM does not run.
    #[error(transparent)]
    Launch(OperationError),
}

impl Controller {
    /// Sends log and metrics where the configuration says; metrics to `metrics_path` instead, if there is one.
    ///
    /// # Errors
    /// [`StartError`], but for `Launch`.
    pub fn observe(&mut self, metrics_path: Option<PathBuf>) -> Result<(), StartError> {
        if let Some(logger) = &self.config().logger {
            let path = logger.log_path.clone().unwrap_or_default();
            logging::configure(logger).map_err(|source| StartError::Logger { path, source })?;
        }
        let given =
            metrics_path.map(|metrics_path| MetricsConfig { metrics_path, emit_id: false, properties: None });
        if let Some(config) = given.or_else(|| self.config().metrics.clone()) {
            let path = config.metrics_path.clone();
            self.write_metrics_to(config).map_err(|source| StartError::Metrics { path, source })?;
        }
        Ok(())
    }

    /// Starts what is configured.
    ///
    /// # Errors
    /// [`StartError::Launch`].
    pub fn launch(&mut self) -> Result<(), StartError> {
        let vm = self.launch.launch(self.configuration.config()).map_err(StartError::Launch)?;
        self.phase = Phase::Running(vm);
        Ok(())
    }

    /// Starts what was configured by the API.
    pub(super) fn start(&mut self) -> Result<(), Fault> {
        self.before_start("the microVM").map_err(|_| Fault::StartedAlready)?;
        if self.config().boot_source.is_none() {
            return Err(Fault::NotConfigured("kernel (PUT /boot-source)".to_owned()));
        }
        let vm = self.launch.launch(self.configuration.config())?;
        self.phase = Phase::Running(vm);
        Ok(())
    }

    /// Opens the file, and notes it in the configuration.
    pub(super) fn write_metrics_to(&mut self, config: MetricsConfig) -> io::Result<()> {
        self.metrics = Some(MetricsWriter::open(&config, &self.id)?);
        self.configuration.config_mut().metrics = Some(config);
        Ok(())
    }
}

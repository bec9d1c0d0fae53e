//! The control interface of a microVM: its log, its socket, and the start of what is configured already.

use vmm::{
    api::{ApiThread, BindError, Configuration, Controller, OperationError, Socket, StartError, schema},
    control::{LaunchError, Launcher},
    logging,
};

use crate::{Outcome, args::ControlArgs, failure::Failure};

/// Sends the log where the user wants it.
pub(super) fn set_log(args: &ControlArgs) -> Outcome {
    logging::set_instance(args.id.as_str());
    let logger = schema::Logger {
        log_path: args.log_path.clone(),
        level: args.level,
        show_level: args.show_level.then_some(true),
        show_log_origin: args.show_log_origin.then_some(true),
        module: args.module.clone(),
    };
    let path = || args.log_path.as_deref().unwrap_or(std::path::Path::new("")).display().to_string();
    logging::configure(&logger).map_err(|error| {
        Failure::User(anyhow::Error::new(error).context(format!("cannot write the log to {}", path())))
    })
}

/// Serves what was asked for, as long as what is returned lives; starts the microVM if it `is_complete`.
pub(super) fn start(
    args: &ControlArgs,
    configuration: Configuration,
    launcher: Launcher,
    is_complete: bool,
) -> Outcome<Option<ApiThread>> {
    // The socket first: whoever finds it in use must not have started a second guest on the same drives.
    let path = args.api_sock.as_deref().filter(|_| !args.no_api);
    let socket = path.map(Socket::bind).transpose().map_err(of_bind)?;
    if socket.is_none() && !is_complete {
        return Err(Failure::User(anyhow::anyhow!(
            "--no-api leaves nothing to start: add --kernel or --config-file"
        )));
    }
    let mut controller = Controller::new(args.id.clone(), configuration, Box::new(launcher));
    controller.observe(args.metrics_path.clone()).map_err(of_start)?;
    if is_complete {
        controller.launch().map_err(of_start)?;
    }
    if socket.is_none() && !controller.writes_metrics() {
        return Ok(None);
    }
    ApiThread::start(socket, controller, args.http_api_max_payload_size).map(Some).map_err(Failure::host)
}

fn of_bind(error: BindError) -> Failure {
    match error {
        BindError::InUse(_)
        | BindError::NotASocket(_)
        | BindError::FolderLocked(_)
        | BindError::Refused { .. } => Failure::user(error),
        BindError::Unknown { .. } => Failure::host(error),
    }
}

fn of_start(error: StartError) -> Failure {
    match error {
        StartError::Launch(OperationError::Failed(error)) => {
            match error.downcast::<LaunchError>().map(|error| *error) {
                Ok(LaunchError::MicroVm(error)) => Failure::of_microvm(error),
                Ok(error) if error.is_users() => Failure::user(error),
                Ok(error) => Failure::host(error),
                Err(error) => Failure::Host(anyhow::anyhow!(error)),
            }
        }
        error => Failure::user(error),
    }
}

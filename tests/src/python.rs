//! Packages of Python's that tests use, each in an environment of its own under `target/`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A package of PyPI, at one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PythonPackage {
    /// Its name there.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

impl PythonPackage {
    /// The Python that can import it, once it is [installed](Self::install).
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.environment().join("bin/python")
    }

    /// Installs it, unless it is.
    ///
    /// # Errors
    /// What pip, or Python, has against it.
    pub fn install(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.name);
        let environment = self.environment();
        fs::create_dir_all(&environment).map_err(failed)?;
        // Suites that run at the same time install it once.
        let lock = File::create(environment.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let installed = environment.join("installed");
        if installed.exists() {
            return Ok(());
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]);
        run(pip.arg(format!("{}=={}", self.name, self.version)))?;
        fs::write(installed, "").map_err(failed)
    }

    fn environment(&self) -> PathBuf {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
        target.join(format!("{}-{}", self.name, self.version))
    }
}

/// Runs a command to its end; what it said last is why it failed.
fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output: Output = command.output().map_err(|error| format!("needs {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{program} failed: {last}"))
}

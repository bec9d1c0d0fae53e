//! A test program whose tests may be skipped for a reason that is found out when it runs.

use std::{collections::HashMap, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

use crate::Need;

/// Tests to run, and those that this host cannot.
#[derive(Debug, Default)]
pub struct Suite {
    /// Those that change the host's settings, one at a time, and the others.
    exclusive: Vec<Trial>,
    trials: Vec<Trial>,
    skipped: Vec<(String, String)>,
    /// What each need's check said, asked once.
    met: HashMap<Need, Result<(), String>>,
}

impl Suite {
    /// A suite without tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a test, which fails by panicking. It is skipped where the host lacks one of its needs.
    pub fn test(&mut self, name: impl Into<String>, needs: &[Need], body: impl FnOnce() + Send + 'static) {
        let name = name.into();
        let missing =
            needs.iter().find_map(|need| self.met.entry(*need).or_insert_with(|| need.check()).clone().err());
        let trial = Trial::test(name.clone(), move || {
            body();
            Ok(())
        });
        let is_exclusive = needs.iter().any(|need| need.changes_the_host());
        let trials = if is_exclusive { &mut self.exclusive } else { &mut self.trials };
        trials.push(trial.with_ignored_flag(missing.is_some()));
        self.skipped.extend(missing.map(|reason| (name, reason)));
    }

    /// Runs the tests as the command line says.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let arguments = Arguments::from_args();
        let conclusion = libtest_mimic::run(&arguments, spread(self.exclusive, self.trials));
        if !arguments.list {
            for (name, reason) in &self.skipped {
                println!("skipped {name}: {reason}");
            }
            println!("skipped for want of something: {}\n", self.skipped.len());
        }
        conclusion.exit_code()
    }
}

/// The exclusive ones spread evenly among the others, so that no thread waits for the settings that another's test has
/// changed while there is something else to do.
fn spread(exclusive: Vec<Trial>, others: Vec<Trial>) -> Vec<Trial> {
    let counts = (exclusive.len(), others.len());
    let (mut exclusive, mut others) = (exclusive.into_iter(), others.into_iter());
    let mut all = Vec::new();
    while exclusive.len() + others.len() > 0 {
        let is_behind = exclusive.len() * counts.1 >= others.len() * counts.0;
        all.extend(if is_behind { exclusive.next().or_else(|| others.next()) } else { others.next() });
    }
    all
}

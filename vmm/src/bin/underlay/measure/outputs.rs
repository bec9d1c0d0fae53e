//! Every place that a measurement is written to.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use guest_mem::Backing;
use vmm::{
    interrupt::Interrupt,
    report::{self, Report, TouchWriter},
};

use crate::{
    Outcome,
    args::MeasureArgs,
    failure::Failure,
    output::{Destination, Output, print, terminal_width},
};

/// Where the result goes.
pub(super) struct Outputs {
    json: Option<Output>,
    csv: Option<Output>,
    smaps: Option<Output>,
    touches: Option<Output>,
    /// A result on stdout takes the place of the tables.
    tables: bool,
}

impl Outputs {
    /// Opens them all, so that a bad path is found before anything is measured.
    pub(super) fn open(args: &MeasureArgs, interrupt: &Interrupt) -> Outcome<Self> {
        let of = |path: &Option<PathBuf>| path.as_deref().map(Destination::of).transpose();
        let all = [
            ("--json", of(&args.json)?),
            ("--csv", of(&args.csv)?),
            ("--smaps", of(&args.smaps)?),
            ("--samples-out", of(&args.samples_out)?),
        ];
        check_clashes(&all)?;
        check_backings(&all, &args.backing)?;
        let tables = !given(&all).any(|(_, destination)| destination.is_stdout());
        let [json, csv, smaps, touches] = all
            .map(|(_, destination)| destination.map(|destination| destination.open(interrupt)).transpose());
        Ok(Self { json: json?, csv: csv?, smaps: smaps?, touches: touches?, tables })
    }

    /// What every touch is written with, if that was asked for.
    pub(super) fn touch_writer(&mut self) -> Outcome<Option<TouchWriter<File>>> {
        let Some(output) = &mut self.touches else {
            return Ok(None);
        };
        let writer = TouchWriter::new(output.pieces()?).map_err(Failure::of_touches)?;
        Ok(Some(writer))
    }

    /// Puts everything in its place.
    pub(super) fn write(self, report: &Report) -> Outcome {
        if let Some(touches) = self.touches {
            touches.finish()?;
        }
        if let Some(json) = self.json {
            json.write(|out| {
                serde_json::to_writer_pretty(&mut *out, report)?;
                writeln!(out)
            })?;
        }
        if let Some(csv) = self.csv {
            csv.write(|mut out| report::write_csv(report, &mut out))?;
        }
        if let Some(smaps) = self.smaps {
            smaps.write(|mut out| report::write_smaps(&report.runs, &mut out))?;
        }
        if self.tables {
            print(|mut out| report::write_tables(report, terminal_width(), &mut out))
        } else {
            Ok(())
        }
    }
}

/// An option, and where it leads if it was given.
type Named = (&'static str, Option<Destination>);

fn given(all: &[Named]) -> impl Iterator<Item = (&'static str, &Destination)> {
    all.iter().filter_map(|(option, destination)| Some((*option, destination.as_ref()?)))
}

/// No two results may go to the same place.
fn check_clashes(all: &[Named]) -> Outcome {
    for (index, (option, destination)) in given(all).enumerate() {
        for (other, earlier) in given(all).take(index) {
            if destination.clashes(earlier) {
                let place = if destination.is_stdout() { "stdout" } else { "one file" };
                return Err(Failure::User(anyhow::anyhow!(
                    "{other} and {option} both go to {place}: only one of them can"
                )));
            }
        }
    }
    Ok(())
}

/// No result may replace the file that backs the guest's RAM.
fn check_backings(all: &[Named], backings: &[Backing]) -> Outcome {
    for backing in backings {
        let Backing::File(path) = backing else {
            continue;
        };
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        if let Some((option, _)) = given(all).find(|(_, destination)| destination.is(&metadata)) {
            return Err(Failure::User(anyhow::anyhow!(
                "{option} would replace {}, which backs the guest's RAM: name another file",
                path.display()
            )));
        }
    }
    Ok(())
}

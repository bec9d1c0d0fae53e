//! `underlay host`: what this host offers.

use vmm::host::survey;

use crate::{
    Outcome,
    args::HostArgs,
    output::{print, terminal_width},
};

pub(crate) fn main(args: &HostArgs) -> Outcome {
    let survey = survey(args.mem);
    print(|mut out| {
        if args.json {
            serde_json::to_writer_pretty(&mut out, &survey)?;
            writeln!(out)
        } else {
            write!(out, "{}", survey.render(terminal_width()))
        }
    })
}

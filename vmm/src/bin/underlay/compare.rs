//! `underlay compare`: two results side by side.

use vmm::report::{compare, load, write_comparison};

use crate::{
    Outcome,
    args::CompareArgs,
    failure::Failure,
    output::{print, terminal_width},
};

pub(crate) fn main(args: &CompareArgs) -> Outcome {
    let a = load(&args.a).map_err(Failure::user)?;
    let b = load(&args.b).map_err(Failure::user)?;
    let comparison = compare(&a, &b);
    print(|mut out| {
        if args.json {
            serde_json::to_writer_pretty(&mut out, &comparison)?;
            writeln!(out)
        } else {
            write_comparison(&comparison, terminal_width(), &mut out)
        }
    })
}

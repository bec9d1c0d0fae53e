//! What the memory of managed backings looked like, as text in the manner of `/proc/PID/smaps`.

use std::io::{self, Write};

use super::Run;
use super::format::printable;

/// Writes the memory of each of `runs` that has any to tell of, under the name of its backing.
///
/// # Errors
/// Those of writing.
pub fn write_smaps(runs: &[Run], out: &mut impl Write) -> io::Result<()> {
    for run in runs {
        let Some(memory) = run.managed.as_ref().and_then(|managed| managed.memory.as_ref()) else { continue };
        writeln!(out, "{}", printable(&run.backing))?;
        writeln!(out, "{memory}")?;
    }
    Ok(())
}

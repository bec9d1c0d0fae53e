//! The test of the random source.

use rustix::fs::OFlags;
use rustix::io;

use crate::console::say;
use crate::machine;
use crate::outcome::Failure;

/// `rng`: two reads of the hardware's random source, which must differ.
pub(crate) fn rng() -> Result<(), Failure> {
    let mut name = [0; 64];
    let name = machine::read_text(c"/sys/class/misc/hw_random/rng_current", &mut name).unwrap_or("none");
    let source = machine::open(c"/dev/hwrng", OFlags::RDONLY).map_err(Failure::refused("/dev/hwrng"))?;
    let mut samples = [[0_u8; 32]; 2];
    for sample in &mut samples {
        let mut rest = &mut sample[..];
        while !rest.is_empty() {
            let done = io::read(&source, &mut *rest).map_err(Failure::refused("read /dev/hwrng"))?;
            rest = &mut rest[done..];
        }
    }
    let shown = samples[0].first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    say!("rng source={name} sample={shown:016x}");
    if samples[0] == samples[1] { Err(Failure::Wrong("the same numbers twice")) } else { Ok(()) }
}

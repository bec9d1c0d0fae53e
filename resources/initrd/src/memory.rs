//! Tests of the guest's memory: touch it, fill it with a pattern that depends on the address, and look again.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use rustix::thread;

use crate::console::say;
use crate::machine;
use crate::outcome::Failure;
use crate::process;
use crate::region::{MIB, Pages, Region};
use crate::script::Arguments;

const WORDS_OF_A_PAGE: usize = 4096 / 8;

/// `touch:MIB`: writes one word a page, small pages only, and says how long that took.
pub(crate) fn touch(arguments: &mut Arguments) -> Result<(), Failure> {
    let region = Region::map(arguments.mib()?, Pages::Small)?;
    for pass in 1..=2 {
        let started = machine::now();
        for word in region.words().iter().step_by(WORDS_OF_A_PAGE) {
            word.store(pass, Relaxed);
        }
        let took = machine::now().saturating_sub(started);
        say!("touch pass={pass} pages={} us={}", region.words().len() / WORDS_OF_A_PAGE, took.as_micros());
    }
    Ok(())
}

/// `fill:MIB[:ROUNDS]`: fills and verifies, several rounds with a pattern each, on every processor at once.
pub(crate) fn fill(arguments: &mut Arguments) -> Result<(), Failure> {
    let mib = arguments.mib()?;
    let rounds = arguments.number(3)?;
    process::on_each_cpu(|cpu, cpus| {
        let region = Region::map((mib / cpus).max(1), Pages::Huge)?;
        for round in 1..=rounds {
            write_pattern(region.words(), round);
            let sum = verify(region.words(), round)?;
            say!("fill cpu={cpu} round={round} mib={} sum={sum:016x}", region.words().len() * 8 / MIB);
        }
        Ok(())
    })
}

/// `balloon:MIB[:SECONDS]` and `forever:MIB`: holds memory and keeps verifying it while the host does what it likes.
pub(crate) fn hold(arguments: &mut Arguments, seconds: u64) -> Result<(), Failure> {
    let mib = arguments.mib()?;
    let span = arguments.seconds(seconds)?;
    let region = Region::map(mib, Pages::Huge)?;
    let started = machine::now();
    let mut said = Duration::ZERO;
    let mut round = 1;
    write_pattern(region.words(), round);
    say!("holding mib={mib}");
    while machine::now().saturating_sub(started) < span {
        verify(region.words(), round)?;
        round += 1;
        write_pattern(region.words(), round);
        let now = machine::now();
        if now.saturating_sub(said) >= Duration::from_secs(1) {
            said = now;
            say!(
                "alive round={round} available_kib={} total_kib={}",
                meminfo("MemAvailable:"),
                meminfo("MemTotal:")
            );
        }
    }
    let sum = verify(region.words(), round)?;
    say!("held mib={mib} rounds={round} sum={sum:016x}");
    Ok(())
}

/// `release:MIB[:SECONDS]`: uses memory, frees it and waits, for a host that wants free pages reported; then takes it
/// again and expects zeros.
pub(crate) fn release(arguments: &mut Arguments) -> Result<(), Failure> {
    let mib = arguments.mib()?;
    let span = arguments.seconds(10)?;
    let region = Region::map(mib, Pages::Huge)?;
    write_pattern(region.words(), 1);
    verify(region.words(), 1)?;
    drop(region);
    say!("released mib={mib} available_kib={}", meminfo("MemAvailable:"));
    pause(span);
    let region = Region::map(mib, Pages::Huge)?;
    if region.words().iter().any(|word| word.load(Relaxed) != 0) {
        return Err(Failure::Wrong("new memory is not zero"));
    }
    write_pattern(region.words(), 2);
    let sum = verify(region.words(), 2)?;
    say!("taken again mib={mib} sum={sum:016x}");
    Ok(())
}

/// `thp:MIB`: asks for huge pages and says how much of the memory Linux maps by them.
pub(crate) fn thp(arguments: &mut Arguments) -> Result<(), Failure> {
    let mib = arguments.mib()?;
    let region = Region::map(mib, Pages::Huge)?;
    write_pattern(region.words(), 1);
    let mut text = [0; 4096];
    let rollup = machine::read_text(c"/proc/self/smaps_rollup", &mut text)
        .map_err(Failure::refused("smaps_rollup"))?;
    let huge = machine::field(rollup, "AnonHugePages:").unwrap_or(0);
    say!("thp mib={mib} anon_huge_kib={huge}");
    verify(region.words(), 1)?;
    if huge == 0 { Err(Failure::Wrong("no huge page")) } else { Ok(()) }
}

/// Lets the processor idle.
pub(crate) fn pause(span: Duration) {
    if let Ok(span) = span.try_into() {
        let _ = thread::nanosleep(&span);
    }
}

/// What the word at `address` holds in this round: no two addresses alike, and no two rounds.
fn pattern(address: usize, round: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let seed = (address as u64).wrapping_add(round.wrapping_mul(GOLDEN));
    (seed ^ (seed >> 32)).wrapping_mul(GOLDEN)
}

fn write_pattern(words: &[AtomicU64], round: u64) {
    for word in words {
        word.store(pattern(core::ptr::from_ref(word).addr(), round), Relaxed);
    }
}

/// Sum of what was found, if it is what was written.
fn verify(words: &[AtomicU64], round: u64) -> Result<u64, Failure> {
    let mut sum = 0_u64;
    for word in words {
        let address = core::ptr::from_ref(word).addr();
        let (found, expected) = (word.load(Relaxed), pattern(address, round));
        if found != expected {
            say!("mismatch address={address:x} found={found:016x} expected={expected:016x} round={round}");
            return Err(Failure::Wrong("memory has changed"));
        }
        sum = sum.wrapping_add(found);
    }
    Ok(sum)
}

fn meminfo(name: &str) -> u64 {
    let mut text = [0; 4096];
    machine::read_text(c"/proc/meminfo", &mut text)
        .ok()
        .and_then(|text| machine::field(text, name))
        .unwrap_or(0)
}

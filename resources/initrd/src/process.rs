//! Processes: one a processor for tests that want them all, and a shell.
#![expect(unsafe_code, reason = "rustix leaves fork, execve and exit to a C library")]

use core::arch::asm;
use core::ffi::CStr;
use core::ptr::null;

use rustix::fs::{self, Access, OFlags};
use rustix::process::{self, Pid, WaitOptions};
use rustix::stdio;
use rustix::thread::{self, CpuSet};

use crate::console::say;
use crate::machine;
use crate::outcome::Failure;

const SYS_FORK: usize = 57;
const SYS_EXECVE: usize = 59;
const SYS_EXIT_GROUP: usize = 231;

/// Runs `work(cpu, cpus)` in a process on each processor, at once; the first that fails is the result.
pub(crate) fn on_each_cpu(work: impl Fn(usize, usize) -> Result<(), Failure>) -> Result<(), Failure> {
    let cpus = machine::cpus();
    for cpu in 0..cpus {
        child(|| {
            let mut only = CpuSet::new();
            only.set(cpu);
            thread::sched_setaffinity(None, &only).map_err(Failure::refused("sched_setaffinity"))?;
            work(cpu, cpus)
        })?;
    }
    let mut result = Ok(());
    for _ in 0..cpus {
        result = result.and(wait_for(None));
    }
    result
}

/// `shell`: /bin/sh on the console until it ends; its status becomes the VM's.
pub(crate) fn shell() -> Result<(), Failure> {
    fs::access(c"/bin/sh", Access::EXEC_OK).map_err(Failure::refused("/bin/sh"))?;
    say!("shell: `exit` powers off");
    let shell = child(|| {
        take_console()?;
        execute(c"/bin/sh", &[c"PATH=/bin", c"HOME=/", c"TERM=linux", c"PS1=underlay# "]);
        Err(Failure::Wrong("/bin/sh does not start"))
    })?;
    wait_for(Some(shell))
}

/// Ends this process.
pub(crate) fn end(status: u8) -> ! {
    // SAFETY: exit_group takes a number and ends the process.
    unsafe { system_call(SYS_EXIT_GROUP, [usize::from(status), 0, 0]) };
    unreachable!()
}

/// Runs `work` in a copy of this process.
fn child(work: impl FnOnce() -> Result<(), Failure>) -> Result<Pid, Failure> {
    // SAFETY: the process has one thread, so its copy finds nothing half done.
    let pid = unsafe { system_call(SYS_FORK, [0; 3]) };
    if pid != 0 {
        return i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Failure::Wrong("no new process"));
    }
    match work() {
        Ok(()) => end(0),
        Err(failure) => {
            say!("failed reason=\"{failure}\"");
            end(failure.status())
        }
    }
}

/// Waits until that child, or any, has ended; others that end meanwhile (orphans) are only collected.
fn wait_for(which: Option<Pid>) -> Result<(), Failure> {
    loop {
        let Some((pid, status)) = process::wait(WaitOptions::empty()).map_err(Failure::refused("wait"))?
        else {
            continue;
        };
        if which.is_some_and(|which| which != pid) {
            continue;
        }
        return match status.exit_status().and_then(|status| u8::try_from(status).ok()) {
            Some(0) => Ok(()),
            Some(status) => Err(Failure::Asked(status)),
            None => Err(Failure::Wrong("a process was killed")),
        };
    }
}

/// Makes the console this process's terminal, so that a shell has job control and ^C.
fn take_console() -> Result<(), Failure> {
    process::setsid().map_err(Failure::refused("setsid"))?;
    let mut active = [0; 64];
    let active = machine::read_text(c"/sys/class/tty/console/active", &mut active).unwrap_or_default();
    let directory = machine::open(c"/dev", OFlags::DIRECTORY).map_err(Failure::refused("/dev"))?;
    // The last one named is what /dev/console is.
    let name = active.rsplit(' ').next().unwrap_or_default();
    let terminal = fs::openat(&directory, name, OFlags::RDWR, fs::Mode::empty())
        .map_err(Failure::refused("terminal"))?;
    process::ioctl_tiocsctty(&terminal).map_err(Failure::refused("TIOCSCTTY"))?;
    stdio::dup2_stdin(&terminal).map_err(Failure::refused("dup2"))?;
    stdio::dup2_stdout(&terminal).map_err(Failure::refused("dup2"))?;
    stdio::dup2_stderr(&terminal).map_err(Failure::refused("dup2"))
}

/// Becomes that program; returns if it cannot.
fn execute(program: &CStr, environment: &[&CStr; 4]) {
    let arguments = [program.as_ptr(), null()];
    let [a, b, c, d] = environment.map(CStr::as_ptr);
    let environment = [a, b, c, d, null()];
    let pointers = [program.as_ptr().addr(), arguments.as_ptr().addr(), environment.as_ptr().addr()];
    // SAFETY: both lists end with a null pointer, and everything they point at outlives the call.
    unsafe { system_call(SYS_EXECVE, pointers) };
}

/// # Safety
/// The arguments are what this call of Linux takes.
unsafe fn system_call(number: usize, [a, b, c]: [usize; 3]) -> usize {
    let result;
    // SAFETY: the caller vouches for the arguments; RCX, R11 and memory are all that Linux changes.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

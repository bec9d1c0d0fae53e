//! The thread that zeroes frames ahead and punches what is free beyond that.

use std::io;
use std::sync::Arc;

use mmu_notifier::sync::thread;

use super::Frames;
use crate::host::{Injector, Operation};

/// Frames that are zeroed under one hold of a block's lock: a fault waits for no more than that, some 10 µs.
const PIECE: usize = 64;

/// A running worker; stops on drop.
#[derive(Debug)]
pub(super) struct Worker {
    frames: Arc<Frames>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts the worker of `frames`.
    pub(super) fn start(frames: &Arc<Frames>, injector: &Injector) -> io::Result<Self> {
        injector.check(Operation::Spawn)?;
        let builder = thread::Builder::new().name("frame zeroer".to_owned());
        let thread = builder.spawn({
            let frames = Arc::clone(frames);
            move || run(&frames)
        })?;
        Ok(Self { frames: Arc::clone(frames), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.frames.signal.stop();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that zeroes frames ahead panicked");
        }
    }
}

fn run(frames: &Frames) {
    while !frames.signal.is_stopped() {
        if !work(frames) {
            frames.signal.rest();
        }
    }
}

/// Zeroes or punches one block; false if there is nothing to do, or nothing that can be done.
fn work(frames: &Frames) -> bool {
    let Some(plan) = frames.plan() else { return false };
    if let Some(block) = plan.zero() {
        return match zero_block(frames, block) {
            Ok(progress) => progress,
            Err(error) => {
                log::debug!("nothing more is zeroed ahead for now: {error}");
                false
            }
        };
    }
    frames.punch_excess(&plan)
}

/// Zeroes the free frames of `block` in pieces; says whether there were any.
fn zero_block(frames: &Frames, block: u64) -> Result<bool, super::TakeError> {
    let mut progress = false;
    while !frames.signal.is_stopped() && frames.zero_piece(block, PIECE)? {
        progress = true;
    }
    Ok(progress)
}

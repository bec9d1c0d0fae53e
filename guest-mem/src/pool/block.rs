//! Which frames of a block are present, zero, and taken.

use super::frame_set::FrameSet;

/// The state of a block's frames; `used` and `clean` frames are present, and no frame is both.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The host has memory for them.
    present: FrameSet,
    /// Free, and known to be zero.
    clean: FrameSet,
    /// Somebody has them.
    used: FrameSet,
}

/// What a block holds, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) present: u64,
    pub(super) clean: u64,
    pub(super) used: u64,
}

/// What has to be done before frames can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Not present: the host makes them so, and zero.
    pub(super) populate: FrameSet,
    /// Present, and possibly not zero.
    pub(super) zero: FrameSet,
}

impl Block {
    /// What `frames` need to be present and zero; the error is the first that is taken.
    #[inline]
    pub(super) fn needs(&self, frames: FrameSet) -> Result<Needs, usize> {
        match (frames & self.used).first() {
            Some(taken) => Err(taken),
            None => Ok(Needs { populate: frames & !self.present, zero: frames & self.present & !self.clean }),
        }
    }

    /// `frames` are free and present; now somebody has them.
    #[inline]
    pub(super) fn take(&mut self, frames: FrameSet) {
        debug_assert!(self.present.contains_all(frames) && (self.used & frames).is_empty());
        self.used = self.used | frames;
        self.clean = self.clean & !frames;
    }

    /// `frames` are free again, if somebody has them all; the error is the first that nobody has.
    pub(super) fn give_back(&mut self, frames: FrameSet) -> Result<(), usize> {
        self.check_taken(frames)?;
        self.used = self.used & !frames;
        Ok(())
    }

    /// Whether somebody has all `frames`; the error is the first that nobody has.
    pub(super) fn check_taken(&self, frames: FrameSet) -> Result<(), usize> {
        (frames & !self.used).first().map_or(Ok(()), Err)
    }

    /// The host has just populated `frames`, which it zeroes.
    pub(super) fn populated(&mut self, frames: FrameSet) {
        debug_assert!((self.present & frames).is_empty());
        self.present = self.present | frames;
        self.clean = self.clean | frames;
    }

    /// The free, present `frames` were zeroed.
    pub(super) fn zeroed(&mut self, frames: FrameSet) {
        debug_assert!(self.present.contains_all(frames) && (self.used & frames).is_empty());
        self.clean = self.clean | frames;
    }

    /// The free `frames` went back to the host.
    pub(super) fn punched(&mut self, frames: FrameSet) {
        debug_assert!((self.used & frames).is_empty());
        self.present = self.present & !frames;
        self.clean = self.clean & !frames;
    }

    /// Frames that are free, and absent or possibly not zero.
    pub(super) fn free_dirty(&self) -> Needs {
        let free = !self.used;
        Needs { populate: free & !self.present, zero: free & self.present & !self.clean }
    }

    /// Frames that are free and present.
    pub(super) fn free_present(&self) -> FrameSet {
        self.present & !self.used
    }

    pub(super) fn holding(&self) -> Holding {
        Holding {
            present: self.present.len() as u64,
            clean: self.clean.len() as u64,
            used: self.used.len() as u64,
        }
    }
}

impl Needs {
    pub(super) fn is_empty(&self) -> bool {
        self.populate.is_empty() && self.zero.is_empty()
    }
}

impl Holding {
    pub(super) fn free_present(self) -> u64 {
        self.present - self.used
    }
}

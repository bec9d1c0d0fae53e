//! A [raw lock](super::raw) of some class around what it guards, and its guards.
#![expect(unsafe_code, reason = "a lock gives out references to what it guards")]

use std::{
    cell::UnsafeCell,
    fmt,
    ops::{Deref, DerefMut},
    ptr,
};

use super::{class::LockClass, raw::RawLock};
use crate::{
    interrupt::{InterruptToken, Interrupted},
    order::{self, Held},
    sync::const_unless_loom,
};

/// A reader-writer lock of class `C` around a `T`.
///
/// A waiting writer keeps new readers out, so writers do not starve; readers that slept while a writer held the lock
/// go before the next writer. Not recursive: a thread that holds it for reading and asks again may wait for ever, and
/// debug builds panic. A guard that is leaked leaves the lock held for ever. Panics do not poison it.
///
/// Use it by the names of its classes: [`MmapLock`](crate::MmapLock), [`VmaLock`](crate::VmaLock),
/// [`RmapLock`](crate::RmapLock).
pub struct RankedLock<C, T: ?Sized = ()> {
    raw: RawLock<C>,
    /// Read by who holds `raw`, written by who holds it for writing.
    data: UnsafeCell<T>,
}

// SAFETY: a shared lock hands out `&T` on several threads at once, which needs `T: Sync`, and `&mut T` on any one,
// which may move the `T` out to that thread and needs `T: Send`. `raw` sees to it that the latter is alone.
unsafe impl<C, T: ?Sized + Send + Sync> Sync for RankedLock<C, T> {}

/// A [`RankedLock`] held for reading, until dropped.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ReadGuard<'a, C: LockClass, T: ?Sized = ()> {
    lock: &'a RankedLock<C, T>,
    _held: Held,
}

/// A [`RankedLock`] held for writing, until dropped.
#[must_use = "the lock is released when the guard is dropped"]
pub struct WriteGuard<'a, C: LockClass, T: ?Sized = ()> {
    lock: &'a RankedLock<C, T>,
    _held: Held,
}

impl<C, T> RankedLock<C, T> {
    const_unless_loom! {
        /// A lock around `data` that nobody holds.
        #[must_use]
        pub fn new(data: T) -> Self {
            Self {
                raw: RawLock::new(),
                data: UnsafeCell::new(data),
            }
        }
    }

    /// What the lock guarded.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<C: LockClass, T: ?Sized> RankedLock<C, T> {
    /// Takes the lock for reading; sleeps while a writer has it or waits for it.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a lock of the same or a greater rank.
    pub fn read(&self) -> ReadGuard<'_, C, T> {
        let held = order::acquire(C::RANK, C::NAME);
        self.raw.read();
        ReadGuard { lock: self, _held: held }
    }

    /// Takes the lock for reading if that needs no waiting: no writer has it or waits for it.
    #[must_use]
    pub fn try_read(&self) -> Option<ReadGuard<'_, C, T>> {
        self.raw.try_read().then(|| ReadGuard { lock: self, _held: order::acquire_tried(C::RANK, C::NAME) })
    }

    /// Takes the lock for writing; sleeps while anybody has it.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a lock of the same or a greater rank.
    pub fn write(&self) -> WriteGuard<'_, C, T> {
        let held = order::acquire(C::RANK, C::NAME);
        self.raw.write();
        WriteGuard { lock: self, _held: held }
    }

    /// Like [`write`](Self::write), but gives up when `interrupt` is set before the lock is taken.
    ///
    /// # Errors
    /// [`Interrupted`]; the lock is not held then.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a lock of the same or a greater rank.
    pub fn write_interruptible(
        &self,
        interrupt: &InterruptToken,
    ) -> Result<WriteGuard<'_, C, T>, Interrupted> {
        let held = order::acquire(C::RANK, C::NAME);
        self.raw.write_interruptible(interrupt)?;
        Ok(WriteGuard { lock: self, _held: held })
    }

    /// Takes the lock for writing if nobody has it or waits for it.
    #[must_use]
    pub fn try_write(&self) -> Option<WriteGuard<'_, C, T>> {
        self.raw.try_write().then(|| WriteGuard { lock: self, _held: order::acquire_tried(C::RANK, C::NAME) })
    }

    /// What the lock guards; nobody else can hold it, as it is borrowed exclusively.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// The lock without what it guards, for [`LockedSpace`](crate::LockedSpace).
    pub fn raw(&self) -> &RawLock<C> {
        &self.raw
    }
}

impl<C: LockClass, T: Default> Default for RankedLock<C, T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<C: LockClass, T: ?Sized> WriteGuard<'_, C, T> {
    /// Whether this guard is `lock`'s: for functions that take a guard as a witness.
    #[must_use]
    pub fn is_of(&self, lock: &RankedLock<C, T>) -> bool {
        ptr::eq(&raw const self.lock.raw, &raw const lock.raw)
    }
}

impl<C: LockClass, T: ?Sized> ReadGuard<'_, C, T> {
    /// Whether this guard is `lock`'s: for functions that take a guard as a witness.
    #[must_use]
    pub fn is_of(&self, lock: &RankedLock<C, T>) -> bool {
        ptr::eq(&raw const self.lock.raw, &raw const lock.raw)
    }
}

impl<C: LockClass, T: ?Sized> Deref for ReadGuard<'_, C, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock for reading until it is dropped, which the borrow forbids meanwhile, so
        // there is no `&mut T`. The cell lives as long as the lock, which `self.lock` borrows.
        unsafe { &*self.lock.data.get() }
    }
}

impl<C: LockClass, T: ?Sized> Deref for WriteGuard<'_, C, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock for writing until it is dropped, so the only way to a `&mut T` is through
        // this guard borrowed exclusively, which the shared borrow forbids.
        unsafe { &*self.lock.data.get() }
    }
}

impl<C: LockClass, T: ?Sized> DerefMut for WriteGuard<'_, C, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock for writing until it is dropped, so nobody else has a reference to the
        // `T`, and this guard is borrowed exclusively.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<C: LockClass, T: ?Sized> Drop for ReadGuard<'_, C, T> {
    fn drop(&mut self) {
        self.lock.raw.unlock_read();
    }
}

impl<C: LockClass, T: ?Sized> Drop for WriteGuard<'_, C, T> {
    fn drop(&mut self) {
        self.lock.raw.unlock_write();
    }
}

impl<C: LockClass, T: ?Sized> fmt::Debug for RankedLock<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", C::NAME, self.raw)
    }
}

impl<C: LockClass, T: ?Sized> fmt::Debug for ReadGuard<'_, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held for reading", C::NAME)
    }
}

impl<C: LockClass, T: ?Sized> fmt::Debug for WriteGuard<'_, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held for writing", C::NAME)
    }
}

//! A cell whose accesses loom can watch.

#[cfg(loom)]
pub use loom::cell::UnsafeCell;

/// `std`'s cell behind the part of loom's interface that this crate uses: access by closure, so that loom knows when
/// one begins and ends.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Calls `f` with a pointer to the value for shared access.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with a pointer to the value for exclusive access.
    #[inline]
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
    /// The value.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

//! The owner that subscribers of invalidations register with.

use mmu_notifier::AddressRange;

/// Announces every change of one guest RAM's mappings to whoever keeps translations of it.
///
/// Today nobody can register: the two hooks only leave a trace in the log. What holds already is the order: every
/// zap of pages runs between the start and the end of an invalidation that covers them, on error paths too.
#[derive(Debug)]
pub struct NotifierOwner {
    /// All of the RAM, in guest-physical bytes.
    range: AddressRange,
    /// What the hooks were called with.
    #[cfg(test)]
    calls: std::sync::Mutex<Vec<(&'static str, AddressRange)>>,
}

impl NotifierOwner {
    pub(crate) fn new(range: AddressRange) -> Self {
        Self {
            range,
            #[cfg(test)]
            calls: std::sync::Mutex::default(),
        }
    }

    /// The guest-physical range that invalidations may be of: all of the RAM.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }

    /// Begins an invalidation of `range`; it ends when the returned guard is dropped, however that comes about.
    ///
    /// Whoever holds the guard may take pages of the range away, and may reuse them only after dropping it.
    #[must_use = "the invalidation ends when this is dropped"]
    pub(crate) fn invalidate(&self, range: AddressRange) -> Invalidation<'_> {
        self.invalidate_range_start(range);
        Invalidation { owner: self, range }
    }

    fn invalidate_range_start(&self, range: AddressRange) {
        log::trace!("guest RAM {}: invalidate {range}: start", self.range);
        #[cfg(test)]
        self.record("start", range);
    }

    fn invalidate_range_end(&self, range: AddressRange) {
        log::trace!("guest RAM {}: invalidate {range}: end", self.range);
        #[cfg(test)]
        self.record("end", range);
    }

    /// Notes a call of `what` with `range`.
    #[cfg(test)]
    pub(crate) fn record(&self, what: &'static str, range: AddressRange) {
        self.calls.lock().unwrap().push((what, range));
    }

    /// What was called so far, oldest first.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> Vec<(&'static str, AddressRange)> {
        self.calls.lock().unwrap().clone()
    }
}

/// An invalidation that has begun and not ended.
#[derive(Debug)]
pub(crate) struct Invalidation<'a> {
    owner: &'a NotifierOwner,
    range: AddressRange,
}

impl Invalidation<'_> {
    /// What is being invalidated, in guest-physical bytes.
    pub(crate) fn range(&self) -> AddressRange {
        self.range
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        self.owner.invalidate_range_end(self.range);
    }
}

//! The current list of VMAs: replaced as a whole by one, loaded by anybody without waiting.
//!
//! Outside of the models this is a library's. loom does not see into that, so there it is every list that was ever
//! published, and the number of the last: a release store, and acquire loads that may well be late. That is all the
//! tree needs of it.

use std::sync::Arc;

use super::snapshot::VmaList;

/// A loaded list; the list stays as long as this does.
#[cfg(not(loom))]
pub(super) type Loaded = arc_swap::Guard<Arc<VmaList>>;
#[cfg(loom)]
pub(super) type Loaded = Arc<VmaList>;

/// The current list.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(super) struct Published(arc_swap::ArcSwap<VmaList>);

#[cfg(not(loom))]
impl Published {
    /// The current list, or one that was when this began. Orders: what came before the list's publication is seen.
    pub(super) fn load(&self) -> Loaded {
        self.0.load()
    }

    /// Replaces the list; only by who holds mmap_lock for writing.
    pub(super) fn publish(&self, list: VmaList) {
        self.0.store(Arc::new(list));
    }
}

#[cfg(loom)]
#[derive(Debug)]
pub(super) struct Published {
    lists: std::sync::Mutex<Vec<Arc<VmaList>>>,
    last: loom::sync::atomic::AtomicUsize,
}

#[cfg(loom)]
impl Published {
    pub(super) fn load(&self) -> Loaded {
        // Acquire: pairs with the Release below.
        let last = self.last.load(std::sync::atomic::Ordering::Acquire);
        self.lists().get(last).cloned().unwrap_or_default()
    }

    pub(super) fn publish(&self, list: VmaList) {
        let mut lists = self.lists();
        let number = lists.len();
        lists.push(Arc::new(list));
        // loom switches threads at what follows.
        drop(lists);
        // Release: pairs with the Acquire above.
        self.last.store(number, std::sync::atomic::Ordering::Release);
    }

    fn lists(&self) -> std::sync::MutexGuard<'_, Vec<Arc<VmaList>>> {
        self.lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(loom)]
impl Default for Published {
    fn default() -> Self {
        Self {
            lists: std::sync::Mutex::new(vec![Arc::default()]),
            last: loom::sync::atomic::AtomicUsize::new(0),
        }
    }
}

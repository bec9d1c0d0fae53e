//! The live address spaces by number: from a window in the reverse map to the address space whose it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use mmu_notifier::sync::{Mutex, lock};

use super::Mm;
use crate::rmap::MmId;

type Live = Mutex<BTreeMap<MmId, Weak<Mm>>>;

/// A leaf.
#[cfg(not(loom))]
static LIVE: Live = Mutex::new(BTreeMap::new());
#[cfg(loom)]
loom::lazy_static! {
    static ref LIVE: Live = Mutex::new(BTreeMap::new());
}

/// Lets `mm` be found.
pub(super) fn add(mm: &Arc<Mm>) {
    lock(&LIVE).insert(mm.id, Arc::downgrade(mm));
}

/// The address space numbered `id`, unless it ends or has ended.
///
/// Whoever drops what this returns may be the last to have it, and ends it: not under a lock that its end takes, of
/// which the reverse-map locks of what it maps are some.
pub(super) fn find(id: MmId) -> Option<Arc<Mm>> {
    lock(&LIVE).get(&id)?.upgrade()
}

/// Strikes `mm` off, which ends.
pub(super) fn remove(mm: &Mm) {
    lock(&LIVE).remove(&mm.id);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use mmu_notifier::AddressRange;

    use super::*;
    use crate::{
        ByteSize, MmConfig,
        pool::{FramePool, PoolConfig, PoolMemory},
    };

    #[test]
    fn an_address_space_is_found_until_it_ends() {
        let size = ByteSize::new(4 << 20).unwrap();
        let pool = FramePool::new(&PoolConfig::new(PoolMemory::None, size)).unwrap();
        let config = || MmConfig::new(AddressRange::new(0, 2 << 20).unwrap());
        let [one, other] = [(); 2].map(|()| Mm::modelled(&config(), &pool).unwrap());
        let id = one.id();

        assert!(Arc::ptr_eq(&find(id).unwrap(), &one));
        drop(one);

        assert!(find(id).is_none());
        assert!(find(other.id()).is_some());
    }
}

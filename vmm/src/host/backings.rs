//! Which backings guest RAM can have here.

use guest_mem::{Backing, ByteSize};

use super::{Offer, managed_faults};
use crate::kvm::Vm;

/// Bytes of the guest_memfd that is made to see whether one can be.
const GUEST_MEMFD_BYTES: u64 = 2 << 20;

/// Every backing that needs no path, and whether guest RAM of `size` can have it now; `size` is rounded up to whole
/// pages of the backing's pool.
pub(super) fn survey(size: ByteSize, vm: Option<&Vm>) -> Vec<Offer> {
    Backing::NAMED.iter().map(|backing| offer(backing, size, vm)).collect()
}

fn offer(backing: &Backing, size: ByteSize, vm: Option<&Vm>) -> Offer {
    let name = backing.name();
    if *backing == Backing::GuestMemfd {
        return guest_memfd(name, vm);
    }
    if backing.is_managed() {
        let faults = managed_faults();
        if !faults.available {
            return Offer { name: name.to_owned(), ..faults };
        }
    }
    match backing.check_host(whole_pages(size, backing.page_size())) {
        Ok(()) => Offer::yes(name),
        Err(unavailable) => {
            let offer = Offer::failed(name, &unavailable.reason);
            unavailable.enable.into_iter().fold(offer, Offer::enabled_by)
        }
    }
}

fn guest_memfd(name: &str, vm: Option<&Vm>) -> Offer {
    let Some(vm) = vm else {
        return Offer::no(name, "it is made by a KVM virtual machine, and none can be made");
    };
    match vm.create_guest_memfd(GUEST_MEMFD_BYTES) {
        Ok(_) => Offer::yes(name),
        Err(error) => Offer::failed(name, &error),
    }
}

/// `size` rounded up to a multiple of `page`; unchanged where that does not fit in 64 bits.
fn whole_pages(size: ByteSize, page: u64) -> ByteSize {
    let rounded = size.bytes().checked_next_multiple_of(page);
    rounded.and_then(ByteSize::new).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_asked_for_in_whole_pages() {
        let rounded = |bytes, page| whole_pages(ByteSize::new(bytes).unwrap(), page).bytes();
        assert_eq!(rounded(64 << 20, 1 << 30), 1 << 30);
        assert_eq!(rounded(64 << 20, 2 << 20), 64 << 20);
        assert_eq!(rounded(u64::MAX, 4096), u64::MAX);
    }

    #[test]
    fn guest_memfd_needs_a_virtual_machine() {
        let offer = offer(&Backing::GuestMemfd, ByteSize::new(4096).unwrap(), None);

        assert!(!offer.available);
        assert!(offer.reason.unwrap().contains("virtual machine"));
    }
}

//! Linux guests that are paused, looked at, and whose RAM is taken away under them.
#![expect(
    unsafe_code,
    reason = "a host that drops the pages of a mapping is madvise, which has no safe wrapper"
)]

use std::{ptr, thread, time::Duration};

use guest_mem::{Backing, ByteSize, ManagedConfig};
use underlay_tests::{Need, Suite};
use vmm::{
    memory::{Memory, MemoryConfig},
    microvm::{Ending, Whereabouts},
};

use super::support::{Guest, M};

const BYTES: u64 = 64 * M;

pub(crate) fn add_to(suite: &mut Suite) {
    let needs = [Need::Kvm, Need::Linux];
    for (backing, more) in [(Backing::Anonymous, None), (Backing::Managed4kb, Some(Need::ManagedFaults))] {
        let needs: Vec<_> = needs.into_iter().chain(more).collect();
        suite.test(format!("running::{backing}::pauses_and_goes_on"), &needs, move || pauses(backing));
    }
    for (backing, more) in [(Backing::Shmem, None), (Backing::Managed4kb, Some(Need::ManagedFaults))] {
        let needs: Vec<_> = needs.into_iter().chain(more).collect();
        suite
            .test(format!("running::{backing}::all_ram_dropped_is_intact"), &needs, move || dropped(backing));
    }
    suite.test("running::two_vcpus_tell_where_they_are", &needs, whereabouts);
    suite.test("running::a_guest_that_is_stopped_while_it_boots_leaves_nothing", &needs, leaves_nothing);
}

fn pauses(backing: Backing) {
    let guest = Guest::boot(backing, BYTES, 2, "forever:8");
    guest.wait_for("init: alive", 2);

    for round in 3..6 {
        guest.handle.pause();
        let said = guest.text();
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(guest.text(), said, "a paused guest says nothing");
        guest.handle.resume();
        guest.wait_for("init: alive", round);
    }

    guest.handle.stop();
    let (ending, text) = guest.finish();
    assert!(matches!(ending, Ending::Stopped), "{ending:?}");
    assert!(!text.contains("mismatch"), "{text}");
}

/// Drops what this process maps of guest RAM: the memfd, or the manager's shared memory, keeps the pages.
fn drop_pages(memory: &Memory) {
    for ram in memory.rams() {
        if let Some(mm) = ram.mm() {
            mm.dont_need(ram.range()).unwrap();
            continue;
        }
        let address = ptr::with_exposed_provenance_mut(usize::try_from(ram.host_address().get()).unwrap());
        let bytes = usize::try_from(ram.size().bytes()).unwrap();
        // SAFETY: the range is all of a shared mapping of a memfd, which keeps every byte of it: whoever touches it, in the
        // guest or here, finds what was there.
        let result = unsafe { libc::madvise(address, bytes, libc::MADV_DONTNEED) };
        assert_eq!(result, 0);
    }
}

fn dropped(backing: Backing) {
    let managed = ManagedConfig { shared: true, ..ManagedConfig::default() };
    let memory = MemoryConfig { managed, ..MemoryConfig::new(ByteSize::new(BYTES).unwrap(), backing) };
    let guest = Guest::boot_with(memory, 1, "balloon:16:5,exit:7", |_| ());
    guest.wait_for("init: holding", 1);

    while !guest.text().contains("init: held") {
        drop_pages(guest.handle.memory());
        thread::sleep(Duration::from_millis(200));
    }

    let (ending, text) = guest.finish();
    assert!(matches!(ending, Ending::Exited(7)), "{ending:?}\n{text}");
    assert!(text.contains("init: passed balloon:16:5"), "{text}");
}

fn whereabouts() {
    let guest = Guest::boot(Backing::Anonymous, BYTES, 2, "forever:8");
    guest.wait_for("init: alive", 1);

    for _ in 0..20 {
        let places = guest.handle.whereabouts();
        assert_eq!(places.len(), 2);
        assert!(places.iter().all(|place| matches!(place, Whereabouts::Guest(_))), "{places:?}");
    }
    guest.handle.pause();
    assert!(matches!(guest.handle.whereabouts()[..], [Whereabouts::Guest(_), Whereabouts::Guest(_)]));

    // A guest that is paused can be stopped.
    guest.handle.stop();
    assert!(matches!(guest.finish().0, Ending::Stopped));
}

fn leaves_nothing() {
    let guest = Guest::boot(Backing::Shmem, BYTES, 1, "forever:8");
    let handle = guest.handle.clone();
    let memory = std::sync::Arc::downgrade(handle.memory());

    handle.stop();
    drop(guest.finish());

    assert!(matches!(handle.whereabouts()[..], [Whereabouts::Ended]), "no vCPU runs on");
    handle.pause();
    handle.resume();
    drop(handle);
    assert!(memory.upgrade().is_none(), "nobody keeps the guest's memory");
}

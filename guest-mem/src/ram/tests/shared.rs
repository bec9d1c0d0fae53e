//! RAMs that share their memory, touched by this process's own threads through the window of each.

use std::thread;

use super::*;
use crate::{CreateRamError, ManagedConfig, ManagedError, Mm, pool::FramePool};
#[cfg(feature = "testing")]
use crate::{HostSettings, HugePageSize};

/// Where the second RAM begins: the guests see the memory at different addresses.
const OTHER: u64 = 64 << 30;

/// Two RAMs of `backing` that share `megabytes`.
fn pair(backing: &Backing, megabytes: u64, managed: ManagedConfig) -> [GuestRam; 2] {
    let managed = ManagedConfig { shared: true, ..managed };
    let size = ByteSize::new(megabytes * M).unwrap();
    let first = GuestRamConfig { managed: managed.clone(), ..GuestRamConfig::new(size, backing.clone()) };
    let second = GuestRamConfig {
        managed,
        guest_base: GuestAddress(OTHER),
        ..GuestRamConfig::new(size, backing.clone())
    };
    let first = GuestRam::create(first).unwrap();
    let second = first.share(&second).unwrap();
    [first, second]
}

/// Ends both, the one numbered `first` first; every frame is free then.
#[track_caller]
fn end(rams: [GuestRam; 2], first: usize) {
    let pool = Arc::clone(rams[0].mm().unwrap().pool());
    let [one, other] = rams;
    let (gone, left) = if first == 0 { (one, other) } else { (other, one) };
    let range = part(&left, 0, PAGE_SIZE);
    fill(&left, range, 9);
    drop(gone);
    assert_filled(&left, range, 9);
    drop(left);
    assert_free(&pool);
}

#[track_caller]
fn assert_free(pool: &FramePool) {
    pool.assert_all_free();
    assert_eq!(pool.folios().in_use(0..pool.frames()).count(), 0);
}

fn mms(rams: &[GuestRam; 2]) -> [&Arc<Mm>; 2] {
    rams.each_ref().map(|ram| ram.mm().unwrap())
}

/// What both promise, whatever their pages are.
fn both_see_the_same(backing: &Backing, megabytes: u64) {
    for first in [0, 1] {
        let rams = pair(backing, megabytes, ManagedConfig::default());
        let [one, other] = &rams;
        let bytes = megabytes * M;
        fill(one, one.range(), 7);
        assert_filled(other, other.range(), 7);
        fill(other, part(other, M, M), 8);
        assert_filled(one, part(one, M, M), 8);

        for mm in mms(&rams) {
            let usage = mm.report().usage;
            assert_eq!((usage.mapped_bytes(), usage.pss_bytes, usage.pinned_bytes), (bytes, bytes / 2, 0));
        }
        assert_eq!(resident(one), bytes, "each page once");

        mms(&rams)[0].dont_need(one.range()).unwrap();
        assert_eq!(mms(&rams)[1].report().usage.pss_bytes, bytes);
        assert_filled(one, part(one, M, M), 8);

        other.discard(part(other, M, M)).unwrap();
        for ram in &rams {
            assert_filled(ram, part(ram, M, M), 0);
            assert_filled(ram, part(ram, 0, M), 7);
        }
        one.discard(one.range()).unwrap();
        assert_filled(other, other.range(), 0);
        end(rams, first);
    }
}

#[test]
fn base_pages_are_the_same_in_both() {
    both_see_the_same(&Backing::Managed4kb, 4);
}

#[cfg(feature = "testing")]
#[test]
fn transparent_huge_pages_are_the_same_in_both() {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    match HostSettings::lock().unwrap().set(SETTING, "advise") {
        Ok(_settings) => both_see_the_same(&Backing::ManagedThp, 4),
        Err(refused) => println!("skipped: {refused}"),
    }
}

#[cfg(feature = "testing")]
#[test]
fn huge_pages_are_the_same_in_both() {
    let settings = HostSettings::lock().unwrap().with_huge_pages(HugePageSize::Mb2, 2);
    match settings {
        Ok(_settings) => both_see_the_same(&Backing::Managed2mb, 4),
        Err(refused) => println!("skipped: {refused}"),
    }
}

#[test]
fn what_is_discarded_reads_as_zeros_while_others_touch_it() {
    let rams = pair(&Backing::Managed4kb, 2, ManagedConfig::default());
    let [one, other] = &rams;
    thread::scope(|scope| {
        let write = |ram: &GuestRam, own: u64| {
            for round in 1..150_u64 {
                for page in (own..2 * M).step_by(16 << 12) {
                    let address = GuestAddress(ram.range().start() + page);
                    ram.view().write_obj(round, address).unwrap();
                    let read = ram.view().read_obj::<u64>(address).unwrap();
                    assert!(read == round || read == 0, "{read} at {page:#x} in round {round}");
                }
            }
        };
        let writers = [scope.spawn(move || write(one, 0)), scope.spawn(move || write(other, 8 << 12))];
        let mut round = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            round += 1;
            match round % 3 {
                0 => drop(one.discard(one.range()).unwrap()),
                1 => drop(other.discard(part(other, M, M)).unwrap()),
                _ => one.mm().unwrap().dont_need(one.range()).unwrap(),
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });

    let discarded = other.discard(other.range()).unwrap();

    assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (2 * M, 0));
    assert_filled(one, one.range(), 0);
    end(rams, 1);
}

#[test]
fn rams_come_and_go_while_another_uses_the_memory() {
    let [first, second] = pair(&Backing::Managed4kb, 2, ManagedConfig::default());
    drop(second);
    let config = GuestRamConfig {
        guest_base: GuestAddress(OTHER),
        ..GuestRamConfig::new(first.size(), Backing::Managed4kb)
    };
    thread::scope(|scope| {
        let user = scope.spawn(|| {
            for round in 0..200_u8 {
                fill(&first, part(&first, 0, M), round);
                assert_filled(&first, part(&first, 0, M), round);
                let discarded = first.discard(part(&first, M, M)).unwrap();
                assert_eq!(discarded.pinned_bytes, 0, "nobody pins anything");
            }
        });
        while !user.is_finished() {
            let guest = first.share(&config).unwrap();
            fill(&guest, part(&guest, M, M), 1);
        }
        user.join().unwrap();
    });

    let pool = Arc::clone(first.mm().unwrap().pool());
    drop(first);
    assert_free(&pool);
}

#[test]
fn only_what_was_made_to_be_shared_is_and_as_a_whole() {
    let config =
        |megabytes: u64, backing| GuestRamConfig::new(ByteSize::new(megabytes * M).unwrap(), backing);
    let own = GuestRam::create(config(2, Backing::Managed4kb)).unwrap();
    let kernels = GuestRam::create(config(2, Backing::Shmem)).unwrap();
    let [shared, _other] = pair(&Backing::Managed4kb, 2, ManagedConfig::default());

    for (ram, asked) in [
        (&own, config(2, Backing::Managed4kb)),
        (&kernels, config(2, Backing::Shmem)),
        (&shared, config(4, Backing::Managed4kb)),
        (&shared, config(2, Backing::ManagedThp)),
    ] {
        let error = ram.share(&asked).unwrap_err();

        let expected =
            matches!(error, CreateRamError::Managed(ManagedError::NotShared | ManagedError::Unlike { .. }));
        assert!(expected, "{error:?}");
    }
}

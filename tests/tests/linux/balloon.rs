//! Linux and its balloon: what the guest gives up is no longer resident, and what it keeps is intact.

use std::{
    fs,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use guest_mem::{Backing, ByteSize, GuestRam, HugePageSize, ManagedConfig, Stock};
use mmu_notifier::PAGE_SIZE;
use underlay_tests::{Need, Suite, huge_pages};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    memory::MemoryConfig,
    microvm::{Ending, MicroVm},
    virtio::balloon::{Balloon, BalloonConfig, GuestStats},
};

use super::support::{Guest, M};

/// RAM of a guest whose balloon is not large.
const BYTES: u64 = 128 * M;
/// A balloon that takes so long has failed.
const PATIENCE: Duration = Duration::from_mins(5);

/// RAM of a guest, and what it is to give up of it, in MiB. Huge pages go as a whole, and Linux takes what it gives up from
/// pieces of some, which stay: there has to be enough that these few are less than 5% of it.
const fn sizes(backing: &Backing) -> (u64, u32) {
    match backing {
        Backing::Anonymous | Backing::Shmem | Backing::Managed4kb => (96 * M, 32),
        _ => (224 * M, 160),
    }
}

pub(crate) fn add_to(suite: &mut Suite) {
    let pages = Need::HugePages(HugePageSize::Mb2, sizes(&Backing::Managed2mb).0 / HugePageSize::Mb2.bytes());
    for (backing, more) in [
        (Backing::Anonymous, vec![]),
        (Backing::Shmem, vec![]),
        (Backing::AnonymousThp, vec![Need::Thp]),
        (Backing::SharedHugetlb2mb, vec![pages]),
        (Backing::Managed4kb, vec![Need::ManagedFaults]),
        (Backing::Managed2mb, vec![Need::ManagedFaults, pages]),
    ] {
        let needs: Vec<_> = [Need::Kvm, Need::Linux].into_iter().chain(more).collect();
        let name = format!("balloon::{backing}::what_is_inflated_is_no_longer_resident");
        suite.test(name, &needs, move || inflated(&backing));
    }
    let needs = [Need::Kvm, Need::Linux];
    suite.test("balloon::pages_that_the_guest_frees_are_reported", &needs, reported);
    suite.test("balloon::a_guest_short_of_memory_takes_some_back", &needs, short_of_memory);
    suite.test("balloon::a_guest_tells_about_its_memory_and_hints_at_what_is_free", &needs, told);
}

struct Bench {
    guest: Guest,
    balloon: Arc<Mutex<Balloon>>,
}

/// Boots a guest with a balloon on `backing`, all of whose pages are resident, and has its init run `tests`.
fn boot(backing: Backing, bytes: u64, config: BalloonConfig, tests: &str) -> Bench {
    let balloon = Arc::new(Mutex::new(Balloon::new(config, bytes).unwrap()));
    let attach = |vm: &mut MicroVm| {
        for page in (0..bytes).step_by(4096) {
            vm.memory().view().write_obj(0_u8, GuestAddress(page)).unwrap();
        }
        vm.attach(balloon.clone()).unwrap();
    };
    // Nothing is kept for later: what is given up goes back to the host.
    let managed = ManagedConfig { stock: Stock::None, ..ManagedConfig::default() };
    let memory = MemoryConfig { managed, ..MemoryConfig::new(ByteSize::new(bytes).unwrap(), backing) };
    Bench { guest: Guest::boot_with(memory, 1, tests, attach), balloon }
}

/// What a guest has of the host, in bytes.
#[derive(Debug, Default)]
struct Usage {
    resident: u64,
    /// By huge pages.
    huge: u64,
}

impl Usage {
    /// Huge pages of a managed RAM are promised to it: what it gives up goes back to its own pool, and what it has is what
    /// it maps.
    fn of(ram: &GuestRam) -> Self {
        match ram.mm_report() {
            Some(report) if *ram.backing() == Backing::Managed2mb => {
                Self { resident: report.usage.mapped_bytes(), huge: report.usage.huge_bytes }
            }
            _ => {
                let report = ram.report().unwrap();
                Self { resident: report.resident_bytes.unwrap(), huge: report.huge_bytes.unwrap() }
            }
        }
    }
}

impl Bench {
    fn usage(&self) -> Usage {
        let rams = self.guest.handle.memory().rams();
        rams.iter().map(|ram| Usage::of(ram)).fold(Usage::default(), |all, ram| Usage {
            resident: all.resident + ram.resident,
            huge: all.huge + ram.huge,
        })
    }

    /// Waits until the balloon says so.
    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn(&Balloon) -> bool) {
        let started = Instant::now();
        while !is_so(&self.balloon.lock().unwrap()) {
            assert!(
                started.elapsed() < PATIENCE,
                "not {what}: {:?}",
                self.balloon.lock().unwrap().counters()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many mappings of this process the guest's RAM consists of.
    fn mappings(&self) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let starts =
            maps.lines().map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap());
        let rams = self.guest.handle.memory().rams();
        let is_ram = |start: &u64| {
            rams.iter().any(|ram| start.wrapping_sub(ram.host_address().get()) < ram.size().bytes())
        };
        starts.filter(is_ram).count()
    }

    /// Waits until a guest that runs `forever` has written and verified once more all that it holds, and stops it.
    #[track_caller]
    fn holds_on(self) {
        let rounds = || self.guest.text().matches("init: alive").count();
        // What it says next may be of a round that it had begun.
        self.guest.wait_for("init: alive", rounds() + 2);
        self.guest.handle.stop();
        let (ending, text) = self.guest.finish();
        assert!(matches!(ending, Ending::Stopped) && !text.contains("mismatch"), "{ending:?}\n{text}");
    }

    /// Waits for the guest's end, and checks that it found all as it should be.
    #[track_caller]
    fn finish(self) -> String {
        let (ending, text) = self.guest.finish();
        assert!(matches!(ending, Ending::Exited(0)), "{ending:?}\n{text}");
        text
    }
}

fn inflated(backing: &Backing) {
    let (bytes, amount_mib) = sizes(backing);
    let _pages = huge_pages(backing, bytes);
    let bench = boot(backing.clone(), bytes, BalloonConfig::default(), "forever:16");
    bench.guest.wait_for("init: holding", 1);
    let (before, mappings) = (bench.usage(), bench.mappings());

    bench.balloon.lock().unwrap().set_amount(amount_mib).unwrap();
    bench.wait_until("inflated", |balloon| balloon.actual_pages() == amount_mib * 256);
    let (after, inflated) = (bench.usage(), bench.mappings());
    let counters = bench.balloon.lock().unwrap().counters();
    // As much as that is enough, at a millisecond a page where KVM emulates the guest's kernel.
    let rest_mib = amount_mib.saturating_sub(32);
    bench.balloon.lock().unwrap().set_amount(rest_mib).unwrap();
    bench.wait_until("deflated", |balloon| balloon.actual_pages() == rest_mib * 256);

    println!("{before:?}, then {after:?}; {counters:?}; {mappings} mappings, then {inflated}");
    let amount = u64::from(amount_mib) * M;
    let fallen = before.resident.saturating_sub(after.resident);
    assert!(fallen.abs_diff(amount) <= amount / 20, "{fallen} bytes of {amount}; {counters:?}");
    let unit = if *backing == Backing::AnonymousThp { backing.largest_page() } else { backing.page_size() };
    assert_eq!(fallen / unit, counters.discarded_bytes / unit);
    if unit > PAGE_SIZE {
        assert_eq!(before.huge.saturating_sub(after.huge), fallen, "no huge page went to pieces");
    }
    // A discard makes mappings of one only of shared huge pages, and those few again.
    let most = if *backing == Backing::SharedHugetlb2mb { 64 } else { mappings };
    assert!(inflated <= most, "{inflated} mappings");
    bench.holds_on();
}

fn reported() {
    // Linux reports nothing while less than 64 MiB of a zone are free.
    let bytes = 2 * BYTES;
    let config = BalloonConfig { free_page_reporting: true, ..BalloonConfig::default() };
    let bench = boot(Backing::Anonymous, bytes, config, "release:32:20");
    bench.guest.wait_for("init: released", 1);

    // Most of what was used and freed, in pieces of 2 MiB, besides what was free all the time.
    bench.wait_until("reported", |balloon| balloon.counters().reported_bytes >= 48 * M);
    let resident = bench.usage().resident;

    assert!(resident <= bytes - 48 * M, "{resident} bytes are resident");
    let text = bench.finish();
    assert!(text.contains("init: passed release:32:20"), "{text}");
}

fn short_of_memory() {
    let config = BalloonConfig { amount_mib: 40, deflate_on_oom: true, ..BalloonConfig::default() };
    // It has 96 MiB, and begins to fill when the balloon has got what it is to have.
    let bench = boot(Backing::Anonymous, 96 * M, config, "release:4:25,fill:44:1");
    bench.wait_until("inflated", |balloon| balloon.actual_pages() == 40 * 256);

    bench.guest.wait_for("init: passed fill:44:1", 1);

    let counters = bench.balloon.lock().unwrap().counters();
    println!("{counters:?}");
    assert!(counters.deflated_pages > 0, "{counters:?}");
    let (ending, text) = bench.guest.finish();
    assert!(matches!(ending, Ending::Exited(0)) && !text.contains("Killed process"), "{ending:?}\n{text}");
}

/// How many bytes are free, and of how many.
fn free_of(stats: GuestStats) -> Option<(u64, u64)> {
    stats.free_memory.zip(stats.total_memory)
}

fn told() {
    let config = BalloonConfig {
        stats_interval: Some(Duration::from_secs(1)),
        free_page_hinting: true,
        ..BalloonConfig::default()
    };
    let bench = boot(Backing::Anonymous, BYTES, config, "forever:16");
    bench.guest.wait_for("init: holding", 1);

    // More than once: the first are of the time before it held anything.
    bench.wait_until("told what it holds", |balloon| {
        let stats = balloon.guest_stats();
        balloon.counters().stats_updates >= 2
            && free_of(stats).is_some_and(|(free, total)| free < total - 16 * M)
    });
    bench.balloon.lock().unwrap().start_hinting(true).unwrap();
    bench.wait_until("done hinting", |balloon| {
        balloon.hinting().host == 1 && balloon.hinting().guest == Some(0)
    });

    let stats = bench.balloon.lock().unwrap().guest_stats();
    let (_, total) = free_of(stats).unwrap();
    assert!(total > BYTES / 2 && total < BYTES, "{stats:?}");
    let hinted = bench.balloon.lock().unwrap().counters().hinted_bytes;
    println!("{hinted} bytes were hinted at; {stats:?}");
    assert!(hinted >= 32 * M, "{hinted}");
    bench.holds_on();
}

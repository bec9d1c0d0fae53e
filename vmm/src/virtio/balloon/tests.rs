use std::sync::Mutex;

use guest_mem::Backing;
use mmu_notifier::{AddressRange, Event, Invalidation, Subscriber, WouldBlock};

use super::*;
use crate::virtio::testing::{Buffer, DATA, Driver, survives_any_rings};

const MIB: u64 = 1 << 20;
/// Queue numbers where every feature is on.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
const HINTS: usize = 3;
const REPORTS: usize = 4;

fn everything() -> BalloonConfig {
    BalloonConfig {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_interval: Some(Duration::from_hours(1)),
        free_page_reporting: true,
        free_page_hinting: true,
    }
}

struct Bench {
    driver: Driver,
    balloon: Balloon,
    queue: usize,
}

impl Bench {
    /// Its driver has queue number `queue`.
    fn new(queue: usize) -> Self {
        Self::of(queue, 64 * MIB, Backing::Anonymous)
    }

    fn of(queue: usize, bytes: u64, backing: Backing) -> Self {
        let driver = Driver::of(64, bytes, backing);
        let mut balloon = Balloon::new(everything(), bytes).unwrap();
        balloon.activate(driver.activation(queue)).unwrap();
        Self { driver, balloon, queue }
    }

    /// Sends a request that consists of `numbers`, one after the other.
    fn send_numbers(&mut self, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.driver.put(DATA, &bytes);
        self.driver.send(&[Buffer::read(DATA, u32::try_from(bytes.len()).unwrap())]);
        self.notify();
    }

    fn notify(&mut self) {
        assert_eq!(self.balloon.queue_notified(self.queue), Progress::Drained);
    }

    /// Fills `range` with something that is not zero.
    fn fill(&self, range: std::ops::Range<u64>) {
        for page in range.step_by(4096) {
            self.driver.put(page, &[7]);
        }
    }

    /// Which of the pages in `range` have been taken away.
    fn gone(&self, range: std::ops::Range<u64>) -> Vec<u64> {
        range
            .step_by(4096)
            .filter(|page| self.driver.read::<1>(*page) == [0])
            .map(|page| page / 4096)
            .collect()
    }
}

/// Notes what is announced.
#[derive(Default)]
struct Announced(Mutex<Vec<AddressRange>>);

impl Subscriber for Announced {
    fn name(&self) -> &'static str {
        "a test"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.0.lock().unwrap().push(invalidation.range());
        assert_eq!(invalidation.event(), Event::Clear);
        Ok(())
    }
}

fn pages(first: u64, count: u64) -> AddressRange {
    AddressRange::new(first * 4096, count * 4096).unwrap()
}

#[test]
fn pages_are_taken_away_in_runs_and_announced_before() {
    let mut bench = Bench::new(INFLATE);
    bench.fill(MIB..2 * MIB);
    let announced = Arc::new(Announced::default());
    let owner = bench.driver.memory().rams()[0].owner();
    let _subscription = owner.register(announced.clone()).unwrap();

    // Downwards as Linux does, a gap, one page twice.
    bench.send_numbers(&[263, 262, 261, 260, 300, 301, 300, 259]);

    assert_eq!(*announced.0.lock().unwrap(), [pages(259, 5), pages(300, 2)]);
    assert_eq!(bench.gone(MIB..2 * MIB), [259, 260, 261, 262, 263, 300, 301]);
    let counters = bench.balloon.counters();
    assert_eq!((counters.inflated_pages, counters.discarded_bytes), (7, 7 * 4096));
    assert_eq!(bench.driver.used(), [(0, 0)]);
}

#[test]
fn what_is_deflated_can_be_used_and_inflated_again() {
    let mut bench = Bench::new(DEFLATE);

    bench.send_numbers(&[300, 301]);

    assert_eq!(bench.balloon.counters().deflated_pages, 2);
    assert_eq!(bench.driver.used(), [(0, 0)]);
}

#[test]
fn pages_that_the_guest_does_not_have_are_counted() {
    let mut bench = Bench::new(INFLATE);
    bench.fill(63 * MIB..64 * MIB);

    bench.send_numbers(&[16384, u32::MAX, 16383]);

    let counters = bench.balloon.counters();
    assert_eq!((counters.strange_pages, counters.inflated_pages), (2, 1));
    assert_eq!(bench.gone(63 * MIB..64 * MIB), [16383]);
}

#[test]
fn more_pages_than_a_request_may_name_are_refused() {
    let mut bench = Bench::new(INFLATE);

    bench.driver.send(&[Buffer::read(DATA, 4 * (1 << 16) + 4)]);
    bench.driver.send(&[Buffer::read(DATA, 7)]);
    bench.notify();

    assert_eq!(bench.driver.used(), [(0, 0), (1, 0)]);
    let counters = bench.balloon.counters();
    assert_eq!((counters.malformed, counters.inflated_pages), (2, 0));
}

#[test]
fn a_huge_page_goes_as_a_whole_when_its_last_piece_is_in() {
    let mut bench = Bench::of(INFLATE, 64 * MIB, Backing::AnonymousThp);
    bench.fill(2 * MIB..8 * MIB);

    // All but one piece of the second huge page, some of the third.
    for piece in (0..600).filter(|piece| *piece != 100).collect::<Vec<u32>>().chunks(200) {
        let numbers: Vec<u32> = piece.iter().map(|piece| 1024 + piece).collect();
        bench.send_numbers(&numbers);
    }
    assert!(bench.gone(2 * MIB..8 * MIB).is_empty());
    bench.send_numbers(&[1124]);

    assert_eq!(bench.gone(2 * MIB..8 * MIB), (1024..1536).collect::<Vec<_>>());
    assert_eq!(bench.balloon.counters().discarded_bytes, 2 * MIB);
}

#[test]
fn inflating_every_other_page_makes_no_mapping() {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let mut bench = Bench::of(INFLATE, 16 * MIB, backing);
        bench.fill(4 * MIB..16 * MIB);
        let start = bench.driver.memory().rams()[0].host_address().get();
        let range = start..start + 16 * MIB;
        let mappings = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let starts =
                maps.lines().filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
            starts.filter(|start| range.contains(start)).count()
        };
        assert_eq!(mappings(), 1);

        for first in (1024..4096).step_by(256) {
            bench.send_numbers(&(first..first + 256).step_by(2).collect::<Vec<_>>());
        }

        assert_eq!(bench.gone(4 * MIB..16 * MIB).len(), 3 * 256 * 2);
        assert_eq!(mappings(), 1);
    }
}

#[test]
fn the_driver_reads_what_it_is_to_give_up_and_writes_what_it_has() {
    let mut bench = Bench::new(INFLATE);
    let read = |balloon: &Balloon, offset| {
        let mut bytes = [0; 4];
        balloon.read_config(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };

    bench.balloon.set_amount(16).unwrap();
    assert_eq!(read(&bench.balloon, 0), 16 * 256);
    assert_eq!((bench.driver.interrupts(), bench.driver.interrupt().reasons()), (1, 2));
    bench.balloon.write_config(4, &4096_u32.to_le_bytes());
    bench.balloon.write_config(0, &[1, 1, 1, 1]);
    bench.balloon.write_config(8, &[1, 1, 1, 1]);

    assert_eq!(bench.balloon.actual_pages(), 4096);
    assert_eq!((read(&bench.balloon, 0), read(&bench.balloon, 4), read(&bench.balloon, 8)), (4096, 4096, 0));
}

#[test]
fn a_balloon_larger_than_memory_is_refused() {
    let mut bench = Bench::new(INFLATE);

    let refused = bench.balloon.set_amount(65).unwrap_err();

    assert_eq!(refused.to_string(), "a balloon of 65 MiB is larger than the guest's memory of 64 MiB");
    assert_eq!(bench.balloon.target_pages(), 0);
    Balloon::new(BalloonConfig { amount_mib: 65, ..everything() }, 64 * MIB).unwrap_err();
}

#[test]
fn queues_are_those_of_the_features_in_use() {
    let sizes = |config| Balloon::new(config, MIB).unwrap().queue_sizes().len();

    assert_eq!(sizes(BalloonConfig::default()), 2);
    assert_eq!(sizes(everything()), 5);
    let some = BalloonConfig { free_page_reporting: true, ..BalloonConfig::default() };
    assert_eq!(sizes(some), 3);
    // What the driver does not accept has no number: reports are number 2 then.
    assert_eq!(
        roles(F_REPORTING | F_DEFLATE_ON_OOM).collect::<Vec<_>>(),
        [Role::Inflate, Role::Deflate, Role::Reports]
    );
}

#[test]
fn reported_pages_are_taken_away_whole() {
    let mut bench = Bench::new(REPORTS);
    bench.fill(MIB..4 * MIB);

    // Adjacent, in no order; and half a page at either end of another.
    bench.driver.send(&[
        Buffer::write(0x20_0000, 0x10_0000),
        Buffer::write(0x18_0000, 0x8_0000),
        Buffer::write(0x30_0800, 0x2000),
        Buffer::write(0x30_8100, 0x200),
    ]);
    bench.notify();

    let expected: Vec<u64> = (0x180..0x300).chain([0x301]).collect();
    assert_eq!(bench.gone(MIB..4 * MIB), expected);
    assert_eq!(bench.driver.used(), [(0, 0)]);
    assert_eq!(bench.balloon.counters().reported_bytes, 0x181 * 4096);
}

#[test]
fn hints_are_taken_only_in_a_run() {
    let mut bench = Bench::new(HINTS);
    bench.fill(MIB..2 * MIB);
    let hint = |bench: &mut Bench| {
        bench.driver.send(&[Buffer::write(MIB, 0x1000)]);
        bench.notify();
        bench.gone(MIB..2 * MIB)
    };

    assert!(hint(&mut bench).is_empty());
    bench.balloon.start_hinting(true).unwrap();
    assert!(hint(&mut bench).is_empty());
    bench.send_numbers(&[bench.balloon.hinting().host]);
    assert_eq!(hint(&mut bench), [256]);
    bench.fill(MIB..2 * MIB);
    let before = bench.driver.interrupts();
    bench.send_numbers(&[0]);
    assert_eq!(bench.balloon.hinting().host, 1);

    assert!(hint(&mut bench).is_empty());
    assert_eq!(bench.balloon.counters().hinted_bytes, 4096);
    assert!(before > 0 && bench.driver.interrupt().reasons() & 2 != 0);
}

#[test]
fn what_was_off_at_the_start_stays_off() {
    let driver = Driver::new(64);
    let mut balloon = Balloon::new(BalloonConfig::default(), 64 * MIB).unwrap();
    balloon.activate(driver.activation(1)).unwrap();

    assert_eq!(balloon.set_stats_interval(Duration::from_secs(1)), Err(BalloonError::NoStats));
    assert_eq!(balloon.start_hinting(true), Err(BalloonError::NoHinting));
    assert!(balloon.sources().is_empty());
    let mut balloon = Balloon::new(everything(), 64 * MIB).unwrap();
    assert_eq!(balloon.start_hinting(true), Err(BalloonError::NoDriver));
    assert_eq!(balloon.sources().len(), 1);
}

#[test]
fn the_guest_tells_about_its_memory_when_it_is_asked() {
    let mut bench = Bench::new(STATS);
    let message =
        |free: u64| [&4_u16.to_le_bytes()[..], &free.to_le_bytes(), &99_u16.to_le_bytes(), &[1; 8]].concat();
    bench.driver.put(DATA, &message(1000));
    let head = bench.driver.send(&[Buffer::read(DATA, 20)]);
    bench.notify();
    assert_eq!(bench.balloon.guest_stats(), GuestStats { free_memory: Some(1000), ..GuestStats::default() });
    assert_eq!(bench.driver.used(), []);

    // The timer rings at once, the driver gets its buffer back and fills it again.
    bench.balloon.set_stats_interval(Duration::from_hours(2)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bench.balloon.source_ready(0), Progress::Drained);
    assert_eq!((bench.driver.used(), bench.driver.interrupts()), (vec![(head, 0)], 1));
    bench.driver.put(DATA, &message(2000));
    bench.driver.send(&[Buffer::read(DATA, 20)]);
    bench.notify();

    assert_eq!(bench.balloon.guest_stats().free_memory, Some(2000));
    assert_eq!(bench.balloon.counters().stats_updates, 2);
}

#[test]
fn a_timer_without_a_driver_does_nothing() {
    let mut balloon = Balloon::new(everything(), 64 * MIB).unwrap();

    assert_eq!(balloon.source_ready(0), Progress::Drained);
}

#[test]
fn no_descriptor_makes_it_touch_what_it_was_not_given() {
    let numbers = (0..16_u32).flat_map(|page| (page * 3).to_le_bytes()).collect::<Vec<_>>();
    for queue in [INFLATE, DEFLATE, STATS, HINTS, REPORTS] {
        // Away from the rings: to take those away is the guest's right, and the end of the test.
        let numbers = numbers.iter().map(|byte| byte | 0x20).collect::<Vec<_>>();
        survives_any_rings(
            |_| Balloon::new(everything(), 64 * MIB).unwrap(),
            queue,
            &[numbers, vec![2, 0, 0, 0]],
        );
    }
}

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use guest_mem::Backing;
use mmu_notifier::AddressRange;

use super::*;
use crate::virtio::testing::{Buffer, DATA, Driver, MEMORY, survives_any_rings};

/// Where the test's requests have their parts.
const STATUS: u64 = DATA + 0x100;
const PAYLOAD: u64 = DATA + 0x1000;
const DISK: u64 = 64 << 10;
/// What no request has answered yet.
const UNANSWERED: u8 = 0xee;

const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

struct Bench {
    directory: tempfile::TempDir,
    driver: Driver,
    block: Block,
}

impl Bench {
    fn new(change: impl FnOnce(&mut DriveConfig)) -> Self {
        Self::on(Driver::new(64), change)
    }

    fn on(driver: Driver, change: impl FnOnce(&mut DriveConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let bytes: Vec<u8> = (0..DISK).map(|at| u8::try_from(at / 512 % 251).unwrap()).collect();
        fs::write(&path, bytes).unwrap();
        let mut config = DriveConfig::new("rootfs", path);
        change(&mut config);
        let mut block = Block::new(config).unwrap();
        let features = block.features();
        block.activate(driver.activation_with(0, features)).unwrap();
        Self { directory, driver, block }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// Sends a request of `kind` at `sector` with `data` after its header, and returns its status and used length.
    #[track_caller]
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.driver.put(DATA, &header);
        self.driver.put(STATUS, &[UNANSWERED]);
        let buffers = [&[Buffer::read(DATA, 16)], data, &[Buffer::write(STATUS, 1)]].concat();
        let head = self.driver.send(&buffers);
        assert_eq!(self.block.queue_notified(0), Progress::Drained);
        let used = self.driver.used();
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, head);
        (self.driver.read::<1>(STATUS)[0], used[0].1)
    }

    /// The same for a list of ranges: sector, count, flags.
    #[track_caller]
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, count, flags)| {
                [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
            })
            .collect();
        self.driver.put(PAYLOAD, &bytes);
        self.request(kind, 0, &[Buffer::read(PAYLOAD, u32::try_from(bytes.len()).unwrap())]).0
    }
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn buffered(_: &mut DriveConfig) {}

fn direct(config: &mut DriveConfig) {
    config.direct = true;
}

fn read_only(config: &mut DriveConfig) {
    config.read_only = true;
}

#[test]
fn sectors_are_read_into_every_buffer() {
    for mode in [buffered, direct, read_only] {
        let mut bench = Bench::new(mode);

        // A page, a sector, and a sector that no hardware would reach.
        let data = [
            Buffer::write(PAYLOAD, 512),
            Buffer::write(PAYLOAD + 0x1000, 512),
            Buffer::write(PAYLOAD + 0x2101, 7168),
        ];
        let answer = bench.request(IN, 8, &data);

        assert_eq!(answer, (OK, 8193));
        assert_eq!(bench.driver.read::<513>(PAYLOAD), [&[8; 512][..], &[0]].concat()[..]);
        assert_eq!(bench.driver.read::<512>(PAYLOAD + 0x1000), [9; 512]);
        assert_eq!(bench.driver.read::<512>(PAYLOAD + 0x2101), [10; 512]);
        assert_eq!(bench.driver.read::<512>(PAYLOAD + 0x2101 + 13 * 512), [23; 512]);
    }
}

#[test]
fn sectors_are_written_from_every_buffer() {
    for mode in [buffered, direct] {
        for skew in [0, 3] {
            let mut bench = Bench::new(mode);
            bench.driver.put(PAYLOAD + skew, &[0xaa; 4096]);
            bench.driver.put(PAYLOAD + 0x2000, &[0xbb; 4096]);

            let data = [Buffer::read(PAYLOAD + skew, 4096), Buffer::read(PAYLOAD + 0x2000, 4096)];
            let answer = bench.request(OUT, 8, &data);

            assert_eq!(answer, (OK, 1));
            let bytes = bench.bytes();
            assert_eq!(bytes[7 * 512..8 * 512], [7; 512]);
            assert_eq!(bytes[8 * 512..16 * 512], [0xaa; 4096]);
            assert_eq!(bytes[16 * 512..24 * 512], [0xbb; 4096]);
            assert_eq!(bytes[24 * 512..25 * 512], [24; 512]);
            assert_eq!(bench.block.stats().written_bytes, 8192);
        }
    }
}

#[test]
fn no_pin_outlives_its_request() {
    let mut bench = Bench::new(direct);
    let data = [Buffer::write(PAYLOAD, 4096)];
    assert_eq!(bench.request(IN, 8, &data).0, OK);

    let page = AddressRange::new(PAYLOAD, 4096).unwrap();
    let discarded = bench.driver.memory().discard(page).unwrap();

    assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (4096, 0));
}

/// More requests than it takes to meet one that is under way.
const MANY: u32 = 100_000;

#[test]
fn what_the_hardware_writes_is_pinned_meanwhile() {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let mut bench = Bench::on(Driver::of(64, MEMORY, backing), direct);
        let (memory, range) =
            (Arc::clone(bench.driver.memory()), AddressRange::new(PAYLOAD, 32 << 10).unwrap());
        let is_met = Arc::new(AtomicBool::new(false));
        let meets = Arc::clone(&is_met);
        // Until it finds the pages of a request that it may not have.
        let discarder = thread::spawn(move || {
            while Arc::strong_count(&meets) > 1 && !meets.load(Ordering::Relaxed) {
                let pinned = memory.discard(range).unwrap().pinned_bytes;
                assert!(pinned == 0 || pinned == range.len());
                meets.store(pinned > 0, Ordering::Relaxed);
            }
        });

        let mut requests = 0;
        while !is_met.load(Ordering::Relaxed) {
            requests += 1;
            assert!(requests < MANY, "no request has pinned its buffer");
            assert_eq!(bench.request(IN, 8, &[Buffer::write(PAYLOAD, 32 << 10)]).0, OK);
        }

        discarder.join().unwrap();
        assert_eq!(bench.driver.read::<512>(PAYLOAD), [8; 512], "what was read is there");
        assert_eq!(bench.driver.read::<512>(PAYLOAD + (31 << 10)), [70; 512]);
    }
}

#[test]
fn a_disk_that_is_read_only_stays_as_it_is() {
    let mut bench = Bench::new(read_only);
    let before = (bench.bytes(), fs::metadata(bench.path()).unwrap().mtime_nsec());
    bench.driver.put(PAYLOAD, &[0xaa; 4096]);

    assert_eq!(bench.request(OUT, 0, &[Buffer::read(PAYLOAD, 4096)]).0, FAILED);
    assert_eq!(bench.ranges(DISCARD, &[(0, 8, 0)]), FAILED);
    assert_eq!(bench.ranges(WRITE_ZEROES, &[(0, 8, 0)]), FAILED);
    assert_eq!(bench.request(FLUSH, 0, &[]).0, OK);

    assert_eq!((bench.bytes(), fs::metadata(bench.path()).unwrap().mtime_nsec()), before);
    assert_eq!(bench.block.features() & 1 << VIRTIO_BLK_F_RO, 1 << VIRTIO_BLK_F_RO);
    assert_eq!(bench.block.stats().failed, 3);
}

#[test]
fn what_is_discarded_is_a_hole_of_the_file() {
    let mut bench = Bench::new(buffered);
    let blocks = |bench: &Bench| fs::metadata(bench.path()).unwrap().blocks();
    assert_eq!(bench.request(FLUSH, 0, &[]).0, OK);
    let before = blocks(&bench);

    assert_eq!(bench.ranges(DISCARD, &[(8, 8, 0), (32, 64, 0)]), OK);

    assert_eq!(before - blocks(&bench), 8 + 64);
    let bytes = bench.bytes();
    assert_eq!(bytes.len() as u64, DISK);
    assert_eq!(bytes[8 * 512..16 * 512], [0; 4096]);
    assert_eq!(bytes[16 * 512..17 * 512], [16; 512]);
    assert!(bytes[32 * 512..96 * 512].iter().all(|byte| *byte == 0));
}

#[test]
fn zeroes_are_a_hole_only_if_they_may_be() {
    for mode in [buffered, direct] {
        let mut bench = Bench::new(mode);
        let blocks = |bench: &Bench| fs::metadata(bench.path()).unwrap().blocks();
        assert_eq!(bench.request(FLUSH, 0, &[]).0, OK);
        let before = blocks(&bench);

        assert_eq!(bench.ranges(WRITE_ZEROES, &[(8, 8, 0)]), OK);
        assert_eq!(blocks(&bench), before);
        assert_eq!(bench.ranges(WRITE_ZEROES, &[(32, 64, 1)]), OK);

        assert_eq!(before - blocks(&bench), 64);
        let bytes = bench.bytes();
        assert_eq!(bytes[8 * 512..16 * 512], [0; 4096]);
        assert_eq!(bytes[31 * 512..32 * 512], [31; 512]);
        assert!(bytes[32 * 512..96 * 512].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn the_guest_reads_the_drives_name() {
    let mut bench = Bench::new(|config| config.id = "a-name-of-more-than-twenty-bytes".to_owned());

    let answer = bench.request(GET_ID, 0, &[Buffer::write(PAYLOAD, 20)]);

    assert_eq!(answer, (OK, 21));
    assert_eq!(&bench.driver.read::<21>(PAYLOAD), b"a-name-of-more-than-\0");
}

#[test]
fn what_lies_beyond_the_disk_is_refused() {
    let mut bench = Bench::new(buffered);
    let sectors = DISK / 512;
    let one = [Buffer::write(PAYLOAD, 512)];

    assert_eq!(bench.request(IN, sectors - 1, &one), (OK, 513));
    assert_eq!(bench.request(IN, sectors, &one), (FAILED, 0));
    assert_eq!(bench.request(IN, u64::MAX, &one), (FAILED, 0));
    assert_eq!(bench.request(IN, u64::MAX / 512, &one), (FAILED, 0));
    assert_eq!(bench.request(IN, 0, &[Buffer::write(PAYLOAD, 511)]), (FAILED, 0));
    assert_eq!(bench.request(OUT, sectors - 1, &[Buffer::read(PAYLOAD, 1024)]).0, FAILED);
    assert_eq!(bench.ranges(DISCARD, &[(sectors - 1, 2, 0)]), FAILED);
    assert_eq!(bench.ranges(DISCARD, &[(u64::MAX, 1, 0)]), FAILED);
    assert_eq!(bench.bytes().len() as u64, DISK);
}

#[test]
fn what_nobody_knows_is_not_supported_and_what_is_cut_short_fails() {
    let mut bench = Bench::new(buffered);

    assert_eq!(bench.request(99, 0, &[]).0, UNSUPPORTED);
    assert_eq!(bench.ranges(DISCARD, &[(0, 8, 1)]), UNSUPPORTED);
    assert_eq!(bench.ranges(WRITE_ZEROES, &[(0, 8, 2)]), UNSUPPORTED);
    assert_eq!(bench.ranges(WRITE_ZEROES, &[]), FAILED);
    assert_eq!(bench.ranges(WRITE_ZEROES, &[(0, 1, 0); 17]), FAILED);
    // No header, no status.
    bench.driver.put(STATUS, &[UNANSWERED]);
    bench.driver.send(&[Buffer::read(DATA, 15), Buffer::write(STATUS, 1)]);
    bench.driver.send(&[Buffer::read(DATA, 16)]);
    assert_eq!(bench.block.queue_notified(0), Progress::Drained);
    assert_eq!(bench.driver.read::<1>(STATUS), [FAILED]);
    assert_eq!(bench.driver.used().len(), 2);
    assert_eq!(bench.block.stats().malformed, 1);
}

#[test]
fn a_header_and_a_status_may_be_in_pieces() {
    let mut bench = Bench::new(buffered);
    bench.driver.put(DATA, &[0; 16]);
    bench.driver.put(DATA + 8, &[3]);
    let parts = (0..16).map(|at| Buffer::read(DATA + at, 1));
    let buffers: Vec<_> = parts.chain([Buffer::write(PAYLOAD, 513)]).collect();
    bench.driver.send(&buffers);

    assert_eq!(bench.block.queue_notified(0), Progress::Drained);

    assert_eq!(bench.driver.used(), [(0, 513)]);
    assert_eq!(bench.driver.read::<513>(PAYLOAD)[..], [&[3; 512][..], &[OK]].concat());
}

#[test]
fn a_batch_of_requests_is_one_interrupt() {
    let mut bench = Bench::new(buffered);
    bench.driver.put(DATA, &[0; 16]);
    for _ in 0..10 {
        bench.driver.send(&[Buffer::read(DATA, 16), Buffer::write(PAYLOAD, 512), Buffer::write(STATUS, 1)]);
    }

    assert_eq!(bench.block.queue_notified(0), Progress::Drained);

    assert_eq!(bench.driver.used().len(), 10);
    assert_eq!(bench.driver.interrupts(), 1);
    assert_eq!(bench.block.stats().reads, 10);
}

#[test]
fn the_driver_is_told_of_a_new_size() {
    let mut bench = Bench::new(buffered);
    let capacity = |block: &Block| {
        let mut bytes = [0; 8];
        block.read_config(0, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(capacity(&bench.block), DISK / 512);
    fs::File::options().write(true).open(bench.path()).unwrap().set_len(1 << 20).unwrap();

    bench.block.replace(&bench.path()).unwrap();

    assert_eq!(capacity(&bench.block), 2048);
    assert_eq!((bench.driver.interrupts(), bench.driver.interrupt().reasons()), (1, 2));
}

#[test]
fn no_descriptor_makes_it_touch_what_it_was_not_given() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0x5a; 1 << 16]).unwrap();
    let headers: Vec<Vec<u8>> = [IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES]
        .iter()
        .flat_map(|kind| {
            [0_u64, 100, u64::MAX]
                .map(|sector| [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())
        })
        .collect();
    for direct in [false, true] {
        let make = |_: &Driver| Block::new(DriveConfig { direct, ..DriveConfig::new("d", &path) }).unwrap();
        survives_any_rings(make, 0, &headers);
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 16);
}

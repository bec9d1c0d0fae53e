use std::io::Write;

use super::*;

/// A statistics file as the kernel lays it out: header, id, descriptors, data.
struct Fake {
    descriptors: Vec<u8>,
    count: u32,
    data: Vec<u64>,
}

const NAME_SIZE: u32 = 16;

impl Fake {
    fn new() -> Self {
        Self { descriptors: Vec::new(), count: 0, data: Vec::new() }
    }

    fn with(mut self, name: &str, flags: u32, exponent: i16, bucket: u32, values: &[u64]) -> Self {
        let offset = u32::try_from(self.data.len() * 8).unwrap();
        self.descriptors.extend(flags.to_ne_bytes());
        self.descriptors.extend(exponent.to_ne_bytes());
        self.descriptors.extend(u16::try_from(values.len()).unwrap().to_ne_bytes());
        self.descriptors.extend(offset.to_ne_bytes());
        self.descriptors.extend(bucket.to_ne_bytes());
        let mut padded = name.as_bytes().to_vec();
        padded.resize(NAME_SIZE as usize, 0);
        self.descriptors.extend(padded);
        self.data.extend(values);
        self.count += 1;
        self
    }

    fn stats(&self) -> Result<Stats, StatsError> {
        let descriptors = 24 + NAME_SIZE;
        let data = descriptors + u32::try_from(self.descriptors.len()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        for word in [0, NAME_SIZE, self.count, 24, descriptors, data] {
            file.write_all(&word.to_ne_bytes()).unwrap();
        }
        file.write_all(b"kvm-1/vcpu-0\0\0\0\0").unwrap();
        file.write_all(&self.descriptors).unwrap();
        for value in &self.data {
            file.write_all(&value.to_ne_bytes()).unwrap();
        }
        Stats::parse(file)
    }
}

#[test]
fn every_kind_unit_and_base_is_told_apart() {
    let stats = Fake::new()
        .with("counter", 0x000, 0, 0, &[7])
        .with("gauge", 0x011, 0, 0, &[8])
        .with("peak", 0x122, 10, 0, &[9])
        .with("linear", 0x033, -9, 100, &[1, 2, 3])
        .with("log", 0x044, 0, 0, &[4, 5])
        .with("news", 0xf5f, 0, 0, &[6])
        .stats()
        .unwrap();

    let seen: Vec<_> = stats.descriptors().iter().map(|d| (d.kind, d.unit, d.base, d.exponent)).collect();

    assert_eq!(
        seen,
        [
            (Kind::Cumulative, Unit::None, Base::Ten, 0),
            (Kind::Instant, Unit::Bytes, Base::Ten, 0),
            (Kind::Peak, Unit::Seconds, Base::Two, 10),
            (Kind::LinearHistogram, Unit::Cycles, Base::Ten, -9),
            (Kind::LogHistogram, Unit::Boolean, Base::Ten, 0),
            (Kind::Other(15), Unit::Other(5), Base::Other(15), 0),
        ]
    );
    assert_eq!(stats.id(), "kvm-1/vcpu-0");
    assert_eq!(stats.find("linear").unwrap().bucket_size, 100);
}

#[test]
fn values_are_found_by_name_and_by_bucket() {
    let stats =
        Fake::new().with("pf_taken", 0, 0, 0, &[41]).with("wait", 0x024, -9, 0, &[1, 2, 3]).stats().unwrap();
    let mut snapshot = Snapshot::default();

    stats.read(&mut snapshot).unwrap();

    assert_eq!(snapshot.value(&stats.require("pf_taken").unwrap()), 41);
    assert!(matches!(stats.require("absent"), Err(StatsError::Missing { name: "absent" })));
    let wait = stats.find("wait").unwrap();
    assert_eq!(wait.values(), 3);
    assert_eq!(snapshot.values(wait).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_truncated_or_absurd_file_is_refused() {
    let mut short = Fake::new().with("counter", 0, 0, 0, &[1]);
    short.count = 9;
    let mut absurd = Fake::new();
    absurd.count = SANE + 1;

    assert!(matches!(short.stats(), Err(StatsError::Read(_))));
    assert!(matches!(absurd.stats(), Err(StatsError::Malformed(_))));
}

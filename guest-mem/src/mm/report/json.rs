//! How parts of a report look in JSON: a range as `{"start": ..., "bytes": ...}`, faults as `{"huge": 8, ...}`.

/// Ranges, in bytes.
pub(super) mod range {
    use mmu_notifier::AddressRange;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    struct Parts {
        start: u64,
        bytes: u64,
    }

    pub(crate) fn serialize<S: Serializer>(range: &AddressRange, serializer: S) -> Result<S::Ok, S::Error> {
        Parts { start: range.start(), bytes: range.len() }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AddressRange, D::Error> {
        let Parts { start, bytes } = Parts::deserialize(deserializer)?;
        AddressRange::new(start, bytes).map_err(D::Error::custom)
    }
}

/// Counts by the names of their reasons.
pub(super) mod faults {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::super::super::{FaultCount, FaultReason};

    pub(crate) fn serialize<S: Serializer>(faults: &[FaultCount], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(faults.iter().map(|fault| (fault.reason.name(), fault.count)))
    }

    /// A reason that a later version may have is passed over, and one that is missing was not counted.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<FaultCount>, D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let count = |reason: FaultReason| counts.get(reason.name()).copied().unwrap_or(0);
        Ok(FaultReason::ALL.map(|reason| FaultCount { reason, count: count(reason) }).to_vec())
    }
}

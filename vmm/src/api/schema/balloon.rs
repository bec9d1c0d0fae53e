//! `/balloon`, `/balloon/statistics` and `/balloon/hinting/{start,status,stop}`.

use serde::{Deserialize, Serialize};

/// The body of PUT /balloon and the answer to GET /balloon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// How much the balloon is to hold, in MiB.
    pub amount_mib: u32,
    /// Whether the guest may take pages back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// Seconds between two statistics of the guest's; 0 for none.
    #[serde(default)]
    pub stats_polling_interval_s: u16,
    /// Whether the host may ask which pages are free.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// Whether the guest reports pages that become free.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// The body of PATCH /balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// How much the balloon is to hold from now on, in MiB.
    pub amount_mib: u32,
}

/// The body of PATCH /balloon/statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonStatisticsUpdate {
    /// Seconds between two statistics; none can be had if there were none at the start, and the other way round.
    pub stats_polling_interval_s: u16,
}

/// The body of PATCH /balloon/hinting/start, which may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonHintingStart {
    /// Whether the run is over, for the guest too, as soon as the guest has told of all its free pages.
    #[serde(default = "yes")]
    pub acknowledge_on_stop: bool,
}

const fn yes() -> bool {
    true
}

impl Default for BalloonHintingStart {
    fn default() -> Self {
        Self { acknowledge_on_stop: true }
    }
}

/// The answer to GET /balloon/hinting/status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BalloonHintingStatus {
    /// The command that the device shows the guest.
    pub host_cmd: u32,
    /// The command that the guest last obeyed; `null` before the first.
    pub guest_cmd: Option<u32>,
}

/// The answer to GET /balloon/statistics. What the guest did not tell is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BalloonStatistics {
    /// How much the balloon is to hold, in pages of 4 KiB.
    pub target_pages: u32,
    /// How much it holds, in pages of 4 KiB.
    pub actual_pages: u32,
    /// How much it is to hold, in MiB.
    pub target_mib: u32,
    /// How much it holds, in MiB.
    pub actual_mib: u32,
    /// What the guest tells.
    #[serde(flatten)]
    pub guest: GuestStatistics,
}

macro_rules! guest_statistics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the guest tells of its memory: bytes, or counts since it was started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct GuestStatistics {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<u64>,)*
        }
    };
}

guest_statistics! {
    /// Bytes read back from swap.
    swap_in,
    /// Bytes written to swap.
    swap_out,
    /// Faults that waited for a disk.
    major_faults,
    /// Faults that did not.
    minor_faults,
    /// Bytes of no use at all.
    free_memory,
    /// Bytes in all.
    total_memory,
    /// Bytes that could be used without swapping.
    available_memory,
    /// Bytes that could be reclaimed without writing.
    disk_caches,
    /// Huge pages that were taken from the guest's pool.
    hugetlb_allocations,
    /// Huge pages that were not to be had.
    hugetlb_failures,
    /// Processes killed for want of memory.
    oom_kill,
    /// Allocations that had to wait for reclaim.
    alloc_stall,
    /// Pages looked at by background reclaim.
    async_scan,
    /// Pages looked at by those who wait.
    direct_scan,
    /// Pages taken by background reclaim.
    async_reclaim,
    /// Pages taken by those who wait.
    direct_reclaim,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_does_not_tell_is_left_out() {
        let guest = GuestStatistics { free_memory: Some(7), ..GuestStatistics::default() };
        let statistics = BalloonStatistics { target_pages: 256, target_mib: 1, guest, ..Default::default() };

        assert_eq!(
            serde_json::to_string(&statistics).unwrap(),
            r#"{"target_pages":256,"actual_pages":0,"target_mib":1,"actual_mib":0,"free_memory":7}"#
        );
    }
}

//! What a microVM's parts counted, in Firecracker's words where it has them.

use guest_mem::{FaultReason, MmReport};

use crate::{
    api::metrics::MetricSet,
    memory::Memory,
    virtio::{balloon::BalloonCounters, block::BlockStats, net::NetStats},
};

pub(super) fn add_block(metrics: &mut MetricSet, id: &str, stats: BlockStats) {
    metrics
        .group_of("block", id)
        .counter("read_count", stats.reads)
        .counter("read_bytes", stats.read_bytes)
        .counter("write_count", stats.writes)
        .counter("write_bytes", stats.written_bytes)
        .counter("flush_count", stats.flushes)
        .counter("discard_count", stats.discards)
        .counter("execute_fails", stats.failed)
        .counter("invalid_reqs_count", stats.malformed);
}

pub(super) fn add_net(metrics: &mut MetricSet, id: &str, stats: NetStats) {
    metrics
        .group_of("net", id)
        .counter("rx_packets_count", stats.rx_packets)
        .counter("rx_bytes_count", stats.rx_bytes)
        .counter("rx_fails", stats.rx_failed)
        .counter("tx_packets_count", stats.tx_packets)
        .counter("tx_bytes_count", stats.tx_bytes)
        .counter("tx_fails", stats.tx_dropped)
        .counter("event_fails", stats.malformed);
}

pub(super) fn add_entropy(metrics: &mut MetricSet, delivered_bytes: u64) {
    metrics.group("entropy").counter("entropy_bytes", delivered_bytes);
}

pub(super) fn add_balloon(metrics: &mut MetricSet, counters: BalloonCounters, actual_pages: u32) {
    metrics
        .group("balloon")
        .counter("inflate_pages", counters.inflated_pages)
        .counter("deflate_pages", counters.deflated_pages)
        .counter("discarded_bytes", counters.discarded_bytes)
        .counter("free_page_report_freed", counters.reported_bytes)
        .counter("free_page_hint_freed", counters.hinted_bytes)
        .counter("event_fails", counters.failed_discards + counters.strange_pages + counters.malformed)
        .counter("stats_updates_count", counters.stats_updates)
        .gauge("actual_pages", actual_pages.into());
}

/// Faults and sizes of managed RAM; of RAM whose faults the kernel resolves only its size, as more would have to be read
/// from /proc page by page.
pub(super) fn add_memory(metrics: &mut MetricSet, memory: &Memory) {
    let reports: Vec<_> = memory.rams().iter().filter_map(|ram| ram.mm_report()).collect();
    let group = metrics.group("memory");
    group.gauge("guest_bytes", memory.bytes());
    if reports.is_empty() {
        return;
    }
    let sum = |part: fn(&MmReport) -> u64| reports.iter().map(part).sum();
    group
        .gauge("resident_bytes", sum(|mm| mm.resident_bytes))
        .gauge("huge_bytes", sum(|mm| mm.usage.huge_bytes))
        .gauge("pss_bytes", sum(|mm| mm.usage.pss_bytes))
        .gauge("pinned_bytes", sum(|mm| mm.usage.pinned_bytes))
        .gauge("metadata_bytes", sum(|mm| mm.metadata_bytes))
        .counter("replaced_handlers", sum(|mm| mm.replaced_handlers));
    let group = metrics.group("faults");
    for reason in FaultReason::ALL {
        let counts = reports.iter().flat_map(|mm| &mm.faults).filter(|fault| fault.reason == reason);
        group.counter(reason.name(), counts.map(|fault| fault.count).sum());
    }
}

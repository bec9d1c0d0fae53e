//! What is resident of a process, from /proc/PID/smaps, by what is mapped.

use std::{collections::BTreeMap, fs, io};

/// KiB resident by what is mapped.
pub(crate) type Parts = BTreeMap<String, u64>;

/// KiB resident of a process, all in all and by mapping, without its guest's RAM: each mapping of at least `ram` bytes.
pub(crate) fn of(pid: u32, ram: u64) -> io::Result<(u64, Parts)> {
    let mut parts = Parts::new();
    let mut name = None;
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Rss:") => {
                let kib = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
                if let Some(name) = &name {
                    *parts.entry(String::clone(name)).or_default() += kib;
                }
            }
            Some(range) if !range.ends_with(':') => {
                name = (bytes(range) < ram).then(|| named(words.nth(4).unwrap_or("anonymous")));
            }
            _ => {}
        }
    }
    Ok((parts.values().sum(), parts))
}

/// Bytes of a range like `1000-3000`.
fn bytes(range: &str) -> u64 {
    let address = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    range.split_once('-').map_or(0, |(start, end)| address(end) - address(start))
}

/// A file without its folders.
fn named(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The largest, and the rest in one.
pub(crate) fn list(parts: &Parts) -> String {
    let mut largest: Vec<_> = parts.iter().filter(|(_, kib)| **kib > 0).collect();
    largest.sort_unstable_by_key(|(_, kib)| std::cmp::Reverse(**kib));
    let (shown, others) = largest.split_at(largest.len().min(6));
    let rest: u64 = others.iter().map(|(_, kib)| **kib).sum();
    let shown = shown.iter().map(|(name, kib)| format!("{name} {kib} KiB, "));
    shown.chain([format!("others {rest} KiB")]).collect()
}

//! The survey as people read it. It has no colours, on a terminal or elsewhere.

use std::fmt::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use guest_mem::ByteSize;

use super::{HostSurvey, HugePages, Offer, ResourceLimit, tree::ABSENT};

/// Rows of a name and what is said of it.
type Rows = Vec<Row>;
type Row = [String; 2];

impl HostSurvey {
    /// The survey as tables of at most `width` columns of text; as wide as their content where there is no width.
    #[must_use]
    pub fn render(&self, width: Option<u16>) -> String {
        let size = ByteSize::new(self.mem_bytes);
        let size = size.map_or_else(|| "0".to_owned(), |size| size.to_string());
        let sections = [
            ("Machine".to_owned(), self.machine_rows()),
            ("KVM".to_owned(), self.kvm_rows()),
            (format!("Backings of {size} of guest RAM"), self.backings.iter().map(offer).collect()),
            ("Huge pages".to_owned(), self.huge_page_rows()),
            ("Faults in user space".to_owned(), self.userfaultfd_rows()),
            ("Memory system calls".to_owned(), self.memory_calls.iter().map(offer).collect()),
            ("KVM's tracepoints (one that exists need not fire)".to_owned(), self.tracepoint_rows()),
            ("Limits".to_owned(), self.limit_rows()),
            ("What moves figures".to_owned(), self.environment_rows()),
        ];
        let mut text = String::new();
        for (title, rows) in sections {
            push_section(&mut text, &title, rows, width);
        }
        text
    }

    fn machine_rows(&self) -> Rows {
        let machine = &self.machine;
        let [total, available] = [machine.ram_bytes, machine.ram_available_bytes].map(gibibytes);
        let ram = format!("{total}, {available} available");
        vec![
            row("underlay", &self.version),
            row("kernel", or_absent(machine.kernel.as_ref())),
            row("CPU", or_absent(machine.cpu.as_ref())),
            row("CPUs online", or_absent(machine.cpus)),
            row("RAM", ram),
        ]
    }

    fn kvm_rows(&self) -> Rows {
        let (present, missing): (Vec<_>, Vec<_>) =
            self.kvm.capabilities.iter().partition(|&(_, &value)| value != 0);
        let present = present.iter().map(|(name, value)| match value {
            1 => (*name).clone(),
            value => format!("{name}={value}"),
        });
        let mut rows = vec![
            offer(&self.kvm.device),
            offer(&self.kvm.vm),
            row("vendor module", &self.kvm.vendor),
            row("second stage", &self.kvm.second_stage),
        ];
        rows.extend(list("capabilities", present));
        rows.extend(list("capabilities it lacks", missing.iter().map(|(name, _)| (*name).clone())));
        rows
    }

    fn huge_page_rows(&self) -> Rows {
        let thp = &self.transparent_hugepages;
        let khugepaged = &thp.khugepaged;
        vec![
            pool("pool of 2M", self.hugepages_2m),
            pool("pool of 1G", self.hugepages_1g),
            row("THP enabled", or_absent(thp.enabled.as_ref())),
            row("THP shmem_enabled", or_absent(thp.shmem_enabled.as_ref())),
            row("THP defrag", or_absent(thp.defrag.as_ref())),
            row("khugepaged defrag", or_absent(khugepaged.defrag)),
            row("khugepaged pages_to_scan", or_absent(khugepaged.pages_to_scan)),
            row("khugepaged scan_sleep_millisecs", or_absent(khugepaged.scan_sleep_millisecs)),
            row("khugepaged alloc_sleep_millisecs", or_absent(khugepaged.alloc_sleep_millisecs)),
            row("khugepaged max_ptes_none", or_absent(khugepaged.max_ptes_none)),
            row("khugepaged max_ptes_swap", or_absent(khugepaged.max_ptes_swap)),
            row("khugepaged max_ptes_shared", or_absent(khugepaged.max_ptes_shared)),
        ]
    }

    fn userfaultfd_rows(&self) -> Rows {
        let found = &self.userfaultfd;
        let mut rows = vec![offer(&found.kernel_faults), row("by way of", or_absent(found.way.as_ref()))];
        rows.extend(presence("features", &found.features));
        let unnamed = found.unnamed_features.iter().map(|bit| format!("bit {bit}"));
        rows.extend(list("features without a name", unnamed));
        rows
    }

    fn tracepoint_rows(&self) -> Rows {
        let found = &self.tracepoints;
        let mut rows = vec![offer(&found.tracefs)];
        rows.extend(presence("events that matter", &found.wanted));
        if found.tracefs.available {
            let others = found.all.iter().filter(|event| !found.wanted.contains_key(*event));
            rows.push(row("other events", format_args!("{}, which the JSON lists", others.count())));
        }
        rows
    }

    fn limit_rows(&self) -> Rows {
        let limits = &self.limits;
        vec![
            row("vm.max_map_count", or_absent(limits.max_map_count)),
            row("vm.overcommit_memory", or_absent(limits.overcommit_memory)),
            row("vm.unprivileged_userfaultfd", or_absent(limits.unprivileged_userfaultfd)),
            resource("RLIMIT_MEMLOCK, bytes", limits.memlock),
            resource("RLIMIT_NOFILE", limits.nofile),
        ]
    }

    fn environment_rows(&self) -> Rows {
        let settings = self.environment.iter().map(|(key, value)| row(key, value));
        let warnings = self.warnings.iter().map(|warning| row("warning", warning));
        settings.chain(warnings).collect()
    }
}

fn push_section(text: &mut String, title: &str, rows: Rows, width: Option<u16>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.add_rows(rows);
    if let Some(names) = table.column_mut(0) {
        names.set_padding((2, 1));
    }
    let gap = if text.is_empty() { "" } else { "\n" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{gap}{title}\n{}", table.trim_fmt());
}

fn row(name: &str, value: impl fmt::Display) -> Row {
    [name.to_owned(), value.to_string()]
}

/// The command has a line of its own, to be copied.
fn offer(offer: &Offer) -> Row {
    let answer = match &offer.reason {
        None => "yes".to_owned(),
        Some(reason) => format!("no: {reason}"),
    };
    let enable = offer.enable.iter().map(|command| format!("\n# {command}"));
    row(&offer.name, answer + &enable.collect::<String>())
}

/// One row of the names, or none where there are no names.
fn list(name: &str, words: impl Iterator<Item = String>) -> Option<Row> {
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| row(name, words.join(" ")))
}

/// The names that are there and those that are not.
fn presence<'a>(
    name: &str,
    all: impl IntoIterator<Item = (&'a String, &'a bool)>,
) -> impl Iterator<Item = Row> {
    let (present, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|&(_, &has)| has);
    let names = |found: Vec<(&'a String, _)>| found.into_iter().map(|(name, _)| name.clone());
    let present = list(name, names(present));
    let missing = list(&format!("{name} it lacks"), names(missing));
    present.into_iter().chain(missing)
}

fn pool(name: &str, pages: Option<HugePages>) -> Row {
    match pages {
        None => row(name, ABSENT),
        Some(HugePages { total, free, reserved, surplus, overcommit }) => row(
            name,
            format_args!(
                "{total} pages, {free} free, {reserved} reserved, {surplus} surplus of {overcommit} overcommit"
            ),
        ),
    }
}

fn resource(name: &str, limit: Option<ResourceLimit>) -> Row {
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    match limit {
        None => row(name, ABSENT),
        Some(ResourceLimit { soft, hard }) => {
            row(name, format_args!("{}, may be raised to {}", shown(soft), shown(hard)))
        }
    }
}

fn or_absent(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |value| value.to_string())
}

/// Bytes in GiB with one decimal, rounded down.
fn gibibytes(bytes: Option<u64>) -> String {
    or_absent(bytes.map(|bytes| {
        let tenths = (u128::from(bytes) * 10) >> 30;
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_says_why_not_and_what_would_help() {
        let closed = Offer::no("tracefs", "it is not mounted").enabled_by("mount it");
        assert_eq!(offer(&closed), ["tracefs", "no: it is not mounted\n# mount it"]);
        assert_eq!(offer(&Offer::yes("tracefs")), ["tracefs", "yes"]);
    }

    #[test]
    fn what_is_there_is_told_from_what_is_not() {
        let features = [("A", true), ("B", false), ("C", true)];
        let features: Vec<_> = features.map(|(name, has)| (name.to_owned(), has)).into();
        let rows = |all: &[(String, bool)]| -> Rows {
            presence("features", all.iter().map(|(name, has)| (name, has))).collect()
        };

        assert_eq!(rows(&features), [["features", "A C"], ["features it lacks", "B"]]);
        assert!(rows(&[]).is_empty());
    }

    #[test]
    fn amounts_that_the_kernel_does_not_tell_are_absent() {
        assert_eq!(gibibytes(None), ABSENT);
        assert_eq!(gibibytes(Some((3 << 30) - 1)), "2.9 GiB");
        assert_eq!(pool("pool", None), ["pool", ABSENT]);
        let limit = ResourceLimit { soft: Some(5), hard: None };
        assert_eq!(resource("files", Some(limit)), ["files", "5, may be raised to unlimited"]);
    }

    #[test]
    fn lines_keep_to_the_width() {
        let rows = || vec![row("name", "many words ".repeat(40))];
        let mut text = String::new();

        push_section(&mut text, "Title", rows(), Some(60));

        assert!(text.starts_with("Title\n  name"), "{text}");
        assert!(text.lines().count() > 5 && text.lines().all(|line| line.len() <= 60), "{text}");
    }
}

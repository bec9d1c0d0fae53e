//! A report as CSV (RFC 4180, lines ended as Unix does): a line a run.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::Value;

use super::{Report, Run};

/// The columns that come from a run, as paths into its JSON. A column's name is its path with `_` for `/`. Those of
/// managed backings are empty for others; their faults by reason are only in the JSON.
const RUN: [&str; 92] = [
    "backing",
    "accel",
    "resolved_by",
    "mem_bytes",
    "guest_page_bytes",
    "vcpus",
    "overlap",
    "access",
    "pattern",
    "prefault",
    "seed",
    "pin",
    "numa_node",
    "samples",
    "touches",
    "wall_ns/min",
    "wall_ns/median",
    "wall_ns/max",
    "cpu_ns/min",
    "cpu_ns/median",
    "cpu_ns/max",
    "first_touch_ns/p50",
    "first_touch_ns/p90",
    "first_touch_ns/p99",
    "first_touch_ns/p999",
    "first_touch_ns/max",
    "first_touch_ns/mean",
    "second_touch_ns/p50",
    "second_touch_ns/p90",
    "second_touch_ns/p99",
    "second_touch_ns/p999",
    "second_touch_ns/max",
    "second_touch_ns/mean",
    "timer_ns",
    "timer_step_ns",
    "slow_touches",
    "slow_touch_ns/p50",
    "slow_touch_ns/p90",
    "slow_touch_ns/p99",
    "slow_touch_ns/p999",
    "slow_touch_ns/max",
    "slow_touch_ns/mean",
    "kvm/pf_taken",
    "kvm/pf_fixed",
    "kvm/pf_spurious",
    "kvm/pf_emulate",
    "kvm/pf_guest",
    "mapped/pages_4k",
    "mapped/pages_2m",
    "mapped/pages_1g",
    "host_faults/minor",
    "host_faults/major",
    "resident_bytes",
    "managed/setup/fault_around_bytes",
    "managed/setup/fault_around_huge",
    "managed/setup/handlers",
    "managed/setup/handler_wait",
    "managed/setup/handler_cpu",
    "managed/setup/stock",
    "managed/mapped_4k",
    "managed/mapped_2m",
    "managed/stock_hits",
    "managed/zeroed_in_fault",
    "managed/stock_wait_ns",
    "managed/stages/faults",
    "managed/stages/touch_ns/p50",
    "managed/stages/touch_ns/p90",
    "managed/stages/touch_ns/p99",
    "managed/stages/touch_ns/p999",
    "managed/stages/touch_ns/max",
    "managed/stages/touch_ns/mean",
    "managed/stages/wake_ns/p50",
    "managed/stages/wake_ns/p90",
    "managed/stages/wake_ns/p99",
    "managed/stages/wake_ns/p999",
    "managed/stages/wake_ns/max",
    "managed/stages/wake_ns/mean",
    "managed/stages/resolve_ns/p50",
    "managed/stages/resolve_ns/p90",
    "managed/stages/resolve_ns/p99",
    "managed/stages/resolve_ns/p999",
    "managed/stages/resolve_ns/max",
    "managed/stages/resolve_ns/mean",
    "managed/stages/resume_ns/p50",
    "managed/stages/resume_ns/p90",
    "managed/stages/resume_ns/p99",
    "managed/stages/resume_ns/p999",
    "managed/stages/resume_ns/max",
    "managed/stages/resume_ns/mean",
    "managed/stages/clock_error_ns",
    "sample_wall_ns",
    "sample_first_touch_p50_ns",
];

/// Whether all checks of the run agree; their names and details are only in the JSON.
const CHECKS: &str = "checks_ok";

/// The columns that come from the report itself, so that the lines of several hosts can be put together. The
/// environment is only in the JSON: its keys depend on the kernel.
const REPORT: [&str; 12] = [
    "host/kernel",
    "host/cpu",
    "host/kvm_vendor",
    "host/second_stage",
    "host/thp",
    "host/shmem_thp",
    "host/hugepages_2m/total",
    "host/hugepages_2m/free",
    "host/hugepages_1g/total",
    "host/hugepages_1g/free",
    "host/tsc_khz",
    "host/version",
];

/// Writes a header and a line for each run. Of a list, the items are separated by spaces; `null` is an empty field.
///
/// # Errors
/// Those of writing.
pub fn write_csv(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let names = RUN.iter().chain(&[CHECKS]).chain(&REPORT).map(|path| path.replace('/', "_"));
    writeln!(out, "{}", names.collect::<Vec<_>>().join(","))?;

    let shared = serde_json::to_value(report)?;
    for run in &report.runs {
        let own = serde_json::to_value(run)?;
        let fields = RUN.iter().map(|path| field_at(&own, path));
        let fields = fields.chain([agrees(run).to_string()]);
        let fields = fields.chain(REPORT.iter().map(|path| field_at(&shared, path)));
        writeln!(out, "{}", fields.collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

/// The text as one field of a line: in quotes where it needs them.
pub(super) fn quoted(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

fn agrees(run: &Run) -> bool {
    run.checks.iter().all(|check| check.ok)
}

fn field_at(json: &Value, path: &str) -> String {
    match json.pointer(&format!("/{path}")) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => quoted(text).into_owned(),
        Some(Value::Array(items)) => items.iter().map(Value::to_string).collect::<Vec<_>>().join(" "),
        Some(figure) => figure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture;
    use super::*;

    /// The paths of all values in `json` that are no objects.
    fn leaves(json: &Value, path: &str, found: &mut Vec<String>) {
        match json {
            Value::Object(members) => {
                members.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), found));
            }
            _ => found.push(path[1..].to_owned()),
        }
    }

    /// Reads one line as RFC 4180 has it.
    fn fields(line: &str) -> Vec<String> {
        let (mut fields, mut quotes) = (vec![String::new()], false);
        let mut rest = line.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' if quotes && rest.next_if_eq(&'"').is_some() => {
                    fields.last_mut().unwrap().push('"');
                }
                '"' => quotes = !quotes,
                ',' if !quotes => fields.push(String::new()),
                c => fields.last_mut().unwrap().push(c),
            }
        }
        fields
    }

    fn csv(report: &Report) -> String {
        let mut out = Vec::new();
        write_csv(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_run_is_a_line_under_its_header() {
        let mut report = fixture::report();
        report.runs[0].backing = "file:/a,b".to_owned();

        let text = csv(&report);

        let lines: Vec<Vec<String>> = text.lines().map(fields).collect();
        let column = |name: &str| lines[0].iter().position(|found| found == name).unwrap();
        assert_eq!(lines.len(), 1 + report.runs.len());
        assert_eq!(lines[1][column("backing")], "file:/a,b");
        assert_eq!(lines[1][column("wall_ns_median")], "480000000");
        assert_eq!(lines[1][column("first_touch_ns_p999")], "61000.0");
        assert_eq!(lines[1][column("sample_wall_ns")], "512000000 480000000 480000000 475000000 490000000");
        assert_eq!(lines[1][column("checks_ok")], "true");
        assert_eq!(lines[2][column("checks_ok")], "false");
        assert_eq!(lines[2][column("resident_bytes")], "");
        assert_eq!(lines[2][column("host_kernel")], "6.18.0");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
    }

    #[test]
    fn every_figure_of_a_run_has_its_column() {
        let run = serde_json::to_value(fixture::managed()).unwrap();

        let mut found = Vec::new();
        leaves(&run, "", &mut found);

        found.retain(|path| {
            !["checks", "managed/memory"].contains(&path.as_str()) && !path.starts_with("managed/faults/")
        });
        let mut columns = RUN.map(str::to_owned).to_vec();
        columns.sort();
        found.sort();
        assert_eq!(columns, found);
    }

    #[test]
    fn every_fact_of_the_host_but_its_environment_has_its_column() {
        let host = serde_json::to_value(fixture::report().host).unwrap();

        let mut found = Vec::new();
        leaves(&host, "/host", &mut found);

        found.retain(|path| !path.starts_with("host/environment/"));
        let mut columns = REPORT.map(str::to_owned).to_vec();
        columns.sort();
        found.sort();
        assert_eq!(columns, found);
    }

    #[test]
    fn no_runs_are_only_a_header() {
        let report = Report { runs: Vec::new(), ..fixture::report() };

        assert_eq!(csv(&report).lines().count(), 1);
    }

    proptest! {
        #[test]
        fn a_quoted_field_reads_back(text in any::<Vec<String>>()) {
            prop_assume!(!text.is_empty());

            let line = text.iter().map(|field| quoted(field)).collect::<Vec<_>>().join(",");

            prop_assert_eq!(fields(&line), text);
        }
    }
}

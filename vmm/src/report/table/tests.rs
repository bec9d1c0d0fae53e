use proptest::prelude::*;

use super::super::fixture;
use super::*;

fn shown(report: &Report, width: Option<u16>) -> String {
    let mut out = Vec::new();
    write_tables(report, width, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn longest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap()
}

/// A report with figures as large as a guest of terabytes has them.
fn large() -> Report {
    let mut report = fixture::report();
    for run in &mut report.runs {
        run.backing = format!("file:/{}", "directory/".repeat(20));
        run.mem_bytes = (4 << 40) + 4096;
        run.touches = 1_073_741_824;
        run.kvm.pf_taken = 1_073_741_824;
        run.kvm.pf_fixed = 1_073_741_824;
        run.mapped.pages_4k = 1_073_741_824;
        run.host_faults.minor = 1_073_741_824;
        run.slow_touches = 1_073_741_824;
        report.skipped[0].backing = run.backing.clone();
    }
    report
}

#[test]
fn a_report_reads_like_this() {
    let expected = "\
underlay  0.1.0
kernel    6.18.0
CPU       Example CPU @ 2.00GHz, TSC 2,000,000 kHz
KVM       kvm_intel, second stage EPT
THP       madvise, shmem never
pools     2 MiB pages: 480 of 512 free; 1 GiB pages: 0 of 0 free

run  64 MiB of RAM, not prefaulted; guest pages 2 MiB; 1 vCPU; access write, pattern sequential; 5 samples

Time, faults and memory
                                   wall     wall     wall  relative  wall per  CPU per     KVM  KVM faults
backing                touches   median      min      max      wall     touch    touch  faults   per touch  resident
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
anonymous               16,384   480 ms   475 ms   512 ms     1.00×   29.3 µs  30.0 µs  16,385        1.00    64 MiB
anonymous_hugetlb_2mb   16,384  8.25 ms  8.10 ms  8.90 ms   0.0172×    504 ns   513 ns      36     0.00220         -

Latency of the first and of the second touch of the same word
                         first    first    first    first    first    first     slow     slow   second   second   second
backing                    p50      p90      p99    p99.9      max     mean      p50      p99      p50      p99     mean
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
anonymous              28.0 µs  30.1 µs  45.0 µs  61.0 µs  1.25 ms  29.2 µs  28.0 µs  45.0 µs  15.5 ns  27.0 ns  16.4 ns
anonymous_hugetlb_2mb  15.5 ns  19.5 ns  28.5 ns   251 µs   288 µs   503 ns   250 µs   288 µs  15.5 ns  27.0 ns  16.4 ns

How faults ended and what they left mapped
                          KVM     KVM       KVM       KVM  mapped  mapped  mapped    host   host     slow
backing                faults   fixed  spurious  emulated      4K      2M      1G   minor  major  touches
─────────────────────────────────────────────────────────────────────────────────────────────────────────
anonymous              16,385  16,384         0         1  16,384       0       0  16,384      0   16,384
anonymous_hugetlb_2mb      36      32         0         1       0      32       0      32      0       32

Latencies are less the cost of a pair of time stamps, measured in the same guest: 12.5 ns to 13.0 ns; its counter steps
by 0.5 ns. A slow touch took more than 1.00 µs.
The relative wall time is to that of anonymous, 480 ms.
CPU is the processor time of all threads, user and system, from before RAM is made to the last first touch: what zeroes
ahead is in it. A slow touch is a first one that faulted, or was interrupted.
Counts are of one sample, the median. A touch is one access of the guest; a KVM fault may map many pages.

Checks
DISAGREES  faults_add_up    anonymous_hugetlb_2mb: 36 faults taken; 32 fixed, 0 spurious, 1 emulated, 3 unaccounted for
agrees     touches_counted  2 runs
agrees     faults_add_up    1 of 2 runs

Skipped
anonymous_hugetlb_1gb: 0 of the 1 huge page that 64 MiB need are free
  enable with: echo 1 >/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages

Warnings
KSM is running: it merges and write-protects guest pages
";

    assert_eq!(shown(&fixture::report(), Some(120)), expected);
}

#[test]
fn on_a_narrow_page_columns_follow_below_under_the_same_keys() {
    let text = shown(&fixture::report(), Some(80));

    let expected = "\
Time, faults and memory
                                   wall     wall     wall  relative  wall per
backing                touches   median      min      max      wall     touch
─────────────────────────────────────────────────────────────────────────────
anonymous               16,384   480 ms   475 ms   512 ms     1.00×   29.3 µs
anonymous_hugetlb_2mb   16,384  8.25 ms  8.10 ms  8.90 ms   0.0172×    504 ns

                       CPU per     KVM  KVM faults
backing                  touch  faults   per touch  resident
────────────────────────────────────────────────────────────
anonymous              30.0 µs  16,385        1.00    64 MiB
anonymous_hugetlb_2mb   513 ns      36     0.00220         -
";
    assert!(text.contains(expected), "{text}");
}

/// The report with a managed run.
fn with_managed() -> Report {
    let mut report = fixture::report();
    report.runs.push(fixture::managed());
    report
}

#[test]
fn a_managed_run_has_tables_of_its_own() {
    let text = shown(&with_managed(), Some(120));

    let expected = "\
Managed to kernel-resolved: below 1 is better
                                              slow    slow  handled  handled
backing      to                       wall     p50     p99      p50      p99    CPU
───────────────────────────────────────────────────────────────────────────────────
managed_2mb  anonymous_hugetlb_2mb  0.200×  0.400×  0.521×   0.300×   0.781×  1.18×

Faults that underlay resolved, by reason, and what it maps
             mapped  mapped    from    zeroed
backing          4K      2M   stock  in fault  faults
────────────────────────────────────────────────────────────────
managed_2mb       0      32  16,384         0  around 24, huge 8

Stages of those faults whose touch was timed
backing      stage        faults      p50      p90      p99      max     mean
─────────────────────────────────────────────────────────────────────────────
managed_2mb  whole touch      40  75.0 µs   150 µs   225 µs   300 µs  75.0 µs
managed_2mb  wake             40  30.0 µs  60.0 µs  90.0 µs   120 µs  30.0 µs
managed_2mb  resolve          40  20.0 µs  40.0 µs  60.0 µs  80.0 µs  20.0 µs
managed_2mb  resume           40  25.0 µs  50.0 µs  75.0 µs   100 µs  25.0 µs
";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("until the stock was zeroed, up to 12.5 ms: not in the wall time."), "{text}");
}

#[test]
fn a_counter_that_is_known_only_so_well_is_said_to_be() {
    let mut same = with_managed();
    let managed = same.runs[2].managed.as_mut().unwrap();
    managed.stages.as_mut().unwrap().clock_error_ns = 0.0;

    let (known, same) = (shown(&with_managed(), None), shown(&same, None));

    assert!(known.contains("the guest's is known to it to 1.25 µs"), "{known}");
    assert!(same.contains("the guest reads the same counter"), "{same}");
}

#[test]
fn no_line_is_longer_than_the_page() {
    assert!(longest(&shown(&fixture::report(), Some(120))) <= 120);
    assert!(longest(&shown(&with_managed(), Some(80))) <= 80);
    assert!(longest(&shown(&large(), Some(120))) <= 120);
    assert!(longest(&shown(&large(), Some(80))) <= 80);
}

#[test]
fn without_a_width_a_row_stays_a_line() {
    let text = shown(&large(), None);

    assert!(text.contains(&format!("\n{}", large().runs[0].backing)));
}

#[test]
fn runs_of_different_setups_have_tables_of_their_own() {
    let mut report = fixture::report();
    report.runs[1].vcpus = 2;

    let text = shown(&report, Some(120));

    assert_eq!(text.matches("\nrun  64 MiB").count(), 2);
    assert_eq!(text.matches("1.00×").count(), 2);
}

#[test]
fn a_check_that_agrees_everywhere_is_one_line() {
    let mut report = fixture::report();
    report.runs[1].checks[1].ok = true;

    let text = shown(&report, Some(120));

    assert!(!text.contains("DISAGREES"));
    assert!(text.contains("\nagrees  touches_counted  2 runs\nagrees  faults_add_up    2 runs\n"));
}

#[test]
fn no_runs_are_said_to_be_none() {
    let report = Report { runs: Vec::new(), ..fixture::report() };

    assert!(shown(&report, Some(120)).contains("\nNo backing was measured.\n\nSkipped\n"));
}

#[test]
fn no_touches_are_no_division() {
    let mut report = fixture::report();
    report.runs[0].touches = 0;
    report.runs[0].wall_ns.median = 0;

    let text = shown(&report, Some(120));

    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
}

#[test]
fn a_closed_pipe_is_an_error() {
    let mut room = [0; 100];

    let error = write_tables(&fixture::report(), None, &mut room.as_mut_slice()).unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_width_shows_every_figure(width: u16) {
        let text = shown(&fixture::report(), Some(width));

        prop_assert!(text.contains("480 ms") && text.contains("0.0172×") && text.contains("16,385"));
    }

    #[test]
    fn no_page_is_too_narrow(width in 0_u16..130) {
        let text = shown(&large(), Some(width));

        prop_assert!(text.contains("1,073,741,824"));
    }
}

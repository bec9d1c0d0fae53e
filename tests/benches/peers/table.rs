//! Figures of several VMMs: medians, how far they spread, and ratios.

use crate::monitor::Monitor;

/// Samples of one thing; the first of each VMM is for warming up and left out.
pub(crate) struct Table {
    title: &'static str,
    unit: &'static str,
    rows: Vec<(Monitor, Vec<f64>)>,
}

impl Table {
    pub(crate) fn new(title: &'static str, unit: &'static str, monitors: &[Monitor]) -> Self {
        Self { title, unit, rows: monitors.iter().map(|&monitor| (monitor, Vec::new())).collect() }
    }

    pub(crate) fn add(&mut self, monitor: Monitor, figure: f64) {
        if let Some((_, figures)) = self.rows.iter_mut().find(|(of, _)| *of == monitor) {
            figures.push(figure);
        }
    }

    pub(crate) fn print(mut self) {
        let samples = self.rows.first().map_or(0, |(_, figures)| figures.len().saturating_sub(1));
        println!("{}, {}; {samples} samples each, in turn", self.title, self.unit);
        println!("{:18} {:>9} {:>9} {:>9} {:>14}", "", "median", "least", "most", "underlay's to");
        let mut ours = f64::NAN;
        for (monitor, figures) in &mut self.rows {
            let figures = figures.get_mut(1..).unwrap_or_default();
            figures.sort_unstable_by(f64::total_cmp);
            let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
            let end = figures.len().saturating_sub(1);
            let median = at(end / 2);
            if *monitor == Monitor::Underlay {
                ours = median;
            }
            let (name, least, most) = (monitor.name(), at(0), at(end));
            println!("{name:18} {median:9.2} {least:9.2} {most:9.2} {:14.3}", ours / median);
        }
    }
}

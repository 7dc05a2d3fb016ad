//! Memory, descriptors and threads of the daemon over time.

use std::fs;

use super::account::Law;

/// Looks at the beginning that do not count: caches fill up.
const WARM_UP: usize = 10;
/// How much more memory may be in use at the end of the second phase than at its beginning, by the line that
/// fits all looks best.
const MEMORY: f64 = 8.0 * 1024.0;
/// Descriptors and threads come and go with clients and pulls: by how many their middle may differ.
const OTHERS: f64 = 4.0;

/// One look a second.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    /// KiB, descriptors, threads.
    looks: Vec<[f64; 3]>,
}

impl Vitals {
    pub(super) fn look(&mut self, pid: u32) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        if let (Some(memory), Some(threads)) = (number("VmRSS:"), number("Threads:")) {
            let open = f64::from(u32::try_from(open).unwrap());
            self.looks.push([memory, open, threads]);
        }
    }

    pub(super) fn now(&self) -> String {
        let [memory, open, threads] = self.looks.last().copied().unwrap_or_default();
        format!(
            "{:.1} MiB, {open} descriptors, {threads} threads",
            memory / 1024.0
        )
    }

    pub(super) fn laws(&self) -> Vec<Law> {
        let warm = self.looks.get(WARM_UP..).unwrap_or_default();
        assert!(
            warm.len() > 10,
            "SOAK_SECONDS is too short to tell whether anything grows"
        );
        let series = |which: usize| warm.iter().map(|look| look[which]).collect::<Vec<f64>>();
        let rows = [
            ("KiB of memory more at the end", growth(&series(0)), MEMORY),
            ("descriptors more at the end", growth(&series(1)), OTHERS),
            ("threads more at the end", growth(&series(2)), OTHERS),
        ];
        rows.map(|(what, found, allowed)| Law::at_most(what, found, allowed))
            .into()
    }
}

/// By how much the line that fits best (least squares) rises from the first to the last.
fn growth(series: &[f64]) -> f64 {
    let at = |n: usize| f64::from(u32::try_from(n).unwrap());
    let count = at(series.len());
    let (middle, mean) = ((count - 1.0) / 2.0, series.iter().sum::<f64>() / count);
    let (mut above, mut below) = (0.0, 0.0);
    for (n, value) in series.iter().enumerate() {
        above += (at(n) - middle) * (value - mean);
        below += (at(n) - middle).powi(2);
    }
    above / below * (count - 1.0)
}

#[test]
fn growth_is_that_of_the_line() {
    assert!((growth(&[1.0, 2.0, 3.0, 4.0]) - 3.0).abs() < 1e-9);
    assert!(growth(&[5.0, 5.0, 5.0]).abs() < 1e-9);
}

//! What every piece needs: processes, namespaces, netlink, data, and the table.

pub mod daemon;
pub mod data;
pub mod machine;
pub mod namespace;
pub mod netlink;
pub mod process;
pub mod table;

/// The middle value; the lower one of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

/// The median of `of / to`, taken round by round so that a noisy round spoils both sides of it.
pub fn ratio(of: &[f64], to: &[f64]) -> f64 {
    let pairs: Vec<f64> = of.iter().zip(to).map(|(a, b)| a / b).collect();
    median(&pairs)
}

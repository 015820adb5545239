//! Measuring: this machine's limits and what a model makes of them. Every number is a median of several runs.

pub mod bandwidth;
pub mod model;

/// The median of some measurements; the lower of the two middle ones if their number is even.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len().saturating_sub(1)) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

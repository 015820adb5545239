//! How many multiply-adds a second the arithmetic units allow: loops in registers, see [`quern_kernels::Peak`].

use super::bandwidth::together;
use quern_kernels::Kernels;

pub use quern_kernels::Peak as Kind;

/// What the rates are of, for a table.
pub const NOUN: &str = "peak";

/// Rounds of a loop: some milliseconds.
const ROUNDS: usize = 1 << 20;

/// Multiply-adds per second of so many threads; none if the kernels have no such arithmetic.
pub fn rate(kernels: &'static Kernels, kind: Kind, threads: usize) -> Option<f64> {
    let macs = kernels.peak(kind, 1)? * ROUNDS;
    let seconds = together(threads, |_| {
        std::hint::black_box(kernels.peak(kind, ROUNDS));
    });
    Some((threads * macs) as f64 / seconds)
}

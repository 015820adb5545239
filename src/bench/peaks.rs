//! How many multiply-adds a second the kernels reach at best: products of operands that stay in the first-level cache.

use super::bandwidth::together;
use quern_kernels::{Acts, Format, Kernels, Out, PANEL_ROWS, Scratch};

/// What the rates are of, for a table.
pub const NOUN: &str = "products in L1";

/// A kind of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers of 8 bits, summed exactly.
    Int8,
    /// 32-bit floats.
    F32,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 2] = [Kind::Int8, Kind::F32];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Int8 => "int8",
            Kind::F32 => "f32",
        }
    }
}

/// Multiply-adds per second of so many threads; none if the kernels have no such arithmetic.
pub fn rate(kernels: &'static Kernels, kind: Kind, threads: usize) -> Option<f64> {
    // Weights and activations of 16 KiB each, of which a kernel takes a part at a time.
    let (format, rows, cols, n) = match kind {
        Kind::Int8 => (Format::Q8, 64, 256, 64),
        Kind::F32 => (Format::F32, 2 * PANEL_ROWS, 128, 32),
    };
    let values: Vec<f32> = (0..n * cols)
        .map(|i| ((i % 13) as f32 - 6.0) / 6.0)
        .collect();
    let panel_bytes = format.panel_bytes(cols)?;
    let mut weights = vec![0; format.matrix_bytes(rows, cols)?];
    for panel in weights.chunks_mut(panel_bytes) {
        format.pack_panel(&values[..PANEL_ROWS * cols], PANEL_ROWS, cols, panel);
    }
    let (mut q, mut scales, mut sums) = (
        vec![0; n * cols],
        vec![0.0; n * cols / 32],
        vec![0; n * cols / 32],
    );
    kernels.quantize_acts(&values, &mut q, &mut scales, &mut sums);
    let acts = match kind {
        Kind::Int8 => Acts::Q8 {
            q: &q,
            scales: &scales,
            sums: &sums,
            stride: cols,
        },
        Kind::F32 => Acts::F32 {
            x: &values,
            stride: cols,
        },
    };
    // A few milliseconds on fast kernels, and not much more on the scalar ones.
    let repeats = if kernels.name() == "scalar" { 2 } else { 400 };
    let seconds = together(threads, |_| {
        let (mut out, mut scratch) = (vec![0.0; n * rows], Scratch::new());
        for _ in 0..repeats {
            let out = Out::new(&mut out, rows, rows);
            kernels.matmul(
                format,
                std::hint::black_box(&weights),
                cols,
                acts,
                n,
                out,
                &mut scratch,
            );
        }
        std::hint::black_box(&out);
    });
    Some((threads * repeats * rows * cols * n) as f64 / seconds)
}

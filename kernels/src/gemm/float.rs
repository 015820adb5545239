//! The tile of the float formats: f32, f16 and bf16, widened in registers.

use super::{Place, Shapes, Step, Walk};
use crate::matmul::FloatJob;
use crate::vector::Vector;

/// How an instruction set reads a line of one format, for 16 output rows.
///
/// # Safety
/// Every function needs the features of its instruction set, and 64 readable bytes.
pub(crate) trait FloatLanes {
    /// 16 f32.
    type F: Vector;
    /// Columns of a line.
    const COLS: usize;

    /// The first column of a line and, if it has two, the second.
    unsafe fn widen(line: *const u8) -> (Self::F, Self::F);

    /// `acc + w * x`; rounded once in every table that is exact.
    #[inline(always)]
    unsafe fn multiply(w: Self::F, x: Self::F, acc: Self::F) -> Self::F {
        // SAFETY: as the trait demands.
        unsafe { w.fma(x, acc) }
    }
}

/// One tile: all pointers are at its first token and line.
pub(crate) struct FloatTile {
    weights: *const u8,
    panel_bytes: usize,
    /// Lines.
    steps: usize,
    x: *const f32,
    stride: usize,
    place: Place,
}

/// Picks the instance for P panels and T tokens.
pub(crate) type Pick = fn(panels: usize, tokens: usize) -> unsafe fn(&FloatTile);

/// Walks a product whose lines hold `line_cols` columns.
///
/// # Safety
/// The CPU must have the features of the tiles that `pick` returns.
pub(crate) unsafe fn run(job: FloatJob<'_>, line_cols: usize, shapes: &Shapes, pick: Pick) {
    let FloatJob { parking, .. } = job;
    let walk = Walk {
        panels: job.panels,
        n: job.n,
        steps: job.cols / line_cols,
        step_bytes: 64,
        token_bytes: job.stride * 4,
    };
    walk.run(shapes, parking, |step: &Step| {
        let tile = FloatTile {
            weights: job.weights[step.panel * job.panel_bytes + step.from * 64..].as_ptr(),
            panel_bytes: job.panel_bytes,
            steps: step.to - step.from,
            x: job.x[step.token * job.stride + step.from * line_cols..].as_ptr(),
            stride: job.stride,
            place: step.place(&job.out),
        };
        // SAFETY: features are the caller's promise. The job's sizes were checked where it was made: `panels`
        // panels of `steps` lines, `n` rows of activations of at least that many columns, and an output that
        // holds `rows` of `n` tokens; the walk stays within these counts, and parks within the parking.
        unsafe { pick(step.panels, step.tokens)(&tile) }
    });
}

/// The product of P panels and T tokens over the lines of a tile.
///
/// # Safety
/// The CPU must have the features of `L`; the pointers of `a` must be valid for P panels, T tokens and its lines.
#[inline(always)]
pub(crate) unsafe fn tile<L: FloatLanes, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: all of it is within what the caller promises: lines of a panel follow each other, tokens are
    // `stride` apart.
    unsafe {
        let mut acc = a.place.begin::<L::F, P, T>();
        for step in 0..a.steps {
            let line = a.weights.add(step * 64);
            let x = a.x.add(step * L::COLS);
            let mut w = [L::widen(line); P];
            for p in 1..P {
                w[p] = L::widen(line.add(p * a.panel_bytes));
            }
            for t in 0..T {
                let x = L::F::splat(*x.add(t * a.stride));
                for p in 0..P {
                    acc[p][t] = L::multiply(w[p].0, x, acc[p][t]);
                }
            }
            if L::COLS == 2 {
                for t in 0..T {
                    let x = L::F::splat(*x.add(t * a.stride + 1));
                    for p in 0..P {
                        acc[p][t] = L::multiply(w[p].1, x, acc[p][t]);
                    }
                }
            }
        }
        a.place.end::<L::F, P, T>(&acc);
    }
}

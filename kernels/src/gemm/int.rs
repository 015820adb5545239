//! The tile of the integer formats with one f16 scale per block of 32: q8 and q4.

use super::{Ahead, Place, Shapes, Step, Walk};
use crate::BLOCK;
use crate::formats::{q4, q8};
use crate::matmul::IntJob;
use crate::vector::Vector;

/// How an instruction set multiplies lines of codes with activations, for 16 output rows.
///
/// # Safety
/// Every function needs the features of its instruction set, and pointers that are valid for what it reads.
pub(crate) trait IntLanes {
    /// A line of 16 x 4 unsigned codes.
    type Line: Copy;
    /// Four activations, for every row.
    type Acts: Copy;
    /// Running integer sums of 16 rows.
    type Sums: Copy;
    /// 16 f32.
    type F: Vector;
    /// Whether a stored line holds two lines of four-bit codes.
    const NIBBLES: bool;
    /// Whether the lines of a block are a loop at run time. Unrolled they run faster, unless registers are few: then a
    /// compiler sees all loads of the block at once and keeps more of them than there is room for.
    const ROLLED: bool;

    /// 64 codes of one byte.
    unsafe fn codes(line: *const u8) -> Self::Line;
    /// 128 codes of four bits: the low ones, the high ones.
    unsafe fn nibbles(line: *const u8) -> (Self::Line, Self::Line);
    /// Four activations.
    unsafe fn acts(q: *const i8) -> Self::Acts;
    /// Sums at the start of a block, `offset` being `-zero_point * sum(activations)`.
    unsafe fn start(offset: *const i32) -> Self::Sums;
    /// Adds four products per row.
    unsafe fn dot(sums: Self::Sums, line: Self::Line, acts: Self::Acts) -> Self::Sums;
    /// The sums at the end of a block, with the offset if `start` left it out.
    unsafe fn finish(sums: Self::Sums, offset: *const i32) -> Self::F;
}

/// One tile: all pointers are at its first token and step.
pub(crate) struct IntTile {
    weights: *const u8,
    panel_bytes: usize,
    /// Tiles of 64 columns.
    steps: usize,
    /// Lines of codes of a block: 8, or 4 of nibbles.
    lines: usize,
    q: *const i8,
    stride: usize,
    scales: *const f32,
    offsets: *const i32,
    ahead: Ahead,
    place: Place,
}

/// Picks the instance for P panels and T tokens.
pub(crate) type Pick = fn(panels: usize, tokens: usize) -> unsafe fn(&IntTile);

/// Walks a product.
///
/// # Safety
/// The CPU must have the features of the tiles that `pick` returns.
pub(crate) unsafe fn run(job: IntJob<'_>, tile_bytes: usize, shapes: &Shapes, pick: Pick) {
    let IntJob { parking, .. } = job;
    let walk = Walk {
        panels: job.panels,
        n: job.n,
        steps: job.blocks / 2,
        step_bytes: tile_bytes,
        token_bytes: job.stride,
    };
    let blocks_stride = job.stride / BLOCK;
    walk.run(shapes, parking, |step: &Step| {
        let tile = IntTile {
            weights: job.weights[step.panel * job.panel_bytes + step.from * tile_bytes..].as_ptr(),
            panel_bytes: job.panel_bytes,
            steps: step.to - step.from,
            lines: (tile_bytes - 64) / 128,
            q: job.q[step.token * job.stride + step.from * 64..].as_ptr(),
            stride: job.stride,
            scales: job.scales[step.token * blocks_stride + step.from * 2..].as_ptr(),
            offsets: job.offsets[step.token * blocks_stride + step.from * 2..].as_ptr(),
            ahead: step.ahead(job.weights.as_ptr(), job.panel_bytes, tile_bytes),
            place: step.place(&job.out),
        };
        // SAFETY: features are the caller's promise. The job's sizes were checked where it was made: `panels`
        // panels of `steps` tiles, `n` rows of activations of at least that many columns, and an output that
        // holds `rows` of `n` tokens; the walk stays within these counts, and parks within the parking.
        unsafe { pick(step.panels, step.tokens)(&tile) }
    });
}

/// The product of P panels and T tokens over the steps of a tile.
///
/// # Safety
/// The CPU must have the features of `L`; the pointers of `a` must be valid for P panels, T tokens and its steps.
#[inline(always)]
pub(crate) unsafe fn tile<L: IntLanes, const P: usize, const T: usize>(a: &IntTile) {
    // SAFETY: all of it is within what the caller promises: tiles of a panel follow each other, tokens are `stride`
    // apart, and a tile is a line of scales and then 16 lines of codes, or 8 of nibbles.
    unsafe {
        let tile_bytes = if L::NIBBLES { q4::TILE } else { q8::TILE };
        let lines = match L::ROLLED {
            true => a.lines,
            false if L::NIBBLES => 4,
            false => 8,
        };
        let blocks_stride = a.stride / BLOCK;
        let mut acc = a.place.begin::<L::F, P, T>();
        for step in 0..a.steps {
            a.ahead.fetch::<L::F, P>(step);
            let tile = a.weights.add(step * tile_bytes);
            for b in 0..2 {
                let block = step * 2 + b;
                let q = a.q.add(block * BLOCK);
                let offsets = a.offsets.add(block);
                let mut sums = [[L::start(offsets); T]; P];
                for t in 1..T {
                    for p in 0..P {
                        sums[p][t] = L::start(offsets.add(t * blocks_stride));
                    }
                }
                for g in 0..lines {
                    let line = tile.add(64 + (b * lines + g) * 64);
                    if L::NIBBLES {
                        let mut w = [L::nibbles(line); P];
                        for p in 1..P {
                            w[p] = L::nibbles(line.add(p * a.panel_bytes));
                        }
                        for t in 0..T {
                            let x = L::acts(q.add(t * a.stride + 4 * g));
                            for p in 0..P {
                                sums[p][t] = L::dot(sums[p][t], w[p].0, x);
                            }
                            let x = L::acts(q.add(t * a.stride + 16 + 4 * g));
                            for p in 0..P {
                                sums[p][t] = L::dot(sums[p][t], w[p].1, x);
                            }
                        }
                    } else {
                        let mut w = [L::codes(line); P];
                        for p in 1..P {
                            w[p] = L::codes(line.add(p * a.panel_bytes));
                        }
                        for t in 0..T {
                            let x = L::acts(q.add(t * a.stride + 4 * g));
                            for p in 0..P {
                                sums[p][t] = L::dot(sums[p][t], w[p], x);
                            }
                        }
                    }
                }
                let mut w_scales = [L::F::load_f16(tile.add(b * 32)); P];
                for p in 1..P {
                    w_scales[p] = L::F::load_f16(tile.add(p * a.panel_bytes + b * 32));
                }
                for t in 0..T {
                    let scale = L::F::splat(*a.scales.add(t * blocks_stride + block));
                    for p in 0..P {
                        let sum = L::finish(sums[p][t], offsets.add(t * blocks_stride));
                        acc[p][t] = w_scales[p].mul(scale).fma(sum, acc[p][t]);
                    }
                }
            }
        }
        a.place.end::<L::F, P, T>(&acc);
    }
}

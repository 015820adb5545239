//! bf16 by dot products of pairs: twice as fast as fused multiply-adds, with other bits.
//!
//! The activations are rounded to bfloat16 first. To the tile, the two columns of a line look like one: a weight and an activation are
//! words of 32 bits that hold a pair each, and one instruction adds both products to an accumulator. It takes denormal numbers for zero.
//! Accumulators see K ascending, whatever the tile, so the bits depend on neither tokens nor panels.

use std::arch::x86_64::*;

use super::vector::Avx512;
use crate::PANEL_ROWS;
use crate::gemm::float::{FloatLanes, FloatTile, run, tile};
use crate::gemm::{Parked, pick_tile};
use crate::matmul::FloatJob;
use crate::vector::Vector;

/// Columns of a line, and of a word.
const PAIR: usize = 2;

/// One pair of columns per line.
struct Pairs;

impl FloatLanes for Pairs {
    type F = Avx512;
    const COLS: usize = 1;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx512, Avx512) {
        // SAFETY: as the trait demands.
        unsafe { (Avx512::load(line.cast()), Avx512::splat(0.0)) }
    }

    #[inline(always)]
    unsafe fn multiply(w: Avx512, x: Avx512, acc: Avx512) -> Avx512 {
        // SAFETY: as the trait demands; vectors of 512 bits may be seen as 32 bfloat16.
        unsafe {
            let pairs = |words: Avx512| std::mem::transmute::<__m512, __m512bh>(words.0);
            Avx512(_mm512_dpbf16_ps(acc.0, pairs(w), pairs(x)))
        }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn instance<W: FloatLanes, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<W, P, T>(a) }
}

fn pick<W: FloatLanes>(panels: usize, tokens: usize) -> unsafe fn(&FloatTile) {
    pick_tile!(panels, tokens, instance::<W>: 8 x [1], 4 x [1, 2, 3, 4, 5, 6], 2 x [1, 2, 3, 4, 5, 6], 1 x [1, 2, 3, 4, 5, 6])
}

/// Rounds `x` to pairs of bfloat16, to nearest even, the first of a pair in the lower half of a word.
///
/// # Safety
/// The CPU must have the features named below.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round(x: &[[f32; 2 * PANEL_ROWS]], pairs: &mut [Parked]) {
    for (x, pairs) in x.iter().zip(pairs) {
        // SAFETY: 32 values become 32 halves, which 64 bytes hold.
        unsafe {
            let (low, high) = (x.as_ptr(), x.as_ptr().add(PANEL_ROWS));
            let halves = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
            let pairs: *mut Parked = pairs;
            pairs.cast::<__m512bh>().write(halves);
        }
    }
}

/// # Safety
/// Needs AVX-512 BF16 beside the features of the table.
pub(super) unsafe fn bf16(job: FloatJob<'_>) {
    // The stride is a multiple of 64, so every row is whole words of the strip.
    let x = job.x[..job.n * job.stride].as_chunks().0;
    if job.strip.len() < x.len() {
        job.strip.resize(x.len(), Parked::ZERO);
    }
    // SAFETY: features are the caller's promise.
    unsafe { round(x, job.strip) };
    let pairs = Parked::values(&job.strip[..x.len()]);
    let job = FloatJob {
        x: pairs,
        stride: job.stride / PAIR,
        cols: job.cols / PAIR,
        strip: &mut Vec::new(),
        ..job
    };
    // SAFETY: the caller's promise.
    unsafe { run(job, Pairs::COLS, &super::float::SHAPES, pick::<Pairs>) }
}

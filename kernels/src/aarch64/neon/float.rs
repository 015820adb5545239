//! f32, f16 and bf16, a column of 16 rows to four registers.

use std::arch::aarch64::*;

use super::vector::Neon;
use crate::gemm::float::{FloatLanes, FloatTile, run, tile};
use crate::gemm::{Shapes, pick_tile};
use crate::matmul::FloatJob;
use crate::vector::Vector;

/// One column per line.
struct F32;
/// A column in each half of a line.
struct F16;
/// Two columns, interleaved.
struct Bf16;

impl FloatLanes for F32 {
    type F = Neon;
    const COLS: usize = 1;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Neon, Neon) {
        // SAFETY: as the trait demands.
        unsafe { (Neon::load(line.cast()), Neon::splat(0.0)) }
    }
}

impl FloatLanes for F16 {
    type F = Neon;
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Neon, Neon) {
        // SAFETY: as the trait demands.
        unsafe { (Neon::load_f16(line), Neon::load_f16(line.add(32))) }
    }
}

impl FloatLanes for Bf16 {
    type F = Neon;
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Neon, Neon) {
        // SAFETY: as the trait demands.
        unsafe {
            let both = each!(i => vreinterpretq_u32_u8(vld1q_u8(line.add(16 * i))));
            let upper = vdupq_n_u32(0xffff_0000);
            let even = each!(i => vreinterpretq_f32_u32(vshlq_n_u32::<16>(both[i])));
            let odd = each!(i => vreinterpretq_f32_u32(vandq_u32(both[i], upper)));
            (Neon(even), Neon(odd))
        }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "neon")]
unsafe fn instance<W: FloatLanes, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<W, P, T>(a) }
}

fn pick<W: FloatLanes>(panels: usize, tokens: usize) -> unsafe fn(&FloatTile) {
    pick_tile!(panels, tokens, instance::<W>: 4 x [1], 2 x [1, 2], 1 x [1, 2, 3, 4, 5, 6])
}

/// 32 registers: at 1 x 6 there are 24 accumulators, 4 for weights and an activation. With few tokens
/// more panels keep at least 8 chains of fma going, which hides their latency.
const SHAPES: Shapes = Shapes {
    max_tokens: 6,
    panels: |tokens| match tokens {
        1 => 4,
        2 => 2,
        _ => 1,
    },
};

/// # Safety
/// Needs NEON.
pub(super) unsafe fn f32(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, F32::COLS, &SHAPES, pick::<F32>) }
}

/// # Safety
/// Needs NEON.
pub(super) unsafe fn f16(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, F16::COLS, &SHAPES, pick::<F16>) }
}

/// # Safety
/// Needs NEON.
pub(super) unsafe fn bf16(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, Bf16::COLS, &SHAPES, pick::<Bf16>) }
}

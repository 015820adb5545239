//! f32, f16 and bf16, a line or half of one to a register.

use std::arch::x86_64::*;

use super::vector::Avx512;
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
    type F = Avx512;
    const COLS: usize = 1;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx512, Avx512) {
        // SAFETY: as the trait demands.
        unsafe { (Avx512::load(line.cast()), Avx512::splat(0.0)) }
    }
}

impl FloatLanes for F16 {
    type F = Avx512;
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx512, Avx512) {
        // SAFETY: as the trait demands.
        unsafe { (Avx512::load_f16(line), Avx512::load_f16(line.add(32))) }
    }
}

impl FloatLanes for Bf16 {
    type F = Avx512;
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx512, Avx512) {
        // SAFETY: as the trait demands.
        unsafe {
            let both = _mm512_loadu_si512(line.cast());
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let even = _mm512_slli_epi32::<16>(both);
            let odd = _mm512_and_si512(both, upper);
            (
                Avx512(_mm512_castsi512_ps(even)),
                Avx512(_mm512_castsi512_ps(odd)),
            )
        }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn instance<W: FloatLanes, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<W, P, T>(a) }
}

fn pick<W: FloatLanes>(panels: usize, tokens: usize) -> unsafe fn(&FloatTile) {
    pick_tile!(panels, tokens, instance::<W>: 8 x [1], 4 x [1, 2, 3, 4, 5, 6], 2 x [1, 2, 3, 4, 5, 6], 1 x [1, 2, 3, 4, 5, 6])
}

/// 32 registers: at 4 x 6 there are 24 accumulators, 4 weights and an activation. A token alone takes more panels:
/// at least 8 chains of fma hide their latency.
pub(super) const SHAPES: Shapes = Shapes {
    max_tokens: 6,
    panels: |tokens| if tokens == 1 { 8 } else { 4 },
};

/// # Safety
/// Needs the features of the table.
pub(super) unsafe fn f32(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, F32::COLS, &SHAPES, pick::<F32>) }
}

/// # Safety
/// Needs the features of the table.
pub(super) unsafe fn f16(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, F16::COLS, &SHAPES, pick::<F16>) }
}

/// # Safety
/// Needs the features of the table.
pub(super) unsafe fn bf16(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, Bf16::COLS, &SHAPES, pick::<Bf16>) }
}

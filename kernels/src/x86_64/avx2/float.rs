//! f32, f16 and bf16, a column of 16 rows to two registers.

use std::arch::x86_64::*;

use super::vector::Avx2;
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
    type F = Avx2;
    const COLS: usize = 1;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx2, Avx2) {
        // SAFETY: as the trait demands.
        unsafe { (Avx2::load(line.cast()), Avx2::splat(0.0)) }
    }
}

impl FloatLanes for F16 {
    type F = Avx2;
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx2, Avx2) {
        // SAFETY: as the trait demands.
        unsafe { (Avx2::load_f16(line), Avx2::load_f16(line.add(32))) }
    }
}

impl FloatLanes for Bf16 {
    type F = Avx2;
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Avx2, Avx2) {
        // SAFETY: as the trait demands.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let a = _mm256_loadu_si256(line.cast());
            let b = _mm256_loadu_si256(line.add(32).cast());
            let even = (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b));
            let odd = (_mm256_and_si256(a, upper), _mm256_and_si256(b, upper));
            (
                Avx2(_mm256_castsi256_ps(even.0), _mm256_castsi256_ps(even.1)),
                Avx2(_mm256_castsi256_ps(odd.0), _mm256_castsi256_ps(odd.1)),
            )
        }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn instance<W: FloatLanes, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<W, P, T>(a) }
}

fn pick<W: FloatLanes>(panels: usize, tokens: usize) -> unsafe fn(&FloatTile) {
    pick_tile!(panels, tokens, instance::<W>: 4 x [1], 2 x [1, 2], 1 x [1, 2, 3, 4, 5, 6])
}

/// 16 registers: at 1 x 6 there are 12 accumulators, 2 for weights and an activation. With few tokens
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
/// Needs AVX2, FMA, F16C.
pub(super) unsafe fn f32(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, F32::COLS, &SHAPES, pick::<F32>) }
}

/// # Safety
/// Needs AVX2, FMA, F16C.
pub(super) unsafe fn f16(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, F16::COLS, &SHAPES, pick::<F16>) }
}

/// # Safety
/// Needs AVX2, FMA, F16C.
pub(super) unsafe fn bf16(job: FloatJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, Bf16::COLS, &SHAPES, pick::<Bf16>) }
}

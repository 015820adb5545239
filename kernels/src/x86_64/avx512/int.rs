//! q8 and q4 with `vpdpbusd` on whole lines.

use std::arch::x86_64::*;

use crate::formats::{q4, q8};
use crate::gemm::Shapes;
use crate::gemm::int::{IntLanes, IntTile, run, tile};
use crate::matmul::IntJob;

/// A line in one register.
struct Zmm;

impl IntLanes for Zmm {
    type Line = __m512i;
    type Acts = __m512i;
    type Sums = __m512i;
    type F = __m512;

    #[inline(always)]
    unsafe fn codes(line: *const u8) -> __m512i {
        // SAFETY: as the trait demands.
        unsafe { _mm512_loadu_si512(line.cast()) }
    }
    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> (__m512i, __m512i) {
        // SAFETY: as the trait demands.
        unsafe {
            let both = _mm512_loadu_si512(line.cast());
            let mask = _mm512_set1_epi8(15);
            (
                _mm512_and_si512(both, mask),
                _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask),
            )
        }
    }
    #[inline(always)]
    unsafe fn acts(q: *const i8) -> __m512i {
        // SAFETY: as the trait demands.
        unsafe { _mm512_set1_epi32(q.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn start(offset: *const i32) -> __m512i {
        // SAFETY: as the trait demands.
        unsafe { _mm512_set1_epi32(*offset) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, line: __m512i, acts: __m512i) -> __m512i {
        // SAFETY: as the trait demands.
        unsafe { _mm512_dpbusd_epi32(sums, line, acts) }
    }
    #[inline(always)]
    unsafe fn finish(sums: __m512i, _: *const i32) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
    #[inline(always)]
    unsafe fn scales(line: *const u8) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(line.cast())) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: as the trait demands.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn instance<const NIBBLES: bool, const P: usize, const T: usize>(a: &IntTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Zmm, NIBBLES, P, T>(a) }
}

fn pick<const NIBBLES: bool>(panels: usize, tokens: usize) -> unsafe fn(&IntTile) {
    match (panels, tokens) {
        (2, 1) => instance::<NIBBLES, 2, 1>,
        (2, 2) => instance::<NIBBLES, 2, 2>,
        (2, 3) => instance::<NIBBLES, 2, 3>,
        (2, 4) => instance::<NIBBLES, 2, 4>,
        (2, 5) => instance::<NIBBLES, 2, 5>,
        (2, 6) => instance::<NIBBLES, 2, 6>,
        (1, 1) => instance::<NIBBLES, 1, 1>,
        (1, 2) => instance::<NIBBLES, 1, 2>,
        (1, 3) => instance::<NIBBLES, 1, 3>,
        (1, 4) => instance::<NIBBLES, 1, 4>,
        (1, 5) => instance::<NIBBLES, 1, 5>,
        (1, 6) => instance::<NIBBLES, 1, 6>,
        (1, 7) => instance::<NIBBLES, 1, 7>,
        (1, 8) => instance::<NIBBLES, 1, 8>,
        (1, 9) => instance::<NIBBLES, 1, 9>,
        (1, 10) => instance::<NIBBLES, 1, 10>,
        (1, 11) => instance::<NIBBLES, 1, 11>,
        (1, 12) => instance::<NIBBLES, 1, 12>,
        _ => unreachable!("no tile of {panels} panels and {tokens} tokens"),
    }
}

const SHAPES: Shapes = Shapes {
    max_tokens: 6,
    panels: |t| if t <= 6 { 2 } else { 1 },
};

/// # Safety
/// Needs the features of the table.
pub(super) unsafe fn q8(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, q8::TILE, &SHAPES, pick::<false>) }
}

/// # Safety
/// Needs the features of the table.
pub(super) unsafe fn q4(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, q4::TILE, &SHAPES, pick::<true>) }
}

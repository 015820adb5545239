//! f32, f16 and bf16, a line or half of one to a register.

use std::arch::x86_64::*;

use crate::gemm::Shapes;
use crate::gemm::float::{FloatLanes, FloatTile, run, tile};
use crate::matmul::FloatJob;

/// How a line becomes f32.
///
/// # Safety
/// Needs AVX-512 F, and 64 readable bytes.
trait Widen {
    const COLS: usize;
    unsafe fn widen(line: *const u8) -> (__m512, __m512);
}

struct F32;
struct F16;
struct Bf16;

impl Widen for F32 {
    const COLS: usize = 1;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (__m512, __m512) {
        // SAFETY: as the trait demands.
        unsafe { (_mm512_loadu_ps(line.cast()), _mm512_setzero_ps()) }
    }
}

impl Widen for F16 {
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (__m512, __m512) {
        // SAFETY: as the trait demands.
        unsafe {
            (
                _mm512_cvtph_ps(_mm256_loadu_si256(line.cast())),
                _mm512_cvtph_ps(_mm256_loadu_si256(line.add(32).cast())),
            )
        }
    }
}

impl Widen for Bf16 {
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (__m512, __m512) {
        // SAFETY: as the trait demands.
        unsafe {
            let both = _mm512_loadu_si512(line.cast());
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            (
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)),
                _mm512_castsi512_ps(_mm512_and_si512(both, upper)),
            )
        }
    }
}

/// Lines of `W` in 512-bit registers.
struct Zmm<W>(std::marker::PhantomData<W>);

impl<W: Widen> FloatLanes for Zmm<W> {
    type F = __m512;
    const COLS: usize = W::COLS;

    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (__m512, __m512) {
        // SAFETY: as the trait demands.
        unsafe { W::widen(line) }
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
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as the trait demands.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn instance<W: Widen, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Zmm<W>, P, T>(a) }
}

fn pick<W: Widen>(panels: usize, tokens: usize) -> unsafe fn(&FloatTile) {
    match (panels, tokens) {
        (8, 1) => instance::<W, 8, 1>,
        (4, 1) => instance::<W, 4, 1>,
        (4, 2) => instance::<W, 4, 2>,
        (4, 3) => instance::<W, 4, 3>,
        (4, 4) => instance::<W, 4, 4>,
        (2, 1) => instance::<W, 2, 1>,
        (2, 2) => instance::<W, 2, 2>,
        (2, 3) => instance::<W, 2, 3>,
        (2, 4) => instance::<W, 2, 4>,
        (2, 5) => instance::<W, 2, 5>,
        (2, 6) => instance::<W, 2, 6>,
        (2, 7) => instance::<W, 2, 7>,
        (2, 8) => instance::<W, 2, 8>,
        (2, 9) => instance::<W, 2, 9>,
        (2, 10) => instance::<W, 2, 10>,
        (2, 11) => instance::<W, 2, 11>,
        (2, 12) => instance::<W, 2, 12>,
        (1, 1) => instance::<W, 1, 1>,
        (1, 2) => instance::<W, 1, 2>,
        (1, 3) => instance::<W, 1, 3>,
        (1, 4) => instance::<W, 1, 4>,
        (1, 5) => instance::<W, 1, 5>,
        (1, 6) => instance::<W, 1, 6>,
        (1, 7) => instance::<W, 1, 7>,
        (1, 8) => instance::<W, 1, 8>,
        (1, 9) => instance::<W, 1, 9>,
        (1, 10) => instance::<W, 1, 10>,
        (1, 11) => instance::<W, 1, 11>,
        (1, 12) => instance::<W, 1, 12>,
        _ => unreachable!("no tile of {panels} panels and {tokens} tokens"),
    }
}

/// 32 registers: at 2 x 12 there are 24 accumulators, up to 4 widened weights and an activation. With
/// few tokens more panels keep at least 8 chains of fma going, which hides their latency.
const SHAPES: Shapes = Shapes {
    max_tokens: 12,
    panels: |tokens| match tokens {
        1 => 8,
        2..=4 => 4,
        _ => 2,
    },
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

//! f32, f16 and bf16, a column of 16 rows to two registers.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::lanes::{self, Pair};
use crate::gemm::Shapes;
use crate::gemm::float::{FloatLanes, FloatTile, run, tile};
use crate::matmul::FloatJob;

/// How a line becomes f32.
///
/// # Safety
/// Needs AVX2 and F16C, and 64 readable bytes.
trait Widen {
    const COLS: usize;
    unsafe fn widen(line: *const u8) -> (Pair, Pair);
}

struct F32;
struct F16;
struct Bf16;

impl Widen for F32 {
    const COLS: usize = 1;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Pair, Pair) {
        // SAFETY: as the trait demands.
        unsafe { (lanes::load(line.cast()), lanes::zero()) }
    }
}

impl Widen for F16 {
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Pair, Pair) {
        // SAFETY: as the trait demands.
        unsafe { (lanes::widen_f16(line), lanes::widen_f16(line.add(32))) }
    }
}

impl Widen for Bf16 {
    const COLS: usize = 2;
    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Pair, Pair) {
        // SAFETY: as the trait demands.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let (a, b) = (
                _mm256_loadu_si256(line.cast()),
                _mm256_loadu_si256(line.add(32).cast()),
            );
            let even = (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b));
            let odd = (_mm256_and_si256(a, upper), _mm256_and_si256(b, upper));
            (
                (_mm256_castsi256_ps(even.0), _mm256_castsi256_ps(even.1)),
                (_mm256_castsi256_ps(odd.0), _mm256_castsi256_ps(odd.1)),
            )
        }
    }
}

/// Lines of `W` in 256-bit registers.
struct Ymm<W>(PhantomData<W>);

impl<W: Widen> FloatLanes for Ymm<W> {
    type F = Pair;
    const COLS: usize = W::COLS;

    #[inline(always)]
    unsafe fn widen(line: *const u8) -> (Pair, Pair) {
        // SAFETY: as the trait demands.
        unsafe { W::widen(line) }
    }
    #[inline(always)]
    unsafe fn zero() -> Pair {
        // SAFETY: as the trait demands.
        unsafe { lanes::zero() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        // SAFETY: as the trait demands.
        unsafe { lanes::load(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Pair) {
        // SAFETY: as the trait demands.
        unsafe { lanes::store(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> Pair {
        // SAFETY: as the trait demands.
        unsafe { lanes::splat(p) }
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: as the trait demands.
        unsafe { lanes::fma(a, b, c) }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn instance<W: Widen, const P: usize, const T: usize>(a: &FloatTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Ymm<W>, P, T>(a) }
}

fn pick<W: Widen>(panels: usize, tokens: usize) -> unsafe fn(&FloatTile) {
    match (panels, tokens) {
        (4, 1) => instance::<W, 4, 1>,
        (2, 1) => instance::<W, 2, 1>,
        (2, 2) => instance::<W, 2, 2>,
        (2, 3) => instance::<W, 2, 3>,
        (1, 1) => instance::<W, 1, 1>,
        (1, 2) => instance::<W, 1, 2>,
        (1, 3) => instance::<W, 1, 3>,
        (1, 4) => instance::<W, 1, 4>,
        (1, 5) => instance::<W, 1, 5>,
        (1, 6) => instance::<W, 1, 6>,
        _ => unreachable!("no tile of {panels} panels and {tokens} tokens"),
    }
}

/// 16 registers: at 1 x 6 there are 12 accumulators, 2 for weights and an activation. With few tokens
/// more panels keep at least 8 chains of fma going, which hides their latency.
const SHAPES: Shapes = Shapes {
    max_tokens: 6,
    panels: |tokens| match tokens {
        1 => 4,
        2 | 3 => 2,
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

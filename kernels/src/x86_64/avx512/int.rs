//! q8 and q4 with `vpdpbusd` on whole lines.

use std::arch::x86_64::*;

use super::vector::Avx512;
use crate::formats::{q4, q8};
use crate::gemm::int::{IntLanes, IntTile, run, tile};
use crate::gemm::{Shapes, pick_tile};
use crate::matmul::IntJob;

/// A line in one register.
struct Zmm<const NIBBLES: bool>;

// SAFETY (of every unsafe block in this impl): the trait's contract gives the features and valid pointers, which
// need no alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const NIBBLES: bool> IntLanes for Zmm<NIBBLES> {
    type Line = __m512i;
    type Acts = __m512i;
    type Sums = __m512i;
    type F = Avx512;
    const NIBBLES: bool = NIBBLES;
    const ROLLED: bool = false;

    #[inline(always)]
    unsafe fn codes(line: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(line.cast()) }
    }
    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> (__m512i, __m512i) {
        unsafe {
            let both = _mm512_loadu_si512(line.cast());
            let mask = _mm512_set1_epi8(15);
            let high = _mm512_srli_epi16::<4>(both);
            (_mm512_and_si512(both, mask), _mm512_and_si512(high, mask))
        }
    }
    #[inline(always)]
    unsafe fn acts(q: *const i8) -> __m512i {
        unsafe { _mm512_set1_epi32(q.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn start(offset: *const i32) -> __m512i {
        unsafe { _mm512_set1_epi32(*offset) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, line: __m512i, acts: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, line, acts) }
    }
    #[inline(always)]
    unsafe fn finish(sums: __m512i, _: *const i32) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(sums) })
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn instance<const NIBBLES: bool, const P: usize, const T: usize>(a: &IntTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Zmm<NIBBLES>, P, T>(a) }
}

fn pick<const NIBBLES: bool>(panels: usize, tokens: usize) -> unsafe fn(&IntTile) {
    pick_tile!(panels, tokens, instance::<NIBBLES>: 4 x [2, 3, 4], 2 x [2, 3, 4], 1 x [1, 2, 3, 4])
}

/// 32 registers: 4 x 4 has as many integer sums, and the f32 accumulators may lie in memory because they are
/// touched once per block. Four panels share a broadcast activation. With one token memory is the limit, and panel after
/// panel is one stream through it: the processor follows that best.
const SHAPES: Shapes = Shapes {
    max_tokens: 4,
    panels: |tokens| if tokens == 1 { 1 } else { 4 },
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

//! q8 and q4 in halves of a line, generic over how four bytes are multiplied and added ([`Dot`]).

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::vector::Avx2;
use crate::formats::{q4, q8};
use crate::gemm::int::{IntLanes, IntTile, run, tile};
use crate::gemm::{Shapes, pick_tile};
use crate::matmul::IntJob;

/// Sums of four products of unsigned codes and activations, in 8 rows.
///
/// # Safety
/// Every function needs the features of the implementation, and a valid `offset`.
pub(super) trait Dot {
    /// Codes, ready to multiply.
    type Line: Copy;
    /// Whether the codes have four bits.
    const NIBBLES: bool;
    unsafe fn line(codes: __m256i) -> Self::Line;
    unsafe fn start(offset: *const i32) -> __m256i;
    unsafe fn dot(sums: __m256i, line: Self::Line, acts: __m256i) -> __m256i;
    unsafe fn finish(sums: __m256i, offset: *const i32) -> __m256;
}

/// `vpmaddubsw` for codes of four bits. A 16-bit lane collects two products per line and 8 lines per block: at
/// most 16 * 15 * 127 = 30480, so it neither saturates nor wraps, and is widened once per block.
pub(super) struct Nibbles;

// SAFETY (of every unsafe block in this impl): the trait's contract gives AVX2 and a valid pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Nibbles {
    type Line = __m256i;
    const NIBBLES: bool = true;
    #[inline(always)]
    unsafe fn line(codes: __m256i) -> __m256i {
        codes
    }
    #[inline(always)]
    unsafe fn start(_: *const i32) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, line: __m256i, acts: __m256i) -> __m256i {
        unsafe { _mm256_add_epi16(sums, _mm256_maddubs_epi16(line, acts)) }
    }
    #[inline(always)]
    unsafe fn finish(sums: __m256i, offset: *const i32) -> __m256 {
        unsafe {
            let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
            _mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(*offset)))
        }
    }
}

/// `vpmaddubsw` for codes of eight bits: two products of 255 * 127 would saturate, so the sign of the weight
/// moves to the activation. Magnitudes of at most 128 give at most 2 * 128 * 127 = 32512. There is no offset left.
pub(super) struct Bytes;

// SAFETY (of every unsafe block in this impl): the trait's contract gives AVX2.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Bytes {
    type Line = (__m256i, __m256i);
    const NIBBLES: bool = false;
    #[inline(always)]
    unsafe fn line(codes: __m256i) -> (__m256i, __m256i) {
        unsafe {
            let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            (_mm256_abs_epi8(signed), signed)
        }
    }
    #[inline(always)]
    unsafe fn start(_: *const i32) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn dot(
        sums: __m256i,
        (magnitude, signed): (__m256i, __m256i),
        acts: __m256i,
    ) -> __m256i {
        unsafe {
            let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(acts, signed));
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn finish(sums: __m256i, _: *const i32) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sums) }
    }
}

/// `vpdpbusd` of AVX-VNNI.
pub(super) struct Vnni<const NIBBLES: bool>;

// SAFETY (of every unsafe block in this impl): the trait's contract gives AVX-VNNI and a valid pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const NIBBLES: bool> Dot for Vnni<NIBBLES> {
    type Line = __m256i;
    const NIBBLES: bool = NIBBLES;
    #[inline(always)]
    unsafe fn line(codes: __m256i) -> __m256i {
        codes
    }
    #[inline(always)]
    unsafe fn start(offset: *const i32) -> __m256i {
        unsafe { _mm256_set1_epi32(*offset) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, line: __m256i, acts: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sums, line, acts) }
    }
    #[inline(always)]
    unsafe fn finish(sums: __m256i, _: *const i32) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sums) }
    }
}

/// Lines in two registers.
struct Ymm<D>(PhantomData<D>);

// SAFETY (of every unsafe block in this impl): the trait's contract gives the features, those of `D` among them, and
// valid pointers, which need no alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<D: Dot> IntLanes for Ymm<D> {
    type Line = (D::Line, D::Line);
    type Acts = __m256i;
    type Sums = (__m256i, __m256i);
    type F = Avx2;
    const NIBBLES: bool = D::NIBBLES;
    const ROLLED: bool = true;

    #[inline(always)]
    unsafe fn codes(line: *const u8) -> Self::Line {
        unsafe {
            let a = _mm256_loadu_si256(line.cast());
            let b = _mm256_loadu_si256(line.add(32).cast());
            (D::line(a), D::line(b))
        }
    }
    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> (Self::Line, Self::Line) {
        unsafe {
            let mask = _mm256_set1_epi8(15);
            let a = _mm256_loadu_si256(line.cast());
            let b = _mm256_loadu_si256(line.add(32).cast());
            let low = (_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
            let (a, b) = (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b));
            let high = (_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
            (
                (D::line(low.0), D::line(low.1)),
                (D::line(high.0), D::line(high.1)),
            )
        }
    }
    #[inline(always)]
    unsafe fn acts(q: *const i8) -> __m256i {
        unsafe { _mm256_set1_epi32(q.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn start(offset: *const i32) -> Self::Sums {
        unsafe { (D::start(offset), D::start(offset)) }
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, line: Self::Line, acts: __m256i) -> Self::Sums {
        unsafe { (D::dot(sums.0, line.0, acts), D::dot(sums.1, line.1, acts)) }
    }
    #[inline(always)]
    unsafe fn finish(sums: Self::Sums, offset: *const i32) -> Avx2 {
        unsafe { Avx2(D::finish(sums.0, offset), D::finish(sums.1, offset)) }
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plain<D: Dot, const P: usize, const T: usize>(a: &IntTile) {
    // SAFETY: the caller's promise; the features include those of `D`, which is Nibbles or Bytes.
    unsafe { tile::<Ymm<D>, P, T>(a) }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn vnni<const NIBBLES: bool, const P: usize, const T: usize>(a: &IntTile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Ymm<Vnni<NIBBLES>>, P, T>(a) }
}

fn pick_plain<D: Dot>(panels: usize, tokens: usize) -> unsafe fn(&IntTile) {
    pick_tile!(panels, tokens, plain::<D>: 2 x [2], 1 x [1, 2, 3, 4])
}

fn pick_vnni<const NIBBLES: bool>(panels: usize, tokens: usize) -> unsafe fn(&IntTile) {
    pick_tile!(panels, tokens, vnni::<NIBBLES>: 2 x [2], 1 x [1, 2, 3, 4])
}

/// 16 registers: at 1 x 4 there are 8 integer sums, up to 4 registers of codes, an activation and constants; the f32
/// accumulators may lie in memory because they are touched once per block. With one token memory is the limit, and
/// panel after panel is one stream through it: the processor follows that best.
const SHAPES: Shapes = Shapes {
    max_tokens: 4,
    panels: |tokens| if tokens == 2 { 2 } else { 1 },
};

/// # Safety
/// Needs AVX2, FMA, F16C.
pub(super) unsafe fn q8(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, q8::TILE, &SHAPES, pick_plain::<Bytes>) }
}

/// # Safety
/// Needs AVX2, FMA, F16C.
pub(super) unsafe fn q4(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, q4::TILE, &SHAPES, pick_plain::<Nibbles>) }
}

/// # Safety
/// Needs AVX2, FMA, F16C, AVX-VNNI.
pub(super) unsafe fn q8_vnni(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, q8::TILE, &SHAPES, pick_vnni::<false>) }
}

/// # Safety
/// Needs AVX2, FMA, F16C, AVX-VNNI.
pub(super) unsafe fn q4_vnni(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { run(job, q4::TILE, &SHAPES, pick_vnni::<true>) }
}

/// The 256-bit body with the AVX-512 encoding of the same dot product, for CPUs that have it but not AVX-VNNI:
/// what is proven of the body here holds for the table, which differs in the encoding of one instruction.
#[cfg(test)]
pub(crate) mod evex {
    use super::*;

    struct Evex<const NIBBLES: bool>;

    // SAFETY (of every unsafe block in this impl): the trait's contract gives AVX-512 VNNI and VL.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl<const NIBBLES: bool> Dot for Evex<NIBBLES> {
        type Line = __m256i;
        const NIBBLES: bool = NIBBLES;
        #[inline(always)]
        unsafe fn line(codes: __m256i) -> __m256i {
            codes
        }
        #[inline(always)]
        unsafe fn start(offset: *const i32) -> __m256i {
            unsafe { Vnni::<NIBBLES>::start(offset) }
        }
        #[inline(always)]
        unsafe fn dot(sums: __m256i, line: __m256i, acts: __m256i) -> __m256i {
            unsafe { _mm256_dpbusd_epi32(sums, line, acts) }
        }
        #[inline(always)]
        unsafe fn finish(sums: __m256i, offset: *const i32) -> __m256 {
            unsafe { Vnni::<NIBBLES>::finish(sums, offset) }
        }
    }

    /// # Safety
    /// The CPU must have the features named below, beside what [`tile`] demands.
    #[target_feature(enable = "avx2,fma,f16c,avx512vnni,avx512vl")]
    unsafe fn instance<const NIBBLES: bool, const P: usize, const T: usize>(a: &IntTile) {
        // SAFETY: the caller's promise.
        unsafe { tile::<Ymm<Evex<NIBBLES>>, P, T>(a) }
    }

    fn pick<const NIBBLES: bool>(panels: usize, tokens: usize) -> unsafe fn(&IntTile) {
        pick_tile!(panels, tokens, instance::<NIBBLES>: 2 x [2], 1 x [1, 2, 3, 4])
    }

    /// # Safety
    /// Needs AVX2, FMA, F16C, AVX-512 VNNI and VL.
    pub(crate) unsafe fn q8(job: IntJob<'_>) {
        // SAFETY: the caller's promise.
        unsafe { run(job, q8::TILE, &SHAPES, pick::<false>) }
    }

    /// # Safety
    /// Needs AVX2, FMA, F16C, AVX-512 VNNI and VL.
    pub(crate) unsafe fn q4(job: IntJob<'_>) {
        // SAFETY: the caller's promise.
        unsafe { run(job, q4::TILE, &SHAPES, pick::<true>) }
    }
}

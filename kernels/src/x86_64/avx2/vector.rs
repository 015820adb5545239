//! Sixteen lanes in two ymm registers (AVX2, FMA, F16C).

use crate::vector::{LANES, SQRT_HALF_BITS, Vector};
use std::arch::x86_64::*;

/// Lanes 0 to 7 and lanes 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(super) __m256, pub(super) __m256);

/// All ones in the first `n <= 16` lanes.
#[inline(always)]
unsafe fn first(n: usize) -> (__m256i, __m256i) {
    let n = n.min(LANES) as i32;
    // SAFETY: the caller runs on AVX2; no memory is touched.
    unsafe {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        (
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane),
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane),
        )
    }
}

/// `x * 2^n` in two steps of half the exponent: the first is exact, so only the second rounds.
#[inline(always)]
unsafe fn ldexp(x: __m256, n: __m256) -> __m256 {
    // SAFETY: the caller runs on AVX2; no memory is touched.
    unsafe {
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        let bias = _mm256_set1_epi32(127);
        let a = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
        let b = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
        _mm256_mul_ps(
            _mm256_mul_ps(x, _mm256_castsi256_ps(a)),
            _mm256_castsi256_ps(b),
        )
    }
}

/// Mantissa in [sqrt(1/2), sqrt(2)) and exponent.
#[inline(always)]
unsafe fn frexp(x: __m256) -> (__m256, __m256) {
    // SAFETY: the caller runs on AVX2; no memory is touched.
    unsafe {
        let x = _mm256_castps_si256(x);
        let e = _mm256_srai_epi32::<23>(_mm256_sub_epi32(x, _mm256_set1_epi32(SQRT_HALF_BITS)));
        let m = _mm256_sub_epi32(x, _mm256_slli_epi32::<23>(e));
        (_mm256_castsi256_ps(m), _mm256_cvtepi32_ps(e))
    }
}

// SAFETY (of every unsafe block in this impl): the trait's contract gives AVX2, FMA, F16C and valid
// pointers; all memory operations used are the unaligned or the masked ones, and masked-off
// elements are not accessed.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx2 {
    type Mask = (__m256, __m256);
    const WIDE_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        let v = unsafe { _mm256_set1_ps(x) };
        Self(v, v)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize, fill: Self) -> Self {
        unsafe {
            let (m0, m1) = first(n);
            let a = _mm256_maskload_ps(p, m0);
            // The upper half may lie beyond the allocation as a whole: a wrapping address, never
            // accessed when masked.
            let b = _mm256_maskload_ps(p.wrapping_add(8), m1);
            Self(
                _mm256_blendv_ps(fill.0, a, _mm256_castsi256_ps(m0)),
                _mm256_blendv_ps(fill.1, b, _mm256_castsi256_ps(m1)),
            )
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        unsafe {
            let (m0, m1) = first(n);
            _mm256_maskstore_ps(p, m0, self.0);
            _mm256_maskstore_ps(p.wrapping_add(8), m1, self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe {
            Self(
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        unsafe {
            let codes = _mm_loadu_si128(p.cast());
            let high = _mm_unpackhi_epi64(codes, codes);
            Self(
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8) {
        unsafe {
            _mm_storeu_si128(
                p.cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0),
            );
            _mm_storeu_si128(
                p.add(16).cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1),
            );
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, b.0), _mm256_sub_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, b.0), _mm256_div_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe {
            Self(
                _mm256_fmadd_ps(self.0, b.0, c.0),
                _mm256_fmadd_ps(self.1, b.1, c.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn fnma(self, b: Self, c: Self) -> Self {
        unsafe {
            Self(
                _mm256_fnmadd_ps(self.0, b.0, c.0),
                _mm256_fnmadd_ps(self.1, b.1, c.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, b.0), _mm256_min_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Self(
                _mm256_andnot_ps(sign, self.0),
                _mm256_andnot_ps(sign, self.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn or_sign(self, s: Self) -> Self {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Self(
                _mm256_or_ps(self.0, _mm256_and_ps(sign, s.0)),
                _mm256_or_ps(self.1, _mm256_and_ps(sign, s.1)),
            )
        }
    }
    #[inline(always)]
    unsafe fn ldexp(self, n: Self) -> Self {
        unsafe { Self(ldexp(self.0, n.0), ldexp(self.1, n.1)) }
    }
    #[inline(always)]
    unsafe fn frexp(self) -> (Self, Self) {
        unsafe {
            let ((m0, e0), (m1, e1)) = (frexp(self.0), frexp(self.1));
            (Self(m0, m1), Self(e0, e1))
        }
    }

    #[inline(always)]
    unsafe fn gt(self, b: Self) -> Self::Mask {
        unsafe {
            (
                _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, b.0),
                _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, b.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn eq(self, b: Self) -> Self::Mask {
        unsafe {
            (
                _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, b.0),
                _mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, b.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        unsafe {
            Self(
                _mm256_blendv_ps(b.0, a.0, mask.0),
                _mm256_blendv_ps(b.1, a.1, mask.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn bits(mask: Self::Mask) -> u32 {
        unsafe { _mm256_movemask_ps(mask.0) as u32 | (_mm256_movemask_ps(mask.1) as u32) << 8 }
    }
}

crate::generic::with_every_kernel!(
    fill_table! { Avx2, [#[target_feature(enable = "avx2,fma,f16c")]], }
);

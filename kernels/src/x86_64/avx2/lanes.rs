//! 16 f32 in two 256-bit registers.

use std::arch::x86_64::*;

/// Rows 0..8 and rows 8..16.
pub(super) type Pair = (__m256, __m256);

/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn zero() -> Pair {
    // SAFETY: the caller has AVX2.
    unsafe { (_mm256_setzero_ps(), _mm256_setzero_ps()) }
}

/// # Safety
/// Needs AVX2; `p` must be valid for reads of 16 elements.
#[inline(always)]
pub(super) unsafe fn load(p: *const f32) -> Pair {
    // SAFETY: the caller has AVX2 and 16 elements.
    unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
}

/// # Safety
/// Needs AVX2; `p` must be valid for writes of 16 elements.
#[inline(always)]
pub(super) unsafe fn store(p: *mut f32, v: Pair) {
    // SAFETY: the caller has AVX2 and 16 elements.
    unsafe {
        _mm256_storeu_ps(p, v.0);
        _mm256_storeu_ps(p.add(8), v.1);
    }
}

/// # Safety
/// Needs AVX2; `p` must be valid for reads.
#[inline(always)]
pub(super) unsafe fn splat(p: *const f32) -> Pair {
    // SAFETY: the caller has AVX2 and an element.
    unsafe {
        let v = _mm256_broadcast_ss(&*p);
        (v, v)
    }
}

/// # Safety
/// Needs AVX2.
#[inline(always)]
pub(super) unsafe fn mul(a: Pair, b: Pair) -> Pair {
    // SAFETY: the caller has AVX2.
    unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
}

/// # Safety
/// Needs FMA.
#[inline(always)]
pub(super) unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
    // SAFETY: the caller has FMA.
    unsafe {
        (
            _mm256_fmadd_ps(a.0, b.0, c.0),
            _mm256_fmadd_ps(a.1, b.1, c.1),
        )
    }
}

/// 16 f16, widened.
///
/// # Safety
/// Needs F16C; `p` must be valid for reads of 32 bytes.
#[inline(always)]
pub(super) unsafe fn widen_f16(p: *const u8) -> Pair {
    // SAFETY: the caller has F16C and 32 bytes.
    unsafe {
        (
            _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast())),
        )
    }
}

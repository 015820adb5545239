//! int8 activations.

use std::arch::x86_64::*;

use crate::BLOCK;
use crate::matmul::{TINY, quantize_scalar};

/// [`crate::Kernels::quantize_acts`].
///
/// # Safety
/// Needs the features of the table; lengths as checked there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let whole = x.len() / BLOCK;
    for (b, (x, codes)) in x
        .chunks_exact(BLOCK)
        .zip(q.chunks_exact_mut(BLOCK))
        .enumerate()
    {
        // SAFETY: both chunks hold 32 elements.
        let (low, high) = unsafe {
            (
                _mm512_loadu_ps(x.as_ptr()),
                _mm512_loadu_ps(x.as_ptr().add(16)),
            )
        };
        let bits = _mm512_max_epu32(
            _mm512_castps_si512(_mm512_abs_ps(low)),
            _mm512_castps_si512(_mm512_abs_ps(high)),
        );
        let amax = f32::from_bits(_mm512_reduce_max_epu32(bits));
        let (scale, inverse) = match amax {
            _ if !amax.is_finite() => (f32::NAN, 0.0),
            _ if amax < TINY => (0.0, 0.0),
            _ => (amax / 127.0, 127.0 / amax),
        };
        // A zero inverse leaves zeros, except where x is not finite: then the mask does.
        let keep = if inverse == 0.0 { 0 } else { !0 };
        let inverse = _mm512_set1_ps(inverse);
        // Conversion rounds half to even; |x * inverse| is at most 127 plus rounding, so it never saturates.
        let low = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(low, inverse));
        let high = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(high, inverse));
        sums[b] = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
        scales[b] = scale;
        // SAFETY: both chunks hold 32 elements.
        unsafe {
            _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(low));
            _mm_storeu_si128(
                codes.as_mut_ptr().add(16).cast(),
                _mm512_cvtsepi32_epi8(high),
            );
        }
    }
    quantize_scalar(
        &x[whole * BLOCK..],
        &mut q[whole * BLOCK..],
        &mut scales[whole..],
        &mut sums[whole..],
    );
}

/// Sums of 16 codes each.
///
/// # Safety
/// Needs the features of the table; there are 16 codes for every sum, a multiple of 64 in all.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn half_sums(q: &[i8], sums: &mut [i32]) {
    let flip = _mm512_set1_epi8(-128);
    let even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    for (q, sums) in q.chunks_exact(64).zip(sums.chunks_exact_mut(4)) {
        // SAFETY: the chunk holds 64 codes.
        let codes = unsafe { _mm512_loadu_si512(q.as_ptr().cast()) };
        // Unsigned, 128 too large each; sums of eight in 64 bits.
        let eights = _mm512_sad_epu8(_mm512_xor_si512(codes, flip), _mm512_setzero_si512());
        let both = _mm512_add_epi64(eights, _mm512_shuffle_epi32::<0b01_00_11_10>(eights));
        let both = _mm512_sub_epi64(both, _mm512_set1_epi64(16 * 128));
        let four = _mm256_permutevar8x32_epi32(_mm512_cvtepi64_epi32(both), even);
        // SAFETY: the chunk holds four sums.
        unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast(), _mm256_castsi256_si128(four)) };
    }
}

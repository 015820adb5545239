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

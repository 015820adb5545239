//! int8 activations.

use std::arch::x86_64::*;

use crate::BLOCK;
use crate::matmul::{TINY, quantize_scalar};

/// [`crate::Kernels::quantize_acts`].
///
/// # Safety
/// Needs AVX2; lengths as checked there.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let whole = x.len() / BLOCK;
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    for (b, (x, codes)) in x
        .chunks_exact(BLOCK)
        .zip(q.chunks_exact_mut(BLOCK))
        .enumerate()
    {
        let mut v = [_mm256_setzero_ps(); 4];
        let mut largest = _mm256_setzero_si256();
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: the chunk holds 4 x 8 elements.
            *v = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) };
            largest = _mm256_max_epi32(
                largest,
                _mm256_and_si256(_mm256_castps_si256(*v), magnitude),
            );
        }
        let halves = _mm_max_epi32(
            _mm256_castsi256_si128(largest),
            _mm256_extracti128_si256::<1>(largest),
        );
        let pairs = _mm_max_epi32(halves, _mm_unpackhi_epi64(halves, halves));
        let one = _mm_max_epi32(pairs, _mm_shuffle_epi32::<1>(pairs));
        let amax = f32::from_bits(_mm_cvtsi128_si32(one) as u32);
        let (scale, inverse, keep) = match amax {
            _ if !amax.is_finite() => (f32::NAN, 0.0, 0),
            _ if amax < TINY => (0.0, 0.0, 0),
            _ => (amax / 127.0, 127.0 / amax, -1),
        };
        let (inverse, keep) = (_mm256_set1_ps(inverse), _mm256_set1_epi32(keep));
        let mut codes32 = [_mm256_setzero_si256(); 4];
        for (code, v) in codes32.iter_mut().zip(v) {
            // Conversion rounds half to even; |v * inverse| is at most 127 plus rounding, so no pack below saturates.
            *code = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)), keep);
        }
        let sum = _mm256_add_epi32(
            _mm256_add_epi32(codes32[0], codes32[1]),
            _mm256_add_epi32(codes32[2], codes32[3]),
        );
        let halves = _mm_add_epi32(
            _mm256_castsi256_si128(sum),
            _mm256_extracti128_si256::<1>(sum),
        );
        let pairs = _mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves));
        sums[b] = _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<1>(pairs)));
        scales[b] = scale;
        // Packing works in 128-bit halves; the permutation puts groups of four back in order.
        let packed = _mm256_packs_epi16(
            _mm256_packs_epi32(codes32[0], codes32[1]),
            _mm256_packs_epi32(codes32[2], codes32[3]),
        );
        let ordered =
            _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: the chunk holds 32 elements.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), ordered) };
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
/// Needs AVX2; there are 16 codes for every sum, a multiple of 32 in all.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn half_sums(q: &[i8], sums: &mut [i32]) {
    let flip = _mm256_set1_epi8(-128);
    for (q, sums) in q.chunks_exact(32).zip(sums.chunks_exact_mut(2)) {
        // SAFETY: the chunk holds 32 codes.
        let codes = unsafe { _mm256_loadu_si256(q.as_ptr().cast()) };
        // Unsigned, 128 too large each; sums of eight in 64 bits.
        let eights = _mm256_sad_epu8(_mm256_xor_si256(codes, flip), _mm256_setzero_si256());
        let both = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b01_00_11_10>(eights));
        sums[0] = _mm256_extract_epi32::<0>(both) - 16 * 128;
        sums[1] = _mm256_extract_epi32::<4>(both) - 16 * 128;
    }
}

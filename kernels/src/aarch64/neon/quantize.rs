//! int8 activations.

use std::arch::aarch64::*;

use crate::BLOCK;
use crate::matmul::{TINY, quantize_scalar};

/// [`crate::Kernels::quantize_acts`].
///
/// # Safety
/// Needs NEON; lengths as checked there.
#[target_feature(enable = "neon")]
pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let whole = x.len() / BLOCK;
    for (b, (x, codes)) in x
        .chunks_exact(BLOCK)
        .zip(q.chunks_exact_mut(BLOCK))
        .enumerate()
    {
        let mut v = [vdupq_n_f32(0.0); 8];
        // Magnitudes order like their bits, with infinity and NaN on top.
        let mut largest = vdupq_n_u32(0);
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: the chunk holds 8 x 4 elements.
            *v = unsafe { vld1q_f32(x.as_ptr().add(4 * i)) };
            largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(*v)));
        }
        let amax = f32::from_bits(vmaxvq_u32(largest));
        let (scale, inverse, keep) = match amax {
            _ if !amax.is_finite() => (f32::NAN, 0.0, 0),
            _ if amax < TINY => (0.0, 0.0, 0),
            _ => (amax / 127.0, 127.0 / amax, -1),
        };
        let (inverse, keep) = (vdupq_n_f32(inverse), vdupq_n_s32(keep));
        let mut sum = vdupq_n_s32(0);
        let mut halves = [vdup_n_s16(0); 8];
        for (half, v) in halves.iter_mut().zip(v) {
            // Conversion rounds half to even; |v * inverse| is at most 127 plus rounding, so nothing saturates below.
            let code = vandq_s32(vcvtnq_s32_f32(vmulq_f32(v, inverse)), keep);
            sum = vaddq_s32(sum, code);
            *half = vqmovn_s32(code);
        }
        sums[b] = vaddvq_s32(sum);
        scales[b] = scale;
        for (i, four) in halves.chunks_exact(2).enumerate() {
            let eight = vqmovn_s16(vcombine_s16(four[0], four[1]));
            // SAFETY: the chunk holds 4 x 8 elements.
            unsafe { vst1_s8(codes.as_mut_ptr().add(8 * i), eight) };
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
/// Needs NEON; there are 16 codes for every sum.
#[target_feature(enable = "neon")]
pub(super) unsafe fn half_sums(q: &[i8], sums: &mut [i32]) {
    for (q, sum) in q.chunks_exact(16).zip(sums) {
        // SAFETY: the chunk holds 16 codes.
        *sum = i32::from(vaddlvq_s8(unsafe { vld1q_s8(q.as_ptr()) }));
    }
}

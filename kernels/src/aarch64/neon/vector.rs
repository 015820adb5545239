//! Sixteen lanes in four q registers (NEON, which every AArch64 CPU has).
//!
//! Conversions from and to f16 are inline assembly: their intrinsics need a type that is not stable in Rust.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::vector::{LANES, SQRT_HALF_BITS, Vector};

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(super) [float32x4_t; 4]);

/// `x * 2^n` in two steps of half the exponent: the first is exact, so only the second rounds.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn ldexp(x: float32x4_t, n: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise; no memory is touched.
    unsafe {
        let n = vcvtnq_s32_f32(n);
        let half = vshrq_n_s32::<1>(n);
        let bias = vdupq_n_s32(127);
        let a = vshlq_n_s32::<23>(vaddq_s32(half, bias));
        let b = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias));
        vmulq_f32(
            vmulq_f32(x, vreinterpretq_f32_s32(a)),
            vreinterpretq_f32_s32(b),
        )
    }
}

/// Mantissa in [sqrt(1/2), sqrt(2)) and exponent.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn frexp(x: float32x4_t) -> (float32x4_t, float32x4_t) {
    // SAFETY: the caller's promise; no memory is touched.
    unsafe {
        let x = vreinterpretq_s32_f32(x);
        let e = vshrq_n_s32::<23>(vsubq_s32(x, vdupq_n_s32(SQRT_HALF_BITS)));
        let m = vsubq_s32(x, vshlq_n_s32::<23>(e));
        (vreinterpretq_f32_s32(m), vcvtq_f32_s32(e))
    }
}

/// Eight f16 as f32.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn widen(halves: uint16x8_t) -> (float32x4_t, float32x4_t) {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: instructions of NEON that touch registers only.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    (low, high)
}

/// Eight f32 as f16, rounded to nearest even.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn narrow(low: float32x4_t, high: float32x4_t) -> uint16x8_t {
    let halves: uint16x8_t;
    // SAFETY: instructions of NEON that touch registers only.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {low:v}.4s",
            "fcvtn2 {halves:v}.8h, {high:v}.4s",
            low = in(vreg) low,
            high = in(vreg) high,
            halves = out(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

// SAFETY (of every unsafe block in this impl): the trait's contract gives NEON and valid pointers, which need no alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Neon {
    type Mask = [uint32x4_t; 4];
    const WIDE_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([unsafe { vdupq_n_f32(x) }; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(unsafe { each!(i => vld1q_f32(p.add(4 * i))) })
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize, fill: Self) -> Self {
        unsafe {
            let mut lanes = fill.to_array();
            p.copy_to_nonoverlapping(lanes.as_mut_ptr(), n.min(LANES));
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        for (i, quad) in self.0.into_iter().enumerate() {
            unsafe { vst1q_f32(p.add(4 * i), quad) }
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        unsafe {
            let lanes = self.to_array();
            p.copy_from_nonoverlapping(lanes.as_ptr(), n.min(LANES));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe {
            let (a, b) = widen(vreinterpretq_u16_u8(vld1q_u8(p)));
            let (c, d) = widen(vreinterpretq_u16_u8(vld1q_u8(p.add(16))));
            Self([a, b, c, d])
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8) {
        let [a, b, c, d] = self.0;
        unsafe {
            vst1q_u8(p, vreinterpretq_u8_u16(narrow(a, b)));
            vst1q_u8(p.add(16), vreinterpretq_u8_u16(narrow(c, d)));
        }
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // A hint: it faults at no address.
        unsafe {
            asm!("prfm pldl2keep, [{}]", in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Self(unsafe { each!(i => vaddq_f32(self.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Self(unsafe { each!(i => vsubq_f32(self.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Self(unsafe { each!(i => vmulq_f32(self.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        Self(unsafe { each!(i => vdivq_f32(self.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(unsafe { each!(i => vfmaq_f32(c.0[i], self.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn fnma(self, b: Self, c: Self) -> Self {
        Self(unsafe { each!(i => vfmsq_f32(c.0[i], self.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        // The instruction of that name makes NaN of a NaN on either side, and orders zeros.
        unsafe { Self::select(self.gt(b), self, b) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Self::select(b.gt(self), self, b) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(unsafe { each!(i => vabsq_f32(self.0[i])) })
    }
    #[inline(always)]
    unsafe fn or_sign(self, s: Self) -> Self {
        Self(unsafe {
            each!(i => {let sign = vandq_u32(vreinterpretq_u32_f32(s.0[i]), vdupq_n_u32(1 << 31));
            vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(self.0[i]), sign))})
        })
    }
    #[inline(always)]
    unsafe fn ldexp(self, n: Self) -> Self {
        Self(unsafe { each!(i => ldexp(self.0[i], n.0[i])) })
    }
    #[inline(always)]
    unsafe fn frexp(self) -> (Self, Self) {
        let [a, b, c, d] = unsafe { each!(i => frexp(self.0[i])) };
        (Self([a.0, b.0, c.0, d.0]), Self([a.1, b.1, c.1, d.1]))
    }

    #[inline(always)]
    unsafe fn gt(self, b: Self) -> Self::Mask {
        unsafe { each!(i => vcgtq_f32(self.0[i], b.0[i])) }
    }
    #[inline(always)]
    unsafe fn eq(self, b: Self) -> Self::Mask {
        unsafe { each!(i => vceqq_f32(self.0[i], b.0[i])) }
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        Self(unsafe { each!(i => vbslq_f32(mask[i], a.0[i], b.0[i])) })
    }
    #[inline(always)]
    unsafe fn bits(mask: Self::Mask) -> u32 {
        unsafe {
            let place = vld1q_u32([1, 2, 4, 8].as_ptr());
            let [a, b, c, d] = each!(i => vaddvq_u32(vandq_u32(mask[i], place)));
            a | b << 4 | c << 8 | d << 12
        }
    }
}

crate::generic::with_every_kernel!(fill_table! { Neon, [#[target_feature(enable = "neon")]], });

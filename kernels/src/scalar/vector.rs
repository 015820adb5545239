//! Sixteen lanes as an array: the reference that the SIMD groups must equal.
//!
//! `f32::mul_add` is a fused multiply-add with and without hardware support; without it the
//! compiler calls a function that is exact but slow.

use crate::vector::{LANES, SQRT_HALF_BITS, Vector};
use half::f16;

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; LANES]);

impl Scalar {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Scalar(std::array::from_fn(|i| f(self.0[i])))
    }
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Scalar(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

/// `2^n` for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

impl Vector for Scalar {
    type Mask = [bool; LANES];
    const WIDE_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Scalar([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for 16 floats; the read is unaligned.
        Scalar(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize, fill: Self) -> Self {
        let mut v = fill;
        for i in 0..n.min(LANES) {
            // SAFETY: the caller vouches for n floats.
            v.0[i] = unsafe { p.add(i).read_unaligned() };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for 16 floats; the write is unaligned.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize) {
        for i in 0..n.min(LANES) {
            // SAFETY: the caller vouches for n floats.
            unsafe { p.add(i).write_unaligned(self.0[i]) };
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes; the read is unaligned.
        let h = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        Scalar(h.map(|b| f16::from_bits(b).to_f32()))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8) {
        let h = self.0.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: the caller vouches for 32 bytes; the write is unaligned.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(h) }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.zip(b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.zip(b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Scalar(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn fnma(self, b: Self, c: Self) -> Self {
        Scalar(std::array::from_fn(|i| {
            (-self.0[i]).mul_add(b.0[i], c.0[i])
        }))
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.zip(b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        self.zip(b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        self.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn or_sign(self, sign: Self) -> Self {
        self.zip(sign, |x, s| {
            f32::from_bits(x.to_bits() | (s.to_bits() & 0x8000_0000))
        })
    }
    #[inline(always)]
    unsafe fn ldexp(self, n: Self) -> Self {
        // In two steps of half the exponent: the first is exact, so only the second rounds.
        // Clamping makes a NaN harmless.
        self.zip(n, |x, n| {
            let n = (n as i32).clamp(-150, 128);
            let half = n >> 1;
            x * power_of_two(half) * power_of_two(n - half)
        })
    }
    #[inline(always)]
    unsafe fn frexp(self) -> (Self, Self) {
        let e: [i32; LANES] = std::array::from_fn(|i| {
            (self.0[i].to_bits() as i32).wrapping_sub(SQRT_HALF_BITS) >> 23
        });
        let m = std::array::from_fn(|i| {
            f32::from_bits((self.0[i].to_bits() as i32).wrapping_sub(e[i] << 23) as u32)
        });
        (Scalar(m), Scalar(e.map(|e| e as f32)))
    }

    #[inline(always)]
    unsafe fn gt(self, b: Self) -> Self::Mask {
        std::array::from_fn(|i| self.0[i] > b.0[i])
    }
    #[inline(always)]
    unsafe fn eq(self, b: Self) -> Self::Mask {
        std::array::from_fn(|i| self.0[i] == b.0[i])
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        Scalar(std::array::from_fn(
            |i| if mask[i] { a.0[i] } else { b.0[i] },
        ))
    }
    #[inline(always)]
    unsafe fn bits(mask: Self::Mask) -> u32 {
        (0..LANES).fold(0, |bits, i| bits | (mask[i] as u32) << i)
    }
}

crate::generic::with_every_kernel!(fill_table! { Scalar, [], });

//! The view of one instruction set that the generic kernels are written against: a group of 16 f32
//! lanes.
//!
//! One group is one zmm register, two ymm registers or an array of 16 floats; it is the same 16
//! elements of a slice in every case, so a body written over [`Vector`] does the same operations on
//! the same operands in the same order on every machine. Each method is one IEEE-754 operation per
//! lane, rounded to nearest even, or a move of bits; there is no approximate reciprocal and nothing
//! that may be contracted. Results are therefore equal bit for bit, with one exception that
//! IEEE-754 leaves open: which NaN comes out of an operation on NaNs. A NaN is a NaN on every ISA;
//! its sign and payload are not part of the contract.

/// Lanes of a group. Strided sums use as many partial sums, on every ISA.
pub(crate) const LANES: usize = 16;

/// The float bits of sqrt(1/2), rounded up: where `frexp` cuts.
pub(crate) const SQRT_HALF_BITS: i32 = 0x3f35_04f4;

/// Sixteen f32 lanes.
///
/// # Safety
///
/// Every method may be called only on a CPU with the features of the implementing type, and only in
/// code that is compiled with them once inlined: callers are `#[inline(always)]` up to a
/// `#[target_feature]` function. Methods that take pointers need them valid for the number of
/// elements they state; no alignment is required.
pub(crate) trait Vector: Copy {
    /// One truth value per lane.
    type Mask: Copy;

    /// Whether there are registers for 16 groups and more at a time. Decides how many independent
    /// results the attention kernels compute side by side, which shows in the speed only.
    const WIDE_REGISTERS: bool;

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self;
    /// Reads 16 floats.
    unsafe fn load(p: *const f32) -> Self;
    /// Reads `n <= 16` floats into the first lanes, the others are those of `fill`; touches no
    /// memory beyond.
    unsafe fn load_partial(p: *const f32, n: usize, fill: Self) -> Self;
    /// Writes 16 floats.
    unsafe fn store(self, p: *mut f32);
    /// Writes the first `n <= 16` lanes; touches no memory beyond.
    unsafe fn store_partial(self, p: *mut f32, n: usize);
    /// Reads 16 binary16 values and widens them, exactly; a signalling NaN becomes quiet.
    unsafe fn load_f16(p: *const u8) -> Self;
    /// Rounds to binary16, to nearest even, overflow to infinity, and writes 32 bytes.
    unsafe fn store_f16(self, p: *mut u8);

    /// Reads 16 signed bytes and widens them, exactly.
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: the caller's contract; the array holds 16 floats.
        unsafe {
            let a: [f32; LANES] = std::array::from_fn(|i| f32::from(*p.add(i)));
            Self::load(a.as_ptr())
        }
    }

    /// Asks for the cache line at `p`, which may be any address, mapped or not, to be in the second-level cache. Not in the first:
    /// that holds one of the few places where a core keeps what it waits for, until the line is there.
    unsafe fn prefetch(p: *const u8);

    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `self * b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// `self / b`.
    unsafe fn div(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// `c - self * b`, rounded once.
    unsafe fn fnma(self, b: Self, c: Self) -> Self;
    /// `self > b ? self : b`: where one is a NaN, and where both are zeros, the result is `b`.
    unsafe fn max(self, b: Self) -> Self;
    /// `self < b ? self : b`: where one is a NaN, and where both are zeros, the result is `b`.
    unsafe fn min(self, b: Self) -> Self;
    /// Clears the sign bit.
    unsafe fn abs(self) -> Self;
    /// Sets the sign bit where that of `sign` is set.
    unsafe fn or_sign(self, sign: Self) -> Self;
    /// `self * 2^n`, rounded once; `n` holds integers in -150..=128 and |self| lies in [0.5, 2] or
    /// is a NaN.
    unsafe fn ldexp(self, n: Self) -> Self;
    /// For positive normal lanes: `(m, e)` with `self = m * 2^e` and m in [sqrt(1/2), sqrt(2));
    /// anything for other lanes.
    unsafe fn frexp(self) -> (Self, Self);

    /// `self > b`, false on NaN.
    unsafe fn gt(self, b: Self) -> Self::Mask;
    /// `self == b`, false on NaN.
    unsafe fn eq(self, b: Self) -> Self::Mask;
    /// `mask ? a : b`.
    unsafe fn select(mask: Self::Mask, a: Self, b: Self) -> Self;
    /// Bit i is lane i.
    unsafe fn bits(mask: Self::Mask) -> u32;

    /// The lanes in order.
    #[inline(always)]
    unsafe fn to_array(self) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        // SAFETY: the array holds 16 floats.
        unsafe { self.store(a.as_mut_ptr()) };
        a
    }

    /// The sum of the lanes by the fixed tree: lanes i and i+8, then i and i+4, i and i+2, 0 and 1.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's contract.
        let a = unsafe { self.to_array() };
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }

    /// The greatest lane; no lane may be a NaN.
    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        // SAFETY: the caller's contract.
        let a = unsafe { self.to_array() };
        a.into_iter()
            .fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
}

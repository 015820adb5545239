//! Sums of products of codes and activations in three ways: with what every AArch64 CPU has, with the dot product of four bytes (`sdot`), and
//! with the product of two rows and two tokens of eight bytes (`usmmla`).
//!
//! The last two are inline assembly: their intrinsics are not stable in Rust.

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use super::vector::Neon;
use crate::gemm::blocks::range;

/// What [`crate::gemm::blocks::Lanes`] asks for under the same names, of which this is a part.
///
/// # Safety
/// Every function needs the features of the implementation, and valid pointers.
pub(super) trait Dot {
    const TOKENS: usize;
    type Acts: Copy;
    type Sums: Copy;
    unsafe fn acts(q: *const i8, next: *const i8, at: (usize, usize)) -> Self::Acts;
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> Self::Sums;
    unsafe fn dot<const RANGE: u8>(
        sums: Self::Sums,
        lines: ([uint8x16_t; 4], [uint8x16_t; 4]),
        acts: Self::Acts,
    ) -> Self::Sums;
    unsafe fn finish<const RANGE: u8>(sums: Self::Sums, token: usize) -> Neon;
}

/// Four rows at a time: a register holds four codes of each, and another four sums.
pub(super) trait Quad {
    /// Adds the products of signed codes and activations.
    ///
    /// # Safety
    /// Needs the features of the implementation.
    unsafe fn add(sums: int32x4_t, codes: int8x16_t, acts: int8x16_t) -> int32x4_t;
}

/// `smull` and additions in pairs. Codes are at least -128 and activations at most 127 in magnitude, so two products are at most
/// 2 * 128 * 127 = 32512, and 16 bits hold them.
pub(super) struct Plain;

impl Quad for Plain {
    #[inline(always)]
    unsafe fn add(sums: int32x4_t, codes: int8x16_t, acts: int8x16_t) -> int32x4_t {
        // SAFETY: the trait's contract.
        unsafe {
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(acts));
            vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(codes, acts)))
        }
    }
}

/// `sdot`.
pub(super) struct Dotprod;

impl Quad for Dotprod {
    #[inline(always)]
    unsafe fn add(mut sums: int32x4_t, codes: int8x16_t, acts: int8x16_t) -> int32x4_t {
        // SAFETY: the trait's contract; registers only.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {codes:v}.16b, {acts:v}.16b",
                sums = inout(vreg) sums,
                codes = in(vreg) codes,
                acts = in(vreg) acts,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// Four activations.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn four(q: *const i8, at: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { q.add(at).cast::<i32>().read_unaligned() }
}

/// One token at a time. Codes become signed: those of bytes less 128, which is what they stand for, so that they need no offset.
pub(super) struct Alone<M>(PhantomData<M>);

/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn signed<const RANGE: u8>(line: [uint8x16_t; 4]) -> [int8x16_t; 4] {
    // SAFETY: the caller's promise; no memory is touched.
    unsafe {
        match RANGE {
            range::BYTE => each!(i => vreinterpretq_s8_u8(veorq_u8(line[i], vdupq_n_u8(128)))),
            _ => each!(i => vreinterpretq_s8_u8(line[i])),
        }
    }
}

// SAFETY (of every unsafe block in this impl): the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<M: Quad> Dot for Alone<M> {
    const TOKENS: usize = 1;
    type Acts = (int8x16_t, int8x16_t);
    type Sums = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn acts(q: *const i8, _: *const i8, at: (usize, usize)) -> Self::Acts {
        unsafe {
            let (x, y) = (vdupq_n_s32(four(q, at.0)), vdupq_n_s32(four(q, at.1)));
            (vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y))
        }
    }
    #[inline(always)]
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> Self::Sums {
        unsafe {
            [match offsets {
                Some((offset, _)) if RANGE != range::BYTE => vdupq_n_s32(*offset),
                _ => vdupq_n_s32(0),
            }; 4]
        }
    }
    #[inline(always)]
    unsafe fn dot<const RANGE: u8>(
        sums: Self::Sums,
        (a, b): ([uint8x16_t; 4], [uint8x16_t; 4]),
        (x, y): Self::Acts,
    ) -> Self::Sums {
        unsafe {
            let (a, b) = (signed::<RANGE>(a), signed::<RANGE>(b));
            each!(i => M::add(M::add(sums[i], a[i], x), b[i], y))
        }
    }
    #[inline(always)]
    unsafe fn finish<const RANGE: u8>(sums: Self::Sums, _: usize) -> Neon {
        Neon(unsafe { each!(i => vcvtq_f32_s32(sums[i])) })
    }
}

/// `usmmla`, two tokens at a time: eight registers of sums, each `[ r t0 | r t1 | r+1 t0 | r+1 t1 ]` with r even.
pub(super) struct Paired;

/// Adds the products of two rows and two tokens, eight columns of each.
///
/// # Safety
/// Needs i8mm.
#[inline(always)]
unsafe fn usmmla(mut sums: int32x4_t, codes: uint32x4_t, acts: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; registers only.
    unsafe {
        asm!(
            "usmmla {sums:v}.4s, {codes:v}.16b, {acts:v}.16b",
            sums = inout(vreg) sums,
            codes = in(vreg) codes,
            acts = in(vreg) acts,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

// SAFETY (of every unsafe block in this impl): the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Paired {
    const TOKENS: usize = 2;
    type Acts = int8x16_t;
    type Sums = [int32x4_t; 8];

    #[inline(always)]
    unsafe fn acts(q: *const i8, next: *const i8, (a, b): (usize, usize)) -> int8x16_t {
        unsafe {
            let low = vset_lane_s32::<1>(four(q, b), vdup_n_s32(four(q, a)));
            let high = vset_lane_s32::<1>(four(next, b), vdup_n_s32(four(next, a)));
            vreinterpretq_s8_s32(vcombine_s32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> Self::Sums {
        unsafe {
            [match offsets {
                Some((a, b)) => {
                    let both = vset_lane_s32::<1>(*b, vdup_n_s32(*a));
                    vcombine_s32(both, both)
                }
                None => vdupq_n_s32(0),
            }; 8]
        }
    }
    #[inline(always)]
    unsafe fn dot<const RANGE: u8>(
        sums: Self::Sums,
        (a, b): ([uint8x16_t; 4], [uint8x16_t; 4]),
        acts: int8x16_t,
    ) -> Self::Sums {
        unsafe {
            let mut out = sums;
            for i in 0..4 {
                // Four bytes of a row in one line beside those in the other: the first two rows of four, then the last two.
                let a = vreinterpretq_u32_u8(a[i]);
                let b = vreinterpretq_u32_u8(b[i]);
                out[2 * i] = usmmla(sums[2 * i], vzip1q_u32(a, b), acts);
                out[2 * i + 1] = usmmla(sums[2 * i + 1], vzip2q_u32(a, b), acts);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn finish<const RANGE: u8>(sums: Self::Sums, token: usize) -> Neon {
        unsafe {
            Neon(match token {
                0 => each!(i => vcvtq_f32_s32(vuzp1q_s32(sums[2 * i], sums[2 * i + 1]))),
                _ => each!(i => vcvtq_f32_s32(vuzp2q_s32(sums[2 * i], sums[2 * i + 1]))),
            })
        }
    }
}

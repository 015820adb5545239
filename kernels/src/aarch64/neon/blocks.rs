//! The formats of blocks in quarters of a line; generic over how products are added ([`Dot`]).

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::dot::{Alone, Dot, Dotprod, Paired, Plain};
use super::vector::Neon;
use crate::formats::blocks::{Blocks, subs};
use crate::gemm::Shapes;
use crate::gemm::blocks::{
    Decode, Instances, Lanes, Layout, Packed, Pick, Source, Strip, Strips, Tile, decode, range,
    run, tile,
};
use crate::matmul::IntJob;

/// Lines in four registers.
pub(super) struct Line<D>(PhantomData<D>);

/// All four.
type Bytes = [uint8x16_t; 4];
type Words = [uint32x4_t; 4];

// SAFETY (of every unsafe block in this impl): the trait's contract gives NEON and the features of `D`, and valid pointers,
// which need no alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<D: Dot> Lanes for Line<D> {
    type Raw = Bytes;
    type Line = Bytes;
    type Acts = D::Acts;
    type Sums = D::Sums;
    type Ints = Words;
    type F = Neon;
    const ROLLED: bool = true;
    const TOKENS: usize = D::TOKENS;

    #[inline(always)]
    unsafe fn load(line: *const u8) -> Bytes {
        unsafe { each!(i => vld1q_u8(line.add(16 * i))) }
    }
    #[inline(always)]
    unsafe fn store(raw: Bytes, line: *mut u8) {
        for (i, quarter) in raw.into_iter().enumerate() {
            unsafe { vst1q_u8(line.add(16 * i), quarter) }
        }
    }
    #[inline(always)]
    unsafe fn and(raw: Bytes, mask: u8) -> Bytes {
        unsafe { each!(i => vandq_u8(raw[i], vdupq_n_u8(mask))) }
    }
    #[inline(always)]
    unsafe fn or(a: Bytes, b: Bytes) -> Bytes {
        unsafe { each!(i => vorrq_u8(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn shift(raw: Bytes, by: i32) -> Bytes {
        // An immediate, once `by` is known.
        unsafe { each!(i => vshlq_u8(raw[i], vdupq_n_s8(by as i8))) }
    }
    #[inline(always)]
    unsafe fn down(raw: Bytes, by: usize) -> Bytes {
        unsafe { each!(i => vshlq_u8(raw[i], vdupq_n_s8(-(by as i8)))) }
    }
    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], raw: Bytes) -> Bytes {
        unsafe { each!(i => vqtbl1q_u8(vld1q_u8(table.as_ptr()), raw[i])) }
    }

    #[inline(always)]
    unsafe fn line<const RANGE: u8>(raw: Bytes) -> Bytes {
        raw
    }
    #[inline(always)]
    unsafe fn acts(q: *const i8, next: *const i8, at: (usize, usize)) -> D::Acts {
        unsafe { D::acts(q, next, at) }
    }
    #[inline(always)]
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> D::Sums {
        unsafe { D::start::<RANGE>(offsets) }
    }
    #[inline(always)]
    unsafe fn dot<const RANGE: u8>(sums: D::Sums, lines: (Bytes, Bytes), acts: D::Acts) -> D::Sums {
        unsafe { D::dot::<RANGE>(sums, lines, acts) }
    }
    #[inline(always)]
    unsafe fn finish<const RANGE: u8>(sums: D::Sums, token: usize, _: Option<*const i32>) -> Neon {
        unsafe { D::finish::<RANGE>(sums, token) }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Words {
        unsafe {
            let bytes = vld1q_u8(p);
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn signed(p: *const u8) -> Words {
        unsafe {
            let bytes = vld1q_s8(p.cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let ints = [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ];
            each!(i => vreinterpretq_u32_s32(ints[i]))
        }
    }
    #[inline(always)]
    unsafe fn field(ints: Words, from: usize, width: u32) -> Words {
        unsafe {
            let down = vdupq_n_s32(-(from as i32));
            let mask = vdupq_n_u32((1 << width) - 1);
            each!(i => vandq_u32(vshlq_u32(ints[i], down), mask))
        }
    }
    #[inline(always)]
    unsafe fn up(ints: Words, by: u32) -> Words {
        unsafe { each!(i => vshlq_u32(ints[i], vdupq_n_s32(by as i32))) }
    }
    #[inline(always)]
    unsafe fn add(a: Words, b: Words) -> Words {
        unsafe { each!(i => vaddq_u32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn plus(ints: Words, constant: i32) -> Words {
        unsafe { each!(i => vaddq_u32(ints[i], vdupq_n_u32(constant as u32))) }
    }
    #[inline(always)]
    unsafe fn float(ints: Words) -> Neon {
        Neon(unsafe { each!(i => vcvtq_f32_s32(vreinterpretq_s32_u32(ints[i]))) })
    }
    #[inline(always)]
    unsafe fn as_float(ints: Words) -> Neon {
        Neon(unsafe { each!(i => vreinterpretq_f32_u32(ints[i])) })
    }
}

/// The instances of one set of features.
pub(super) trait Instance: Dot + Sized {
    /// # Safety
    /// The CPU must have the features, beside what [`tile`] demands.
    unsafe fn tile<S: Source<Line<Self>>, const P: usize, const T: usize>(a: &Tile);
}

macro_rules! instance {
    ($dot:ty, $features:literal) => {
        impl Instance for $dot {
            #[target_feature(enable = $features)]
            unsafe fn tile<S: Source<Line<Self>>, const P: usize, const T: usize>(a: &Tile) {
                // SAFETY: the caller's promise.
                unsafe { tile::<Line<Self>, S, P, T>(a) }
            }
        }
    };
}

instance!(Alone<Plain>, "neon");
instance!(Alone<Dotprod>, "neon,dotprod");
instance!(Paired, "neon,dotprod,i8mm");

/// # Safety
/// Needs NEON, beside what [`decode`] demands.
#[target_feature(enable = "neon")]
unsafe fn decode_panel<B: Blocks>(a: &Decode) {
    // SAFETY: the caller's promise.
    unsafe { decode::<Line<Alone<Plain>>, B>(a) }
}

/// A table: how it adds products for one token, and for more.
pub(super) trait Table {
    type One: Instance;
    type More: Instance;
}

/// Every AArch64 CPU.
pub(super) struct Base;
/// With `sdot`.
pub(super) struct WithDot;
/// With `sdot` and `usmmla`.
pub(super) struct WithMatrix;

impl Table for Base {
    type One = Alone<Plain>;
    type More = Alone<Plain>;
}
impl Table for WithDot {
    type One = Alone<Dotprod>;
    type More = Alone<Dotprod>;
}
impl Table for WithMatrix {
    type One = Alone<Dotprod>;
    type More = Paired;
}

fn pick_packed<K: Table, S: Source<Line<K::One>> + Source<Line<K::More>>>(
    panels: usize,
    tokens: usize,
) -> unsafe fn(&Tile) {
    match (panels, tokens) {
        (1, 1) => K::One::tile::<S, 1, 1>,
        (1, 2) => K::More::tile::<S, 1, 2>,
        _ => pick_strip::<K, S>(panels, tokens),
    }
}

fn pick_strip<K: Table, S: Source<Line<K::More>>>(
    panels: usize,
    tokens: usize,
) -> unsafe fn(&Tile) {
    match (panels, tokens) {
        (1, 3) => K::More::tile::<S, 1, 3>,
        (1, 4) => K::More::tile::<S, 1, 4>,
        _ => unreachable!("no tile of {panels} panels and {tokens} tokens"),
    }
}

/// 32 registers: at 1 x 4 there are 16 of sums, 8 of codes, and activations.
const SHAPES: Shapes = Shapes {
    max_tokens: 4,
    panels: |_| 1,
};

/// Tokens from which panels are decoded first. It is the number that was measured for AVX2, which has as many bytes of registers and decodes with
/// as many instructions; nobody has measured it on a CPU with NEON.
const STRIP_FROM: usize = 24;

/// # Safety
/// Needs NEON and the features of the table.
pub(super) unsafe fn matmul<K: Table, B: Blocks>(job: IntJob<'_>) {
    const SMALL: u8 = range::SMALL;
    // There are no codes of bytes beside minimums or sub-blocks of 16.
    let strip: Pick = match (subs::<B>(), B::MINS, range::of(B::MOST)) {
        (1, false, range::BYTE) => pick_strip::<K, Strip<1, false, { range::BYTE }>>,
        (1, false, _) => pick_strip::<K, Strip<1, false, SMALL>>,
        (1, true, _) => pick_strip::<K, Strip<1, true, SMALL>>,
        (_, false, _) => pick_strip::<K, Strip<2, false, SMALL>>,
        (_, true, _) => pick_strip::<K, Strip<2, true, SMALL>>,
    };
    let strips = Strips {
        decode: decode_panel::<B>,
        pick: strip,
        shapes: &SHAPES,
        from: STRIP_FROM,
    };
    let instances = Instances {
        packed: pick_packed::<K, Packed<B>>,
        shapes: &SHAPES,
        strips: Some(strips),
    };
    // SAFETY: the caller's promise.
    unsafe { run(job, &Layout::of::<B>(), &instances) }
}

/// The same for a source that is never decoded first.
///
/// # Safety
/// Needs NEON and the features of the table; the layout must be that of the source.
pub(super) unsafe fn matmul_of<K: Table, S: Source<Line<K::One>> + Source<Line<K::More>>>(
    job: IntJob<'_>,
    layout: &Layout,
) {
    let instances = Instances {
        packed: pick_packed::<K, S>,
        shapes: &SHAPES,
        strips: None,
    };
    // SAFETY: the caller's promise.
    unsafe { run(job, layout, &instances) }
}

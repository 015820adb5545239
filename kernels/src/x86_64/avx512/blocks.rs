//! The formats of blocks with `vpdpbusd` on whole lines.

use std::arch::x86_64::*;

use super::vector::Avx512;
use crate::formats::blocks::{Blocks, subs};
use crate::gemm::blocks::{
    Decode, Instances, Lanes, Layout, Packed, Pick, Source, Strip, Strips, Tile, decode, range,
    run, tile,
};
use crate::gemm::{Shapes, pick_tile};
use crate::matmul::IntJob;

/// A line in one register.
struct Zmm;

// SAFETY (of every unsafe block in this impl): the trait's contract gives the features and valid pointers, which
// need no alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Zmm {
    type Raw = __m512i;
    type Line = __m512i;
    type Acts = (__m512i, __m512i);
    type Sums = __m512i;
    type Ints = __m512i;
    type F = Avx512;
    const ROLLED: bool = false;
    const TOKENS: usize = 1;

    #[inline(always)]
    unsafe fn load(line: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(line.cast()) }
    }
    #[inline(always)]
    unsafe fn store(raw: __m512i, line: *mut u8) {
        unsafe { _mm512_storeu_si512(line.cast(), raw) }
    }
    #[inline(always)]
    unsafe fn and(raw: __m512i, mask: u8) -> __m512i {
        unsafe { _mm512_and_si512(raw, _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shift(raw: __m512i, by: i32) -> __m512i {
        // Known when compiled; the arms make immediates of it.
        unsafe {
            match by {
                0 => raw,
                1 => _mm512_slli_epi16::<1>(raw),
                2 => _mm512_slli_epi16::<2>(raw),
                3 => _mm512_slli_epi16::<3>(raw),
                4 => _mm512_slli_epi16::<4>(raw),
                -1 => _mm512_srli_epi16::<1>(raw),
                -2 => _mm512_srli_epi16::<2>(raw),
                -3 => _mm512_srli_epi16::<3>(raw),
                -4 => _mm512_srli_epi16::<4>(raw),
                -5 => _mm512_srli_epi16::<5>(raw),
                -6 => _mm512_srli_epi16::<6>(raw),
                -7 => _mm512_srli_epi16::<7>(raw),
                _ => unreachable!("a field of a byte is moved by {by}"),
            }
        }
    }
    #[inline(always)]
    unsafe fn down(raw: __m512i, by: usize) -> __m512i {
        unsafe { _mm512_srl_epi16(raw, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], raw: __m512i) -> __m512i {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, raw)
        }
    }

    #[inline(always)]
    unsafe fn line<const RANGE: u8>(raw: __m512i) -> __m512i {
        raw
    }
    #[inline(always)]
    unsafe fn acts(q: *const i8, _: *const i8, at: (usize, usize)) -> (__m512i, __m512i) {
        unsafe {
            (
                _mm512_set1_epi32(q.add(at.0).cast::<i32>().read_unaligned()),
                _mm512_set1_epi32(q.add(at.1).cast::<i32>().read_unaligned()),
            )
        }
    }
    #[inline(always)]
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> __m512i {
        unsafe {
            match offsets {
                Some((offset, _)) => _mm512_set1_epi32(*offset),
                None => _mm512_setzero_si512(),
            }
        }
    }
    #[inline(always)]
    unsafe fn dot<const RANGE: u8>(
        sums: __m512i,
        lines: (__m512i, __m512i),
        acts: (__m512i, __m512i),
    ) -> __m512i {
        unsafe {
            let sums = _mm512_dpbusd_epi32(sums, lines.0, acts.0);
            _mm512_dpbusd_epi32(sums, lines.1, acts.1)
        }
    }
    #[inline(always)]
    unsafe fn finish<const RANGE: u8>(sums: __m512i, _: usize, _: Option<*const i32>) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(sums) })
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn signed(p: *const u8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn field(ints: __m512i, from: usize, width: u32) -> __m512i {
        unsafe {
            let low = _mm512_srl_epi32(ints, _mm_cvtsi32_si128(from as i32));
            _mm512_and_si512(low, _mm512_set1_epi32((1 << width) - 1))
        }
    }
    #[inline(always)]
    unsafe fn up(ints: __m512i, by: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(ints, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn plus(ints: __m512i, constant: i32) -> __m512i {
        unsafe { _mm512_add_epi32(ints, _mm512_set1_epi32(constant)) }
    }
    #[inline(always)]
    unsafe fn float(ints: __m512i) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(ints) })
    }
    #[inline(always)]
    unsafe fn as_float(ints: __m512i) -> Avx512 {
        Avx512(unsafe { _mm512_castsi512_ps(ints) })
    }
}

/// # Safety
/// The CPU must have the features named below, beside what [`tile`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn instance<S: Source<Zmm>, const P: usize, const T: usize>(a: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Zmm, S, P, T>(a) }
}

/// # Safety
/// The CPU must have the features named below, beside what [`decode`] demands.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn decode_panel<B: Blocks>(a: &Decode) {
    // SAFETY: the caller's promise.
    unsafe { decode::<Zmm, B>(a) }
}

fn pick_packed<S: Source<Zmm>>(panels: usize, tokens: usize) -> unsafe fn(&Tile) {
    pick_tile!(panels, tokens, instance::<S>: 4 x [1], 2 x [1], 1 x [1, 2, 3, 4])
}

fn pick_strip<S: Source<Zmm>>(panels: usize, tokens: usize) -> unsafe fn(&Tile) {
    pick_tile!(panels, tokens, instance::<S>: 2 x [3, 4], 1 x [3, 4])
}

/// Decoding takes registers. With one token four streams keep memory busy.
const PACKED: Shapes = Shapes {
    max_tokens: 4,
    panels: |tokens| if tokens == 1 { 4 } else { 1 },
};

/// Eight integer sums and eight accumulators are registers all the time; activations are operands in memory.
const STRIP: Shapes = Shapes {
    max_tokens: 4,
    panels: |_| 2,
};

/// Tokens from which decoding first is faster in every format.
const STRIP_FROM: usize = 128;

/// # Safety
/// Needs the features of the table.
pub(super) unsafe fn matmul<B: Blocks>(job: IntJob<'_>) {
    let strip: Pick = match (subs::<B>(), B::MINS) {
        (1, false) => pick_strip::<Strip<1, false, { range::BYTE }>>,
        (1, true) => pick_strip::<Strip<1, true, { range::BYTE }>>,
        (_, false) => pick_strip::<Strip<2, false, { range::BYTE }>>,
        (_, true) => pick_strip::<Strip<2, true, { range::BYTE }>>,
    };
    let strips = Strips {
        decode: decode_panel::<B>,
        pick: strip,
        shapes: &STRIP,
        from: STRIP_FROM,
    };
    let instances = Instances {
        packed: pick_packed::<Packed<B>>,
        shapes: &PACKED,
        strips: Some(strips),
    };
    // SAFETY: the caller's promise.
    unsafe { run(job, &Layout::of::<B>(), &instances) }
}

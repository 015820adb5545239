//! The formats of blocks in halves of a line, generic over how four bytes are multiplied and added ([`Dot`]).

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::vector::Avx2;
use crate::formats::blocks::{Blocks, subs};
use crate::gemm::Shapes;
use crate::gemm::blocks::{
    Decode, Instances, Lanes, Layout, Packed, Pick, Source, Strip, Strips, Tile, decode, range,
    run, tile,
};
use crate::matmul::IntJob;

/// Which instructions multiply.
pub(super) trait Dot {
    /// Whether there is a dot product of four bytes.
    const FOUR: bool;

    /// That dot product.
    ///
    /// # Safety
    /// Needs the features of the implementation.
    unsafe fn four(sums: __m256i, codes: __m256i, acts: __m256i) -> __m256i;
}

/// `vpmaddubsw`.
pub(super) struct Two;

impl Dot for Two {
    const FOUR: bool = false;

    #[inline(always)]
    unsafe fn four(_: __m256i, _: __m256i, _: __m256i) -> __m256i {
        unreachable!("products are added in pairs")
    }
}

/// `vpdpbusd` of AVX-VNNI.
pub(super) struct Vnni;

impl Dot for Vnni {
    const FOUR: bool = true;

    #[inline(always)]
    unsafe fn four(sums: __m256i, codes: __m256i, acts: __m256i) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe { _mm256_dpbusd_avx_epi32(sums, codes, acts) }
    }
}

/// Lines in two registers.
struct Ymm<D>(PhantomData<D>);

/// Both halves.
type Pair = (__m256i, __m256i);

/// The same of both: a closure would be compiled without the features, and not always inlined.
macro_rules! both {
    ($pair:expr, $x:ident => $of:expr) => {{
        let pair = $pair;
        (
            {
                let $x = pair.0;
                $of
            },
            {
                let $x = pair.1;
                $of
            },
        )
    }};
}

/// Half a line of codes, ready to multiply: in the range of bytes magnitudes and signed values, else the codes twice.
type Half = (__m256i, __m256i);

impl<D: Dot> Ymm<D> {
    /// Adds two lines of 8 rows.
    #[inline(always)]
    unsafe fn dot_half<const RANGE: u8>(
        sums: __m256i,
        (a, b): (Half, Half),
        (x, y): (__m256i, __m256i),
    ) -> __m256i {
        // SAFETY: the caller's promise of the features.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            if D::FOUR {
                return D::four(D::four(sums, a.0, x), b.0, y);
            }
            if RANGE == range::BYTE {
                let a = _mm256_maddubs_epi16(a.0, _mm256_sign_epi8(x, a.1));
                let b = _mm256_maddubs_epi16(b.0, _mm256_sign_epi8(y, b.1));
                let four = _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
                return _mm256_add_epi32(sums, four);
            }
            let pairs =
                _mm256_add_epi16(_mm256_maddubs_epi16(a.0, x), _mm256_maddubs_epi16(b.0, y));
            match RANGE {
                range::NIBBLE => _mm256_add_epi16(sums, pairs),
                _ => _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones)),
            }
        }
    }

    #[inline(always)]
    unsafe fn finish_half<const RANGE: u8>(sums: __m256i, offset: Option<*const i32>) -> __m256 {
        // SAFETY: the caller's promise of the features and the pointer.
        unsafe {
            let mut sums = sums;
            if !D::FOUR {
                if RANGE == range::NIBBLE {
                    sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
                }
                if let Some(offset) = offset
                    && RANGE != range::BYTE
                {
                    sums = _mm256_add_epi32(sums, _mm256_set1_epi32(*offset));
                }
            }
            _mm256_cvtepi32_ps(sums)
        }
    }
}

// SAFETY (of every unsafe block in this impl): the trait's contract gives the features, those of `D` among them, and
// valid pointers, which need no alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<D: Dot> Lanes for Ymm<D> {
    type Raw = Pair;
    type Line = (Half, Half);
    type Acts = (__m256i, __m256i);
    type Sums = Pair;
    type Ints = Pair;
    type F = Avx2;
    const ROLLED: bool = true;
    const TOKENS: usize = 1;

    #[inline(always)]
    unsafe fn load(line: *const u8) -> Pair {
        unsafe {
            (
                _mm256_loadu_si256(line.cast()),
                _mm256_loadu_si256(line.add(32).cast()),
            )
        }
    }
    #[inline(always)]
    unsafe fn store(raw: Pair, line: *mut u8) {
        unsafe {
            _mm256_storeu_si256(line.cast(), raw.0);
            _mm256_storeu_si256(line.add(32).cast(), raw.1);
        }
    }
    #[inline(always)]
    unsafe fn and(raw: Pair, mask: u8) -> Pair {
        unsafe {
            both!(raw, x => {
                _mm256_and_si256(x, _mm256_set1_epi8(mask as i8))
            })
        }
    }
    #[inline(always)]
    unsafe fn or(a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn shift(raw: Pair, by: i32) -> Pair {
        // Known when compiled; the arms make immediates of it.
        unsafe {
            match by {
                0 => raw,
                2 => both!(raw, x => _mm256_slli_epi16::<2>(x)),
                4 => both!(raw, x => _mm256_slli_epi16::<4>(x)),
                -4 => both!(raw, x => _mm256_srli_epi16::<4>(x)),
                _ => unreachable!("a field of a byte is moved by {by}"),
            }
        }
    }
    #[inline(always)]
    unsafe fn down(raw: Pair, by: usize) -> Pair {
        unsafe {
            let by = _mm_cvtsi32_si128(by as i32);
            both!(raw, x => _mm256_srl_epi16(x, by))
        }
    }
    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], raw: Pair) -> Pair {
        unsafe {
            both!(raw, x => {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, x)
            })
        }
    }

    #[inline(always)]
    unsafe fn line<const RANGE: u8>(raw: Pair) -> (Half, Half) {
        unsafe {
            both!(raw, x => {
                if D::FOUR || RANGE != range::BYTE {
                    (x, x)
                } else {
                    let signed = _mm256_xor_si256(x, _mm256_set1_epi8(-128));
                    (_mm256_abs_epi8(signed), signed)
                }
            })
        }
    }
    #[inline(always)]
    unsafe fn acts(q: *const i8, _: *const i8, at: (usize, usize)) -> (__m256i, __m256i) {
        unsafe {
            (
                _mm256_set1_epi32(q.add(at.0).cast::<i32>().read_unaligned()),
                _mm256_set1_epi32(q.add(at.1).cast::<i32>().read_unaligned()),
            )
        }
    }
    #[inline(always)]
    unsafe fn start<const RANGE: u8>(offsets: Option<(*const i32, *const i32)>) -> Pair {
        unsafe {
            match offsets {
                Some((offset, _)) if D::FOUR => {
                    let offset = _mm256_set1_epi32(*offset);
                    (offset, offset)
                }
                _ => (_mm256_setzero_si256(), _mm256_setzero_si256()),
            }
        }
    }
    #[inline(always)]
    unsafe fn dot<const RANGE: u8>(
        sums: Pair,
        (a, b): (Self::Line, Self::Line),
        acts: (__m256i, __m256i),
    ) -> Pair {
        unsafe {
            (
                Self::dot_half::<RANGE>(sums.0, (a.0, b.0), acts),
                Self::dot_half::<RANGE>(sums.1, (a.1, b.1), acts),
            )
        }
    }
    #[inline(always)]
    unsafe fn finish<const RANGE: u8>(sums: Pair, _: usize, offset: Option<*const i32>) -> Avx2 {
        unsafe {
            Avx2(
                Self::finish_half::<RANGE>(sums.0, offset),
                Self::finish_half::<RANGE>(sums.1, offset),
            )
        }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Pair {
        unsafe {
            (
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn signed(p: *const u8) -> Pair {
        unsafe {
            (
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn field(ints: Pair, from: usize, width: u32) -> Pair {
        unsafe {
            both!(ints, x => {
                let low = _mm256_srl_epi32(x, _mm_cvtsi32_si128(from as i32));
                _mm256_and_si256(low, _mm256_set1_epi32((1 << width) - 1))
            })
        }
    }
    #[inline(always)]
    unsafe fn up(ints: Pair, by: u32) -> Pair {
        unsafe {
            both!(ints, x => {
                _mm256_sll_epi32(x, _mm_cvtsi32_si128(by as i32))
            })
        }
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn plus(ints: Pair, constant: i32) -> Pair {
        unsafe {
            both!(ints, x => {
                _mm256_add_epi32(x, _mm256_set1_epi32(constant))
            })
        }
    }
    #[inline(always)]
    unsafe fn float(ints: Pair) -> Avx2 {
        let (a, b) = unsafe { both!(ints, x => _mm256_cvtepi32_ps(x)) };
        Avx2(a, b)
    }
    #[inline(always)]
    unsafe fn as_float(ints: Pair) -> Avx2 {
        let (a, b) = unsafe { both!(ints, x => _mm256_castsi256_ps(x)) };
        Avx2(a, b)
    }
}

/// The instances of one set of features.
trait Instance: Dot + Sized {
    /// # Safety
    /// The CPU must have the features, beside what [`tile`] demands.
    unsafe fn tile<S: Source<Ymm<Self>>, const P: usize, const T: usize>(a: &Tile);
}

/// # Safety
/// The CPU must have the features named below, which all instances need, beside what [`decode`] demands.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode_panel<B: Blocks>(a: &Decode) {
    // SAFETY: the caller's promise.
    unsafe { decode::<Ymm<Two>, B>(a) }
}

macro_rules! instance {
    ($dot:ty, $features:literal) => {
        impl Instance for $dot {
            #[target_feature(enable = $features)]
            unsafe fn tile<S: Source<Ymm<Self>>, const P: usize, const T: usize>(a: &Tile) {
                // SAFETY: the caller's promise.
                unsafe { tile::<Ymm<Self>, S, P, T>(a) }
            }
        }
    };
}

instance!(Two, "avx2,fma,f16c");
instance!(Vnni, "avx2,fma,f16c,avxvnni");

fn pick_packed<D: Instance, S: Source<Ymm<D>>>(panels: usize, tokens: usize) -> unsafe fn(&Tile) {
    match (panels, tokens) {
        (1, 1) => D::tile::<S, 1, 1>,
        (1, 2) => D::tile::<S, 1, 2>,
        _ => pick_strip::<D, S>(panels, tokens),
    }
}

fn pick_strip<D: Instance, S: Source<Ymm<D>>>(panels: usize, tokens: usize) -> unsafe fn(&Tile) {
    match (panels, tokens) {
        (1, 3) => D::tile::<S, 1, 3>,
        (1, 4) => D::tile::<S, 1, 4>,
        _ => unreachable!("no tile of {panels} panels and {tokens} tokens"),
    }
}

/// 16 registers: see the shapes of q8. Decoding takes some of them.
const SHAPES: Shapes = Shapes {
    max_tokens: 4,
    panels: |_| 1,
};

/// Tokens from which decoding first is faster, or nearly as fast, in every format.
const STRIP_FROM: usize = 24;

unsafe fn matmul_by<D: Instance, B: Blocks>(job: IntJob<'_>) {
    // Codes of every range up to 63 are added in the way of 63; there are no codes of bytes beside minimums or sub-blocks of 16.
    const SMALL: u8 = range::SMALL;
    let strip: Pick = match (subs::<B>(), B::MINS, range::of(B::MOST)) {
        (1, false, range::BYTE) => pick_strip::<D, Strip<1, false, { range::BYTE }>>,
        (1, false, _) => pick_strip::<D, Strip<1, false, SMALL>>,
        (1, true, _) => pick_strip::<D, Strip<1, true, SMALL>>,
        (_, false, _) => pick_strip::<D, Strip<2, false, SMALL>>,
        (_, true, _) => pick_strip::<D, Strip<2, true, SMALL>>,
    };
    let strips = Strips {
        decode: decode_panel::<B>,
        pick: strip,
        shapes: &SHAPES,
        from: STRIP_FROM,
    };
    let instances = Instances {
        packed: pick_packed::<D, Packed<B>>,
        shapes: &SHAPES,
        strips: Some(strips),
    };
    // SAFETY: the caller's promise.
    unsafe { run(job, &Layout::of::<B>(), &instances) }
}

/// # Safety
/// Needs AVX2, FMA, F16C.
pub(super) unsafe fn matmul<B: Blocks>(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { matmul_by::<Two, B>(job) }
}

/// # Safety
/// Needs AVX2, FMA, F16C, AVX-VNNI.
pub(super) unsafe fn matmul_vnni<B: Blocks>(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { matmul_by::<Vnni, B>(job) }
}

/// The 256-bit body with the AVX-512 encoding of the same dot product: see `evex` beside q8.
#[cfg(test)]
pub(crate) mod evex {
    use super::*;

    struct Evex;

    impl Dot for Evex {
        const FOUR: bool = true;

        #[inline(always)]
        unsafe fn four(sums: __m256i, codes: __m256i, acts: __m256i) -> __m256i {
            // SAFETY: the trait's contract.
            unsafe { _mm256_dpbusd_epi32(sums, codes, acts) }
        }
    }

    instance!(Evex, "avx2,fma,f16c,avx512vnni,avx512vl");

    /// # Safety
    /// Needs AVX2, FMA, F16C, AVX-512 VNNI and VL.
    pub(crate) unsafe fn matmul<B: Blocks>(job: IntJob<'_>) {
        // SAFETY: the caller's promise.
        unsafe { matmul_by::<Evex, B>(job) }
    }
}

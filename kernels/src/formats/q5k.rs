//! q5k: 5-bit codes, 6-bit scales and minimums per row and 32 columns, two f16 per 256 columns;
//! `value = d * scale * code - dmin * minimum`. GGUF: Q5_K.
//!
//! ```text
//! step of 256 columns, 2816 bytes:
//!   lines 0..4   d, dmin, scales and minimums, as in q4k
//!   line 4..     codes: nibbles, ones (bit 4)
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, half, word};
use super::q4k::{from_twelve, nibbles_of_64, six_bit_lanes, six_bit_pairs};
use super::search::two_level_affine;
use crate::gemm::blocks::Lanes;

pub(crate) struct Q5k;

impl Blocks for Q5k {
    const COLS: usize = 256;
    const FOREIGN: usize = 176;
    const TILE: usize = 2816;
    const SUB: usize = 32;
    const ZERO: i32 = 0;
    const MOST: u8 = 31;
    const MINS: bool = true;
    const CODES: usize = 256;
    const NIBBLES: bool = true;
    const ONES: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, _: usize, row: usize, f: &mut Fields) {
        six_bit_pairs(io, row, f);
    }

    fn scale(f: &Fields, sub: usize) -> f32 {
        half(f.d) * f32::from(f.scales[sub])
    }

    fn min(f: &Fields, sub: usize) -> f32 {
        half(f.dmin) * f32::from(f.mins[sub])
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        (f.d, f.dmin) = (word(b, 0), word(b, 2));
        from_twelve(&b[4..16], &mut f);
        nibbles_of_64(&b[48..], &mut f.codes);
        // Bit s of byte l belongs to column l of sub-block s.
        for (i, code) in f.codes.iter_mut().enumerate() {
            *code |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
        }
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        two_level_affine::<32>(values, Self::MOST, 63)
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        _: *const u8,
        tile: *const u8,
        block: usize,
        _: usize,
    ) -> (L::F, L::F) {
        // SAFETY: the caller's promise.
        unsafe { six_bit_lanes::<L>(tile, block) }
    }
}

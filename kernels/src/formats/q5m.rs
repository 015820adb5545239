//! q5m: 5-bit codes, an f16 scale and an f16 minimum per row and block of 32 columns; `value = scale * code + minimum`. GGUF: Q5_1.
//!
//! ```text
//! step of 64 columns, 768 bytes:
//!   line 0     scales:    [ block 0: r0 | r1 | ... | r15 ][ block 1: r0 | r1 | ... | r15 ]       32 x f16
//!   line 1     minimums:  the same
//!   line 2..   codes: nibbles, ones (bit 4)
//! ```
//! Lines of codes: see [`super::blocks`], whose `min` is the negated minimum.

use super::blocks::{Blocks, Fields, Io, half, nibbles, word};
use super::q4m::{quantize, two_half_lanes, two_halves};
use crate::gemm::blocks::Lanes;

pub(crate) struct Q5m;

/// Adds bit 4 of 32 codes.
#[inline(always)]
pub(super) fn fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

impl Blocks for Q5m {
    const COLS: usize = 32;
    const FOREIGN: usize = 24;
    const TILE: usize = 768;
    const SUB: usize = 32;
    const ZERO: i32 = 0;
    const MOST: u8 = 31;
    const MINS: bool = true;
    const CODES: usize = 128;
    const NIBBLES: bool = true;
    const ONES: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, half: usize, row: usize, f: &mut Fields) {
        two_halves(io, half, row, f);
    }

    fn scale(f: &Fields, _: usize) -> f32 {
        half(f.d)
    }

    fn min(f: &Fields, _: usize) -> f32 {
        -half(f.dmin)
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        (f.d, f.dmin) = (word(b, 0), word(b, 2));
        nibbles(&b[8..], &mut f.codes);
        fifth_bits(&b[4..8], &mut f.codes);
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        quantize(values, Self::MOST)
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        _: *const u8,
        tile: *const u8,
        block: usize,
        _: usize,
    ) -> (L::F, L::F) {
        // SAFETY: the caller's promise.
        unsafe { two_half_lanes::<L>(tile, block) }
    }
}

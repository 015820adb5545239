//! q5: 5-bit codes around 16, an f16 scale per row and block of 32 columns; `value = scale * (code - 16)`. GGUF: Q5_0.
//!
//! ```text
//! step of 64 columns, 704 bytes:
//!   line 0    scales:  [ block 0: r0 | r1 | ... | r15 ][ block 1: r0 | r1 | ... | r15 ]       32 x f16
//!   line 1..  codes: nibbles, ones (bit 4)
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, Side, half, nibbles, word};
use super::q5m::fifth_bits;
use super::search::{Uniform, f16_bits, linear, symmetric};
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Q5;

/// Values of codes.
const GRID: Uniform = Uniform {
    least: -16,
    most: 15,
};

/// One f16 scale per row and block in line 0: q5 and iq4nl.
#[inline(always)]
pub(super) fn one_half(io: &mut impl Io, half: usize, row: usize, f: &mut Fields) {
    io.u16((Side::Tile, half * 32 + row * 2), &mut f.d);
}

/// The same of 16 rows.
///
/// # Safety
/// As [`Blocks::lanes`].
#[inline(always)]
pub(super) unsafe fn one_half_lanes<L: Lanes>(tile: *const u8, block: usize) -> (L::F, L::F) {
    // SAFETY: line 0.
    unsafe { (L::F::load_f16(tile.add(block * 32)), L::F::splat(0.0)) }
}

impl Blocks for Q5 {
    const COLS: usize = 32;
    const FOREIGN: usize = 22;
    const TILE: usize = 704;
    const SUB: usize = 32;
    const ZERO: i32 = 16;
    const MOST: u8 = 31;
    const CODES: usize = 64;
    const NIBBLES: bool = true;
    const ONES: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, half: usize, row: usize, f: &mut Fields) {
        one_half(io, half, row, f);
    }

    fn scale(f: &Fields, _: usize) -> f32 {
        half(f.d)
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        f.d = word(b, 0);
        nibbles(&b[6..], &mut f.codes);
        fifth_bits(&b[2..6], &mut f.codes);
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        let mut f = Fields::ZERO;
        f.d = f16_bits(symmetric(values, &GRID));
        linear(values, half(f.d), &GRID, &mut f.codes);
        f
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        _: *const u8,
        tile: *const u8,
        block: usize,
        _: usize,
    ) -> (L::F, L::F) {
        // SAFETY: the caller's promise.
        unsafe { one_half_lanes::<L>(tile, block) }
    }
}

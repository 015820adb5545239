//! q4m: 4-bit codes, an f16 scale and an f16 minimum per row and block of 32 columns; `value = scale * code + minimum`. GGUF: Q4_1.
//!
//! ```text
//! step of 64 columns, 640 bytes:
//!   line 0     scales:    [ block 0: r0 | r1 | ... | r15 ][ block 1: r0 | r1 | ... | r15 ]       32 x f16
//!   line 1     minimums:  the same
//!   line 2..   codes: nibbles
//! ```
//! Lines of codes: see [`super::blocks`], whose `min` is the negated minimum.

use super::blocks::{Blocks, Fields, Io, Side, half, nibbles, word};
use super::search::{Fit, affine, f16_bits};
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Q4m;

/// Scales and minimums as f16 in lines 0 and 1: q4m and q5m.
#[inline(always)]
pub(super) fn two_halves(io: &mut impl Io, half: usize, row: usize, f: &mut Fields) {
    io.u16((Side::Tile, half * 32 + row * 2), &mut f.d);
    io.u16((Side::Tile, 64 + half * 32 + row * 2), &mut f.dmin);
}

/// The same of 16 rows.
///
/// # Safety
/// As [`Blocks::lanes`].
#[inline(always)]
pub(super) unsafe fn two_half_lanes<L: Lanes>(tile: *const u8, block: usize) -> (L::F, L::F) {
    // SAFETY: lines 0 and 1.
    unsafe {
        let scale = L::F::load_f16(tile.add(block * 32));
        let min = L::F::load_f16(tile.add(64 + block * 32));
        (scale, min.mul(L::F::splat(-1.0)))
    }
}

/// The fields of the best scale, minimum and codes up to `most`.
pub(super) fn quantize(values: &[f32], most: u8) -> Fields {
    let mut f = Fields::ZERO;
    let fit = affine(values, most, false);
    (f.d, f.dmin) = (f16_bits(fit.scale), f16_bits(-fit.min));
    Fit::at(half(f.d), -half(f.dmin)).codes(values, most, &mut f.codes);
    f
}

impl Blocks for Q4m {
    const COLS: usize = 32;
    const FOREIGN: usize = 20;
    const TILE: usize = 640;
    const SUB: usize = 32;
    const ZERO: i32 = 0;
    const MOST: u8 = 15;
    const MINS: bool = true;
    const CODES: usize = 128;
    const NIBBLES: bool = true;

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
        nibbles(&b[4..], &mut f.codes);
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

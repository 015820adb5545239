//! q4k: 4-bit codes, 6-bit scales and minimums per row and 32 columns, two f16 per 256 columns;
//! `value = d * scale * code - dmin * minimum`. GGUF: Q4_K.
//!
//! ```text
//! step of 256 columns, 2304 bytes:
//!   line 0       [ d: r0 | r1 | ... | r15 ][ dmin: r0 | ... | r15 ]                               32 x f16
//!   lines 1, 2   byte 16b + r, sub-block b = 0..8:   bits 0..4 = scale & 15,  bits 4..8 = minimum & 15
//!   line 3       byte 16(b / 2) + r, from bit 4(b % 2):   2 bits scale >> 4,  2 bits minimum >> 4
//!   line 4..     codes: nibbles
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, Side, half, word};
use super::search::two_level_affine;
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Q4k;

/// Lines 0 to 3 of q4k and q5k.
#[inline(always)]
pub(super) fn six_bit_pairs(io: &mut impl Io, row: usize, f: &mut Fields) {
    io.u16((Side::Tile, row * 2), &mut f.d);
    io.u16((Side::Tile, 32 + row * 2), &mut f.dmin);
    for b in 0..8 {
        let low = (Side::Tile, 64 + b * 16 + row);
        let high = (Side::Tile, 192 + b / 2 * 16 + row);
        let from = b as u32 % 2 * 4;
        io.bits(low, 0, 4, &mut f.scales[b], 0);
        io.bits(low, 4, 4, &mut f.mins[b], 0);
        io.bits(high, from, 2, &mut f.scales[b], 4);
        io.bits(high, from + 2, 2, &mut f.mins[b], 4);
    }
}

/// The same of 16 rows.
///
/// # Safety
/// As [`Blocks::lanes`].
#[inline(always)]
pub(super) unsafe fn six_bit_lanes<L: Lanes>(tile: *const u8, block: usize) -> (L::F, L::F) {
    // SAFETY: lines 0 to 3.
    unsafe {
        let low = L::bytes(tile.add(64 + block * 16));
        let high = L::bytes(tile.add(192 + block / 2 * 16));
        let from = block % 2 * 4;
        let scale = L::add(L::field(low, 0, 4), L::up(L::field(high, from, 2), 4));
        let min = L::add(L::field(low, 4, 4), L::up(L::field(high, from + 2, 2), 4));
        (
            L::F::load_f16(tile).mul(L::float(scale)),
            L::F::load_f16(tile.add(32)).mul(L::float(min)),
        )
    }
}

/// The 6-bit scales and minimums of GGUF's 12 bytes.
pub(super) fn from_twelve(b: &[u8], f: &mut Fields) {
    for i in 0..4 {
        f.scales[i] = b[i] & 63;
        f.mins[i] = b[i + 4] & 63;
        f.scales[i + 4] = b[i + 8] & 15 | b[i] >> 6 << 4;
        f.mins[i + 4] = b[i + 8] >> 4 | b[i + 4] >> 6 << 4;
    }
}

/// Codes of 128 bytes: of every 32 the low nibbles are 32 columns, and the high ones the next 32.
pub(super) fn nibbles_of_64(bytes: &[u8], codes: &mut [u8; 256]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        for (l, byte) in bytes.iter().enumerate() {
            codes[l] = byte & 15;
            codes[l + 32] = byte >> 4;
        }
    }
}

impl Blocks for Q4k {
    const COLS: usize = 256;
    const FOREIGN: usize = 144;
    const TILE: usize = 2304;
    const SUB: usize = 32;
    const ZERO: i32 = 0;
    const MOST: u8 = 15;
    const MINS: bool = true;
    const CODES: usize = 256;
    const NIBBLES: bool = true;

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
        nibbles_of_64(&b[16..], &mut f.codes);
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

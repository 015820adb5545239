//! q3k: 3-bit codes around 4, a 6-bit scale around 32 per row and 16 columns, an f16 per 256 columns;
//! `value = d * (scale - 32) * (code - 4)`. GGUF: Q3_K.
//!
//! ```text
//! header, 32 bytes per step of 256 columns:   d: [ r0 | r1 | ... | r15 ]     16 x f16
//! step of 256 columns, 1728 bytes:
//!   lines 0, 1   byte 16(s / 2) + r, sub-block s = 0..16, from bit 4(s % 2):   4 bits scale & 15
//!   line 2       byte 16(s / 4) + r, from bit 2(s % 4):   2 bits scale >> 4
//!   line 3..     codes: twos, ones (bit 2)
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, Side, half, word};
use super::search::{Uniform, two_level};
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Q3k;

const GRID: Uniform = Uniform { least: -4, most: 3 };

/// Codes of 64 bytes: of every 32, two bits each belong to columns l, l + 32, l + 64 and l + 96.
pub(super) fn twos_of_128(bytes: &[u8], codes: &mut [u8; 256]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
}

impl Blocks for Q3k {
    const COLS: usize = 256;
    const FOREIGN: usize = 110;
    const HEADER: usize = 32;
    const TILE: usize = 1728;
    const SUB: usize = 16;
    const ZERO: i32 = 4;
    const MOST: u8 = 7;
    const CODES: usize = 192;
    const TWOS: bool = true;
    const ONES: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, _: usize, row: usize, f: &mut Fields) {
        io.u16((Side::Header, row * 2), &mut f.d);
        for s in 0..16 {
            let low = (Side::Tile, s / 2 * 16 + row);
            let high = (Side::Tile, 128 + s / 4 * 16 + row);
            io.bits(low, s as u32 % 2 * 4, 4, &mut f.scales[s], 0);
            io.bits(high, s as u32 % 4 * 2, 2, &mut f.scales[s], 4);
        }
    }

    fn scale(f: &Fields, sub: usize) -> f32 {
        half(f.d) * (f32::from(f.scales[sub]) - 32.0)
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        f.d = word(b, 108);
        for (s, scale) in f.scales.iter_mut().enumerate() {
            let low = b[96 + s % 8] >> (s / 8 * 4) & 15;
            let high = b[104 + s % 4] >> (s / 4 * 2) & 3;
            *scale = low | high << 4;
        }
        twos_of_128(&b[32..96], &mut f.codes);
        for (i, code) in f.codes.iter_mut().enumerate() {
            *code |= (b[i % 32] >> (i / 32) & 1) << 2;
        }
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        two_level::<16>(values, &GRID, (-32, 31), 32)
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        header: *const u8,
        tile: *const u8,
        block: usize,
        sub: usize,
    ) -> (L::F, L::F) {
        // SAFETY: within header and lines 0 to 2.
        unsafe {
            let low = L::field(L::bytes(tile.add(block * 16)), sub * 4, 4);
            let high = L::bytes(tile.add(128 + block / 2 * 16));
            let high = L::field(high, block % 2 * 4 + sub * 2, 2);
            let scale = L::plus(L::add(low, L::up(high, 4)), -32);
            (
                L::F::load_f16(header).mul(L::float(scale)),
                L::F::splat(0.0),
            )
        }
    }
}

//! iq4xs: 4-bit codes into the table of iq4nl, a 6-bit scale around 32 per row and 32 columns, an f16 per 256 columns;
//! `value = d * (scale - 32) * TABLE[code]`. GGUF: IQ4_XS.
//!
//! ```text
//! step of 256 columns, 2176 bytes:
//!   line 0     [ d: r0 | r1 | ... | r15 ]   16 x f16, then byte 32 + 16(b / 4) + r, from bit 2(b % 4):   2 bits scale >> 4
//!   line 1     byte 16(b / 2) + r, sub-block b = 0..8, from bit 4(b % 2):   4 bits scale & 15
//!   line 2..   codes: nibbles
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, Side, half, nibbles, word};
use super::iq4nl::{GRID, TABLE};
use super::search::two_level;
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Iq4xs;

impl Blocks for Iq4xs {
    const COLS: usize = 256;
    const FOREIGN: usize = 136;
    const TILE: usize = 2176;
    const SUB: usize = 32;
    const ZERO: i32 = 128;
    const MOST: u8 = 241;
    const TABLE: Option<&'static [u8; 16]> = Some(&TABLE);
    const CODES: usize = 128;
    const NIBBLES: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, _: usize, row: usize, f: &mut Fields) {
        io.u16((Side::Tile, row * 2), &mut f.d);
        for b in 0..8 {
            let low = (Side::Tile, 64 + b / 2 * 16 + row);
            let high = (Side::Tile, 32 + b / 4 * 16 + row);
            io.bits(low, b as u32 % 2 * 4, 4, &mut f.scales[b], 0);
            io.bits(high, b as u32 % 4 * 2, 2, &mut f.scales[b], 4);
        }
    }

    fn scale(f: &Fields, sub: usize) -> f32 {
        half(f.d) * (f32::from(f.scales[sub]) - 32.0)
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        f.d = word(b, 0);
        let high = word(b, 2);
        for s in 0..8 {
            let low = b[4 + s / 2] >> (s % 2 * 4) & 15;
            f.scales[s] = low | ((high >> (2 * s) & 3) as u8) << 4;
        }
        for (bytes, codes) in b[8..].chunks_exact(16).zip(f.codes.chunks_exact_mut(32)) {
            nibbles(bytes, codes);
        }
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        two_level::<32>(values, &GRID, (-32, 31), 32)
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        _: *const u8,
        tile: *const u8,
        block: usize,
        _: usize,
    ) -> (L::F, L::F) {
        // SAFETY: lines 0 and 1.
        unsafe {
            let low = L::field(L::bytes(tile.add(64 + block / 2 * 16)), block % 2 * 4, 4);
            let high = L::field(L::bytes(tile.add(32 + block / 4 * 16)), block % 4 * 2, 2);
            let scale = L::plus(L::add(low, L::up(high, 4)), -32);
            (L::F::load_f16(tile).mul(L::float(scale)), L::F::splat(0.0))
        }
    }
}

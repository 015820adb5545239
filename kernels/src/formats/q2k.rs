//! q2k: 2-bit codes, 4-bit scales and minimums per row and 16 columns, two f16 per 256 columns;
//! `value = d * scale * code - dmin * minimum`. GGUF: Q2_K.
//!
//! ```text
//! step of 256 columns, 1344 bytes:
//!   line 0       [ d: r0 | r1 | ... | r15 ][ dmin: r0 | ... | r15 ]                    32 x f16
//!   lines 1..5   byte 16s + r, sub-block s = 0..16:   bits 0..4 = scale, bits 4..8 = minimum
//!   line 5..     codes: twos
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, Side, half, word};
use super::q3k::twos_of_128;
use super::search::two_level_affine;
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Q2k;

impl Blocks for Q2k {
    const COLS: usize = 256;
    const FOREIGN: usize = 84;
    const TILE: usize = 1344;
    const SUB: usize = 16;
    const ZERO: i32 = 0;
    const MOST: u8 = 3;
    const MINS: bool = true;
    const CODES: usize = 320;
    const TWOS: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, _: usize, row: usize, f: &mut Fields) {
        io.u16((Side::Tile, row * 2), &mut f.d);
        io.u16((Side::Tile, 32 + row * 2), &mut f.dmin);
        for s in 0..16 {
            let at = (Side::Tile, 64 + s * 16 + row);
            io.bits(at, 0, 4, &mut f.scales[s], 0);
            io.bits(at, 4, 4, &mut f.mins[s], 0);
        }
    }

    fn scale(f: &Fields, sub: usize) -> f32 {
        half(f.d) * f32::from(f.scales[sub])
    }

    fn min(f: &Fields, sub: usize) -> f32 {
        half(f.dmin) * f32::from(f.mins[sub])
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        (f.d, f.dmin) = (word(b, 80), word(b, 82));
        for (s, byte) in b[..16].iter().enumerate() {
            (f.scales[s], f.mins[s]) = (byte & 15, byte >> 4);
        }
        twos_of_128(&b[16..80], &mut f.codes);
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        two_level_affine::<16>(values, Self::MOST, 15)
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        _: *const u8,
        tile: *const u8,
        block: usize,
        sub: usize,
    ) -> (L::F, L::F) {
        // SAFETY: lines 0 to 4.
        unsafe {
            let both = L::bytes(tile.add(64 + (block * 2 + sub) * 16));
            (
                L::F::load_f16(tile).mul(L::float(L::field(both, 0, 4))),
                L::F::load_f16(tile.add(32)).mul(L::float(L::field(both, 4, 4))),
            )
        }
    }
}

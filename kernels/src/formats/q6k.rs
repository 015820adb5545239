//! q6k: 6-bit codes around 32, an 8-bit signed scale per row and 16 columns, an f16 per 256 columns;
//! `value = d * scale * (code - 32)`. GGUF: Q6_K.
//!
//! ```text
//! header, 32 bytes per step of 256 columns:   d: [ r0 | r1 | ... | r15 ]     16 x f16
//! step of 256 columns, 3328 bytes:
//!   lines 0..4   byte 16s + r, sub-block s = 0..16:   scale, i8
//!   line 4..     codes: nibbles, twos (bits 4 and 5)
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, Side, half, word};
use super::search::{Uniform, two_level};
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Q6k;

const GRID: Uniform = Uniform {
    least: -32,
    most: 31,
};

impl Blocks for Q6k {
    const COLS: usize = 256;
    const FOREIGN: usize = 210;
    const HEADER: usize = 32;
    const TILE: usize = 3328;
    const SUB: usize = 16;
    const ZERO: i32 = 32;
    const MOST: u8 = 63;
    const CODES: usize = 256;
    const NIBBLES: bool = true;
    const TWOS: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, _: usize, row: usize, f: &mut Fields) {
        io.u16((Side::Header, row * 2), &mut f.d);
        for s in 0..16 {
            io.bits((Side::Tile, s * 16 + row), 0, 8, &mut f.scales[s], 0);
        }
    }

    fn scale(f: &Fields, sub: usize) -> f32 {
        half(f.d) * f32::from(f.scales[sub] as i8)
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        f.d = word(b, 208);
        f.scales.copy_from_slice(&b[192..208]);
        for (i, code) in f.codes.iter_mut().enumerate() {
            // Of 128 columns, 64 bytes of nibbles hold columns l and l + 64, 32 bytes hold two bits of l, l + 32, l + 64 and l + 96.
            let (part, l) = (i / 128, i % 128);
            let low = b[part * 64 + l % 64] >> (l / 64 * 4) & 15;
            let high = b[128 + part * 32 + l % 32] >> (l / 32 * 2) & 3;
            *code = low | high << 4;
        }
        f
    }

    fn quantize(values: &[f32]) -> Fields {
        two_level::<16>(values, &GRID, (-128, 127), 0)
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        header: *const u8,
        tile: *const u8,
        block: usize,
        sub: usize,
    ) -> (L::F, L::F) {
        // SAFETY: within header and lines 0 to 3.
        unsafe {
            let scale = L::float(L::signed(tile.add((block * 2 + sub) * 16)));
            (L::F::load_f16(header).mul(scale), L::F::splat(0.0))
        }
    }
}

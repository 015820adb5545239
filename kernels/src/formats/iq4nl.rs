//! iq4nl: 4-bit codes into a table of 16 values that are denser around zero, an f16 scale per row and block of 32 columns;
//! `value = scale * TABLE[code]`. GGUF: IQ4_NL.
//!
//! ```text
//! step of 64 columns, 576 bytes:
//!   line 0    scales:  [ block 0: r0 | r1 | ... | r15 ][ block 1: r0 | r1 | ... | r15 ]       32 x f16
//!   line 1..  codes: nibbles
//! ```
//! Lines of codes: see [`super::blocks`].

use super::blocks::{Blocks, Fields, Io, half, nibbles, word};
use super::q5::{one_half, one_half_lanes};
use super::search::{Book, f16_bits, linear, symmetric};
use crate::gemm::blocks::Lanes;

pub(crate) struct Iq4nl;

/// What codes stand for, plus 128. The values are part of the format.
pub(super) const TABLE: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];

/// The same for the search.
pub(super) static GRID: Book = Book::new(&TABLE, 128);

impl Blocks for Iq4nl {
    const COLS: usize = 32;
    const FOREIGN: usize = 18;
    const TILE: usize = 576;
    const SUB: usize = 32;
    const ZERO: i32 = 128;
    const MOST: u8 = 241;
    const TABLE: Option<&'static [u8; 16]> = Some(&TABLE);
    const CODES: usize = 64;
    const NIBBLES: bool = true;

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
        nibbles(&b[2..], &mut f.codes);
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

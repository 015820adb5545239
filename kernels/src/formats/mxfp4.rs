//! mxfp4: 4-bit floats (sign, two bits of exponent, one of mantissa), a power of two per row and block of 32 columns: OCP Microscaling
//! Formats 1.0, and GGUF's MXFP4. `value = 2^(e - 128) * TABLE[code]`, the table holding twice the float so that it is an integer.
//!
//! ```text
//! header, 32 bytes per step of 64 columns:  [ block 0: r0 | r1 | ... | r15 ][ block 1: ... ]     32 x u8, the exponents e
//! step of 64 columns, 512 bytes:            codes: nibbles
//! ```
//! Lines of codes: see [`super::blocks`]. The exponent 255 is no number. Code 8, the float -0, is the integer 0.

use super::blocks::{Blocks, Fields, Io, Side, nibbles};
use super::search::{Book, error, linear};
use crate::gemm::blocks::Lanes;
use crate::vector::Vector;

pub(crate) struct Mxfp4;

/// Twice the float, plus 12.
const TABLE: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

static GRID: Book = Book::new(&TABLE, 12);

/// `2^(e - 128)`, exact: the two smallest are subnormal.
fn power(e: u8) -> f32 {
    match e {
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits((u32::from(e) - 1) << 23),
    }
}

impl Blocks for Mxfp4 {
    const COLS: usize = 32;
    const FOREIGN: usize = 17;
    const HEADER: usize = 32;
    const TILE: usize = 512;
    const SUB: usize = 32;
    const ZERO: i32 = 12;
    const MOST: u8 = 24;
    const TABLE: Option<&'static [u8; 16]> = Some(&TABLE);
    const CODES: usize = 0;
    const NIBBLES: bool = true;

    #[inline(always)]
    fn scales(io: &mut impl Io, half: usize, row: usize, f: &mut Fields) {
        let mut e = f.d as u8;
        io.bits((Side::Header, half * 16 + row), 0, 8, &mut e, 0);
        f.d = e.into();
    }

    fn scale(f: &Fields, _: usize) -> f32 {
        power(f.d as u8)
    }

    /// Values beyond f32 count as a scale that is not finite.
    fn finite(f: &Fields) -> bool {
        let fits = |code: &u8| {
            let value = f32::from(TABLE[usize::from(code & 15)]) - 12.0;
            (power(f.d as u8) * value).is_finite()
        };
        f.d <= 252 || f.d != 255 && f.codes.iter().all(fits)
    }

    fn from_gguf(b: &[u8]) -> Fields {
        let mut f = Fields::ZERO;
        f.d = b[0].into();
        nibbles(&b[1..], &mut f.codes);
        f
    }

    /// The power of two with the least squared error, among those around the one that the standard takes:
    /// `2^floor(log2(largest))` over the largest power of two of a code, which is 4.
    fn quantize(values: &[f32]) -> Fields {
        let mut f = Fields::ZERO;
        let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if largest == 0.0 {
            return f;
        }
        // The exponent of a subnormal counts as the smallest.
        let log = i32::from((largest.to_bits() >> 23) as u8) - 127;
        let standard = log - 2 + 127;
        let candidates = [0, 1, -1].map(|by| (standard + by).clamp(0, 254) as u8);
        let mut best = (f64::INFINITY, 0);
        for e in candidates {
            let off = error(values, power(e), &GRID);
            if off < best.0 {
                best = (off, e);
            }
        }
        f.d = best.1.into();
        linear(values, power(best.1), &GRID, &mut f.codes);
        f
    }

    #[inline(always)]
    unsafe fn lanes<L: Lanes>(
        header: *const u8,
        _: *const u8,
        block: usize,
        _: usize,
    ) -> (L::F, L::F) {
        // SAFETY: within the header. Two powers of two that are normal numbers multiply to one that may not be.
        unsafe {
            let e = L::bytes(header.add(block * 16));
            let (low, odd) = (L::field(e, 1, 7), L::field(e, 0, 1));
            // e = 2 * low + odd: the exponents low - 64 and low + odd - 64, biased.
            let a = L::plus(low, 63);
            let b = L::add(a, odd);
            let scale = L::as_float(L::up(a, 23)).mul(L::as_float(L::up(b, 23)));
            (scale, L::F::splat(0.0))
        }
    }
}

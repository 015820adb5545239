//! q8 and q4: two sources of the body of the formats of blocks, whose pairs of lines suit all ways of adding products.

use super::blocks::{Table, matmul_of};
use crate::formats::{q4, q8};
use crate::gemm::blocks::{Lanes, Layout, Source, range};
use crate::matmul::IntJob;
use crate::vector::Vector;

/// Codes of four bits, or of eight: see their files for the layout.
struct Plain<const NIBBLES: bool>;

impl<L: Lanes, const NIBBLES: bool> Source<L> for Plain<NIBBLES> {
    const BLOCKS: usize = 2;
    const SUBS: usize = 1;
    const MINS: bool = false;
    const RANGE: u8 = if NIBBLES { range::NIBBLE } else { range::BYTE };
    const TILE: usize = if NIBBLES { q4::TILE } else { q8::TILE };
    const HEADER: usize = 0;

    #[inline(always)]
    unsafe fn codes(tile: *const u8, block: usize, half: usize, i: usize) -> L::Raw {
        // SAFETY: lines behind that of the scales: 8 of a block, or 4 of nibbles.
        unsafe {
            if NIBBLES {
                let line = tile.add(64 + (block * 4 + i) * 64);
                L::and(L::shift(L::load(line), -4 * half as i32), 15)
            } else {
                L::load(tile.add(64 + (block * 8 + half * 4 + i) * 64))
            }
        }
    }

    #[inline(always)]
    unsafe fn scales(_: *const u8, tile: *const u8, block: usize, _: usize) -> (L::F, L::F) {
        // SAFETY: half of the first line.
        unsafe { (L::F::load_f16(tile.add(block * 32)), L::F::splat(0.0)) }
    }
}

/// A step of 64 columns.
const fn layout(tile: usize) -> Layout {
    Layout {
        cols: 64,
        header: 0,
        tile,
        subs: 1,
        mins: false,
    }
}

/// # Safety
/// Needs NEON and the features of the table.
pub(super) unsafe fn q8<K: Table>(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { matmul_of::<K, Plain<false>>(job, &layout(q8::TILE)) }
}

/// # Safety
/// Needs NEON and the features of the table.
pub(super) unsafe fn q4<K: Table>(job: IntJob<'_>) {
    // SAFETY: the caller's promise.
    unsafe { matmul_of::<K, Plain<true>>(job, &layout(q4::TILE)) }
}

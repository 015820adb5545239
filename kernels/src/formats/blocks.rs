//! The formats of GGUF's block types: what they share.
//!
//! A row is cut into *blocks* of 32 or 256 columns. A block has one or two numbers (`d`, `dmin`), small scales and minimums
//! of its *sub-blocks* of 16 or 32 columns where it has 256, and codes of 2 to 6 bits:
//!
//! ```text
//! value = scale(sub-block) * (code - ZERO) - min(sub-block)        or scale * (TABLE[code] - ZERO)
//! ```
//!
//! A panel is a header of `HEADER` bytes per *step* of 64 or 256 columns, padded with zeros to a line, and then a tile of `TILE` bytes
//! per step. A tile has scales first and then codes, of 32 columns after another, in up to three kinds of lines. Of a line,
//! bytes 4r to 4r + 4 belong to row r; column 4g + j of the 32 (g = 0..8) lies in byte j of them:
//!
//! ```text
//! nibbles  4 lines:  line g % 4, bits 0..4 for g < 4, bits 4..8 for g >= 4
//! twos     2 lines:  line g / 4, bits 2(g % 4) .. 2(g % 4) + 2
//! ones     1 line:   bit g
//! ```
//!
//! So whoever reads a panel once reads it from front to back, which is what processors fetch ahead best.
//! A code is made of what the format has of them: nibbles or twos below, then twos or ones above. So every eight lines of unsigned codes
//! take a shift and a mask per part, and a panel has exactly the bytes of 16 rows in GGUF. All bits of GGUF are kept.
//!
//! Padding is all zeros: rows, blocks, sub-blocks and columns beyond the matrix. A padded column of a row counts as some multiple of its
//! scale, but the activation there is zero, and so is the product.
//!
//! The arithmetic, blocks and sub-blocks ascending ([`matmul`] defines it):
//!
//! ```text
//! isum = sum of (code - ZERO) * q                       exact
//! acc  = fma(scale * a_scale, (f32) isum, acc)
//! acc  = fma(-min, a_scale * (f32) sum of q, acc)       in formats with minimums
//! ```
//! `scale` and `min` are products of an f16 and an integer of at most 8 bits, exact in f32. `a_scale * sum` is rounded to f32.

use half::f16;

use super::{BadPanel, PADDING, SCALE_NOT_FINITE};
use crate::gemm::blocks::Lanes;
use crate::matmul::IntJob;
use crate::{BLOCK, PANEL_ROWS};

/// A block of one row as numbers. A format uses what it has; the rest is zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fields {
    /// Bits of an f16, or the exponent of a power of two.
    pub d: u16,
    /// Bits of an f16.
    pub dmin: u16,
    /// Scales of sub-blocks, as stored.
    pub scales: [u8; 16],
    /// Minimums of sub-blocks.
    pub mins: [u8; 16],
    /// Codes, as stored.
    pub codes: [u8; 256],
}

impl Fields {
    pub(crate) const ZERO: Fields = Fields {
        d: 0,
        dmin: 0,
        scales: [0; 16],
        mins: [0; 16],
        codes: [0; 256],
    };
}

/// Header or tile of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Header,
    Tile,
}

/// Reads the fields of a block, or writes them: one description of a layout serves both.
pub(crate) trait Io {
    /// `width` bits of byte `at` from bit `shift` on are those of `value` from bit `from` on.
    fn bits(&mut self, place: (Side, usize), shift: u32, width: u32, value: &mut u8, from: u32);

    /// Two bytes, little-endian.
    #[inline(always)]
    fn u16(&mut self, (side, at): (Side, usize), value: &mut u16) {
        let [mut low, mut high] = value.to_le_bytes();
        self.bits((side, at), 0, 8, &mut low, 0);
        self.bits((side, at + 1), 0, 8, &mut high, 0);
        *value = u16::from_le_bytes([low, high]);
    }
}

/// Bytes of a step. Fields must be zero before they are read, and bytes before they are written.
struct Reader<'a>(&'a [u8], &'a [u8]);
struct Writer<'a>(&'a mut [u8], &'a mut [u8]);

#[inline(always)]
fn mask(width: u32) -> u8 {
    (0xffu16 >> (8 - width)) as u8
}

impl Io for Reader<'_> {
    #[inline(always)]
    fn bits(
        &mut self,
        (side, at): (Side, usize),
        shift: u32,
        width: u32,
        value: &mut u8,
        from: u32,
    ) {
        let bytes = if side == Side::Header { self.0 } else { self.1 };
        *value |= (bytes[at] >> shift & mask(width)) << from;
    }

    #[inline(always)]
    fn u16(&mut self, (side, at): (Side, usize), value: &mut u16) {
        let bytes = if side == Side::Header { self.0 } else { self.1 };
        *value = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    }
}

impl Io for Writer<'_> {
    #[inline(always)]
    fn bits(
        &mut self,
        (side, at): (Side, usize),
        shift: u32,
        width: u32,
        value: &mut u8,
        from: u32,
    ) {
        let bytes = match side {
            Side::Header => &mut self.0[at],
            Side::Tile => &mut self.1[at],
        };
        *bytes |= (*value >> from & mask(width)) << shift;
    }
}

/// A format of blocks. See the top of this file.
pub(crate) trait Blocks: 'static {
    /// Columns of a block: 32 or 256.
    const COLS: usize;
    /// Bytes of a block in GGUF.
    const FOREIGN: usize;
    /// Columns of a step: 64 or 256.
    const STEP: usize = if Self::COLS < 64 { 64 } else { Self::COLS };
    /// Bytes of a step in the header of a panel.
    const HEADER: usize = 0;
    /// Bytes of a step behind the header: a multiple of 64.
    const TILE: usize;
    /// Columns of a sub-block: 16 or 32.
    const SUB: usize;
    /// What is subtracted from codes.
    const ZERO: i32;
    /// The largest code, after the table.
    const MOST: u8;
    /// Whether there are minimums. Then `ZERO` is 0.
    const MINS: bool = false;
    /// What codes stand for, if not for themselves.
    const TABLE: Option<&'static [u8; 16]> = None;
    /// Where codes begin in a tile.
    const CODES: usize;
    /// Whether there are lines of nibbles.
    const NIBBLES: bool = false;
    /// Whether there are lines of twos.
    const TWOS: bool = false;
    /// Whether there are lines of ones.
    const ONES: bool = false;

    /// Visits `d`, `dmin`, scales and minimums of the block of a row; `half` is the block's place in its step.
    fn scales(io: &mut impl Io, half: usize, row: usize, fields: &mut Fields);

    /// The scale of a sub-block. Not finite only if the block is not ([`Blocks::finite`]).
    fn scale(fields: &Fields, sub: usize) -> f32;

    /// The minimum of a sub-block.
    fn min(_: &Fields, _: usize) -> f32 {
        0.0
    }

    /// Whether `d` and `dmin` are numbers.
    fn finite(fields: &Fields) -> bool {
        fields.d & 0x7c00 != 0x7c00 && fields.dmin & 0x7c00 != 0x7c00
    }

    /// The fields of a block of GGUF.
    fn from_gguf(bytes: &[u8]) -> Fields;

    /// The best fields for up to `COLS` values; those of columns that are missing stay zero.
    fn quantize(values: &[f32]) -> Fields;

    /// Scales and minimums of 16 rows, for sub-block `sub` of block `block` (of 32 columns) of a step.
    ///
    /// # Safety
    /// The CPU must have the features of `L`; the pointers those of a step.
    unsafe fn lanes<L: Lanes>(
        header: *const u8,
        tile: *const u8,
        block: usize,
        sub: usize,
    ) -> (L::F, L::F);
}

/// Sub-blocks of a block of 32 columns.
pub(crate) const fn subs<B: Blocks>() -> usize {
    BLOCK / B::SUB
}

/// Where nibbles, twos and ones of a block of 32 columns begin in a tile.
pub(crate) const fn lines<B: Blocks>(block: usize) -> (usize, usize, usize) {
    let nibbles = 4 * B::NIBBLES as usize;
    let twos = 2 * B::TWOS as usize;
    let first = B::CODES + block * (nibbles + twos + B::ONES as usize) * 64;
    (first, first + nibbles * 64, first + (nibbles + twos) * 64)
}

/// Bytes of the header of a panel of so many steps.
pub(crate) fn header_bytes(steps: usize, of_one: usize) -> usize {
    (steps * of_one).next_multiple_of(64)
}

/// Bytes of a panel; `None` if that overflows.
pub(super) fn panel_bytes<B: Blocks>(steps: usize) -> Option<usize> {
    let header = steps.checked_mul(B::HEADER)?.checked_next_multiple_of(64)?;
    steps.checked_mul(B::TILE)?.checked_add(header)
}

/// Ranges of header and tile of the step of a block, and the block's place within it.
#[inline(always)]
fn place<B: Blocks>(steps: usize, block: usize) -> (usize, usize, usize) {
    let per_step = B::STEP / B::COLS;
    let step = block / per_step;
    let tile = header_bytes(steps, B::HEADER) + step * B::TILE;
    (step * B::HEADER, tile, block % per_step)
}

/// Visits all of a block.
#[inline(always)]
fn visit<B: Blocks>(io: &mut impl Io, half: usize, row: usize, fields: &mut Fields) {
    B::scales(io, half, row, fields);
    for (i, code) in fields.codes[..B::COLS].iter_mut().enumerate() {
        let (block, g) = (half + i / BLOCK, i % BLOCK / 4);
        let byte = row * 4 + i % 4;
        let (nibbles, twos, ones) = lines::<B>(block);
        let mut from = 0;
        if B::NIBBLES {
            let at = nibbles + g % 4 * 64 + byte;
            io.bits((Side::Tile, at), g as u32 / 4 * 4, 4, code, from);
            from += 4;
        }
        if B::TWOS {
            let at = twos + g / 4 * 64 + byte;
            io.bits((Side::Tile, at), g as u32 % 4 * 2, 2, code, from);
            from += 2;
        }
        if B::ONES {
            let at = ones + byte;
            io.bits((Side::Tile, at), g as u32, 1, code, from);
        }
    }
}

/// A block of a panel.
#[inline(always)]
fn get<B: Blocks>(panel: &[u8], steps: usize, row: usize, block: usize) -> Fields {
    let (header, tile, half) = place::<B>(steps, block);
    let mut fields = Fields::ZERO;
    let mut io = Reader(
        &panel[header..header + B::HEADER],
        &panel[tile..tile + B::TILE],
    );
    visit::<B>(&mut io, half, row, &mut fields);
    fields
}

/// Writes a block where there are zeros.
#[inline(always)]
fn put<B: Blocks>(panel: &mut [u8], steps: usize, row: usize, block: usize, fields: &mut Fields) {
    let (header, tile, half) = place::<B>(steps, block);
    let (headers, tiles) = panel.split_at_mut(header_bytes(steps, B::HEADER));
    let tile = tile - headers.len();
    let mut io = Writer(
        &mut headers[header..header + B::HEADER],
        &mut tiles[tile..tile + B::TILE],
    );
    visit::<B>(&mut io, half, row, fields);
}

pub(super) fn pack<B: Blocks>(rows: &[f32], cols: usize, out: &mut [u8]) {
    out.fill(0);
    let steps = cols.div_ceil(B::STEP);
    for (row, values) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (block, values) in values.chunks(B::COLS).enumerate() {
            put::<B>(out, steps, row, block, &mut B::quantize(values));
        }
    }
}

pub(super) fn pack_gguf<B: Blocks>(rows: &[&[u8]], cols: usize, out: &mut [u8]) {
    out.fill(0);
    let steps = cols.div_ceil(B::STEP);
    for (row, bytes) in rows.iter().enumerate() {
        assert!(
            cols.is_multiple_of(B::COLS) && bytes.len() == cols / B::COLS * B::FOREIGN,
            "pack: {} bytes of a row of {cols} columns",
            bytes.len()
        );
        for (block, bytes) in bytes.chunks_exact(B::FOREIGN).enumerate() {
            put::<B>(out, steps, row, block, &mut B::from_gguf(bytes));
        }
    }
}

/// The integer that a code stands for.
#[inline(always)]
fn integer<B: Blocks>(code: u8) -> i32 {
    let code = match B::TABLE {
        Some(table) => table[usize::from(code & 15)],
        None => code,
    };
    i32::from(code) - B::ZERO
}

/// The values of a block.
#[inline(always)]
fn decode<B: Blocks>(fields: &Fields, out: &mut [f32]) {
    for (sub, values) in out.chunks_mut(B::SUB).enumerate() {
        let (scale, min) = (B::scale(fields, sub), B::min(fields, sub));
        for (value, code) in values.iter_mut().zip(&fields.codes[sub * B::SUB..]) {
            *value = scale * integer::<B>(*code) as f32;
            if B::MINS {
                *value -= min;
            }
        }
    }
}

pub(super) fn unpack_row<B: Blocks>(panel: &[u8], row: usize, out: &mut [f32]) {
    let steps = out.len().div_ceil(B::STEP);
    for (block, values) in out.chunks_mut(B::COLS).enumerate() {
        decode::<B>(&get::<B>(panel, steps, row, block), values);
    }
}

pub(super) fn values<B: Blocks>(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.chunks_exact(B::FOREIGN);
    for (block, values) in blocks.zip(out.chunks_exact_mut(B::COLS)) {
        decode::<B>(&B::from_gguf(block), values);
    }
}

pub(super) fn check<B: Blocks>(panel: &[u8], n_rows: usize, cols: usize) -> Result<(), BadPanel> {
    let steps = cols.div_ceil(B::STEP);
    let bad = |row, col, what| Err(BadPanel { row, col, what });
    for block in 0..steps * (B::STEP / B::COLS) {
        let first = block * B::COLS;
        for row in 0..PANEL_ROWS {
            let fields = get::<B>(panel, steps, row, block);
            if row >= n_rows || first >= cols {
                if fields != Fields::ZERO {
                    return bad(row, first, PADDING);
                }
                continue;
            }
            if !B::finite(&fields) {
                return bad(row, first, SCALE_NOT_FINITE);
            }
            let inside = (cols - first).min(B::COLS);
            for sub in inside.div_ceil(B::SUB)..B::COLS / B::SUB {
                if fields.scales[sub] != 0 || fields.mins[sub] != 0 {
                    return bad(row, first + sub * B::SUB, PADDING);
                }
            }
            let mut codes = fields.codes[..B::COLS].iter().enumerate().skip(inside);
            if let Some((i, _)) = codes.find(|(_, code)| **code != 0) {
                return bad(row, first + i, PADDING);
            }
        }
    }
    let header = steps * B::HEADER..header_bytes(steps, B::HEADER);
    match panel[header].iter().any(|byte| *byte != 0) {
        true => bad(0, cols, PADDING),
        false => Ok(()),
    }
}

/// Tokens of which the scalar kernel computes results side by side, so that a block is decoded once for them.
const SIDE_BY_SIDE: usize = 16;

/// The product that defines these formats.
pub(crate) fn matmul<B: Blocks>(job: IntJob<'_>) {
    let IntJob {
        weights,
        panel_bytes,
        blocks,
        q,
        scales,
        stride,
        n,
        mut out,
        ..
    } = job;
    let steps = blocks * BLOCK / B::STEP;
    for row in 0..out.rows() {
        let panel = &weights[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
        for token in (0..n).step_by(SIDE_BY_SIDE) {
            let count = SIDE_BY_SIDE.min(n - token);
            let mut acc = [0.0f32; SIDE_BY_SIDE];
            for block in 0..blocks * BLOCK / B::COLS {
                let fields = get::<B>(panel, steps, row % PANEL_ROWS, block);
                for sub in 0..B::COLS / B::SUB {
                    let (scale, min) = (B::scale(&fields, sub), B::min(&fields, sub));
                    let codes = &fields.codes[sub * B::SUB..][..B::SUB];
                    let col = block * B::COLS + sub * B::SUB;
                    for (t, acc) in acc[..count].iter_mut().enumerate() {
                        let q = &q[(token + t) * stride + col..][..B::SUB];
                        let a_scale = scales[(token + t) * (stride / BLOCK) + col / BLOCK];
                        let products = codes.iter().zip(q);
                        let isum: i32 = products
                            .map(|(code, q)| integer::<B>(*code) * i32::from(*q))
                            .sum();
                        *acc = (scale * a_scale).mul_add(isum as f32, *acc);
                        if B::MINS {
                            let sum: i32 = q.iter().map(|q| i32::from(*q)).sum();
                            *acc = (-min).mul_add(a_scale * sum as f32, *acc);
                        }
                    }
                }
            }
            for (t, acc) in acc[..count].iter().enumerate() {
                out.set(token + t, row, *acc);
            }
        }
    }
}

/// The number that the bits of an f16 stand for.
#[inline(always)]
pub(super) fn half(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// Two little-endian bytes of a block of GGUF.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Codes of 16 bytes of nibbles: byte j holds columns j and j + 16.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    for (j, byte) in bytes.iter().enumerate() {
        codes[j] = byte & 15;
        codes[j + 16] = byte >> 4;
    }
}

//! q8: 8-bit codes, one f16 scale per row and block of 32 columns; `value = scale * (code - 128)`.
//!
//! ```text
//! tile of 64 columns, 1088 bytes:
//!   line 0     scales:  [ block 0: r0 | r1 | ... | r15 ][ block 1: r0 | r1 | ... | r15 ]      32 x f16
//!   line 1+g   codes:   [ r0: k k+1 k+2 k+3 ][ r1: ... ] ... [ r15: ... ], k = 4g, g = 0..16    64 x u8
//! ```
//! Lines 1..9 belong to block 0, lines 9..17 to block 1. Codes are unsigned (the signed byte with its top
//! bit flipped) because 8-bit dot products take unsigned times signed. Same size and values as GGUF Q8_0.
//! Padding: scale +0, code 128.

use half::f16;

use super::{BadPanel, PADDING, check_scale, u16_at};
use crate::matmul::IntJob;
use crate::{BLOCK, PANEL_ROWS};

/// Bytes per tile of 64 columns.
pub(crate) const TILE: usize = 64 + 16 * 64;
/// The code of zero.
pub(crate) const ZERO: u8 = 128;

/// Offset of a scale.
#[inline(always)]
fn scale_at(row: usize, block: usize) -> usize {
    block / 2 * TILE + block % 2 * 32 + row * 2
}

/// Offset of a code.
#[inline(always)]
fn code_at(row: usize, col: usize) -> usize {
    col / 64 * TILE + 64 + col % 64 / 4 * 64 + row * 4 + col % 4
}

fn clear(out: &mut [u8]) {
    for tile in out.chunks_exact_mut(TILE) {
        tile[..64].fill(0);
        tile[64..].fill(ZERO);
    }
}

pub(super) fn pack(rows: &[f32], cols: usize, out: &mut [u8]) {
    clear(out);
    for (row, values) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let mut padded = [0.0; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            let (scale, codes) = quantize(&padded);
            out[scale_at(row, block)..][..2].copy_from_slice(&scale.to_le_bytes());
            for (i, code) in codes[..values.len()].iter().enumerate() {
                out[code_at(row, block * BLOCK + i)] = *code as u8 ^ ZERO;
            }
        }
    }
}

/// The scale and the signed codes of 32 values.
///
/// The scale is `amax / 127` as an f16. Where that is subnormal, rounding it down may cut off the largest values by
/// many steps: there the f16 above is tried, too, and the smaller squared error wins.
fn quantize(values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    // Magnitudes order like their bits.
    let amax = values
        .iter()
        .fold(0, |m, v| m.max(v.to_bits() as i32 & i32::MAX));
    let amax = f32::from_bits(amax as u32);
    if amax == 0.0 {
        return (f16::ZERO, [0; BLOCK]);
    }
    let nearest = f16::from_f32(amax / 127.0)
        .to_bits()
        .clamp(1, f16::MAX.to_bits());
    let scale = f16::from_bits(nearest);
    let codes = round_to(values, scale);
    if nearest < f16::MIN_POSITIVE.to_bits() {
        let above = f16::from_bits(nearest + 1);
        let others = round_to(values, above);
        if squared_error(values, above, &others) < squared_error(values, scale, &codes) {
            return (above, others);
        }
    }
    (scale, codes)
}

fn round_to(values: &[f32; BLOCK], scale: f16) -> [i8; BLOCK] {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even, below 2^22.
    const ROUND: f32 = 12_582_912.0;
    let step = scale.to_f32();
    let mut codes = [0; BLOCK];
    for (code, v) in codes.iter_mut().zip(values) {
        *code = ((v / step).clamp(-127.0, 127.0) + ROUND - ROUND) as i32 as i8;
    }
    codes
}

fn squared_error(values: &[f32; BLOCK], scale: f16, codes: &[i8; BLOCK]) -> f64 {
    let step = f64::from(scale.to_f32());
    let off = values
        .iter()
        .zip(codes)
        .map(|(v, code)| f64::from(*v) - step * f64::from(*code));
    off.map(|off| off * off).sum()
}

pub(super) fn pack_gguf(rows: &[&[u8]], cols: usize, out: &mut [u8]) {
    clear(out);
    for (row, bytes) in rows.iter().enumerate() {
        assert_eq!(bytes.len(), cols / BLOCK * 34, "pack: size of a Q8_0 row");
        for (block, bytes) in bytes.chunks_exact(34).enumerate() {
            out[scale_at(row, block)..][..2].copy_from_slice(&bytes[..2]);
            for (i, code) in bytes[2..].iter().enumerate() {
                out[code_at(row, block * BLOCK + i)] = code ^ ZERO;
            }
        }
    }
}

pub(super) fn gguf_values(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.chunks_exact(34);
    for (block, values) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
        let scale = f16::from_bits(u16_at(block, 0)).to_f32();
        for (value, code) in values.iter_mut().zip(&block[2..]) {
            *value = scale * f32::from(*code as i8);
        }
    }
}

pub(super) fn unpack_row(panel: &[u8], row: usize, out: &mut [f32]) {
    for (block, values) in out.chunks_mut(BLOCK).enumerate() {
        let scale = f16::from_bits(u16_at(panel, scale_at(row, block))).to_f32();
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from((panel[code_at(row, block * BLOCK + i)] ^ ZERO) as i8);
        }
    }
}

pub(super) fn check(panel: &[u8], n_rows: usize, cols: usize) -> Result<(), BadPanel> {
    let blocks = cols.div_ceil(BLOCK);
    for block in 0..panel.len() / TILE * 2 {
        for row in 0..PANEL_ROWS {
            let inside = row < n_rows && block < blocks;
            check_scale(
                u16_at(panel, scale_at(row, block)),
                row,
                block * BLOCK,
                inside,
            )?;
            let from = if row < n_rows {
                cols.max(block * BLOCK)
            } else {
                block * BLOCK
            };
            for col in from..(block + 1) * BLOCK {
                if panel[code_at(row, col)] != ZERO {
                    return Err(BadPanel {
                        row,
                        col,
                        what: PADDING,
                    });
                }
            }
        }
    }
    Ok(())
}

/// The product that defines q8.
pub(crate) fn matmul(job: IntJob<'_>) {
    matmul_by(
        job,
        |panel, row, col| i32::from(panel[code_at(row, col)]) - i32::from(ZERO),
        |panel, row, block| u16_at(panel, scale_at(row, block)),
    );
}

/// The scalar product of every format with one scale per block of 32, given how it reads a code (without
/// its zero point) and a scale.
#[inline(always)]
pub(super) fn matmul_by(
    job: IntJob<'_>,
    code: impl Fn(&[u8], usize, usize) -> i32,
    scale: impl Fn(&[u8], usize, usize) -> u16,
) {
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
    for row in 0..out.rows() {
        let panel = &weights[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
        let row_in = row % PANEL_ROWS;
        for token in 0..n {
            let q = &q[token * stride..][..blocks * BLOCK];
            let scales = &scales[token * (stride / BLOCK)..][..blocks];
            let mut acc = 0.0f32;
            for (block, q) in q.chunks_exact(BLOCK).enumerate() {
                let mut sum = 0i32;
                for (i, a) in q.iter().enumerate() {
                    sum += code(panel, row_in, block * BLOCK + i) * i32::from(*a);
                }
                let w_scale = f16::from_bits(scale(panel, row_in, block)).to_f32();
                acc = (w_scale * scales[block]).mul_add(sum as f32, acc);
            }
            out.set(token, row, acc);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::formats::{SCALE_NOT_FINITE, tests::noise};

    #[test]
    fn gguf_rows_come_back_exactly() {
        let cols = 96;
        let rows: Vec<Vec<u8>> = (0..5)
            .map(|r| {
                let mut bytes: Vec<u8> = noise(cols / 32 * 34, 10 + r)
                    .iter()
                    .map(|v| (v * 128.0) as i8 as u8)
                    .collect();
                for (block, bytes) in bytes.chunks_exact_mut(34).enumerate() {
                    bytes[..2]
                        .copy_from_slice(&f16::from_f32([0.01, -2.5, 6.0e-8][block]).to_le_bytes());
                    bytes[2] = 0x80;
                }
                bytes
            })
            .collect();
        let views: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let mut panel = vec![0; Format::Q8.panel_bytes(cols).unwrap()];
        Format::Q8.pack_panel_gguf(&views, cols, &mut panel);
        assert_eq!(Format::Q8.check_panel(&panel, 5, cols), Ok(()));
        let mut out = vec![0.0; cols];
        for (r, bytes) in rows.iter().enumerate() {
            Format::Q8.unpack_row(&panel, r, cols, &mut out);
            for (col, value) in out.iter().enumerate() {
                let block = &bytes[col / 32 * 34..][..34];
                let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
                let want = d * f32::from(block[2 + col % 32] as i8);
                assert_eq!(value.to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn quantization_is_within_half_a_step() {
        for (magnitude, seed) in [(1.0, 1), (1.0e-3, 2), (3.0e4, 3), (8.0e6, 4)] {
            let rows: Vec<f32> = noise(16 * 96, seed).iter().map(|v| v * magnitude).collect();
            let mut panel = vec![0; Format::Q8.panel_bytes(96).unwrap()];
            Format::Q8.pack_panel(&rows, 16, 96, &mut panel);
            let mut out = [0.0; 96];
            for r in 0..16 {
                Format::Q8.unpack_row(&panel, r, 96, &mut out);
                for (b, want) in rows[r * 96..][..96].chunks(32).enumerate() {
                    let amax = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    // The f16 scale is within 2^-11 of amax/127, or within 2^-24 where it is subnormal and
                    // then possibly the next one up; a value is within half a step, the largest within the
                    // 127 steps that the scale was rounded down by.
                    let step = amax / 127.0;
                    let slack = (step / 2048.0).max(1.0 / (1 << 24) as f32);
                    let bound = (step + slack) / 2.0 + 127.0 * step / 2048.0;
                    for (got, want) in out[b * 32..].iter().zip(want) {
                        assert!((got - want).abs() <= bound * 1.0001, "{got} {want} {bound}");
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_magnitudes_stay_finite() {
        for magnitude in [1.0e-45, 1.0e-20, 3.0e-8, 1.0e-6, 1.0e7, 3.0e38] {
            let rows: Vec<f32> = noise(32, 5).iter().map(|v| v * magnitude).collect();
            let mut panel = vec![0; Format::Q8.panel_bytes(32).unwrap()];
            Format::Q8.pack_panel(&rows, 1, 32, &mut panel);
            assert_eq!(Format::Q8.check_panel(&panel, 1, 32), Ok(()));
        }
    }

    #[test]
    fn finds_a_scale_that_is_not_finite() {
        let rows = noise(4 * 70, 6);
        for bits in [0x7c00u16, 0xfc00, 0x7e00] {
            let mut panel = vec![0; Format::Q8.panel_bytes(70).unwrap()];
            Format::Q8.pack_panel(&rows, 4, 70, &mut panel);
            panel[scale_at(2, 1)..][..2].copy_from_slice(&bits.to_le_bytes());
            assert_eq!(
                Format::Q8.check_panel(&panel, 4, 70),
                Err(BadPanel {
                    row: 2,
                    col: 32,
                    what: SCALE_NOT_FINITE
                })
            );
        }
    }
}

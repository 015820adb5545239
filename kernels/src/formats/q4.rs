//! q4: 4-bit codes around 8, one f16 scale per row and block of 32 columns; `value = scale * (code - 8)`.
//!
//! ```text
//! tile of 64 columns, 576 bytes:
//!   line 0        scales:  [ block 0: r0 | r1 | ... | r15 ][ block 1: r0 | r1 | ... | r15 ]        32 x f16
//!   line 1+4b+g   codes of block b, g = 0..4:   [ r0: 4 bytes ][ r1: 4 bytes ] ... [ r15: 4 bytes ]
//!                 byte j of a row:   bits 0..4 = column 4g + j,   bits 4..8 = column 16 + 4g + j
//! ```
//! Splitting a line by `& 15` and `>> 4` gives two lines of u8 codes in the order of q8. Same size and
//! values as GGUF Q4_0. Padding: scale +0, code 8.

use half::f16;

use super::{BadPanel, PADDING, check_scale, q8, u16_at};
use crate::matmul::IntJob;
use crate::{BLOCK, PANEL_ROWS};

/// Bytes per tile of 64 columns.
pub(crate) const TILE: usize = 64 + 8 * 64;
/// The code of zero.
pub(crate) const ZERO: u8 = 8;

/// Offset of a scale.
#[inline(always)]
fn scale_at(row: usize, block: usize) -> usize {
    block / 2 * TILE + block % 2 * 32 + row * 2
}

/// Offset of the byte of a code, and the shift within it.
#[inline(always)]
fn code_at(row: usize, col: usize) -> (usize, u32) {
    let (block, i) = (col / BLOCK, col % BLOCK);
    let at = block / 2 * TILE + 64 + (block % 2 * 4 + i % 16 / 4) * 64 + row * 4 + i % 4;
    (at, i as u32 / 16 * 4)
}

#[inline(always)]
fn code(panel: &[u8], row: usize, col: usize) -> u8 {
    let (at, shift) = code_at(row, col);
    panel[at] >> shift & 15
}

fn clear(out: &mut [u8]) {
    for tile in out.chunks_exact_mut(TILE) {
        tile[..64].fill(0);
        tile[64..].fill(ZERO << 4 | ZERO);
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
                let (at, shift) = code_at(row, block * BLOCK + i);
                out[at] = out[at] & !(15 << shift) | code << shift;
            }
        }
    }
}

/// The scale and codes of a block, by a small search for the scale with the least squared error.
///
/// It starts at the plain scale, `extreme / -8`: the value of largest magnitude gets the code 0, which is
/// the one with the most room. Other starting scales put it elsewhere between 7 and 8.8 steps from zero; each is then
/// moved once to the least-squares scale of its codes. (On normal deviates 11 starts on both sides take only
/// 0.3% more off the error than these 5.) The plain scale comes
/// first and only a smaller error replaces it, so the result is never worse than plain rounding.
fn quantize(x: &[f32; BLOCK]) -> (f16, [u8; BLOCK]) {
    const STEPS: [f32; 5] = [-8.0, -7.5, -7.0, -8.4, -8.8];
    // Magnitudes order like their bits.
    let amax = x
        .iter()
        .fold(0, |m, v| m.max(v.to_bits() as i32 & i32::MAX));
    let amax = f32::from_bits(amax as u32);
    if amax == 0.0 {
        return (f16::ZERO, [ZERO; BLOCK]);
    }
    // Of two values of that magnitude the first decides the sign.
    let extreme = x.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax);
    let mut best = (f32::INFINITY, scale_from(extreme / STEPS[0]));
    for steps in STEPS {
        let mut scale = scale_from(extreme / steps);
        for _ in 0..2 {
            let tried = round_to(x, scale);
            if tried.error < best.0 {
                best = (tried.error, scale);
            }
            if tried.code_squares == 0.0 {
                break;
            }
            scale = scale_from(tried.code_values / tried.code_squares);
        }
    }
    let inverse = 1.0 / best.1.to_f32();
    (
        best.1,
        x.map(|v| (code_of(v * inverse) + f32::from(ZERO)) as u8),
    )
}

/// A nonzero finite f16 near `scale`.
fn scale_from(scale: f32) -> f16 {
    let bits = f16::from_f32(scale).to_bits();
    f16::from_bits((bits & 0x7fff).clamp(1, f16::MAX.to_bits()) | bits & 0x8000)
}

/// The nearest code, without the zero point: -8..=7.
#[inline(always)]
fn code_of(v: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even, below 2^22.
    const ROUND: f32 = 12_582_912.0;
    v.clamp(-8.0, 7.0) + ROUND - ROUND
}

/// A block rounded to one scale.
struct Rounded {
    /// Sum of squared differences.
    error: f32,
    /// Sum of code times value, and of code squared: their quotient is the best scale for these codes.
    code_values: f32,
    code_squares: f32,
}

/// Rounds to the nearest codes. The sums run over strided lanes, so that a compiler may use vectors and
/// yet every machine writes the same file.
fn round_to(x: &[f32; BLOCK], scale: f16) -> Rounded {
    const LANES: usize = 8;
    let step = scale.to_f32();
    let inverse = 1.0 / step;
    let mut error = [0.0f32; LANES];
    let mut values = [0.0f32; LANES];
    let mut squares = [0.0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let code = code_of(x[lane] * inverse);
            let off = x[lane] - step * code;
            error[lane] += off * off;
            values[lane] += code * x[lane];
            squares[lane] += code * code;
        }
    }
    Rounded {
        error: error.iter().sum(),
        code_values: values.iter().sum(),
        code_squares: squares.iter().sum(),
    }
}

pub(super) fn pack_gguf(rows: &[&[u8]], cols: usize, out: &mut [u8]) {
    clear(out);
    for (row, bytes) in rows.iter().enumerate() {
        assert_eq!(bytes.len(), cols / BLOCK * 18, "pack: size of a Q4_0 row");
        for (block, bytes) in bytes.chunks_exact(18).enumerate() {
            out[scale_at(row, block)..][..2].copy_from_slice(&bytes[..2]);
            // A byte holds columns i and i + 16 there as here.
            for (i, pair) in bytes[2..].iter().enumerate() {
                out[code_at(row, block * BLOCK + i).0] = *pair;
            }
        }
    }
}

pub(super) fn gguf_values(blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.chunks_exact(18);
    for (block, values) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
        let scale = f16::from_bits(u16_at(block, 0)).to_f32();
        let (low, high) = values.split_at_mut(16);
        for (i, pair) in block[2..].iter().enumerate() {
            low[i] = scale * (f32::from(pair & 15) - f32::from(ZERO));
            high[i] = scale * (f32::from(pair >> 4) - f32::from(ZERO));
        }
    }
}

pub(super) fn unpack_row(panel: &[u8], row: usize, out: &mut [f32]) {
    for (block, values) in out.chunks_mut(BLOCK).enumerate() {
        let scale = f16::from_bits(u16_at(panel, scale_at(row, block))).to_f32();
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * (f32::from(code(panel, row, block * BLOCK + i)) - f32::from(ZERO));
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
                if code(panel, row, col) != ZERO {
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

/// The product that defines q4.
pub(crate) fn matmul(job: IntJob<'_>) {
    q8::matmul_by(
        job,
        |panel, row, col| i32::from(code(panel, row, col)) - i32::from(ZERO),
        |panel, row, block| u16_at(panel, scale_at(row, block)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;
    use crate::formats::{SCALE_NOT_FINITE, tests::noise};

    #[test]
    fn gguf_rows_come_back_exactly() {
        let cols = 160;
        let rows: Vec<Vec<u8>> = (0..16)
            .map(|r| {
                let mut bytes: Vec<u8> = noise(cols / 32 * 18, 20 + r)
                    .iter()
                    .map(|v| (v * 128.0) as i8 as u8)
                    .collect();
                for (block, bytes) in bytes.chunks_exact_mut(18).enumerate() {
                    bytes[..2].copy_from_slice(
                        &f16::from_f32([0.01, -2.5, 6.0e-8, -0.0, 300.0][block]).to_le_bytes(),
                    );
                }
                bytes
            })
            .collect();
        let views: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let mut panel = vec![0; Format::Q4.panel_bytes(cols).unwrap()];
        Format::Q4.pack_panel_gguf(&views, cols, &mut panel);
        assert_eq!(Format::Q4.check_panel(&panel, 16, cols), Ok(()));
        let mut out = vec![0.0; cols];
        for (r, bytes) in rows.iter().enumerate() {
            Format::Q4.unpack_row(&panel, r, cols, &mut out);
            for (col, value) in out.iter().enumerate() {
                let block = &bytes[col / 32 * 18..][..18];
                let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
                let pair = block[2 + col % 16];
                let code = if col % 32 < 16 { pair & 15 } else { pair >> 4 };
                assert_eq!(value.to_bits(), ((f32::from(code) - 8.0) * d).to_bits());
            }
        }
    }

    /// Squared error of a block under codes and scale, in f64.
    fn squared(x: &[f32], scale: f16, code: impl Fn(usize) -> f64) -> f64 {
        let scale = f64::from(scale.to_f32());
        x.iter()
            .enumerate()
            .map(|(i, v)| (f64::from(*v) - scale * (code(i) - 8.0)).powi(2))
            .sum()
    }

    #[test]
    fn never_worse_than_plain_rounding_and_better_on_the_whole() {
        let (mut ours, mut plain) = (0.0, 0.0);
        for seed in 0..400 {
            let x: [f32; 32] = noise(64, seed)
                .chunks(2)
                .map(|v| v[0] * v[1] * 0.1)
                .collect::<Vec<_>>()
                .try_into()
                .unwrap();
            let (scale, codes) = quantize(&x);
            let error = squared(&x, scale, |i| f64::from(codes[i]));
            let extreme = x
                .iter()
                .fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
            let d = f16::from_f32(extreme / -8.0);
            let simple = squared(&x, d, |i| {
                f64::from((x[i] / d.to_f32() + 8.5).floor().clamp(0.0, 15.0))
            });
            // The search compares sums in f32: 32 terms, so within 32 * 2^-24 of the exact ones.
            assert!(error <= simple * (1.0 + 1.0e-5), "{error} {simple}");
            ours += error;
            plain += simple;
        }
        assert!(ours < 0.9 * plain, "{ours} {plain}");
    }

    #[test]
    fn extreme_magnitudes_stay_finite() {
        for magnitude in [1.0e-45, 1.0e-20, 3.0e-8, 1.0e-6, 1.0e6, 3.0e38] {
            let rows: Vec<f32> = noise(40, 5).iter().map(|v| v * magnitude).collect();
            let mut panel = vec![0; Format::Q4.panel_bytes(40).unwrap()];
            Format::Q4.pack_panel(&rows, 1, 40, &mut panel);
            assert_eq!(Format::Q4.check_panel(&panel, 1, 40), Ok(()));
        }
    }

    #[test]
    fn finds_a_scale_that_is_not_finite() {
        let rows = noise(4 * 70, 6);
        for bits in [0x7c00u16, 0xfc00, 0x7e00] {
            let mut panel = vec![0; Format::Q4.panel_bytes(70).unwrap()];
            Format::Q4.pack_panel(&rows, 4, 70, &mut panel);
            panel[scale_at(3, 2)..][..2].copy_from_slice(&bits.to_le_bytes());
            assert_eq!(
                Format::Q4.check_panel(&panel, 4, 70),
                Err(BadPanel {
                    row: 3,
                    col: 64,
                    what: SCALE_NOT_FINITE
                })
            );
        }
    }
}

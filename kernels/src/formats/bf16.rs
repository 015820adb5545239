//! bf16: a line holds two columns, side by side for each row, columns padded to an even number.
//!
//! ```text
//! line k/2:  [ r0: k | k+1 ][ r1: k | k+1 ] ... [ r15: k | k+1 ]      32 x 2 bytes, little-endian
//! ```
//! Seen as 16 words of 32 bits, column k is `word << 16` and column k + 1 is `word & 0xffff0000`: widening is
//! one operation each. It is also what bf16 dot-product instructions take.

use half::bf16;

use super::{BadPanel, NOT_FINITE, f32::matmul_by, u16_at, verdict};
use crate::PANEL_ROWS;
use crate::matmul::FloatJob;

#[inline(always)]
fn at(row: usize, col: usize) -> usize {
    (col / 2 * PANEL_ROWS + row) * 4 + col % 2 * 2
}

#[inline(always)]
fn get(panel: &[u8], row: usize, col: usize) -> f32 {
    f32::from_bits(u32::from(u16_at(panel, at(row, col))) << 16)
}

pub(super) fn pack(rows: &[f32], cols: usize, out: &mut [u8]) {
    out.fill(0);
    for (row, values) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (col, value) in values.iter().enumerate() {
            out[at(row, col)..][..2].copy_from_slice(&bf16::from_f32(*value).to_le_bytes());
        }
    }
}

pub(super) fn unpack_row(panel: &[u8], row: usize, out: &mut [f32]) {
    for (col, value) in out.iter_mut().enumerate() {
        *value = get(panel, row, col);
    }
}

pub(super) fn check(panel: &[u8], n_rows: usize, cols: usize) -> Result<(), BadPanel> {
    for (i, bytes) in panel.chunks_exact(2).enumerate() {
        let (col, row) = (i / (2 * PANEL_ROWS) * 2 + i % 2, i / 2 % PANEL_ROWS);
        let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
        let state = (bits == 0, bits & 0x7f80 != 0x7f80);
        let inside = row < n_rows && col < cols;
        verdict(state, inside, (row, col), NOT_FINITE)?;
    }
    Ok(())
}

/// The product that defines bf16: each weight widened to f32, then as f32.
pub(crate) fn matmul(job: FloatJob<'_>) {
    matmul_by(job, get);
}

#[cfg(test)]
mod tests {
    use crate::Format;
    use crate::formats::{BadPanel, NOT_FINITE};

    #[test]
    fn every_bf16_round_trips_and_rounding_is_to_even() {
        let all: Vec<f32> = (0..=u16::MAX)
            .map(|bits| f32::from_bits(u32::from(bits) << 16))
            .collect();
        for chunk in all.chunks(16 * 64) {
            let mut panel = vec![1; Format::Bf16.panel_bytes(64).unwrap()];
            Format::Bf16.pack_panel(chunk, 16, 64, &mut panel);
            let mut row = [0.0; 64];
            for r in 0..16 {
                Format::Bf16.unpack_row(&panel, r, 64, &mut row);
                for (got, want) in row.iter().zip(&chunk[r * 64..]) {
                    assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
                }
            }
        }
        let mut panel = vec![1; Format::Bf16.panel_bytes(2).unwrap()];
        Format::Bf16.pack_panel(
            &[f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000)],
            1,
            2,
            &mut panel,
        );
        let mut row = [0.0; 2];
        Format::Bf16.unpack_row(&panel, 0, 2, &mut row);
        assert_eq!(row.map(f32::to_bits), [0x3f80_0000, 0x3f82_0000]);
    }

    #[test]
    fn finds_what_is_not_finite() {
        let mut rows = vec![1.0; 3 * 5];
        rows[2 * 5 + 3] = f32::NAN;
        let mut panel = vec![1; Format::Bf16.panel_bytes(5).unwrap()];
        Format::Bf16.pack_panel(&rows, 3, 5, &mut panel);
        assert_eq!(
            Format::Bf16.check_panel(&panel, 3, 5),
            Err(BadPanel {
                row: 2,
                col: 3,
                what: NOT_FINITE
            })
        );
    }
}

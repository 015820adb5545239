//! f16: half a line per column, columns padded to an even number.
//!
//! ```text
//! line k/2:  [ k: r0 | r1 | ... | r15 ][ k+1: r0 | r1 | ... | r15 ]      32 x 2 bytes, little-endian
//! ```

use half::f16;

use super::{BadPanel, NOT_FINITE, f32::matmul_by, u16_at, verdict};
use crate::PANEL_ROWS;
use crate::matmul::FloatJob;

#[inline(always)]
fn get(panel: &[u8], row: usize, col: usize) -> f32 {
    f16::from_bits(u16_at(panel, (col * PANEL_ROWS + row) * 2)).to_f32()
}

pub(super) fn pack(rows: &[f32], cols: usize, out: &mut [u8]) {
    out.fill(0);
    for (row, values) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (col, value) in values.iter().enumerate() {
            out[(col * PANEL_ROWS + row) * 2..][..2]
                .copy_from_slice(&f16::from_f32(*value).to_le_bytes());
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
        let (col, row) = (i / PANEL_ROWS, i % PANEL_ROWS);
        let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
        let state = (bits == 0, bits & 0x7c00 != 0x7c00);
        let inside = row < n_rows && col < cols;
        verdict(state, inside, (row, col), NOT_FINITE)?;
    }
    Ok(())
}

/// The product that defines f16: each weight widened to f32, then as f32.
pub(crate) fn matmul(job: FloatJob<'_>) {
    matmul_by(job, get);
}

#[cfg(test)]
mod tests {
    use crate::Format;
    use crate::formats::{BadPanel, NOT_FINITE};
    use half::f16;

    #[test]
    fn every_f16_round_trips() {
        let all: Vec<f32> = (0..=u16::MAX)
            .map(|bits| f16::from_bits(bits).to_f32())
            .collect();
        for chunk in all.chunks(16 * 64) {
            let mut panel = vec![1; Format::F16.panel_bytes(64).unwrap()];
            Format::F16.pack_panel(chunk, 16, 64, &mut panel);
            let mut row = [0.0; 64];
            for r in 0..16 {
                Format::F16.unpack_row(&panel, r, 64, &mut row);
                for (got, want) in row.iter().zip(&chunk[r * 64..]) {
                    assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
                }
            }
        }
    }

    #[test]
    fn finds_what_overflowed() {
        let mut rows = vec![1.0; 2 * 5];
        rows[5 + 4] = 65520.0;
        let mut panel = vec![1; Format::F16.panel_bytes(5).unwrap()];
        Format::F16.pack_panel(&rows, 2, 5, &mut panel);
        assert_eq!(
            Format::F16.check_panel(&panel, 2, 5),
            Err(BadPanel {
                row: 1,
                col: 4,
                what: NOT_FINITE
            })
        );
    }
}

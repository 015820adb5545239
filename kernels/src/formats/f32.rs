//! f32: one line per column.
//!
//! ```text
//! line k:  [ r0 | r1 | r2 | ... | r15 ]      16 x 4 bytes, little-endian
//! ```

use super::{BadPanel, NOT_FINITE, verdict};
use crate::PANEL_ROWS;
use crate::matmul::FloatJob;

#[inline(always)]
fn get(panel: &[u8], row: usize, col: usize) -> f32 {
    let at = (col * PANEL_ROWS + row) * 4;
    f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]])
}

pub(super) fn pack(rows: &[f32], cols: usize, out: &mut [u8]) {
    out.fill(0);
    for (row, values) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (col, value) in values.iter().enumerate() {
            out[(col * PANEL_ROWS + row) * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

pub(super) fn unpack_row(panel: &[u8], row: usize, out: &mut [f32]) {
    for (col, value) in out.iter_mut().enumerate() {
        *value = get(panel, row, col);
    }
}

pub(super) fn check(panel: &[u8], n_rows: usize, cols: usize) -> Result<(), BadPanel> {
    for (i, bytes) in panel.chunks_exact(4).enumerate() {
        let (col, row) = (i / PANEL_ROWS, i % PANEL_ROWS);
        let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let state = (bits == 0, bits & 0x7f80_0000 != 0x7f80_0000);
        let inside = row < n_rows && col < cols;
        verdict(state, inside, (row, col), NOT_FINITE)?;
    }
    Ok(())
}

/// The product that defines f32: ascending columns, one fused multiply-add each.
pub(crate) fn matmul(job: FloatJob<'_>) {
    matmul_by(job, get);
}

/// The scalar product of every float format, given how it reads a value.
#[inline(always)]
pub(super) fn matmul_by(job: FloatJob<'_>, get: impl Fn(&[u8], usize, usize) -> f32) {
    let FloatJob {
        weights,
        panel_bytes,
        cols,
        x,
        stride,
        n,
        mut out,
        ..
    } = job;
    for row in 0..out.rows() {
        let panel = &weights[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
        for token in 0..n {
            let x = &x[token * stride..][..cols];
            let mut acc = 0.0f32;
            for (col, a) in x.iter().enumerate() {
                acc = get(panel, row % PANEL_ROWS, col).mul_add(*a, acc);
            }
            out.set(token, row, acc);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Format;
    use crate::formats::{BadPanel, NOT_FINITE, tests::noise};

    #[test]
    fn round_trips_every_bit() {
        let rows = noise(7 * 13, 1);
        let mut panel = vec![1; Format::F32.panel_bytes(13).unwrap()];
        Format::F32.pack_panel(&rows, 7, 13, &mut panel);
        let mut row = [0.0; 13];
        for r in 0..7 {
            Format::F32.unpack_row(&panel, r, 13, &mut row);
            assert_eq!(row, rows[r * 13..][..13]);
        }
    }

    #[test]
    fn finds_what_is_not_finite() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = noise(7 * 13, 1);
            rows[3 * 13 + 12] = bad;
            let mut panel = vec![1; Format::F32.panel_bytes(13).unwrap()];
            Format::F32.pack_panel(&rows, 7, 13, &mut panel);
            assert_eq!(
                Format::F32.check_panel(&panel, 7, 13),
                Err(BadPanel {
                    row: 3,
                    col: 12,
                    what: NOT_FINITE
                })
            );
        }
    }
}

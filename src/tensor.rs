//! Typed views of tensor data: [`Matrix`] in panels of a weight format, [`Vector`] of f32. Neither copies.
//!
//! A matrix is `count` matrices of the same shape one after another (count is 1 but for experts). Each consists of
//! `ceil(rows / 16)` panels of 16 rows; the order of bytes within a panel is its [`Format`]'s (see the kernels crate). Padding
//! rows and columns hold zeros.
//!
//! Memory may be a mapping of a file that somebody overwrites: every bit pattern is a valid f32, and panels are read as bytes,
//! so the worst that can follow is wrong numbers, which the file's change detection reports.
#![allow(unsafe_code)] // one cast from bytes to f32

use crate::bytes::{ALIGN, Bytes};
use crate::error::{Error, Result};
use quern_kernels::{Format, PANEL_ROWS};
use std::ops::Deref;

#[cfg(target_endian = "big")]
compile_error!("weights are read in place as little-endian numbers: this machine is big-endian");

/// Weights as panels of a [`Format`].
#[derive(Clone, Debug)]
pub struct Matrix {
    format: Format,
    count: usize,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    matrix_bytes: usize,
    bytes: Bytes,
}

impl Matrix {
    /// A view of `count` matrices of `rows` outputs by `cols` inputs.
    ///
    /// # Errors
    /// Invalid if `bytes` has another length than the shape needs, or does not start at a multiple of 64.
    pub fn new(
        format: Format,
        count: usize,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Matrix> {
        let sizes = || {
            let panel = format.panel_bytes(cols)?;
            let matrix = format.matrix_bytes(rows, cols)?;
            Some((panel, matrix, matrix.checked_mul(count)?))
        };
        let Some((panel_bytes, matrix_bytes, total)) = sizes() else {
            return Err(Error::invalid(format_args!(
                "a {} matrix of {count} x {rows} x {cols} is larger than the address space",
                format.name()
            )));
        };
        if bytes.len() != total {
            return Err(Error::invalid(format_args!(
                "{} bytes, expected {total} for {count} x {rows} x {cols} in {}",
                bytes.len(),
                format.name()
            )));
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(Error::invalid(format_args!(
                "matrix data does not start at a multiple of {ALIGN}"
            )));
        }
        Ok(Matrix {
            format,
            count,
            rows,
            cols,
            panel_bytes,
            matrix_bytes,
            bytes,
        })
    }

    /// How weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Matrices one after another.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Outputs of one matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of one matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Panels of one matrix: `ceil(rows / 16)`.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// All bytes of all matrices.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The panels of matrix `index`.
    ///
    /// # Panics
    /// If `index >= count`.
    pub fn matrix(&self, index: usize) -> &[u8] {
        assert!(index < self.count, "matrix {index} of {}", self.count);
        &self.bytes[index * self.matrix_bytes..][..self.matrix_bytes]
    }

    /// Panel `panel` of matrix `index`.
    ///
    /// # Panics
    /// If there is no such panel.
    pub fn panel(&self, index: usize, panel: usize) -> &[u8] {
        &self.matrix(index)[panel * self.panel_bytes..][..self.panel_bytes]
    }

    /// Row `row` of matrix `index` as f32, exactly as stored: an embedding look-up.
    ///
    /// # Panics
    /// If there is no such row, or if `out` does not have `cols` elements.
    pub fn row(&self, index: usize, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "length of the output row");
        let panel = self.panel(index, row / PANEL_ROWS);
        self.format
            .unpack_row(panel, row % PANEL_ROWS, self.cols, out);
    }
}

/// A vector of f32: a norm's weight or a bias.
#[derive(Clone, Debug)]
pub struct Vector {
    bytes: Bytes,
}

impl Vector {
    /// A view of `len` values.
    ///
    /// # Errors
    /// Invalid if `bytes` has another length or is not aligned.
    pub fn new(len: usize, bytes: Bytes) -> Result<Vector> {
        if len.checked_mul(4) != Some(bytes.len()) {
            return Err(Error::invalid(format_args!(
                "{} bytes, expected 4 for each of {len} values",
                bytes.len()
            )));
        }
        as_f32(&bytes)?;
        Ok(Vector { bytes })
    }
}

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        as_f32(&self.bytes).expect("checked when the vector was made")
    }
}

/// The little-endian f32 values in `bytes`.
///
/// # Errors
/// Invalid if `bytes` is not a whole number of aligned values.
pub fn as_f32(bytes: &[u8]) -> Result<&[f32]> {
    if !bytes.len().is_multiple_of(4) || !bytes.as_ptr().cast::<f32>().is_aligned() {
        return Err(Error::invalid(format_args!(
            "{} bytes at this place are not a whole number of aligned f32 values",
            bytes.len()
        )));
    }
    // SAFETY: the pointer is non-null and aligned for f32, `len / 4` values lie within the slice, every bit pattern is a valid
    // f32, and the result borrows `bytes`, so the memory stays alive and shared.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), bytes.len() / 4) })
}

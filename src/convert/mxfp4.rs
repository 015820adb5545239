//! Rows of 4-bit floats in blocks of 32 with a common exponent (OCP Microscaling Formats 1.0, MXFP4), as two tensors of bytes.
//!
//! ```text
//! codes:  [..., columns / 32, 16]   byte j of a block: element 2j in the low nibble, 2j + 1 in the high one
//! scales: [..., columns / 32]       e stands for 2^(e - 127); 255 is no number
//! ```
//!
//! `fp4` says what codes and scales stand for.

use super::fp4::{VALUES, scale};
use super::source::{Dtype, Tensor, Tensors};
use crate::error::{Error, Result};

/// Values of a block.
const BLOCK: u64 = 32;

/// Bytes of the codes of a block.
const BLOCK_BYTES: u64 = 16;

/// The two tensors.
#[derive(Clone, Copy, Debug)]
pub struct Mxfp4<'a> {
    codes: &'a Tensor,
    scales: &'a Tensor,
}

impl<'a> Mxfp4<'a> {
    /// Joins codes with their scales.
    ///
    /// # Errors
    /// Invalid if they are no bytes, or their shapes do not belong together.
    pub fn new(codes: &'a Tensor, scales: &'a Tensor) -> Result<Mxfp4<'a>> {
        for t in [codes, scales] {
            if t.dtype != Dtype::U8 {
                return Err(Error::invalid(format_args!(
                    "tensor {:?} has type {}, expected U8",
                    t.shown,
                    t.dtype.name()
                )));
            }
        }
        match codes.shape.split_last() {
            Some((&BLOCK_BYTES, outer)) if outer.len() >= 2 => {
                if scales.shape == outer {
                    return Ok(Mxfp4 { codes, scales });
                }
                Err(Error::invalid(format_args!(
                    "tensor {:?} has shape {:?}, expected {outer:?}: one scale for every block of {:?}",
                    scales.shown, scales.shape, codes.shown
                )))
            }
            _ => Err(Error::invalid(format_args!(
                "tensor {:?} has shape {:?}, expected rows of blocks of {BLOCK_BYTES} bytes",
                codes.shown, codes.shape
            ))),
        }
    }

    fn blocks_per_row(&self) -> u64 {
        self.scales.shape.last().copied().unwrap_or(0)
    }

    /// Rows and columns: all outer dimensions are rows.
    pub fn matrix(&self) -> (u64, u64) {
        (self.scales.matrix().0, self.blocks_per_row() * BLOCK)
    }

    /// Values of `count` rows from row `first`, appended to `out`; `bytes` is a workspace.
    ///
    /// # Errors
    /// I/O, memory.
    ///
    /// # Panics
    /// If the rows are not within the tensor.
    pub fn read(
        &self,
        tensors: &Tensors,
        first: u64,
        count: u64,
        bytes: &mut Vec<u8>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let per_row = self.blocks_per_row();
        let (from, blocks) = (first * per_row, (count * per_row) as usize);
        let n = blocks * BLOCK as usize;
        out.try_reserve(n)
            .map_err(|_| crate::error::out_of_memory("rows of a tensor", n.saturating_mul(4)))?;
        tensors.read_bytes(self.scales, from, blocks, bytes)?;
        let scales: Vec<f32> = bytes.iter().map(|&e| scale(e)).collect();
        let len = blocks * BLOCK_BYTES as usize;
        tensors.read_bytes(self.codes, from * BLOCK_BYTES, len, bytes)?;
        for (codes, scale) in bytes.chunks_exact(BLOCK_BYTES as usize).zip(scales) {
            for code in codes {
                out.push(VALUES[usize::from(code & 15)] * scale);
                out.push(VALUES[usize::from(code >> 4)] * scale);
            }
        }
        Ok(())
    }

    /// The same rows as blocks of GGUF, which has the exponent first and then elements j and j + 16 in byte j.
    ///
    /// # Errors
    /// I/O, memory.
    ///
    /// # Panics
    /// If the rows are not within the tensor.
    pub fn read_blocks(
        &self,
        tensors: &Tensors,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let per_row = self.blocks_per_row();
        let (from, blocks) = (first * per_row, (count * per_row) as usize);
        let (mut scales, mut codes) = (Vec::new(), Vec::new());
        tensors.read_bytes(self.scales, from, blocks, &mut scales)?;
        let len = blocks * BLOCK_BYTES as usize;
        tensors.read_bytes(self.codes, from * BLOCK_BYTES, len, &mut codes)?;
        out.clear();
        out.try_reserve_exact(blocks + len)
            .map_err(|_| crate::error::out_of_memory("rows of a tensor", blocks + len))?;
        for (scale, codes) in scales.iter().zip(codes.chunks_exact(BLOCK_BYTES as usize)) {
            out.push(*scale);
            let code = |i: usize| codes[i / 2] >> (i % 2 * 4) & 15;
            out.extend((0..16).map(|j| code(j) | code(j + 16) << 4));
        }
        Ok(())
    }
}

//! The reference table: portable code that defines every result.

mod vector;

use crate::{Isa, Kernels, formats, matmul};

/// Runs everywhere.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Scalar,
    matmul: MATMUL,
    vector: &vector::VECTOR,
};

/// The matmul side of [`TABLE`].
pub(crate) const MATMUL: matmul::MatmulKernels = matmul::MatmulKernels {
    quantize: matmul::quantize_scalar,
    f32: formats::f32::matmul,
    f16: formats::f16::matmul,
    bf16: formats::bf16::matmul,
    q8: formats::q8::matmul,
    q4: formats::q4::matmul,
};

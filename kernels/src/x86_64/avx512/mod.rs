//! AVX-512 with VNNI.

mod float;
mod int;
mod quantize;
mod vector;

use crate::matmul::MatmulKernels;
use crate::{Isa, Kernels};

/// AVX-512 F, BW, DQ, VL, VNNI.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512,
    matmul: MATMUL,
    vector: &vector::VECTOR,
};

const MATMUL: MatmulKernels = MatmulKernels {
    quantize: quantize::quantize,
    f32: float::f32,
    f16: float::f16,
    bf16: float::bf16,
    q8: int::q8,
    q4: int::q4,
};

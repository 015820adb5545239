//! AVX-512 with VNNI.

mod vector;

use crate::{Isa, Kernels, scalar};

/// AVX-512 F, BW, DQ, VL, VNNI.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512,
    matmul: scalar::MATMUL,
    vector: &vector::VECTOR,
};

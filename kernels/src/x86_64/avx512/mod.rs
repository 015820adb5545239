//! AVX-512 with VNNI.

use crate::{Isa, Kernels, scalar};

/// AVX-512 F, BW, DQ, VL, VNNI.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512,
    matmul: scalar::MATMUL,
};

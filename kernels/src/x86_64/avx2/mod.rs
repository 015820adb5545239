//! AVX2 with FMA and F16C, with and without AVX-VNNI.

mod vector;

use crate::{Isa, Kernels, scalar};

/// AVX2, FMA, F16C.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx2,
    matmul: scalar::MATMUL,
    vector: &vector::VECTOR,
};

/// The same with AVX-VNNI.
pub(crate) static VNNI_TABLE: Kernels = Kernels {
    isa: Isa::AvxVnni,
    matmul: scalar::MATMUL,
    vector: &vector::VECTOR,
};

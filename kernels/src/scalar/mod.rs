//! The reference table: portable code that defines every result.

mod vector;

use crate::formats::{self, blocks};
use crate::{Isa, Kernels, matmul};

/// Runs everywhere.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Scalar,
    exact: true,
    matmul: MATMUL,
    vector: &vector::VECTOR,
};

/// The matmul side of [`TABLE`].
pub(crate) const MATMUL: matmul::MatmulKernels = matmul::MatmulKernels {
    quantize: matmul::quantize_scalar,
    half_sums: matmul::half_sums_scalar,
    f32: formats::f32::matmul,
    f16: formats::f16::matmul,
    bf16: formats::bf16::matmul,
    q8: formats::q8::matmul,
    q4: formats::q4::matmul,
    q4m: blocks::matmul::<formats::q4m::Q4m>,
    q5: blocks::matmul::<formats::q5::Q5>,
    q5m: blocks::matmul::<formats::q5m::Q5m>,
    q2k: blocks::matmul::<formats::q2k::Q2k>,
    q3k: blocks::matmul::<formats::q3k::Q3k>,
    q4k: blocks::matmul::<formats::q4k::Q4k>,
    q5k: blocks::matmul::<formats::q5k::Q5k>,
    q6k: blocks::matmul::<formats::q6k::Q6k>,
    iq4nl: blocks::matmul::<formats::iq4nl::Iq4nl>,
    iq4xs: blocks::matmul::<formats::iq4xs::Iq4xs>,
    mxfp4: blocks::matmul::<formats::mxfp4::Mxfp4>,
};

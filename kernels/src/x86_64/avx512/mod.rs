//! AVX-512 with VNNI.

mod blocks;
mod dot;
mod float;
mod int;
mod quantize;
mod vector;

use crate::formats::{iq4nl, iq4xs, mxfp4, q2k, q3k, q4k, q4m, q5, q5k, q5m, q6k};
use crate::matmul::MatmulKernels;
use crate::{Isa, Kernels};

/// AVX-512 F, BW, DQ, VL, VNNI.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512,
    exact: true,
    matmul: MATMUL,
    vector: &vector::VECTOR,
};

/// The same with AVX-512 BF16, for who does not ask for equal bits.
pub(crate) static FAST_TABLE: Kernels = Kernels {
    isa: Isa::Avx512,
    exact: false,
    matmul: MatmulKernels {
        bf16: dot::bf16,
        ..MATMUL
    },
    vector: &vector::VECTOR,
};

const MATMUL: MatmulKernels = MatmulKernels {
    quantize: quantize::quantize,
    half_sums: quantize::half_sums,
    f32: float::f32,
    f16: float::f16,
    bf16: float::bf16,
    q8: int::q8,
    q4: int::q4,
    q4m: blocks::matmul::<q4m::Q4m>,
    q5: blocks::matmul::<q5::Q5>,
    q5m: blocks::matmul::<q5m::Q5m>,
    q2k: blocks::matmul::<q2k::Q2k>,
    q3k: blocks::matmul::<q3k::Q3k>,
    q4k: blocks::matmul::<q4k::Q4k>,
    q5k: blocks::matmul::<q5k::Q5k>,
    q6k: blocks::matmul::<q6k::Q6k>,
    iq4nl: blocks::matmul::<iq4nl::Iq4nl>,
    iq4xs: blocks::matmul::<iq4xs::Iq4xs>,
    mxfp4: blocks::matmul::<mxfp4::Mxfp4>,
};

//! NEON: what every AArch64 CPU has, and the same with dot products of bytes (`sdot`) and products of small matrices of them (`usmmla`).

/// The array of an expression for 0 to 3, written out: a closure would be compiled without the features of its caller, and not always inlined.
macro_rules! each {
    ($i:ident => $of:expr) => {
        [
            {
                let $i = 0usize;
                $of
            },
            {
                let $i = 1usize;
                $of
            },
            {
                let $i = 2usize;
                $of
            },
            {
                let $i = 3usize;
                $of
            },
        ]
    };
}

mod blocks;
mod dot;
mod float;
mod int;
mod quantize;
mod vector;

use crate::formats::{iq4nl, iq4xs, mxfp4, q2k, q3k, q4k, q4m, q5, q5k, q5m, q6k};
use crate::matmul::MatmulKernels;
use crate::{Isa, Kernels};
use blocks::{Base, Table, WithDot, WithMatrix};

/// NEON alone.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Neon,
    exact: true,
    matmul: matmul::<Base>(),
    vector: &vector::VECTOR,
};

/// The same with `sdot`.
pub(crate) static DOT_TABLE: Kernels = Kernels {
    isa: Isa::NeonDot,
    exact: true,
    matmul: matmul::<WithDot>(),
    vector: &vector::VECTOR,
};

/// The same with `usmmla` for more than one token.
pub(crate) static MATRIX_TABLE: Kernels = Kernels {
    isa: Isa::NeonI8mm,
    exact: true,
    matmul: matmul::<WithMatrix>(),
    vector: &vector::VECTOR,
};

const fn matmul<K: Table>() -> MatmulKernels {
    MatmulKernels {
        quantize: quantize::quantize,
        half_sums: quantize::half_sums,
        f32: float::f32,
        f16: float::f16,
        bf16: float::bf16,
        q8: int::q8::<K>,
        q4: int::q4::<K>,
        q4m: blocks::matmul::<K, q4m::Q4m>,
        q5: blocks::matmul::<K, q5::Q5>,
        q5m: blocks::matmul::<K, q5m::Q5m>,
        q2k: blocks::matmul::<K, q2k::Q2k>,
        q3k: blocks::matmul::<K, q3k::Q3k>,
        q4k: blocks::matmul::<K, q4k::Q4k>,
        q5k: blocks::matmul::<K, q5k::Q5k>,
        q6k: blocks::matmul::<K, q6k::Q6k>,
        iq4nl: blocks::matmul::<K, iq4nl::Iq4nl>,
        iq4xs: blocks::matmul::<K, iq4xs::Iq4xs>,
        mxfp4: blocks::matmul::<K, mxfp4::Mxfp4>,
    }
}

//! AVX2 with FMA and F16C, with and without AVX-VNNI.

mod blocks;
mod float;
mod int;
mod quantize;
mod vector;

use crate::formats::{iq4nl, iq4xs, mxfp4, q2k, q3k, q4k, q4m, q5, q5k, q5m, q6k};
use crate::matmul::MatmulKernels;
use crate::{Isa, Kernels};

/// AVX2, FMA, F16C.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx2,
    exact: true,
    matmul: MATMUL,
    vector: &vector::VECTOR,
};

/// The same with AVX-VNNI.
pub(crate) static VNNI_TABLE: Kernels = Kernels {
    isa: Isa::AvxVnni,
    exact: true,
    matmul: MatmulKernels {
        q8: int::q8_vnni,
        q4: int::q4_vnni,
        q4m: blocks::matmul_vnni::<q4m::Q4m>,
        q5: blocks::matmul_vnni::<q5::Q5>,
        q5m: blocks::matmul_vnni::<q5m::Q5m>,
        q2k: blocks::matmul_vnni::<q2k::Q2k>,
        q3k: blocks::matmul_vnni::<q3k::Q3k>,
        q4k: blocks::matmul_vnni::<q4k::Q4k>,
        q5k: blocks::matmul_vnni::<q5k::Q5k>,
        q6k: blocks::matmul_vnni::<q6k::Q6k>,
        iq4nl: blocks::matmul_vnni::<iq4nl::Iq4nl>,
        iq4xs: blocks::matmul_vnni::<iq4xs::Iq4xs>,
        mxfp4: blocks::matmul_vnni::<mxfp4::Mxfp4>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActKind, Format, sweep};

    /// The body of the AVX-VNNI table, where the CPU has 256-bit dot products in either encoding.
    #[test]
    fn the_vnni_body_equals_the_scalar_kernels() {
        static EVEX: Kernels = Kernels {
            isa: Isa::AvxVnni,
            exact: true,
            matmul: MatmulKernels {
                q8: int::evex::q8,
                q4: int::evex::q4,
                q4m: blocks::evex::matmul::<q4m::Q4m>,
                q5: blocks::evex::matmul::<q5::Q5>,
                q5m: blocks::evex::matmul::<q5m::Q5m>,
                q2k: blocks::evex::matmul::<q2k::Q2k>,
                q3k: blocks::evex::matmul::<q3k::Q3k>,
                q4k: blocks::evex::matmul::<q4k::Q4k>,
                q5k: blocks::evex::matmul::<q5k::Q5k>,
                q6k: blocks::evex::matmul::<q6k::Q6k>,
                iq4nl: blocks::evex::matmul::<iq4nl::Iq4nl>,
                iq4xs: blocks::evex::matmul::<iq4xs::Iq4xs>,
                mxfp4: blocks::evex::matmul::<mxfp4::Mxfp4>,
                ..MATMUL
            },
            vector: &vector::VECTOR,
        };
        let vex = Isa::AvxVnni.missing().is_none();
        let evex = Isa::Avx512.missing().is_none();
        for (form, here) in [("VEX", vex), ("EVEX", evex)] {
            let word = if here {
                "covered"
            } else {
                "NOT covered, no such instruction here"
            };
            eprintln!("avxvnni body, {form} form: {word}");
        }
        let tables: Vec<&Kernels> = [(vex, &VNNI_TABLE), (evex, &EVEX)]
            .into_iter()
            .filter_map(|(here, table)| here.then_some(table))
            .collect();
        for format in Format::ALL {
            if format.act_kind() == ActKind::F32 {
                continue;
            }
            sweep::shapes(sweep::scalar(), &tables, format);
            sweep::chunks(sweep::scalar(), &tables, format);
        }
        sweep::lengths(sweep::scalar(), &tables, Format::Q4);
        sweep::quantization(&tables);
    }
}

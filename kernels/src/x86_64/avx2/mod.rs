//! AVX2 with FMA and F16C, with and without AVX-VNNI.

mod float;
mod int;
mod quantize;
mod vector;

use crate::matmul::MatmulKernels;
use crate::{Isa, Kernels};

/// AVX2, FMA, F16C.
pub(crate) static TABLE: Kernels = Kernels {
    isa: Isa::Avx2,
    matmul: MATMUL,
    vector: &vector::VECTOR,
};

/// The same with AVX-VNNI.
pub(crate) static VNNI_TABLE: Kernels = Kernels {
    isa: Isa::AvxVnni,
    matmul: MatmulKernels {
        q8: int::q8_vnni,
        q4: int::q4_vnni,
        ..MATMUL
    },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, sweep};

    /// The body of the AVX-VNNI table, where the CPU has 256-bit dot products in either encoding.
    #[test]
    fn the_vnni_body_equals_the_scalar_kernels() {
        static EVEX: Kernels = Kernels {
            isa: Isa::AvxVnni,
            matmul: MatmulKernels {
                q8: int::evex::q8,
                q4: int::evex::q4,
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
        for format in [Format::Q8, Format::Q4] {
            sweep::shapes(&tables, format);
            sweep::chunks(&tables, format);
        }
        sweep::lengths(&tables, Format::Q4);
        sweep::quantization(&tables);
    }
}

//! From CPU features to tables: the only way to a table leads through here.

use crate::Kernels;

/// The instruction sets that kernels are written for, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code, the definition of every result.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI: 8-bit dot products in 256-bit vectors.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// AArch64 with NEON, which all of them have.
    Neon,
    /// The same with 8-bit dot products (`dotprod`).
    NeonDot,
    /// The same with products of small matrices of bytes (`i8mm`) as well.
    NeonI8mm,
}

impl Isa {
    /// All of them, slowest first on the CPUs that have them.
    pub const ALL: [Isa; 7] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Neon,
        Isa::NeonDot,
        Isa::NeonI8mm,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
            Isa::NeonI8mm => "neoni8mm",
        }
    }

    /// The instruction set with that name.
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The first feature that this CPU or build lacks for it, if any.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Isa::Scalar => None,
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => missing_x86_64(self),
            Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => missing_aarch64(self),
        }
    }
}

/// Why there is no table for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// The name is known, but the table cannot run here.
    Unsupported {
        /// What was asked for.
        isa: Isa,
        /// The first feature that is missing.
        missing: &'static str,
    },
}

impl std::fmt::Display for IsaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IsaError::Unknown { name } => {
                let known = Isa::ALL.map(Isa::name).join(", ");
                write!(
                    f,
                    "unknown instruction set {name:?}: expected one of {known}"
                )
            }
            IsaError::Unsupported { isa, missing } => {
                write!(
                    f,
                    "instruction set {:?} cannot run here: this CPU lacks {missing}",
                    isa.name()
                )
            }
        }
    }
}

impl std::error::Error for IsaError {}

/// What the only table that is not exact is called.
pub(crate) const FAST_NAME: &str = "avx512+bf16";

/// The table of the same instruction set that is not bound to its bits, if this CPU can run one; else the same.
pub(crate) fn fast(table: &'static Kernels) -> &'static Kernels {
    #[cfg(target_arch = "x86_64")]
    if table.isa() == Isa::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16") {
        return &crate::x86_64::avx512::FAST_TABLE;
    }
    table
}

/// The table of `isa`, if the CPU can run it.
pub(crate) fn table(isa: Isa) -> Result<&'static Kernels, IsaError> {
    match isa.missing() {
        Some(missing) => Err(IsaError::Unsupported { isa, missing }),
        None => Ok(match isa {
            Isa::Scalar => &crate::scalar::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &crate::x86_64::avx2::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &crate::x86_64::avx2::VNNI_TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &crate::x86_64::avx512::TABLE,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &crate::aarch64::neon::TABLE,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => &crate::aarch64::neon::DOT_TABLE,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => &crate::aarch64::neon::MATRIX_TABLE,
            // Those of other CPUs, which are missing here.
            _ => &crate::scalar::TABLE,
        }),
    }
}

#[cfg(target_arch = "x86_64")]
fn missing_x86_64(isa: Isa) -> Option<&'static str> {
    macro_rules! first_missing {
        ($($feature:tt),*) => { $(if !std::arch::is_x86_feature_detected!($feature) { return Some($feature); })* };
    }
    // The macro also checks that the operating system saves the registers.
    if isa >= Isa::Avx2 {
        first_missing!("avx2", "fma", "f16c");
    }
    if isa == Isa::AvxVnni {
        first_missing!("avxvnni");
    }
    if isa == Isa::Avx512 {
        first_missing!("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni");
    }
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_x86_64(_: Isa) -> Option<&'static str> {
    Some("the instructions of x86-64")
}

#[cfg(target_arch = "aarch64")]
fn missing_aarch64(isa: Isa) -> Option<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    match isa {
        _ if !has!("neon") => Some("neon"),
        Isa::NeonDot | Isa::NeonI8mm if !has!("dotprod") => Some("dotprod"),
        Isa::NeonI8mm if !has!("i8mm") => Some("i8mm"),
        _ => None,
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn missing_aarch64(_: Isa) -> Option<&'static str> {
    Some("the instructions of AArch64")
}

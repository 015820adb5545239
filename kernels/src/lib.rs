//! The arithmetic of quern: weight formats, and one table of kernels per instruction set.
//!
//! Contract of the whole crate: every table computes the same bits. The scalar kernels define the
//! result (see the file of each format under [`formats`]), the others are tested for equality with them.
//! [`Kernels::fast_math`] alone leads to tables that are not bound by it.
//! Nothing here knows of threads, files or models; callers pass slices and get slices filled.
//!
//! A [`Kernels`] table is obtainable only through [`best`], [`supported`] and [`by_name`], all of
//! which ask the CPU first: holding a reference to a table proves that its instructions exist.
//!
//! The order of values in memory is the same for every instruction set. A weight matrix is cut into
//! *panels* of [`PANEL_ROWS`] output rows; a panel holds all of K for its rows as one sequential stream,
//! and within it a line of 64 bytes holds the same few columns of all 16 rows. With output rows in
//! the lanes of a vector no kernel ever sums across lanes, which is what makes equality cheap.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod detect;
pub mod formats;
mod gemm;
mod generic;
mod matmul;
mod peak;
mod scalar;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
extern crate self as quern_kernels;
#[cfg(all(test, unix, target_arch = "x86_64"))]
#[path = "../tests/sweep/mod.rs"]
mod sweep;

pub use detect::{Isa, IsaError};
pub use formats::{ActKind, BadPanel, Format};
pub use generic::{Activation, KV_BLOCK, KV_TILE, KvType};
pub use matmul::{Acts, Out, Scratch};
pub use peak::{Peak, READ_LINE};

/// Output rows of a panel: as many as a 512-bit vector has 32-bit lanes.
pub const PANEL_ROWS: usize = 16;

/// Activations are padded with zeros to a multiple of this many columns, the widest K tile of any format.
pub const K_ALIGN: usize = 256;

/// Columns that share one scale in the integer formats, weights and activations alike.
pub const BLOCK: usize = 32;

/// The kernels of one instruction set.
pub struct Kernels {
    isa: Isa,
    /// Whether it computes the bits that all tables agree on.
    exact: bool,
    matmul: matmul::MatmulKernels,
    vector: &'static generic::VectorKernels,
}

impl Kernels {
    /// The instruction set of this table.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The name of the instruction set, as [`by_name`] takes it; with an appendix if the table is not exact.
    pub fn name(&self) -> &'static str {
        match self.exact {
            true => self.isa.name(),
            false => detect::FAST_NAME,
        }
    }

    /// Whether its results are those of the scalar table, bit for bit: so it is for every table but those of [`Kernels::fast_math`].
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// The table of the same instruction set that may trade bits for speed, or this one if there is none for this CPU.
    ///
    /// With AVX-512 BF16, products of bf16 weights round the activations to bfloat16 and sum pairs of products as that
    /// instruction does: within `2^-8` of the sum of the magnitudes of all products. They still depend neither on the number of tokens
    /// nor on how a product is cut into panels.
    pub fn fast_math(&'static self) -> &'static Kernels {
        detect::fast(self)
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name())
    }
}

/// The fastest table that this CPU can run.
pub fn best() -> &'static Kernels {
    supported().last().unwrap_or(&scalar::TABLE)
}

/// Every table that this CPU can run, the scalar reference first and the fastest last.
pub fn supported() -> impl Iterator<Item = &'static Kernels> {
    Isa::ALL
        .into_iter()
        .filter_map(|isa| detect::table(isa).ok())
}

/// The table with that name.
///
/// # Errors
/// [`IsaError::Unknown`] for a name that is none of [`Isa::ALL`], [`IsaError::Unsupported`] when this
/// CPU or this build lacks an instruction that the table needs.
pub fn by_name(name: &str) -> Result<&'static Kernels, IsaError> {
    let isa = Isa::by_name(name).ok_or_else(|| IsaError::Unknown {
        name: name.to_owned(),
    })?;
    detect::table(isa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_unsupported_names_are_errors() {
        let unknown = by_name("avx9000").unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "unknown instruction set \"avx9000\": expected one of scalar, avx2, avxvnni, avx512, neon, neondot, neoni8mm"
        );
        for isa in Isa::ALL {
            match by_name(isa.name()) {
                Ok(table) => assert_eq!(table.isa(), isa),
                Err(IsaError::Unsupported {
                    isa: named,
                    missing,
                }) => {
                    assert_eq!(named, isa);
                    assert!(!missing.is_empty());
                }
                Err(other) => panic!("{} is a known name, yet: {other}", isa.name()),
            }
        }
    }

    #[test]
    fn fast_math_is_a_table_of_the_same_instruction_set() {
        for table in supported() {
            let fast = table.fast_math();
            assert!(table.exact());
            assert_eq!(fast.isa(), table.isa());
            assert_eq!(fast.exact(), std::ptr::eq(fast, table));
            assert_eq!(fast.exact(), fast.name() == table.name());
            assert!(std::ptr::eq(fast.fast_math(), fast));
            // A name alone never leads to one.
            assert!(fast.exact() || by_name(fast.name()).is_err());
        }
    }

    #[test]
    fn the_scalar_table_is_always_there_and_the_best_comes_last() {
        let all: Vec<_> = supported().map(Kernels::isa).collect();
        assert_eq!(all[0], Isa::Scalar);
        assert_eq!(best().isa(), *all.last().unwrap());
        assert!(all.is_sorted());
    }
}

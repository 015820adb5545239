//! Tables for x86-64, one folder per register width.

pub(crate) mod avx2;
pub(crate) mod avx512;

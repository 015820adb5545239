//! The kernels along vectors: every table equals the scalar one bit for bit, and the scalar one is
//! close to an f64 oracle within derived bounds. Buffers lie flush against unmapped pages, so that
//! a stray access is a crash.

mod accuracy;
mod attention;
mod data;
mod delta_rule;
mod equality;
mod guard;
mod recurrent;

use quern_kernels::{Kernels, supported};
use std::io::Write;

/// The tables to compare with the scalar one; says on stderr, past the capture of the test runner,
/// which those are.
fn others() -> Vec<&'static Kernels> {
    let tables: Vec<_> = supported().collect();
    let names: Vec<_> = tables.iter().map(|t| t.name()).collect();
    let _ = writeln!(
        std::io::stderr(),
        "vector kernels: covered {}",
        names.join(", ")
    );
    tables[1..].to_vec()
}

/// The reference table.
fn scalar() -> &'static Kernels {
    supported()
        .next()
        .expect("the scalar table runs everywhere")
}

/// Equality of results: the same bits, or both a NaN (IEEE-754 does not say which NaN an operation
/// gives).
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Panics at the first difference.
fn assert_same(what: &dyn Fn() -> String, want: &[f32], got: &[f32]) {
    assert_eq!(want.len(), got.len(), "{}", what());
    for (i, (&w, &g)) in want.iter().zip(got).enumerate() {
        assert!(
            same(w, g),
            "{}: element {i}: scalar {w:e} ({:#010x}), got {g:e} ({:#010x})",
            what(),
            w.to_bits(),
            g.to_bits()
        );
    }
}

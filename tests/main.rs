//! The one integration-test binary: each module tests one promise of the program from outside.

mod cli;
mod common;
mod format;
mod forward;
mod golden;
mod isas;
mod layering;
mod materialise;
mod rust_source;
mod streaming;
mod tiny;

//! Measuring: this machine's limits, its kernels, and what a model makes of them. Every number is a median of several runs, and stands beside the limit
//! that binds it.
//!
//! `hardware` describes the machine, `machine` measures its limits (`bandwidth` by reading, `peaks` by computing), `kernels` one operation at a time (`operations` has them), `model` a whole
//! model, whose weights `synthetic` can make up, `batch` many records at once. `rows` is what figures look like, `stats` what repeated ones say, `compare` sets two runs side by
//! side, `html` draws them, `busy` says whether they mean anything.

pub mod bandwidth;
pub mod batch;
pub mod busy;
pub mod compare;
pub mod hardware;
pub mod html;
pub mod kernels;
pub mod machine;
pub mod model;
pub mod operations;
pub mod peaks;
pub mod rows;
pub mod stats;
pub mod synthetic;

use crate::error::{Error, Result};

/// Checks that so much memory can be had without pushing others out, where the system tells.
///
/// # Errors
/// Limit, naming what it is for, how much is needed, and how much there is.
pub fn require_memory(what: &str, bytes: usize) -> Result<()> {
    let Some(available) = hardware::available_memory() else {
        return Ok(());
    };
    if bytes as u64 <= available {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Err(Error::limit(format_args!(
        "{what}: {:.1} GiB are needed, and {:.1} GiB of memory are available",
        gib(bytes as u64),
        gib(available)
    )))
}

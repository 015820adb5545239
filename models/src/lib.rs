//! Model families as data: from a foreign configuration to one [`Spec`], and from foreign tensors to the roles of that Spec.
//!
//! `spec` is what the weight file stores and what the forward pass runs; `source` reads foreign configurations and remembers what was
//! read; `plan` says which foreign tensor, in which order of rows, becomes which stored tensor; the other files are one family each.

#![forbid(unsafe_code)]

pub mod error;
pub mod plan;
pub mod rope;
pub mod source;
pub mod spec;

pub use error::{Error, Result};
pub use spec::Spec;

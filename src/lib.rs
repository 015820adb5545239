//! quern: a language model in one binary.
//!
//! The floors, from the ground up (a file imports only from floors below its own): `error`; `par`, `file`, `tensor`,
//! `tokenizer`, `sample`; `ops`, `cache`; `blocks`; `model`; `generate`; `convert`, `bench`; `cli`.

#![deny(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod convert;
pub mod error;
pub mod par;
pub mod sample;

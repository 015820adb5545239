//! quern: a language model in one binary.
//!
//! The floors, from the ground up (a file imports only from floors below its own): `error`; `bytes`, `json`; `par`, `tensor`,
//! `tokenizer`, `sample`; `file`, `template`; `ops`, `cache`; `blocks`; `model`; `generate`; `batch`; `convert`, `bench`; `cli`.

#![deny(unsafe_code)]

pub mod batch;
pub mod bench;
pub mod blocks;
pub mod bytes;
pub mod cache;
pub mod cli;
pub mod convert;
pub mod error;
pub mod file;
pub mod generate;
pub mod json;
pub mod model;
pub mod ops;
pub mod par;
pub mod sample;
pub mod template;
pub mod tensor;
pub mod tokenizer;

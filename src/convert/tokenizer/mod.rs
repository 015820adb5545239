//! Foreign tokenizers: one file per format, each turning bytes or metadata into a [`crate::tokenizer::Definition`].

pub mod tokenizer_json;

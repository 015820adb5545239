//! Model families as data: from a foreign configuration to one [`Spec`], and from foreign tensors to the roles of that Spec.
//!
//! `spec` is what the weight file stores and what the forward pass runs; `source` reads foreign configurations and remembers what was
//! read; `plan` says which foreign tensor, in which order of rows, becomes which stored tensor; `gguf` and `llama2c` translate those formats to the
//! keys and names of transformers; `family` lists the families, each in a file of its own, which `builder` helps to write; `shapes` has the
//! configurations of well-known models.

#![forbid(unsafe_code)]

pub mod builder;
pub mod encoder_builder;
pub mod error;
pub mod family;
pub mod gguf;
pub mod latent_builder;
pub mod layer_builder;
pub mod layers;
pub mod llama2c;
pub mod plan;
pub mod pocket;
pub mod recurrent_builder;
pub mod rope;
pub mod rope_config;
pub mod shapes;
pub mod source;
pub mod spec;

mod nested;
mod prelude;
mod quantile;

mod apertus;
mod arcee;
mod bert;
mod bloom;
mod cohere;
mod deepseek;
mod ernie;
mod exaone;
mod falcon;
mod falcon_h1;
mod gemma;
mod gemma3n;
mod gemma4;
mod glm;
mod glm_moe;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granite_hybrid;
mod helium;
mod hunyuan;
mod lfm2;
mod llama;
mod llama4;
mod mamba;
mod mistral;
mod mixtral;
mod modernbert;
mod nemotron;
mod nomic_bert;
mod olmo;
mod opt;
mod phi;
mod phi3;
mod qwen;
mod qwen3_next;
mod qwen_moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod t5;

pub use error::{Error, Result};
pub use family::{FAMILIES, Family, plan};
pub use spec::Spec;

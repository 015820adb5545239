//! From foreign models to weight files: readers of foreign formats, quantization, and the importer that joins them.
//!
//! `source` is tensors wherever they lie; `gguf`, `safetensors` and `llama2c` read those files, `hf` a folder (by way of `folder`), `sentence` what
//! follows the model in it; `foreign` is a whole model of any
//! of these kinds, which `open` tells apart; `choice` says in which format a matrix is stored; `quantize` makes panels of its rows, which `parts` finds and `mxfp4` decodes where they are two tensors (`fp4` has its values); `import` is the way from one to the other, `chat` what comes with its template, `cache` the place where `-m` puts the result.

pub mod cache;
pub mod chat;
pub mod choice;
pub mod folder;
pub mod foreign;
pub mod fp4;
pub mod gguf;
pub mod hf;
pub mod import;
pub mod llama2c;
pub mod mxfp4;
pub mod open;
pub mod parts;
pub mod quantize;
pub mod safetensors;
pub mod sentence;
pub mod source;
pub mod tokenizer;
pub mod vocabulary;

//! From foreign models to weight files: readers of foreign formats, quantization, and the importer that joins them.

pub mod gguf;
pub mod llama2c;
pub mod safetensors;
pub mod source;

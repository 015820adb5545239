//! The one integration-test binary: each module tests one promise of the program from outside.

mod cli;
mod common;
mod embed;
mod families;
mod features;
mod foreign_files;
mod format;
mod forward;
mod golden;
mod golden_folders;
mod import;
mod import_cache;
mod import_faults;
mod import_hazards;
mod import_hazards_gguf;
mod import_layouts;
mod import_mutation;
mod isas;
mod layering;
mod materialise;
mod recurrent;
mod rust_source;
mod stories;
mod streaming;
mod tiny;
mod tokenizer;

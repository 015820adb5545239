//! The `.quern` weight file: docs/FORMAT.md says what it is, this folder reads and writes it.
//!
//! `header` is the first and the last page, `meta` the typed records (`samples` those of them that are made again), `table` the tensor entries; `map` gets the file's memory, `signal` is for
//! files that shrink under a mapping; `reader` opens and validates, `verify` reads all data, `writer` streams a new file, `atomic`
//! lets it appear complete or not at all.

pub mod atomic;
pub mod header;
pub mod map;
pub mod meta;
pub mod reader;
pub mod samples;
pub mod signal;
pub mod table;
pub mod verify;
pub mod writer;

pub use meta::{Meta, Value};
pub use reader::{ModelFile, OpenOptions};
pub use samples::{Golden, TemplateSample};
pub use table::Entry;
pub use writer::{Writer, WriterPlan};

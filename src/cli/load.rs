//! What every command that runs a model shares: its arguments, and from them an open model, kernels, threads and a tokenizer.

use super::output;
use crate::bytes::AlignedBytes;
use crate::error::{Error, Result};
use crate::file::{ModelFile, OpenOptions};
use crate::model::{Engine, Model};
use crate::par::{Team, default_threads};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use quern_kernels::{Format, Kernels, KvType};
use quern_models::pocket;
use quern_models::spec::Shape;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which model to run, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// Model: a .quern file, or a .gguf or Hugging Face folder, which is imported once into the cache folder (default: pocket, the
    /// built-in model)
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Threads (default: one per physical core that this process may use)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set of the kernels: scalar, avx2, avxvnni, avx512, neon, neondot, neoni8mm (default: the best; also: QUERN_ISA)
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
    /// Let products of bf16 weights use bfloat16 dot products where the CPU has them (AVX-512 BF16): faster prompts, and results that differ in
    /// their last digits from those of other machines
    #[arg(long)]
    pub fast_math: bool,
    /// Read the model into memory instead of mapping its file
    #[arg(long)]
    pub no_mmap: bool,
    /// Element type of the key and value cache
    #[arg(long, visible_alias = "cache-type-k", value_enum, default_value_t = Kv::F16, value_name = "TYPE")]
    pub kv: Kv,
    /// Prompt tokens that go through the model in one pass
    #[arg(long, visible_alias = "ubatch-size", value_name = "N", default_value_t = crate::generate::DEFAULT_CHUNK as u32,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub chunk: u32,
}

/// `--kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kv {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, half the memory.
    F16,
    /// 8-bit integers with a scale for every 32 of them, a little more than a quarter.
    #[value(alias = "q8_0")]
    Q8,
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> KvType {
        match kv {
            Kv::F32 => KvType::F32,
            Kv::F16 => KvType::F16,
            Kv::Q8 => KvType::Q8,
        }
    }
}

/// Ids on the command line: numbers separated by commas or white space.
#[derive(Clone, Debug, PartialEq)]
pub struct Ids(pub Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty());
        let ids: Result<Vec<u32>, String> = words
            .map(|word| {
                word.parse()
                    .map_err(|_| format!("{word:?} is not a token id"))
            })
            .collect();
        let ids = ids?;
        if ids.is_empty() {
            return Err("no token ids".into());
        }
        Ok(Ids(ids))
    }
}

/// How a model reads text: what its file says of it.
#[derive(Clone)]
pub struct Reader {
    /// The model.
    pub model: Arc<Model>,
    /// The tokenizer of the file, if it has one.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

/// A model that is ready to run.
pub struct Loaded {
    /// Model, kernels, threads.
    pub engine: Engine,
    /// From text to ids.
    pub reader: Reader,
    /// Why there are so many threads.
    pub threads_reason: String,
    /// How long opening the file took.
    pub open_time: Duration,
    /// How long loading the tokenizer took.
    pub tokenizer_time: Duration,
}

/// The kernels that `--isa` or QUERN_ISA names, or the best ones; with `fast_math` those beside them that are not exact, if there are any.
///
/// # Errors
/// A usage error for a name that is unknown or that this CPU cannot run.
pub fn kernels(isa: Option<&str>, fast_math: bool) -> Result<&'static Kernels> {
    let exact = exact_kernels(isa)?;
    Ok(if fast_math { exact.fast_math() } else { exact })
}

/// Says so if `--fast-math`, which led to these kernels, makes no difference to this model.
pub fn note_idle_fast_math(file: &ModelFile, kernels: &Kernels) {
    let multiplies_bf16 = file
        .entries()
        .iter()
        .any(|e| e.format == Format::Bf16 && matches!(e.shape, Shape::Matrix { .. }));
    let why = match kernels.exact() {
        true => "this CPU has no bfloat16 dot products (AVX-512 BF16)",
        false if multiplies_bf16 => return,
        false => "the model has no bf16 matrices",
    };
    output::note(format_args!(
        "quern: note: --fast-math changes nothing: {why}"
    ));
}

fn exact_kernels(isa: Option<&str>) -> Result<&'static Kernels> {
    let (name, from) = match isa {
        Some(name) => (name.to_owned(), "--isa"),
        None => match std::env::var_os("QUERN_ISA").filter(|v| !v.is_empty()) {
            Some(name) => (name.to_string_lossy().into_owned(), "QUERN_ISA"),
            None => return Ok(quern_kernels::best()),
        },
    };
    quern_kernels::by_name(&name).map_err(|e| Error::usage(e).at(from))
}

/// Opens a weight file, and nothing that is to become one; without a name, or with that of the built-in model, it is this one.
///
/// # Errors
/// An invalid file (3), an unreadable one (4).
pub fn open_own(file: Option<&Path>, mmap: bool) -> Result<ModelFile> {
    match file.filter(|path| *path != Path::new(pocket::NAME)) {
        Some(path) => ModelFile::open(path, OpenOptions { mmap }),
        None if mmap => ModelFile::from_program(pocket::NAME, pocket::file()),
        None => ModelFile::from_bytes(Arc::new(AlignedBytes::copy_of(pocket::file())?)),
    }
}

/// Opens the weight file of a model that is named as `-m` names it; without a name, or with that of the built-in model, it is this one.
///
/// # Errors
/// An invalid file (3), an unreadable one (4).
pub fn open(model: Option<&Path>, mmap: bool) -> Result<ModelFile> {
    let named = model.filter(|path| *path != Path::new(pocket::NAME));
    let path = named.map(super::import::resolve_model).transpose()?;
    open_own(path.as_deref(), mmap)
}

impl ModelArgs {
    /// Says which model runs, where nobody named one and somebody sits at a terminal.
    pub fn announce(&self, loaded: &Loaded) {
        if self.model.is_none() && output::Stream::Stderr.is_terminal() {
            let bytes = loaded.engine.model().file().len();
            output::note(format_args!(
                "quern: this is {}, the built-in model ({:.1} MB): it is small and says what it can do; -m FILE runs another",
                pocket::NAME,
                bytes as f64 / 1e6
            ));
        }
    }

    /// Opens the model.
    ///
    /// # Errors
    /// Wrong arguments (2), an invalid file (3), an unreadable one (4).
    pub fn load(&self) -> Result<Loaded> {
        let kernels = kernels(self.isa.as_deref(), self.fast_math)?;
        let choice = default_threads();
        let (threads, threads_reason) = match self.threads {
            Some(n) => (usize::from(n), "asked for".to_owned()),
            None => (choice.threads, choice.reason),
        };
        let start = Instant::now();
        let file = Arc::new(open(self.model.as_deref(), !self.no_mmap)?);
        let model = Arc::new(Model::bind(file.clone())?);
        let open_time = start.elapsed();
        if self.fast_math {
            note_idle_fast_math(&file, kernels);
        }
        let start = Instant::now();
        let tokenizer = match file.tokenizer()? {
            Some(bytes) => {
                let tokenizer = Tokenizer::from_prepared(bytes);
                Some(Arc::new(
                    tokenizer.map_err(|e| e.at(format_args!("{:?}", file.path())))?,
                ))
            }
            None => None,
        };
        let tokenizer_time = start.elapsed();
        let reader = Reader {
            model: model.clone(),
            tokenizer,
        };
        Ok(Loaded {
            engine: Engine::new(model, kernels, Team::new(threads)?),
            reader,
            threads_reason,
            open_time,
            tokenizer_time,
        })
    }
}

impl Reader {
    /// The ids of a text, with the special tokens that the model expects around it.
    ///
    /// # Errors
    /// A usage error if the file has no tokenizer; what the tokenizer says.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer.as_deref().ok_or_else(|| {
            Error::usage("this model file has no tokenizer: give token ids with --ids")
        })?;
        let add_special = true;
        tokenizer.encode(
            text,
            EncodeOptions {
                add_special,
                parse_special,
            },
        )
    }

    /// What the decoder begins with, if the model has an encoder for what the user gives.
    ///
    /// # Errors
    /// Invalid if the file does not say it.
    pub fn decoder_start(&self) -> Result<Option<u32>> {
        let model = &self.model;
        if model.spec().encoder.is_none() {
            return Ok(None);
        }
        let start = model.file().meta().decoder_start();
        start.map(Some).ok_or_else(|| {
            let path = model.file().path();
            Error::invalid(format_args!(
                "{path:?}: token.decoder_start is missing, expected the id that the decoder begins with"
            ))
        })
    }

    /// The ids that end a generation: the file's, which come from its generation settings, and the tokenizer's.
    pub fn end_ids(&self) -> Vec<u32> {
        let mut ids = self.model.file().meta().eos().to_vec();
        if let Some(tokenizer) = &self.tokenizer {
            ids.extend_from_slice(tokenizer.eos());
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_on_the_command_line() {
        assert_eq!("1,2, 3\n4".parse(), Ok(Ids(vec![1, 2, 3, 4])));
        assert!("".parse::<Ids>().is_err());
        assert_eq!(
            "1,-2".parse::<Ids>(),
            Err("\"-2\" is not a token id".to_owned())
        );
        assert!("4294967296".parse::<Ids>().is_err());
    }

    #[test]
    fn unknown_instruction_sets_are_usage_errors() {
        let e = kernels(Some("sse9"), false).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(e.to_string().contains("\"sse9\""), "{e}");
        assert_eq!(kernels(Some("scalar"), true).unwrap().name(), "scalar");
    }
}

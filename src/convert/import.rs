//! The importer: a foreign model becomes a weight file, atomically and in bounded memory.
//!
//! Order of things: headers and small files are read and checked; the plan is made and bound to the tensors, so that everything that
//! can be wrong but the weights themselves is known before a byte is written; then tensors stream through panels into the writer while
//! another thread hashes the sources; then the file is flushed, opened again with full validation, and gets its name.

use super::chat;
use super::foreign::Foreign;
use super::open::open;
use super::quantize::{self, Bound, Quant, TensorQuant};
use super::source::SourceFile;
use super::vocabulary;
use crate::error::{Error, Result};
use crate::file::meta::key;
use crate::file::{Meta, Value, Writer, WriterPlan};
use quern_models::plan::Plan;
use quern_models::source::{Config, Origin};
use quern_models::spec::Shape;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// A tokenizer file that replaces the model's own.
    pub tokenizer: Option<&'a Path>,
    /// How matrices are stored.
    pub quant: Quant,
    /// How some of them are stored instead; of several that match a matrix the last one counts.
    pub tensors: &'a [TensorQuant],
    /// Threads that convert; hashing the sources takes one more.
    pub threads: usize,
    /// BLAKE3 of the model's files in the order of [`Foreign::files`], where they are known already.
    pub hashes: Option<&'a [blake3::Hash]>,
}

/// What an import did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What the model is called.
    pub name: String,
    /// Its `model_type`.
    pub model_type: String,
    /// Stored tensors.
    pub tensors: usize,
    /// Weights in them.
    pub weights: u64,
    /// Bytes of the new file.
    pub bytes: u64,
    /// Foreign tensors that were left out, with the reason.
    pub skipped: Vec<(String, &'static str)>,
    /// Where formats are not those that were asked for, and why.
    pub notes: Vec<String>,
    /// Whether a tokenizer is in the file.
    pub tokenizer: bool,
    /// What is wrong with the chat template, if it cannot be used.
    pub template_fault: Option<String>,
}

/// Called now and then with the bytes written so far and in all; an error ends the import.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Imports the model at `source` into a weight file at `out`.
///
/// # Errors
/// Invalid for whatever is wrong with the source; Usage if `out` is one of its files; I/O. `out` is then as it was before.
pub fn import(source: &Path, out: &Path, options: &Options, progress: Progress) -> Result<Summary> {
    let foreign = open(source)?;
    refuse_source_as_target(&foreign, out)?;
    let plan = plan(&foreign)?;
    let prepared = Prepared::new(&foreign, &plan, options)?;
    let mut writer = Writer::create(out, prepared.writer_plan(options))?;
    let summary = prepared.write(&mut writer, options, progress)?;
    writer.finish()?;
    Ok(summary)
}

/// The same into a sink of the caller's: nothing is flushed, checked or renamed.
///
/// # Errors
/// As [`import`].
pub fn import_to<W: Write + Seek>(source: &Path, sink: W, options: &Options) -> Result<W> {
    let foreign = open(source)?;
    let plan = plan(&foreign)?;
    let prepared = Prepared::new(&foreign, &plan, options)?;
    let mut writer = Writer::new(sink, Path::new("the sink"), prepared.writer_plan(options))?;
    prepared.write(&mut writer, options, &mut |_, _| Ok(()))?;
    Ok(writer.seal()?.0)
}

/// The plan of a foreign model.
///
/// # Errors
/// Invalid, naming the key or the tensor.
pub fn plan(foreign: &Foreign) -> Result<Plan> {
    let config = Config::new(foreign.origin, &foreign.place, &foreign.config);
    let plan = match &foreign.names {
        None => quern_models::plan(&config, &foreign.tensors),
        Some(names) => names.plan(&config, &foreign.tensors),
    };
    let mut plan = plan.map_err(|e| {
        // Errors about keys name the file; those about tensors do not.
        let placed = e.to_string().starts_with(&foreign.place);
        let e = Error::invalid(e);
        if placed { e } else { e.at(&foreign.place) }
    })?;
    if let Some(embedding) = &foreign.embedding {
        embedding.join(&mut plan);
        let checked = plan.spec.validate().map_err(Error::invalid);
        checked.map_err(|e| e.at(&foreign.place))?;
    }
    foreign.check_ids(plan.spec.vocab_size)?;
    Ok(plan)
}

/// An import that has read everything but the weights.
struct Prepared<'f> {
    foreign: &'f Foreign,
    plan: &'f Plan,
    bound: Bound<'f>,
    tokenizer: vocabulary::Prepared,
    chat: chat::Prepared,
    /// Every file that the result depends on, open.
    sources: Vec<SourceFile>,
}

impl<'f> Prepared<'f> {
    fn new(foreign: &'f Foreign, plan: &'f Plan, options: &Options) -> Result<Self> {
        let bound = quantize::bind(plan, &foreign.tensors, options.quant, options.tensors)
            .map_err(|e| e.at(&foreign.place))?;
        let tokenizer = vocabulary::prepare(foreign, options.tokenizer, plan.spec.vocab_size)?;
        let chat = chat::prepare(&foreign.chat, &tokenizer);
        let paths = foreign.files.iter().map(PathBuf::as_path);
        let sources = paths
            .chain(options.tokenizer)
            .map(SourceFile::open)
            .collect::<Result<_>>()?;
        Ok(Prepared {
            foreign,
            plan,
            bound,
            tokenizer,
            chat,
            sources,
        })
    }

    /// Formats and metadata; hashes that are not known yet are zeros of the same length.
    fn writer_plan(&self, options: &Options) -> WriterPlan {
        let zeros = vec![blake3::Hash::from_bytes([0; 32]); self.sources.len()];
        WriterPlan {
            spec: self.plan.spec.clone(),
            meta: self.meta(options, &zeros),
            tokenizer: self.tokenizer.bytes.clone(),
            formats: self.bound.items.iter().map(|item| item.format).collect(),
        }
    }

    fn meta(&self, options: &Options, hashes: &[blake3::Hash]) -> Meta {
        let f = self.foreign;
        let mut meta = Meta::new();
        let text = |s: &str| Value::String(s.to_owned());
        meta.set(key::NAME, text(&f.name));
        meta.set(
            key::SOURCE_KIND,
            text(match f.origin {
                Origin::HuggingFace => "safetensors",
                Origin::Gguf => "gguf",
                Origin::Llama2c => "llama2c",
            }),
        );
        let names = self.sources.iter().map(|s| {
            let name = s.path().file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        meta.set(key::SOURCE_FILES, Value::Strings(names.collect()));
        let hex = hashes.iter().map(|h| h.to_hex().to_string()).collect();
        meta.set(key::SOURCE_HASHES, Value::Strings(hex));
        let version = concat!("quern ", env!("CARGO_PKG_VERSION"));
        meta.set(key::IMPORTER, text(version));
        let overrides = options.tensors.iter().map(TensorQuant::text);
        let asked: Vec<String> = std::iter::once(options.quant.name().to_owned())
            .chain(overrides)
            .collect();
        meta.set(key::QUANT, text(&asked.join(", ")));
        self.chat.record(&mut meta);
        let tok = &self.tokenizer;
        let id = |meta: &mut Meta, key: &str, id: Option<u32>| {
            if let Some(id) = id {
                meta.set(key, Value::U32(id));
            }
        };
        id(&mut meta, key::BOS, f.ids.bos.or(tok.bos));
        id(&mut meta, key::PAD, f.ids.pad.or(tok.pad));
        id(&mut meta, key::UNK, f.ids.unk);
        if self.plan.spec.encoder.is_some() {
            // Without one of its own a decoder begins with padding.
            let start = f.ids.decoder_start.or(f.ids.pad).or(tok.pad);
            id(&mut meta, key::DECODER_START, start);
        }
        let eos = if f.ids.eos.is_empty() {
            &tok.eos
        } else {
            &f.ids.eos
        };
        if !eos.is_empty() {
            meta.set(key::EOS, Value::U32s(eos.clone()));
        }
        let s = &f.sampling;
        for (key, value) in [
            (key::TEMPERATURE, s.temperature),
            (key::TOP_P, s.top_p),
            (key::MIN_P, s.min_p),
            (key::REPEAT_PENALTY, s.repeat_penalty),
        ] {
            if let Some(v) = value {
                meta.set(key, Value::F32(v));
            }
        }
        id(&mut meta, key::TOP_K, s.top_k);
        if !tok.golden.is_empty() {
            meta.set_golden(&tok.golden, true);
        }
        meta
    }

    /// Streams all tensors into the writer, and the hashes of the sources into its metadata.
    fn write<W: Write + Seek>(
        &self,
        writer: &mut Writer<W>,
        options: &Options,
        progress: Progress,
    ) -> Result<Summary> {
        let tensors = &self.foreign.tensors;
        let items = &self.bound.items;
        let total = writer.file_length();
        let mut done = 0;
        let hashes = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| self.hash(options.hashes));
            quantize::run(items, tensors, options.threads, |bytes, last| {
                writer.write_tensor_chunk(bytes)?;
                if last {
                    writer.finish_tensor()?;
                }
                done += bytes.len() as u64;
                progress(done, total)
            })
            .map_err(|e| match e.kind() {
                crate::error::ErrorKind::Invalid => e.at(&self.foreign.place),
                _ => e,
            })?;
            hashing
                .join()
                .unwrap_or_else(|_| Err(Error::limit("the hashing thread ended early")))
        })?;
        writer.replace_meta(self.meta(options, &hashes))?;
        progress(total, total)?;
        let weights = |shape| match shape {
            Shape::Vector(n) => u64::from(n),
            Shape::Matrix { count, rows, cols } => {
                u64::from(count) * u64::from(rows) * u64::from(cols)
            }
        };
        Ok(Summary {
            name: self.foreign.name.clone(),
            model_type: self.foreign.config["model_type"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            tensors: items.len(),
            weights: items.iter().map(|i| weights(i.tensor.shape)).sum(),
            bytes: total,
            skipped: self.bound.skipped.clone(),
            notes: self.bound.notes.clone(),
            tokenizer: !self.tokenizer.bytes.is_empty(),
            template_fault: self.chat.fault.clone(),
        })
    }

    fn hash(&self, known: Option<&[blake3::Hash]>) -> Result<Vec<blake3::Hash>> {
        let known = known.unwrap_or_default();
        self.sources
            .iter()
            .enumerate()
            .map(|(i, source)| known.get(i).map_or_else(|| source.hash(), |h| Ok(*h)))
            .collect()
    }
}

/// Writing over a file that is being read would be safe, and a mistake.
fn refuse_source_as_target(foreign: &Foreign, out: &Path) -> Result<()> {
    let Ok(target) = out.canonicalize() else {
        return Ok(());
    };
    for path in &foreign.files {
        if path.canonicalize().is_ok_and(|p| p == target) {
            return Err(Error::usage(format_args!(
                "the output {out:?} is a file of the model that is imported"
            )));
        }
    }
    Ok(())
}

//! GGUF in the terms of transformers: metadata to the keys of a `config.json`, tensors to those of a Hugging Face folder.
//!
//! An architecture is a function that translates its keys and a table of its tensors; `keys` and `rules` are what these are written with, and
//! `names` applies the table. The metadata arrives as JSON values with its tokenizer left out. What the converter of llama.cpp changed is undone by the table, so a family
//! file sees what it would see in a folder.

mod delta;
mod dense;
mod encoder_decoders;
mod encoders;
mod experts;
mod gemma;
mod keys;
mod latent;
mod llama;
mod names;
mod older;
mod recurrent;
mod rules;
mod tables;

pub use names::Names;

use crate::error::{Error, Result};
use crate::source::{Config, Origin, Tensors};
use crate::spec::{Embedding, Pooling, Projection};
use keys::Keys;
use rules::{HeadSizes, Tables};
use serde_json::{Map, Value, json};

/// One GGUF architecture.
pub struct Architecture {
    /// Value of `general.architecture`.
    pub name: &'static str,
    /// From the keys below `{name}.` (without that prefix) to a configuration; what it does not read is an error.
    config: fn(&mut Keys) -> Result<()>,
    /// Names and changes of its tensors.
    tables: fn(&Keys) -> &'static Tables<'static>,
}

/// Every architecture that can be read.
pub fn architectures() -> impl Iterator<Item = &'static Architecture> {
    [
        llama::ARCHITECTURES,
        dense::ARCHITECTURES,
        gemma::ARCHITECTURES,
        older::ARCHITECTURES,
        experts::ARCHITECTURES,
        latent::ARCHITECTURES,
        delta::ARCHITECTURES,
        recurrent::ARCHITECTURES,
        encoders::ARCHITECTURES,
        encoder_decoders::ARCHITECTURES,
    ]
    .into_iter()
    .flatten()
}

/// Prefixes of keys that never change what a model computes.
const HARMLESS: &[&str] = &["general.", "tokenizer.", "quantize.", "mradermacher."];

/// A file in the terms of transformers.
pub struct Translation {
    /// The configuration.
    pub config: Map<String, Value>,
    /// The tensors.
    pub names: Names,
    /// What comes after the model, if it is one for embeddings.
    pub embedding: Option<Embedding>,
    /// The matrix of each projection of `embedding`.
    pub projections: Vec<String>,
}

/// The architecture that the metadata names.
///
/// # Errors
/// None is named, or one that is not known, or the file is not a whole model.
pub fn architecture(place: &str, metadata: &Map<String, Value>) -> Result<&'static Architecture> {
    let config = Config::new(Origin::Gguf, place, metadata);
    match config.opt_str("general.type")? {
        None | Some("model") => {}
        Some(_) => return Err(config.unsupported("general.type", "model")),
    }
    if config.opt_u32("split.count")?.unwrap_or(1) > 1 {
        return Err(config.unsupported(
            "split.count",
            "1 (merge the parts of a split GGUF into one file first)",
        ));
    }
    let Some(name) = config.opt_str("general.architecture")? else {
        return Err(config.missing("general.architecture"));
    };
    architectures().find(|a| a.name == name).ok_or_else(|| {
        let mut known: Vec<&str> = architectures().map(|a| a.name).collect();
        known.sort_unstable();
        config.unsupported(
            "general.architecture",
            &format!("one of {}", known.join(", ")),
        )
    })
}

impl Architecture {
    /// The file in the terms of transformers. `list` is every tensor of `file`, names and shapes.
    ///
    /// # Errors
    /// A missing, ill-typed or unknown key; two tensors that get the same name.
    pub fn translate(
        &self,
        place: &str,
        metadata: &Map<String, Value>,
        file: &dyn Tensors,
        list: &[(&str, &[u64])],
    ) -> Result<Translation> {
        let own = self.own(place, metadata, file)?;
        let mut keys = Keys {
            c: Config::new(Origin::Gguf, &format!("{place}: {}", self.name), &own),
            file,
            out: Map::new(),
            sizes: HeadSizes::default(),
            layers: 0,
            further: 0,
            folded: Vec::new(),
            constants: Vec::new(),
        };
        (self.config)(&mut keys)?;
        let (embedding, projections) = after(&mut keys)?;
        keys.c.finish()?;
        let tables = (self.tables)(&keys);
        let mut names = Names::new(tables, keys.sizes, list.iter().copied())?;
        for (name, values) in keys.constants {
            names.constant(name, values)?;
        }
        for name in keys.folded {
            names.fold(name);
        }
        if keys.further > 0 {
            names.further_blocks(list.iter().map(|t| t.0), keys.layers);
        }
        Ok(Translation {
            config: keys.out,
            names,
            embedding,
            projections,
        })
    }

    /// The keys that describe the model, without the architecture's prefix.
    fn own(
        &self,
        place: &str,
        metadata: &Map<String, Value>,
        file: &dyn Tensors,
    ) -> Result<Map<String, Value>> {
        let prefix = format!("{}.", self.name);
        let mut own = Map::new();
        for (key, value) in metadata {
            if let Some(short) = key.strip_prefix(&prefix) {
                own.insert(short.to_owned(), value.clone());
            } else if key.starts_with("xielu.") {
                // Coefficients of an activation stand outside.
                own.insert(key.clone(), value.clone());
            } else if key.starts_with("split.") || HARMLESS.iter().any(|p| key.starts_with(p)) {
            } else {
                return Err(Error::new(format_args!(
                    "{place}: {key:?} = {value} is not understood; it may change what the model computes"
                )));
            }
        }
        // Padded vocabularies have more rows than tokens, so the embedding decides where no key does.
        let rows = file.shape("token_embd.weight").and_then(|s| s.first());
        if let (None, Some(rows)) = (own.get("vocab_size"), rows) {
            own.insert("vocab_size".to_owned(), json!(rows));
        }
        Ok(own)
    }
}

/// What comes after the model: pooling, and the projections that some files carry.
fn after(keys: &mut Keys) -> Result<(Option<Embedding>, Vec<String>)> {
    let pooling = match keys.c.opt_u32("pooling_type")? {
        None | Some(0) => None,
        Some(1) => Some(Pooling::Mean),
        Some(2) => Some(Pooling::Cls),
        Some(3) => Some(Pooling::Last),
        Some(_) => {
            let expected = "0 (none), 1 (mean), 2 (first) or 3 (last)";
            return Err(keys.c.unsupported("pooling_type", expected));
        }
    };
    let mut embedding = Embedding {
        pooling,
        ..Embedding::default()
    };
    let mut names = Vec::new();
    for name in ["dense_2", "dense_3"] {
        let weight = format!("{name}.weight");
        let Some(&[rows, _]) = keys.file.shape(&weight) else {
            continue;
        };
        for end in ["in", "out"] {
            keys.c.opt_u32(&format!("{name}_feat_{end}"))?;
        }
        embedding.projections.push(Projection {
            width: u32::try_from(rows).unwrap_or(u32::MAX),
            bias: false,
            activation: None,
        });
        names.push(weight);
    }
    let there = pooling.is_some() || !names.is_empty();
    Ok((there.then_some(embedding), names))
}

#[cfg(test)]
mod tests;

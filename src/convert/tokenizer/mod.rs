//! Foreign tokenizers: one file per format, each turning bytes or metadata into a [`Definition`].
//!
//! [`load`] takes a file or a folder and finds out by its content which format it is.

pub mod gguf_pre;
pub mod gguf_vocab;
pub mod spm;
pub mod tiktoken;
pub mod tok_bin;
pub mod tokenizer_json;

use serde_json::Value;
use std::path::{Path, PathBuf};

use super::gguf::Gguf;
use super::source::SourceFile;
use crate::error::{Error, Result};
use crate::tokenizer::{Definition, ModelOptions, TemplateItem};

/// Largest tokenizer file: published ones stay below 40 MiB.
const MAX_FILE: u64 = 1 << 28;
/// Largest JSON file beside a tokenizer.
const MAX_BESIDE: u64 = 1 << 24;

/// Reads the tokenizer in `path`: a `tokenizer.json`, a SentencePiece model, a tiktoken rank file with its JSON beside it, a GGUF, a
/// llama2.c `tok.bin`, or a folder that holds one of the first two with the small files that belong to it.
///
/// # Errors
/// Invalid (3) with the path and what is wrong; I/O (4).
pub fn load(path: &Path) -> Result<Definition> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("open", path, &e))?;
    if meta.is_dir() {
        return folder(path);
    }
    let file = SourceFile::open(path)?;
    let mut magic = [0u8; 4];
    if file.len() >= 4 {
        file.read_at(0, &mut magic)?;
    }
    if &magic == b"GGUF" {
        let gguf = Gguf::read(file)?;
        return gguf_vocab::read(&gguf.metadata).map_err(|e| e.at(format_args!("{path:?}")));
    }
    let bytes = file.read_all(MAX_FILE)?;
    from_bytes(path, &bytes, tokenizer_json::Companions::default())
        .map_err(|e| e.at(format_args!("{path:?}")))
}

fn from_bytes(path: &Path, bytes: &[u8], beside: tokenizer_json::Companions) -> Result<Definition> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'{') {
        return tokenizer_json::read(bytes, beside);
    }
    if tok_bin::is_tok_bin(bytes) {
        return tok_bin::read(bytes);
    }
    if tiktoken::is_rank_file(bytes) {
        let json = beside_rank_file(path).ok_or_else(|| {
            Error::invalid(format_args!(
                "a tiktoken rank file needs its pattern and special tokens in {:?} beside it",
                path.with_extension("json")
            ))
        })?;
        let json = SourceFile::open(&json)?.read_all(MAX_BESIDE)?;
        return tiktoken::read(bytes, &json);
    }
    // A model file begins with a piece: field 1, length-delimited.
    if bytes.first() == Some(&0x0a) {
        return spm::read(bytes);
    }
    Err(Error::invalid(
        "not a tokenizer: expected tokenizer.json, a sentencepiece model, a tiktoken rank file, a gguf or a llama2.c tok.bin",
    ))
}

/// `NAME.json` beside `NAME.tiktoken`, or beside any other name `NAME.json` appended.
fn beside_rank_file(path: &Path) -> Option<PathBuf> {
    let mut appended = path.as_os_str().to_owned();
    appended.push(".json");
    [path.with_extension("json"), PathBuf::from(appended)]
        .into_iter()
        .find(|p| p != path && p.is_file())
}

/// A Hugging Face folder.
fn folder(path: &Path) -> Result<Definition> {
    let json = |name: &str| -> Result<Option<Value>> {
        let file = path.join(name);
        if !file.is_file() {
            return Ok(None);
        }
        let bytes = SourceFile::open(&file)?.read_all(MAX_BESIDE)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::invalid(format_args!("{file:?}: {e}")))
    };
    let config = json("tokenizer_config.json")?;
    let specials = json("special_tokens_map.json")?;
    let names = [
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    ];
    let file = names.iter().map(|n| path.join(n)).find(|p| p.is_file());
    let Some(file) = file else {
        return Err(Error::invalid(format_args!(
            "{path:?} holds none of {names:?}"
        )));
    };
    let bytes = SourceFile::open(&file)?.read_all(MAX_FILE)?;
    let beside = tokenizer_json::Companions {
        tokenizer_config: config.as_ref(),
        special_tokens_map: specials.as_ref(),
    };
    let mut d = from_bytes(&file, &bytes, beside).map_err(|e| e.at(format_args!("{file:?}")))?;
    if !file.ends_with("tokenizer.json") {
        model_switches(config.as_ref(), &mut d);
    }
    Ok(d)
}

/// What a `tokenizer_config.json` says about a SentencePiece model: whether BOS and EOS are added.
fn model_switches(config: Option<&Value>, d: &mut Definition) {
    let Some(config) = config else { return };
    let switch =
        |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    let bpe = matches!(d.pipeline.model, ModelOptions::Bpe { .. });
    let has_eos = d.pipeline.template.last() != Some(&TemplateItem::Text);
    let mut template = Vec::new();
    if let Some(bos) = d.pipeline.bos
        && switch("add_bos_token", bpe)
    {
        template.push(TemplateItem::Id(bos));
    }
    template.push(TemplateItem::Text);
    if let Some(&eos) = d.pipeline.eos.first()
        && switch("add_eos_token", has_eos && !bpe)
    {
        template.push(TemplateItem::Id(eos));
    }
    d.pipeline.template = if template == [TemplateItem::Text] {
        Vec::new()
    } else {
        template
    };
}

//! What kind of model a path is, and how each kind is opened.

use super::foreign::{Chat, Foreign, ForeignEmbedding, Sampling, SpecialIds, TokenizerSource};
use super::gguf::{self, Gguf, Scalar};
use super::source::SourceFile;
use super::{hf, llama2c};
use crate::error::{Error, Result};
use quern_models::source::Origin;
use std::path::Path;

/// Reads whatever model `path` is: a folder, a GGUF, a llama2.c checkpoint.
///
/// # Errors
/// I/O; Invalid if it is none of these, or a broken one.
pub fn open(path: &Path) -> Result<Foreign> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("open", path, &e))?;
    if meta.is_dir() {
        return hf::open(path);
    }
    let file = SourceFile::open(path)?;
    let mut start = [0u8; 8];
    let n = file.len().min(8) as usize;
    file.read_at(0, &mut start[..n])?;
    let word = u32::from_le_bytes([start[0], start[1], start[2], start[3]]);
    let hint = match start {
        _ if start[..4] == gguf::MAGIC || (n < 4 && gguf::MAGIC.starts_with(&start[..n])) => {
            return open_gguf(file);
        }
        _ if word == quern_models::llama2c::MAGIC => return open_llama2c(file),
        [b'P', b'K', 3, 4, ..] => "; a PyTorch checkpoint has to be saved as safetensors first",
        [_, _, _, _, _, _, _, _] if has_extension(path, "safetensors") => {
            "; for safetensors name the folder, which also holds config.json"
        }
        _ if start == crate::file::header::MAGIC => "; this seems to be a weight file already",
        // Version 0 of llama2.c has no magic: seven small numbers.
        _ if has_extension(path, "bin") => return open_llama2c(file),
        _ => "",
    };
    Err(Error::invalid(format_args!(
        "{path:?} is no model that can be imported, expected a folder with config.json and safetensors, a GGUF file, or a llama2.c .bin file{hint}"
    )))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

fn open_llama2c(file: SourceFile) -> Result<Foreign> {
    let path = file.path().to_owned();
    let (header, tensors) = llama2c::read(file)?;
    Ok(Foreign {
        origin: Origin::Llama2c,
        place: format!("{path:?}"),
        config: header.config(),
        tensors,
        names: None,
        name: stem(&path),
        tokenizer: TokenizerSource::None,
        embedding: None,
        chat: Chat::default(),
        // llama2.c's run.c has them as constants.
        ids: SpecialIds {
            bos: Some(1),
            eos: vec![2],
            ..SpecialIds::default()
        },
        sampling: Sampling::default(),
        files: vec![path],
    })
}

/// Texts of control tokens that end a turn; files made before the metadata had a key for them only carry the text.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|endofturn|>",
];
/// Token type of control tokens.
const CONTROL: i32 = 3;

fn open_gguf(file: SourceFile) -> Result<Foreign> {
    let path = file.path().to_owned();
    let place = format!("{path:?}");
    let mut g = Gguf::read(file)?;
    let invalid = |e: quern_models::Error| Error::invalid(e);
    let metadata = g.json();
    let architecture = quern_models::gguf::architecture(&place, &metadata).map_err(invalid)?;
    if g.list.is_empty() {
        return Err(Error::invalid(format_args!(
            "{place} has a vocabulary but no tensors, expected a whole model"
        )));
    }
    let mut eos = Vec::new();
    for key in ["eos", "eot", "eom"] {
        eos.extend(g.u32(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    if let (Some(tokens), Some(types)) = (
        g.strings("tokenizer.ggml.tokens")?,
        g.numbers("tokenizer.ggml.token_type", Scalar::I32)?,
    ) {
        let kinds = types.chunks_exact(4);
        for (id, (text, kind)) in tokens.iter().zip(kinds).enumerate() {
            if kind == CONTROL.to_le_bytes() && TURN_ENDS.contains(&text.as_str()) {
                eos.push(id as u32);
            }
        }
    }
    eos.sort_unstable();
    eos.dedup();
    let ids = SpecialIds {
        bos: g.u32("tokenizer.ggml.bos_token_id")?,
        eos,
        pad: g.u32("tokenizer.ggml.padding_token_id")?,
        unk: g.u32("tokenizer.ggml.unknown_token_id")?,
        decoder_start: g.u32(&format!("{}.decoder_start_token_id", architecture.name))?,
    };
    let name = g
        .string("general.name")?
        .filter(|n| !n.is_empty())
        .map_or_else(|| stem(&path), str::to_owned);
    let chat = Chat {
        template: g.string("tokenizer.chat_template")?.map(str::to_owned),
        tools: g
            .string("tokenizer.chat_template.tool_use")?
            .map(str::to_owned),
        special: Vec::new(),
    };
    let mut vocabulary = std::mem::take(&mut g.metadata);
    vocabulary.retain(|key, _| {
        key.starts_with("tokenizer.")
            || matches!(key.as_str(), "general.architecture" | "general.name")
    });
    let tokenizer = match vocabulary.get("tokenizer.ggml.model") {
        // Converters write this for models that are used with ids alone.
        Some(gguf::Value::String(model)) if model == "none" => TokenizerSource::None,
        None => TokenizerSource::None,
        Some(_) => TokenizerSource::Gguf(vocabulary),
    };
    let tensors = g.tensors()?;
    let list: Vec<(&str, &[u64])> = tensors
        .iter()
        .map(|t| (t.name.as_str(), t.shape.as_slice()))
        .collect();
    let translated = architecture
        .translate(&place, &metadata, &tensors, &list)
        .map_err(invalid)?;
    let projections = translated.projections;
    let embedding = translated.embedding.map(|spec| ForeignEmbedding {
        spec,
        names: projections.into_iter().map(|name| vec![name]).collect(),
    });
    Ok(Foreign {
        origin: Origin::Gguf,
        place,
        config: translated.config,
        tensors,
        names: Some(translated.names),
        name,
        tokenizer,
        embedding,
        chat,
        ids,
        sampling: Sampling::default(),
        files: vec![path],
    })
}

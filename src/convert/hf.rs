//! Reading a Hugging Face folder: config.json, safetensors in one file or in shards, and the small files beside them.

use super::folder::{MAX_SMALL, inside, json};
use super::foreign::{Chat, Foreign, Sampling, SpecialIds, TokenizerSource};
use super::safetensors;
use super::sentence::Modules;
use super::source::{SourceFile, Tensors};
use crate::error::{Error, Result};
use quern_models::source::Origin;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads the folder's small files and the headers of its weights.
///
/// # Errors
/// I/O; Invalid, naming the file and what is wrong in it.
pub fn open(folder: &Path) -> Result<Foreign> {
    let config_path = folder.join("config.json");
    let Some(config) = object(&config_path)? else {
        return Err(no_config(folder));
    };
    let generation = object(&folder.join("generation_config.json"))?.unwrap_or_default();
    let tokenizer_config = object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let has = |name: &str| folder.join(name).is_file();
    let tokenizer = if [
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    ]
    .into_iter()
    .any(has)
    {
        TokenizerSource::Folder(folder.to_owned())
    } else {
        TokenizerSource::None
    };
    let mut tensors = Weights::find(folder)?.open()?;
    let embedding = match Modules::find(folder)? {
        Some(modules) => Some(modules.open(&mut tensors)?),
        None => None,
    };
    Ok(Foreign {
        origin: Origin::HuggingFace,
        place: format!("{config_path:?}"),
        tensors,
        names: None,
        embedding,
        name: name(folder, &config),
        tokenizer,
        chat: chat(folder, &tokenizer_config)?,
        ids: special_ids(&config_path, &config, &generation)?,
        sampling: sampling(folder, &generation)?,
        files: files(folder)?,
        config,
    })
}

/// The template for conversations with tools, beside chat_template.jinja.
const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

/// Small files that an import reads where they are there.
const SMALL_FILES: [&str; 13] = [
    "added_tokens.json",
    TOOL_TEMPLATE,
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "modules.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

/// The files of a folder that an import reads, by name: small ones and weights, and nothing that merely lies beside them.
///
/// # Errors
/// I/O; Invalid if the folder is none that can be imported.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.join("config.json").exists() {
        return Err(no_config(folder));
    }
    let small = SMALL_FILES.iter().map(|name| folder.join(name));
    let mut out: Vec<PathBuf> = small.filter(|p| p.is_file()).collect();
    let weights = Weights::find(folder)?;
    out.extend(weights.index.map(|(path, _)| path));
    out.extend(weights.files.into_iter().map(|(path, _)| path));
    out.extend(Modules::find(folder)?.into_iter().flat_map(|m| m.files));
    out.sort();
    Ok(out)
}

fn no_config(folder: &Path) -> Error {
    Error::invalid(format_args!(
        "{folder:?} has no config.json, expected a Hugging Face folder"
    ))
}

/// A JSON object in a file; none if there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Json>>> {
    match json(path)? {
        None => Ok(None),
        Some(Json::Object(map)) => Ok(Some(map)),
        Some(_) => Err(Error::invalid(format_args!(
            "{path:?} is no JSON object, expected one"
        ))),
    }
}

fn name(folder: &Path, config: &Map<String, Json>) -> String {
    let declared = config
        .get("_name_or_path")
        .and_then(Json::as_str)
        .filter(|n| !n.is_empty() && !n.starts_with(['.', '/']));
    if let Some(name) = declared {
        return name.to_owned();
    }
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// Where the weights are: one safetensors file, or the shards that the index names.
struct Weights {
    /// The files, and which tensors the index says are in each.
    files: Vec<(PathBuf, Vec<String>)>,
    /// The index and all tensors that it names.
    index: Option<(PathBuf, BTreeSet<String>)>,
}

impl Weights {
    fn find(folder: &Path) -> Result<Weights> {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(Weights {
                files: vec![(single, Vec::new())],
                index: None,
            });
        }
        let path = folder.join(INDEX);
        let Some(index) = object(&path)? else {
            let torch = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
                .into_iter()
                .any(|n| folder.join(n).exists());
            let hint = if torch {
                "; a PyTorch checkpoint has to be saved as safetensors first"
            } else {
                ""
            };
            return Err(Error::invalid(format_args!(
                "{folder:?} has no {SINGLE} and no {INDEX}{hint}"
            )));
        };
        let invalid = |m: String| Error::invalid(m).at(format_args!("{path:?}"));
        let Some(Json::Object(map)) = index.get("weight_map") else {
            return Err(invalid("weight_map is missing, expected an object".into()));
        };
        let mut shards: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (tensor, file) in map {
            let Json::String(file) = file else {
                return Err(invalid(format!(
                    "weight_map: {tensor:?} is {file}, expected a file name"
                )));
            };
            shards.entry(file).or_default().push(tensor.clone());
        }
        let mut files = Vec::new();
        for (file, names) in shards {
            let path = inside(folder, file)
                .map_err(|m| invalid(format!("weight_map: {:?} is in {file:?}: {m}", names[0])))?;
            files.push((path, names));
        }
        let all = map.keys().cloned().collect();
        Ok(Weights {
            files,
            index: Some((path, all)),
        })
    }

    fn open(self) -> Result<Tensors> {
        let mut out = Tensors::default();
        let place = |m: String| match &self.index {
            Some((path, _)) => Error::invalid(m).at(format_args!("{path:?}")),
            None => Error::invalid(m),
        };
        for (path, names) in &self.files {
            let before: BTreeSet<String> = out.iter().map(|t| t.name.clone()).collect();
            safetensors::read(SourceFile::open(path)?, "", &mut out)?;
            for name in names {
                if before.contains(name) || out.get(name).is_none() {
                    let file = path.file_name().unwrap_or_default();
                    return Err(place(format!("weight_map: {name:?} is not in {file:?}")));
                }
            }
        }
        if let Some((_, named)) = &self.index
            && let Some(t) = out.iter().find(|t| !named.contains(&t.name))
        {
            return Err(place(format!(
                "weight_map does not name the tensor {:?} of {:?}",
                t.shown,
                out.files[t.file].path()
            )));
        }
        Ok(out)
    }
}

/// chat_template.jinja, else chat_template.json, else the one in tokenizer_config.json: the order of transformers. A list of named templates
/// has one called "default", and perhaps "tool_use".
fn chat(folder: &Path, tokenizer: &Map<String, Json>) -> Result<Chat> {
    let mut chat = Chat {
        special: special_tokens(folder, tokenizer)?,
        ..Chat::default()
    };
    let jinja = |path: PathBuf| -> Result<Option<String>> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = SourceFile::open(&path)?.read_all(MAX_SMALL)?;
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::invalid(format_args!("{path:?} is not UTF-8")))
    };
    chat.template = jinja(folder.join("chat_template.jinja"))?;
    if chat.template.is_some() {
        chat.tools = jinja(folder.join(TOOL_TEMPLATE))?;
        return Ok(chat);
    }
    let json = folder.join("chat_template.json");
    let (place, value) = match object(&json)? {
        Some(mut map) => (json, map.remove("chat_template")),
        None => (
            folder.join("tokenizer_config.json"),
            tokenizer.get("chat_template").cloned(),
        ),
    };
    let wrong = || {
        Error::invalid(format_args!(
            "{place:?}: chat_template is neither a string nor a list of {{name, template}} with one called \"default\""
        ))
    };
    match value {
        None | Some(Json::Null) => {}
        Some(Json::String(template)) => chat.template = Some(template),
        Some(Json::Array(list)) => {
            let named = |name: &str| {
                let template = list.iter().find(|t| t["name"] == name)?;
                template["template"].as_str().map(str::to_owned)
            };
            chat.template = Some(named("default").ok_or_else(wrong)?);
            chat.tools = named("tool_use");
        }
        Some(_) => return Err(wrong()),
    }
    Ok(chat)
}

/// The texts of `bos_token` and its like: those of tokenizer_config.json, else of special_tokens_map.json.
fn special_tokens(folder: &Path, tokenizer: &Map<String, Json>) -> Result<Vec<(String, String)>> {
    let map = object(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in map.iter().chain(tokenizer) {
        // A token is its text, or an object with the text as content.
        let text = value.as_str().or_else(|| value["content"].as_str());
        if let (true, Some(text)) = (name.ends_with("_token"), text) {
            out.insert(name.clone(), text.to_owned());
        }
    }
    Ok(out.into_iter().collect())
}

/// generation_config.json wins over config.json, as in transformers.
fn special_ids(
    place: &Path,
    config: &Map<String, Json>,
    generation: &Map<String, Json>,
) -> Result<SpecialIds> {
    let text = config.get("text_config").and_then(Json::as_object);
    let find = |key: &str| {
        [Some(generation), Some(config), text]
            .into_iter()
            .flatten()
            .find_map(|m| m.get(key).filter(|v| !v.is_null()))
    };
    let list = |key: &str| -> Result<Vec<u32>> {
        let Some(value) = find(key) else {
            return Ok(Vec::new());
        };
        let id = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match value {
            Json::Array(list) => list.iter().map(id).collect(),
            // Old configurations write -1 for "there is none".
            v if v.as_i64() == Some(-1) => Some(Vec::new()),
            v => id(v).map(|id| vec![id]),
        };
        ids.ok_or_else(|| {
            Error::invalid(format_args!(
                "{place:?}: {key} is {value}, expected token ids"
            ))
        })
    };
    let mut eos = list("eos_token_id")?;
    eos.sort_unstable();
    eos.dedup();
    Ok(SpecialIds {
        bos: list("bos_token_id")?.first().copied(),
        eos,
        pad: list("pad_token_id")?.first().copied(),
        decoder_start: list("decoder_start_token_id")?.first().copied(),
        unk: list("unk_token_id")?.first().copied(),
    })
}

/// Sampling defaults count where `do_sample` asks for sampling; without it transformers is greedy and ignores them.
fn sampling(folder: &Path, generation: &Map<String, Json>) -> Result<Sampling> {
    let number = |key: &str| -> Result<Option<f32>> {
        match generation.get(key).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(v) => v
                .as_f64()
                .map(|x| x as f32)
                .filter(|x| x.is_finite() && *x >= 0.0)
                .map(Some)
                .ok_or_else(|| {
                    Error::invalid(format_args!(
                        "{:?}: {key} is {v}, expected a number >= 0",
                        folder.join("generation_config.json")
                    ))
                }),
        }
    };
    let repeat_penalty = number("repetition_penalty")?;
    if generation.get("do_sample") != Some(&Json::Bool(true)) {
        return Ok(Sampling {
            repeat_penalty,
            ..Sampling::default()
        });
    }
    Ok(Sampling {
        temperature: number("temperature")?,
        top_k: number("top_k")?.map(|k| k as u32),
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repeat_penalty,
    })
}
